"""The report as Markdown: the same answer and the same tables as on the page, without figures."""

import re

from sb3_dreamer.compare.judging import tables, words
from sb3_dreamer.compare.judging.analysis import Analysis, TaskResult
from sb3_dreamer.compare.judging.formatting import Table
from sb3_dreamer.compare.judging.reproduce import commands


def markdown(analysis: Analysis, title: str) -> str:
    """
    :param analysis: all numbers
    :param title: of the report
    :return: the content of a Markdown file
    """
    blocks = [f"# {_escape(title)}", *(f"> **{_escape(note)}**" for note in words.loud_notes(analysis))]
    blocks += [_escape(paragraph) for paragraph in words.short_answer(analysis)]
    overall = analysis.overall
    if overall is not None and len(overall.tasks) > 1:
        blocks.append("## All tasks")
        blocks += [_table(tables.aggregates(overall))] if overall.labels else []
        labels = (*overall.labels, *overall.left_out)
        if len(labels) > 1:
            blocks.append(_table(tables.improvement(labels, overall.improvement, several=True)))
        blocks.append(_table(tables.scales(analysis.tasks)))
    for task in analysis.tasks:
        blocks += _task(task)
    for records in analysis.empty:
        blocks += [f"## {_escape(records.name)}", "No run has finished.", _table(tables.unfinished(records.unfinished))]
    return "\n\n".join(blocks) + "\n"


def _task(task: TaskResult) -> list[str]:
    blocks = [f"## {_escape(task.name)}", *(_escape(paragraph) for paragraph in words.verdict(task))]
    if task.notes:
        blocks.append("\n".join(f"- {_escape(note)}" for note in task.notes))
    several = len(task.algorithms) > 1
    found = [tables.scores(task), tables.solving(task), tables.cost(task)]
    if several:
        labels = [one.label for one in task.algorithms]
        found += [tables.improvement(labels, task.improvement, several=False), tables.break_even(task)]
    blocks += [_table(table) for table in (*found, tables.machines(task)) if table is not None]
    shell = "\n".join(commands(task))
    fence = "```"
    while fence in shell:
        fence += "`"
    return [*blocks, f"{fence}bash\n{shell}\n{fence}"] if shell else blocks


def _table(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *([cell.text for cell in row] for row in table.rows)]
    text = "\n".join(
        "| " + " | ".join(cell if index == 1 else _escape(cell) for cell in line) + " |" for index, line in enumerate(lines)
    )
    note = f"\n\n{_escape(table.note)}" if table.note else ""
    return f"### {_escape(table.title)}\n\n{text}{note}"


def _escape(text: str) -> str:
    """:return: one line of plain text, which Markdown reads as such"""
    text = re.sub(r"([\\`*<|])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it is an underscore anyway
    return " ".join(text.replace("](", "]\\(").split())
