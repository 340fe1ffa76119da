"""The report's page: what it holds, that it needs nothing else, and how it looks in a browser."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from recorded import curve, write_benchmark, write_failure, write_run

from sb3_dreamer.compare import ComparisonError, ReportPaths, report
from sb3_dreamer.compare.judging.figures import PALETTE

VOID = {"meta", "br", "img", "path", "use", "rect", "link", "hr", "input"}
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), ""
)
EVIL = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """All elements in their order, checking that they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    """Two tasks; three algorithms, one with too few runs and a name that means harm; a failed run."""
    folder = tmp_path_factory.mktemp("results")
    for number, env in enumerate(("Pendulum-v1", "Own-v0")):
        begin, end = ((-1200.0, -150.0), (0.0, 7.0))[number]
        for seed in range(5):
            write_run(folder / env, env, "dreamer", seed, curve(seed, begin, end, 0.2, 21), cpu=20.0)
            write_run(folder / env, env, "sac", seed, curve(seed + 9, begin, end, 0.6, 41))
        for seed in range(2):
            write_run(folder / env, env, EVIL.replace("/", ""), seed, curve(seed, begin, begin, 0.5, 31), cpu=0.5)
    write_failure(folder / "Own-v0", "sac", 5, f"ValueError: {EVIL}")
    return report(folder, threshold={"Own-v0": 5.0})


@pytest.fixture(scope="module")
def page(paths: ReportPaths) -> Page:
    return Page(paths.html.read_text(encoding="utf-8"))


def test_it_needs_nothing_else(paths: ReportPaths, page: Page) -> None:
    text = paths.html.read_text(encoding="utf-8")
    assert paths.html.stat().st_size < 1_500_000
    links = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href") and value]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\((?!#)", text) and not page.all("link", "iframe")
    assert len(page.all("style")) >= 1 and len(page.all("script")) == 1


def test_its_skeleton(page: Page) -> None:
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1 and page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels) if after < 4)
    ids = Counter(attributes["id"] for _, attributes in page.elements if attributes.get("id"))
    assert set(ids.values()) == {1}
    targets = [attributes["href"] for attributes in page.all("a", "use") if attributes.get("href")]
    assert targets and all(target[1:] in ids for target in targets if target)
    clips = re.findall(r"url\(#([^)]+)\)", " ".join(str(attributes) for _, attributes in page.elements))
    assert clips and set(clips) <= set(ids)


def test_figures_have_words(page: Page) -> None:
    figures, pictures = page.all("figure"), [svg for svg in page.all("svg", "img") if svg.get("role") == "img" or "alt" in svg]
    # Of all tasks: profiles, four aggregates, the area; of each task: two curves, returns, threshold, Pareto.
    assert len(figures) == len(pictures) == 6 + 2 * 5
    assert all(len(picture.get("aria-label") or picture.get("alt") or "") > 60 for picture in pictures)


def test_tables_can_be_sorted(page: Page) -> None:
    headings = [th for th in page.all("th") if th.get("scope") == "col"]
    assert headings and all(heading["aria-sort"] == "none" for heading in headings)
    values = [float(str(td["data-value"]).replace("Infinity", "inf")) for td in page.all("td") if "data-value" in td]
    assert len(values) > 100 and not any(np.isnan(values))
    assert len([div for div in page.all("div") if div.get("class") == "scroll"]) == len(page.all("table"))


def test_what_it_says(page: Page, paths: ReportPaths) -> None:
    text = " ".join(page.text)
    for part in (
        "In short",
        "FEWER THAN 5 RUNS",
        "1 RUN FAILED",
        "All tasks",
        "Probability of improvement",
        "Normalisation",
        "lowest and highest return of all evaluations here",
        "Steps to the threshold",
        "Break-even price of an environment step",
        "Costs",
        "Keep in mind",
        "Every run",
        "Settings",
        "How to reproduce",
        "python -m sb3_dreamer.compare run --env Own-v0",
        "First evaluation at or above 5.",
        "First evaluation at or above -200.",
        "> 3,000",
        "0123abc",
    ):
        assert part in text, part
    summary = paths.markdown.read_text(encoding="utf-8")
    for part in ("FEWER THAN 5 RUNS", "### Aggregates", "### Costs", "> 3,000"):
        assert part in summary.replace("\\", ""), part


def test_text_from_outside_stays_text(page: Page, paths: ReportPaths) -> None:
    assert not [image for image in page.all("img") if "onerror" in image]
    assert EVIL in " ".join(page.text)
    assert "\\<img src" in paths.markdown.read_text(encoding="utf-8")


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "Own-v0", "sac", seed, curve(seed, 0, 7, 0.5, 5))
    written = []
    for _ in range(2):
        paths = report(tmp_path, threshold=5.0)
        written.append((paths.html.read_bytes(), paths.markdown.read_bytes()))
    assert written[0] == written[1]


def test_a_single_run_of_a_single_algorithm(tmp_path: Path) -> None:
    write_run(tmp_path, "Own-v0", "sac", 0, [0.0])
    page = Page(report(tmp_path).html.read_text(encoding="utf-8"))
    text = " ".join(page.text)
    assert "Only sac ran here" in text and "0 [one run]" in text and "FEWER THAN 5 RUNS" in text


