"""The learning curves: return against environment steps, and against the CPU time they took."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.records import FinishedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curves(runs: Sequence[FinishedRun], title: str, threshold: float | None) -> "Figure":
    """
    Median over the seeds as a line, their range as a band. The right panel places the median at the median CPU time.

    :param runs: the finished runs
    :param title: the figure's title
    :param threshold: return to mark with a dashed line
    :return: a figure with two panels
    """
    from matplotlib.figure import Figure

    # A Figure without pyplot uses no display and leaves no state behind.
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_steps, by_cpu = figure.subplots(1, 2, sharey=True)
    for algo in dict.fromkeys(run.spec.algo for run in runs):
        rows = [run.rows for run in runs if run.spec.algo == algo]
        # One line a seed, (seeds, evaluations): all runs of a comparison share the grid.
        returns = np.array([[row.eval_return_mean for row in line] for line in rows])
        cpu_seconds = np.median([[row.cpu_seconds for row in line] for line in rows], axis=0)
        timesteps = [row.timesteps for row in rows[0]]
        plural = "s" if len(rows) > 1 else ""
        for axes, x in ((by_steps, timesteps), (by_cpu, cpu_seconds)):
            (line,) = axes.plot(x, np.median(returns, axis=0), label=f"{algo} ({len(rows)} seed{plural})")
            lowest, highest = returns.min(axis=0), returns.max(axis=0)
            axes.fill_between(x, lowest, highest, color=line.get_color(), alpha=0.2, linewidth=0)
    for axes, label in ((by_steps, "environment steps"), (by_cpu, "CPU seconds of training")):
        if threshold is not None:
            axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"threshold {threshold:g}")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    by_steps.set_ylabel("return of an evaluation episode")
    by_steps.legend(fontsize="small")
    figure.suptitle(title)
    return figure


def plot_curves(path: Path, runs: Sequence[FinishedRun], title: str, threshold: float | None) -> None:
    """
    :param path: the PNG file to write
    :param runs: the finished runs
    :param title: the figure's title
    :param threshold: return to mark with a dashed line
    """
    figure = draw_curves(runs, title, threshold)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
