"""
One run as a curve: what it had reached at a step, or after some seconds, and when it reached a threshold.

Between two evaluations a run is worth what the earlier one said; before the first and beyond the last it has no value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_dreamer.compare.judging.readers import RecordedRun


def carried_forward(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """
    :param at: where to read the curve, ``(K,)``
    :param x: where it was measured, rising, ``(N,)``
    :param y: the measurements, ``(N,)``
    :return: the last measurement at or before each point, ``(K,)``; NaN before the first and beyond the last
    """
    at = np.asarray(at, dtype=np.float64)
    index = np.searchsorted(x, at, side="right") - 1
    values = np.where(index >= 0, y[np.maximum(index, 0)], np.nan)
    return np.where(at <= x[-1], values, np.nan)


def area_under_curve(timesteps: np.ndarray, returns: np.ndarray) -> float:
    """
    :param timesteps: of the evaluations, rising, ``(N,)``
    :param returns: of the evaluations, ``(N,)``
    :return: area by the trapezoidal rule, divided by the steps: a mean return
    """
    if len(timesteps) < 2:
        return float(returns[0])
    return float(np.average((returns[1:] + returns[:-1]) / 2, weights=np.diff(timesteps)))


def area_between(run: RecordedRun, start: float, end: float) -> float:
    """
    :param run: the run
    :param start: environment steps
    :param end: environment steps
    :return: mean return from ``start`` to ``end``; NaN if it begins later, ends earlier, or there is nothing in between
    """
    if not run.timesteps[0] <= start <= end <= run.timesteps[-1]:
        return float("nan")
    inside = (run.timesteps > start) & (run.timesteps < end)
    first, last = carried_forward(np.array([start, end]), run.timesteps, run.returns)
    timesteps = np.concatenate([[start], run.timesteps[inside], [end] * (end > start)])
    return area_under_curve(timesteps, np.concatenate([[first], run.returns[inside], [last] * (end > start)]))


def on_common_axis(
    runs: Sequence[RecordedRun], axis: str = "timesteps", points: int = 200
) -> tuple[np.ndarray, np.ndarray] | None:
    """
    The runs of an algorithm where all of them have a value.

    :param runs: the runs
    :param axis: name of the run's array to go along
    :param points: more of them are thinned out
    :return: the axis, ``(K,)``, and the returns, ``(runs, K)``; None if the axis is unknown or there is no such place
    """
    axes = [getattr(run, axis) for run in runs]
    if not all(np.isfinite(x).all() for x in axes):
        return None
    first, last = max(x[0] for x in axes), min(x[-1] for x in axes)
    at = np.unique(np.concatenate(axes))
    at = at[(at >= first) & (at <= last)]
    if not len(at):
        return None
    at = at[np.unique(np.linspace(0, len(at) - 1, min(points, len(at))).round().astype(int))]
    return at, np.stack([carried_forward(at, x, run.returns) for x, run in zip(axes, runs, strict=True)])


@dataclass(frozen=True)
class Crossing:
    """When the runs of an algorithm first reached the threshold; those that did not are counted up to their end."""

    reached: np.ndarray  # (runs,)
    timesteps: np.ndarray  # of the first evaluation at or above the threshold, else of the last one, (runs,)
    wall_seconds: np.ndarray  # likewise; NaN if unknown
    cpu_seconds: np.ndarray  # likewise


def crossing(runs: Sequence[RecordedRun], threshold: float) -> Crossing:
    """
    :param runs: the runs
    :param threshold: return to reach
    :return: when each did
    """
    at = [np.flatnonzero(run.returns >= threshold) for run in runs]
    index = [int(found[0]) if len(found) else -1 for found in at]
    columns = {
        name: np.array([getattr(run, name)[i] for run, i in zip(runs, index, strict=True)])
        for name in ("timesteps", "wall_seconds", "cpu_seconds")
    }
    return Crossing(np.array([len(found) > 0 for found in at]), **columns)
