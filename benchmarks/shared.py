"""What the benchmarks of learning share: their command line and how their tables show numbers."""

import argparse
from collections.abc import Iterable


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
