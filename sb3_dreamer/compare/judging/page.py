"""
``report``: from a folder of results to one HTML page, which needs nothing but a browser, and a Markdown summary of it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.errors import require
from sb3_dreamer.compare.judging import figures, tables, words
from sb3_dreamer.compare.judging.analysis import Analysis, Overall, TaskResult, analyse
from sb3_dreamer.compare.judging.assets import SCRIPT, STYLE
from sb3_dreamer.compare.judging.drawing import Picture
from sb3_dreamer.compare.judging.formatting import Table
from sb3_dreamer.compare.judging.markdown import markdown
from sb3_dreamer.compare.judging.readers import TaskRecords, find_tasks
from sb3_dreamer.compare.judging.reproduce import commands
from sb3_dreamer.version import __version__


@dataclass(frozen=True)
class ReportPaths:
    """Where a report was written."""

    html: Path
    markdown: Path


def report(
    folder: str | Path,
    threshold: float | Mapping[str, float] | None = None,
    references: Mapping[str, tuple[float, float]] | None = None,
) -> ReportPaths:
    """
    Judge all results under a folder, and write ``report.html`` and ``report.md`` into it.

    :param folder: results of one comparison or of many, at any depth; also what SB3 or RL Baselines3 Zoo left
    :param threshold: return at which a task counts as solved, one for all or one a task; by default the one that the
        comparison was asked for, or the task's own
    :param references: returns of a random and of a very good policy by task, between which returns of several tasks are
        normalised; by default those of ``scores.REFERENCES``, or the lowest and the highest return found
    :return: the two files
    :raises ComparisonError: there are no results under ``folder``, or they cannot be read
    """
    require("scipy", "pandas", "matplotlib")
    folder = Path(folder)
    analysis = analyse(find_tasks(folder), threshold, references)
    title = f"Comparison: {folder.resolve().name}"
    paths = ReportPaths(folder / "report.html", folder / "report.md")
    page, text = render(analysis, title), markdown(analysis, title)
    write_atomically(paths.html, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    write_atomically(paths.markdown, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return paths


def render(analysis: Analysis, title: str) -> str:
    """
    :param analysis: all numbers
    :param title: of the page
    :return: the page
    """
    colour = figures.colours(analysis.labels)
    names = [*(task.name for task in analysis.tasks), *(records.name for records in analysis.empty)]
    anchors = {name: f"task-{index}" for index, name in enumerate(names)}
    notes = "".join(f'<p class="loud" role="alert">{escape(note)}</p>' for note in words.loud_notes(analysis))
    body = [
        f"<header><h1>{escape(title)}</h1>{notes}</header>",
        f'<section id="answer"><h2>In short</h2>{_paragraphs(words.short_answer(analysis))}</section>',
    ]
    links = [(name, anchor) for name, anchor in anchors.items()]
    if analysis.overall is not None:
        body.append(_overall(analysis.overall, analysis.tasks, colour))
        links.insert(0, ("All tasks" if len(analysis.tasks) > 1 else "Normalised scores", "overall"))
    body += [_task(task, anchors[task.name], colour) for task in analysis.tasks]
    body += [_empty(records, anchors[records.name]) for records in analysis.empty]
    body.append(
        f"<footer><p>Written by sb3_dreamer {escape(__version__)}: <code>python -m sb3_dreamer.compare report</code>. "
        "A click on a table's heading sorts it.</p></footer>"
    )
    menu = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for name, anchor in links)
    body.insert(1, f'<nav aria-label="Contents">{menu}</nav>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _figures(pictures: Sequence[Picture | None]) -> str:
    """:return: the figures side by side, as many as fit; what they show in words is below each, folded away"""
    found = [
        f"<figure>{picture.markup}<figcaption><strong>{escape(picture.title)}</strong>"
        f"<details><summary>in words</summary>{escape(picture.alt)}</details></figcaption></figure>"
        for picture in pictures
        if picture is not None
    ]
    return f'<div class="figures">{"".join(found)}</div>'


def _table(table: Table | None, level: int = 3) -> str:
    if table is None:
        return ""
    head = "".join(f'<th scope="col" aria-sort="none"><button>{escape(column)}</button></th>' for column in table.columns)
    rows = []
    for first, *others in table.rows:
        cells = [f'<th scope="row">{escape(first.text)}</th>']
        for cell in others:
            shade = "" if cell.shade is None else f' style="--shade: {cell.shade:.2f}" class="shaded"'
            shade = ' class="long"' if len(cell.text) > 60 else shade
            sort = "" if math.isnan(cell.value) else f' data-value="{_javascript(cell.value)}"'
            cells.append(f"<td{sort}{shade}>{escape(cell.text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<h{level}>{escape(table.title)}</h{level}>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f"<table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _javascript(value: float) -> str:
    return f"{float(value)!r}".replace("inf", "Infinity")


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def _overall(overall: Overall, tasks: Sequence[TaskResult], colour: Mapping[str, str]) -> str:
    several = len(tasks) > 1
    content = [f"<h2>{'All tasks' if several else 'Normalised scores'}</h2>"]
    if overall.labels:
        names = (*next(iter(overall.aggregates.values())), "area under the curve")
        pictures = [figures.aggregate(overall, name, colour) for name in names]
        content.append(_figures([figures.profiles(overall, colour), *pictures]))
        content.append(_table(tables.aggregates(overall)))
    labels = (*overall.labels, *overall.left_out)
    if several and len(labels) > 1:
        content.append(_table(tables.improvement(labels, overall.improvement, several=True)))
    content.append(_table(tables.scales(tasks)))
    return f'<section id="overall">{"".join(content)}</section>'


def _task(task: TaskResult, anchor: str, colour: Mapping[str, str]) -> str:
    labels = [one.label for one in task.algorithms]
    curves = [figures.learning_curves(task, colour, axis) for axis in ("timesteps", task.axis) if axis]
    pictures = [*curves, figures.final_returns(task, colour), figures.solved_share(task, colour), figures.pareto(task, colour)]
    several = len(labels) > 1
    notes = "".join(f"<li>{escape(note)}</li>" for note in task.notes)
    content = [
        f"<h2>{escape(task.name)}</h2>",
        _paragraphs(words.verdict(task)),
        f'<aside class="notes"><h3>Keep in mind</h3><ul>{notes}</ul></aside>' if notes else "",
        _figures(pictures),
        _table(tables.scores(task)),
        _table(tables.solving(task)),
        _table(tables.improvement(labels, task.improvement, several=False)) if several else "",
        _table(tables.cost(task)),
        _table(tables.break_even(task)) if several else "",
        _folded("Every run", _table(tables.every_run(task), 4)),
        _folded("Settings", _settings(task)),
        _folded("How to reproduce", _reproduce(task)),
    ]
    return f'<section id="{anchor}">{"".join(content)}</section>'


def _settings(task: TaskResult) -> str:
    content = []
    for one in task.algorithms:
        settings = one.runs[0].known("settings")
        text = "unknown" if settings is None else json.dumps(settings, indent=2, sort_keys=True, default=str)
        content.append(f"<h4>{escape(one.label)}</h4><pre>{escape(text)}</pre>")
    return "".join(content)


def _reproduce(task: TaskResult) -> str:
    found = commands(task)
    text = "\n".join(found) if found else "The settings of these runs are not recorded."
    rest = ", ".join(one.label for one in task.algorithms if one.runs[0].known("settings") is None)
    note = f"<p>Settings are unknown of {escape(rest)}.</p>" if found and rest else ""
    return f"<pre><code>{escape(text)}</code></pre>{note}{_table(tables.machines(task), 4)}"


def _empty(records: TaskRecords, anchor: str) -> str:
    table = _table(tables.unfinished(records.unfinished))
    return f'<section id="{anchor}"><h2>{escape(records.name)}</h2><p>No run has finished.</p>{table}</section>'
