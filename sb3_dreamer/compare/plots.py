"""The learning curves: return against environment steps, and against the CPU time they took."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.records import FinishedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Where one algorithm ran this many times as long as another, a linear axis would squeeze the shorter one into a corner.
LOG_SCALE_RATIO = 8


def draw_curves(runs: Sequence[FinishedRun], title: str, threshold: float | None) -> "Figure":
    """
    Median over the seeds as a line, their range as a band. The right panel places the median at the median CPU time.
    Where lengths differ by more than ``LOG_SCALE_RATIO``, an axis is logarithmic and begins after the first evaluation.

    :param runs: the finished runs
    :param title: the figure's title
    :param threshold: return to mark with a dashed line
    :return: a figure with two panels
    """
    from matplotlib.figure import Figure

    # A Figure without pyplot uses no display and leaves no state behind.
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_steps, by_cpu = figure.subplots(1, 2, sharey=True)
    runs_of = {algo: [run for run in runs if run.spec.algo == algo] for algo in dict.fromkeys(run.spec.algo for run in runs)}
    panels = ((by_steps, "environment steps", "timesteps"), (by_cpu, "CPU seconds of training", "cpu_seconds"))
    for axes, label, column in panels:
        spent = {algo: np.median(_by_seed(own, column), axis=0) for algo, own in runs_of.items()}
        first = 0
        if differ_much([x[-1] for x in spent.values()]):
            axes.set_xscale("log")
            first = 1  # step 0 has no place on it
        for algo, x in spent.items():
            x, returns = x[first:], _by_seed(runs_of[algo], "eval_return_mean")[:, first:]
            plural = "s" if len(returns) > 1 else ""
            (line,) = axes.plot(x, np.median(returns, axis=0), label=f"{algo} ({len(returns)} seed{plural})")
            lowest, highest = returns.min(axis=0), returns.max(axis=0)
            axes.fill_between(x, lowest, highest, color=line.get_color(), alpha=0.2, linewidth=0)
        if threshold is not None:
            axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"threshold {threshold:g}")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    by_steps.set_ylabel("return of an evaluation episode")
    by_steps.legend(fontsize="small")
    figure.suptitle(title)
    return figure


def _by_seed(runs: Sequence[FinishedRun], column: str) -> np.ndarray:
    """:return: a column of all evaluations, shape ``(seeds, evaluations)``: the runs of an algorithm share the grid"""
    return np.array([[getattr(row, column) for row in run.rows] for run in runs])


def differ_much(lengths: Sequence[float]) -> bool:
    """
    :param lengths: how far each algorithm's curve goes
    :return: whether they fit on no common linear axis
    """
    return min(lengths) > 0 and max(lengths) > LOG_SCALE_RATIO * min(lengths)


def plot_curves(path: Path, runs: Sequence[FinishedRun], title: str, threshold: float | None) -> None:
    """
    :param path: the PNG file to write
    :param runs: the finished runs
    :param title: the figure's title
    :param threshold: return to mark with a dashed line
    """
    figure = draw_curves(runs, title, threshold)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
