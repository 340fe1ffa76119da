"""Numbers as text, and tables of such text: what the page and the Markdown summary have in common."""

import math
from dataclasses import dataclass

from sb3_dreamer.compare.judging.intervals import Estimate

UNKNOWN = "unknown"
SECONDS = {"cpu_seconds": "CPU s", "wall_seconds": "wall s", "": "s"}


@dataclass(frozen=True)
class Cell:
    """What to show, and the number to sort it by (NaN: last)."""

    text: str
    value: float = math.nan
    shade: float | None = None  # from 0 (bad) to 1 (good), for matrices


@dataclass(frozen=True)
class Table:
    """A heading, what the columns are, and the rows; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def number(value: float | None) -> str:
    """
    :param value: any number
    :return: it with about four digits; "unknown" for NaN and None, "never" for infinity
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "never" if value > 0 else "-inf"
    if float(value).is_integer():
        return f"{value:,.0f}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 8)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def with_interval(estimate: Estimate | None) -> str:
    """
    :param estimate: a statistic
    :return: it and its interval
    """
    if estimate is None or math.isnan(estimate.value):
        return UNKNOWN
    if math.isnan(estimate.low):
        return f"{number(estimate.value)} [one run]"
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"
