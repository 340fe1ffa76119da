"""From evaluations to the numbers people compare: a summary of each algorithm, and a table of them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_dreamer.compare.curves import area_under_curve
from sb3_dreamer.compare.records import FinishedRun, Row


@dataclass(frozen=True)
class RunStatistics:
    """What one run comes down to; None stands for "never"."""

    final_return: float  # the last evaluation
    steps_to_threshold: int | None  # first evaluation at or above the threshold
    cpu_seconds_to_threshold: float | None
    worst_after: float | None  # of the evaluations that follow that one
    mean_after: float | None
    area_under_curve: float  # mean evaluation return over the steps of the run, which reads the same at any length
    cpu_seconds: float  # of the whole training
    wall_seconds: float


def run_statistics(rows: Sequence[Row], threshold: float | None) -> RunStatistics:
    """
    :param rows: one run's evaluations, in their order
    :param threshold: return at which the task counts as solved, None if nobody says
    :return: what they come down to
    """
    first = None
    if threshold is not None:
        first = next((index for index, row in enumerate(rows) if row.eval_return_mean >= threshold), None)
    after = [row.eval_return_mean for row in rows[first + 1 :]] if first is not None else []
    return RunStatistics(
        final_return=rows[-1].eval_return_mean,
        steps_to_threshold=None if first is None else rows[first].timesteps,
        cpu_seconds_to_threshold=None if first is None else rows[first].cpu_seconds,
        worst_after=min(after) if after else None,
        mean_after=statistics.fmean(after) if after else None,
        area_under_curve=area_under_curve(
            np.array([row.timesteps for row in rows]), np.array([row.eval_return_mean for row in rows])
        ),
        cpu_seconds=rows[-1].cpu_seconds,
        wall_seconds=rows[-1].wall_seconds,
    )


def _median_and_range(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _median_and_worst(values: Sequence[float | None]) -> dict[str, float | None]:
    """Of numbers of which less is better; "never" is more than any number."""
    ordered = sorted(math.inf if value is None else value for value in values)
    median, worst = statistics.median(ordered), ordered[-1]
    return {"median": median if math.isfinite(median) else None, "worst": worst if math.isfinite(worst) else None}


def summarize_runs(runs: Sequence[FinishedRun], threshold: float | None) -> dict[str, Any]:
    """
    :param runs: the finished runs of one algorithm
    :param threshold: return at which the task counts as solved
    :return: the numbers of the algorithm's entry in ``summary.json``
    """
    per_run = [run_statistics(run.rows, threshold) for run in runs]
    worst_after = [run.worst_after for run in per_run if run.worst_after is not None]
    mean_after = [run.mean_after for run in per_run if run.mean_after is not None]
    cpu = [run.cpu_seconds for run in per_run]
    return {
        "seeds": [run.spec.seed for run in runs],
        "final_return": _median_and_range([run.final_return for run in per_run]),
        "area_under_curve": _median_and_range([run.area_under_curve for run in per_run]),
        "seeds_reaching_threshold": sum(run.steps_to_threshold is not None for run in per_run),
        "steps_to_threshold": _median_and_worst([run.steps_to_threshold for run in per_run]),
        "cpu_seconds_to_threshold": _median_and_worst([run.cpu_seconds_to_threshold for run in per_run]),
        "after_threshold": {
            "worst": min(worst_after) if worst_after else None,
            "mean": statistics.fmean(mean_after) if mean_after else None,
        },
        "cpu_seconds": {"median": statistics.median(cpu), "total": sum(cpu)},
        "wall_seconds": {"median": statistics.median(run.wall_seconds for run in per_run)},
    }


def summarize_algorithm(runs: Sequence[FinishedRun], threshold: float | None) -> dict[str, Any]:
    """
    :param runs: the finished runs of one algorithm
    :param threshold: return at which the task counts as solved
    :return: the algorithm's entry in ``summary.json``
    """
    # Hyperparameters are the same in all of them, or they would not have been taken together.
    settings = {key: value for key, value in runs[0].spec.settings().items() if key not in ("algo", "seed")}
    return {
        **summarize_runs(runs, threshold),
        "n_parameters": runs[0].n_parameters,
        "settings": settings,
        "versions": dict(runs[0].versions),
        "cpu_models": sorted({run.cpu_model for run in runs}),
        **_details(runs),
    }


def _details(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """:return: of ``details``, what all runs have in common, and what is each one's own, by its seed"""
    names = list(dict.fromkeys(name for run in runs for name in run.details))
    common = {
        name: runs[0].details[name]
        for name in names
        if all(name in run.details and run.details[name] == runs[0].details[name] for run in runs)
    }
    own = {str(run.spec.seed): {name: value for name, value in run.details.items() if name not in common} for run in runs}
    return {"details": common, "runs": own} if names else {}


def summarize(
    env: str, algos: Sequence[str], threshold: float | None, finished: Sequence[FinishedRun], missing: Sequence[str]
) -> dict[str, Any]:
    """
    :param env: the task's name
    :param algos: the algorithms, in the order in which they were asked for
    :param threshold: return at which the task counts as solved
    :param finished: all runs that have reached their end
    :param missing: names of those that have not
    :return: the content of ``summary.json``
    """
    runs_of = {algo: [run for run in finished if run.spec.algo == algo] for algo in algos}
    return {
        "env": env,
        "threshold": threshold,
        "partial": bool(missing),
        "missing": list(missing),
        "algorithms": {algo: summarize_algorithm(runs, threshold) for algo, runs in runs_of.items() if runs},
    }


def _number(value: float | None, none: str) -> str:
    if value is None:
        return none
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}"


def format_table(summary: Mapping[str, Any]) -> str:
    """
    :param summary: as from :func:`summarize`
    :return: a table of the algorithms, as text
    """
    head = ("algorithm", "seeds", "final return [min, max]", "steps to threshold [worst]", "CPU seconds", "parameters")
    lines = [head]
    for algo, entry in summary["algorithms"].items():
        final, steps = entry["final_return"], entry["steps_to_threshold"]
        reached = f"{_number(steps['median'], 'never')} [{_number(steps['worst'], 'never')}]"
        lines.append(
            (
                algo,
                str(len(entry["seeds"])),
                f"{final['median']:.2f} [{final['min']:.2f}, {final['max']:.2f}]",
                "-" if summary["threshold"] is None else reached,
                f"{entry['cpu_seconds']['median']:.1f}",
                f"{entry['n_parameters']:,}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    threshold = "no threshold" if summary["threshold"] is None else f"threshold {summary['threshold']:g}"
    text.insert(0, f"{summary['env']}, {threshold}; medians over the seeds, CPU seconds of one run's training")
    if summary["partial"]:
        text.append(f"PARTIAL: no result yet from {', '.join(summary['missing'])}")
    return "\n".join(text)