def test_only_failures(tmp_path: Path) -> None:
    write_failure(tmp_path / "Own-v0", "sac", 0, "ValueError: no")
    text = " ".join(Page(report(tmp_path).html.read_text(encoding="utf-8")).text)
    assert "No run has finished yet" in text and "FAILED: ValueError: no" in text


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="No results"):
        report(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_hundred_runs_take_less_than_twenty_seconds(tmp_path: Path) -> None:
    write_benchmark(tmp_path, n_seeds=13, points=101)
    begin = time.process_time()
    paths = report(tmp_path)
    assert time.process_time() - begin < 20
    assert paths.html.stat().st_size < 5_000_000


def _browse(folder: Path, name: str, page: str, *arguments: str) -> str:
    source = folder / name
    source.write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments, source.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


MEASURE = """
<script>
function measure(view) {
  var page = view.document, boxes = {};
  ["header .loud", "nav", "#answer", "#overall", "section > .scroll", "figure", "aside"].forEach(function (name) {
    boxes[name] = Array.from(page.querySelectorAll(name)).map(function (element) {
      var box = element.getBoundingClientRect();
      return [box.left, box.top + view.scrollY, box.right, box.bottom + view.scrollY];
    });
  });
  var table = page.querySelector("#overall table");
  var column = Array.from(table.tHead.rows[0].cells).findIndex(function (cell) { return cell.textContent === "IQM"; });
  function click() {
    table.tHead.rows[0].cells[column].firstElementChild.click();
    return Array.from(table.tBodies[0].rows).map(function (row) { return Number(row.cells[column].dataset.value); });
  }
  return { width: page.documentElement.clientWidth, scroll: page.documentElement.scrollWidth, boxes: boxes,
           ascending: click(), descending: click(), height: page.documentElement.scrollHeight };
}
window.addEventListener("load", function () {
  var frame = document.getElementById("phone");
  var found = measure(frame ? frame.contentWindow : window);
  var out = document.createElement("pre");
  out.id = "measured";
  out.textContent = JSON.stringify(found);
  document.body.appendChild(out);
});
</script>
"""


def _measured(dom: str) -> dict[str, Any]:
    match = re.search(r'<pre id="measured">(.*?)</pre>', dom, flags=re.DOTALL)
    assert match is not None
    return json.loads(html.unescape(match[1]))


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome here")
def test_on_a_phone_nothing_is_wider_than_the_screen(paths: ReportPaths, tmp_path: Path) -> None:
    inner = html.escape(paths.html.read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe id="phone" style="width:390px;height:800px;border:0" srcdoc="{inner}"></iframe>'
    page = f"<!doctype html><body style='margin:0'>{frame}{MEASURE}</body>"
    found = _measured(_browse(tmp_path, "phone.html", page, "--dump-dom", "--window-size=600,800"))
    assert found["width"] == found["scroll"] == 390
    assert all(
        0 <= left and right <= 390 for name in ("#answer", "figure", "aside") for left, _, right, _ in found["boxes"][name]
    )


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome here")
def test_main_parts_are_seen(paths: ReportPaths, tmp_path: Path) -> None:
    text = paths.html.read_text(encoding="utf-8")
    page = text.replace("</body>", f"{MEASURE}</body>")
    found = _measured(_browse(tmp_path, "wide.html", page, "--dump-dom", "--window-size=1280,900"))
    assert found["ascending"] == sorted(found["ascending"]) and found["descending"] == sorted(found["ascending"], reverse=True)
    assert found["scroll"] == 1280
    height = int(found["height"])
    _browse(tmp_path, "shot.html", text, f"--screenshot={tmp_path / 'shot.png'}", f"--window-size=1280,{height}")
    picture = matplotlib.image.imread(tmp_path / "shot.png")[..., :3]
    assert picture.shape[:2] == (height, 1280)

    def colours(box: list[float]) -> np.ndarray:
        left, top, right, bottom = (int(value) for value in box)
        return picture[top:bottom, left:right].reshape(-1, 3)

    def share(pixels: np.ndarray, colour: Any, tolerance: float = 0.06) -> float:
        return float((np.abs(pixels - np.array(colour)).max(axis=1) < tolerance).mean())

    boxes = found["boxes"]
    assert share(colours(boxes["header .loud"][0]), matplotlib.colors.to_rgb("#b3261e")) > 0.5
    assert len(boxes["figure"]) == 16 and len({round(left) for left, *_ in boxes["figure"]}) >= 2  # side by side
    drawn = [colours(box) for box in boxes["figure"]]
    for pixels in drawn:
        # Every figure shows every algorithm in its colour.
        assert all(share(pixels, matplotlib.colors.to_rgb(colour)) > 2e-5 for colour in PALETTE[:3])
    letters = [share(colours(box), (0.11, 0.14, 0.19), 0.2) for box in boxes["section > .scroll"]]
    assert len(letters) >= 13 and min(letters) > 0.005
