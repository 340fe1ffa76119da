"""What the benchmarks share: a command line, how tables show numbers, files of results."""

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path

from sb3_dreamer.compare.machine import cpu_model, installed_versions
from sb3_dreamer.compare.records import write_json


def parse_arguments(description: str | None, tasks: Iterable[str]) -> argparse.Namespace:
    """
    :param description: the script's docstring
    :param tasks: names that ``--tasks`` may choose from
    :return: ``tasks``, ``jobs`` and ``table_only``
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(tasks), choices=list(tasks), metavar="TASK")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table-only", action="store_true")
    return parser.parse_args()


def number(value: float | None, digits: int = 0) -> str:
    """
    :param value: None for what never happened
    :param digits: after the point, no more than it needs
    :return: for a table
    """
    return "never" if value is None else f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"


def read_csv(path: Path) -> list[dict[str, str]]:
    """
    :param path: of a table
    :return: its lines by column; none if there is no such file
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record_machine(folder: Path) -> None:
    """
    Leave ``machine.json`` beside results of one torch thread.

    :param folder: of the results
    """
    write_json(folder / "machine.json", dict(processor=cpu_model(), threads=1, versions=installed_versions()))
