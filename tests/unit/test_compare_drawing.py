"""Figures as parts of a page: SVG in the page's own ink, PNG if that would be too large."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import pytest

from sb3_dreamer.compare.judging import drawing
from sb3_dreamer.compare.judging.figures import PALETTE, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(axes: Axes) -> None:
    axes.plot([1, 2000], [0, 1], color=PALETTE[0], label="cost $5 & <more> $6")
    axes.fill_between([1, 2000], [0, 1], color=PALETTE[0], alpha=0.2)
    axes.set_xscale("log")


def test_an_svg_without_size_header_and_ink_of_its_own() -> None:
    found = drawing.picture(draw, "Title", 'says "this" & that')
    assert found.markup.startswith('<svg viewBox="0 0 ') and found.markup.endswith("</svg>")
    assert 'role="img" aria-label="says &quot;this&quot; &amp; that"' in found.markup
    assert "currentColor" in found.markup and drawing.INK not in found.markup
    assert "cost $5 &amp; &lt;more&gt; $6" in found.markup  # no formula
    assert ">1,000<" in found.markup and "mathdefault" not in found.markup
    assert "<metadata" not in found.markup and "xlink" not in found.markup.replace("xmlns:xlink", "")


def test_identifiers_are_a_figures_own() -> None:
    first, second = drawing.picture(draw, "Title", "one").markup, drawing.picture(draw, "Title", "two").markup
    ids = [set(re.findall(r' id="([^"]+)"', markup)) for markup in (first, second)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", first)) <= ids[0]


def test_what_is_too_large_becomes_a_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "LARGEST_SVG", 100)
    markup = drawing.picture(draw, "Title", 'in "words"').markup
    match = re.fullmatch(r'<img class="opaque" src="data:image/png;base64,([^"]+)" alt="in &quot;words&quot;">', markup)
    assert match is not None and base64.b64decode(match[1]).startswith(b"\x89PNG")


def test_colours_differ_as_long_as_there_are_enough() -> None:
    labels = [f"algorithm {index}" for index in range(len(PALETTE) + 1)]
    found = colours(labels)
    assert len(set(found.values())) == len(PALETTE) and found[labels[0]] == found[labels[-1]]
