"""The figures of a report: curves, returns, who reached the threshold, cost, aggregates and profiles."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sb3_dreamer.compare.curves import on_common_axis
from sb3_dreamer.compare.judging.analysis import AlgorithmResult, Overall, TaskResult
from sb3_dreamer.compare.judging.costs import pareto_front
from sb3_dreamer.compare.judging.drawing import INK, Picture, picture
from sb3_dreamer.compare.judging.formatting import SECONDS, number, with_interval
from sb3_dreamer.compare.judging.intervals import Estimate, bootstrap_curve, survival_curve
from sb3_dreamer.compare.judging.readers import RecordedRun
from sb3_dreamer.compare.plots import differ_much

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which most colour-blind people can tell apart, without the yellow that nobody sees on white.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#8C6BB1",
    "#999999",
    "#A6761D",
    "#B2182B",
    "#66A61E",
    "#525252",
)
_POINTS = 120  # of a curve


def colours(labels: Sequence[str]) -> dict[str, str]:
    """
    :param labels: of all algorithms, in a fixed order
    :return: a colour each, the same in all figures
    """
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(labels)}


def learning_curves(task: TaskResult, colour: Mapping[str, str], axis: str) -> Picture | None:
    """
    :param task: the results on it
    :param colour: of each label
    :param axis: ``"timesteps"`` or a name of seconds
    :return: return against them: each run, their interquartile mean and its interval; None if the axis is unknown
    """
    name = {"timesteps": "environment steps", "cpu_seconds": "CPU seconds of training"}.get(axis, "wall seconds of training")
    drawn = [one for one in task.algorithms if all(np.isfinite(getattr(run, axis)).all() for run in one.runs)]
    if not drawn:
        return None
    logarithmic = differ_much([max(float(getattr(run, axis)[-1]) for run in one.runs) for one in drawn])

    def draw(axes: "Axes") -> None:
        if logarithmic:
            axes.set_xscale("log")
        # On a logarithmic axis the evaluation before training has no place; its seconds are not quite zero.
        begin = min(_first_after_start(getattr(run, axis)) for one in drawn for run in one.runs) if logarithmic else -np.inf
        for one in drawn:
            _curve(axes, one, colour[one.label], axis, begin)
        if task.threshold is not None:
            axes.axhline(task.threshold, color=INK, linestyle="--", linewidth=0.8, alpha=0.7)
        if axis == "timesteps" and task.end < max(one.length[1] for one in drawn):
            axes.axvline(task.end, color=INK, linestyle=":", linewidth=0.8, alpha=0.7)
        axes.set_xlabel(name)
        axes.set_ylabel("return of an evaluation episode")

    ends = "; ".join(f"{one.label} ends at {with_interval(one.at_own)}" for one in drawn)
    threshold = "" if task.threshold is None else f" Dashed: the threshold {number(task.threshold)}."
    alt = (
        f"Return against {name} on {task.name}: thin lines are single runs, thick ones their interquartile mean, bands its "
        f"95 % interval. {ends}.{threshold} Dotted, if there: the shortest run's end."
    )
    return picture(draw, f"Return against {name}", alt)


def _curve(axes: "Axes", one: AlgorithmResult, colour: str, axis: str, begin: float) -> None:
    for run in one.runs:
        x, y = _thinned(run, axis)
        keep = x >= begin
        axes.plot(x[keep], y[keep], color=colour, linewidth=0.6, alpha=max(0.12, min(0.45, 3 / one.n)))
    label = f"{one.label} (n = {one.n})"
    together = on_common_axis(one.runs, axis, _POINTS)
    if together is None:
        axes.plot([], [], color=colour, label=label)
        return
    x, values = together
    center, low, high = bootstrap_curve(values)
    keep = x >= begin
    axes.plot(x[keep], center[keep], color=colour, linewidth=2, label=label)
    axes.fill_between(x[keep], low[keep], high[keep], color=colour, alpha=0.2, linewidth=0)


def _first_after_start(x: np.ndarray) -> float:
    return float(x[min(1, len(x) - 1)]) if x[0] < 0.01 * x[-1] else float(x[0])


def _thinned(run: RecordedRun, axis: str) -> tuple[np.ndarray, np.ndarray]:
    index = np.unique(np.linspace(0, len(run.returns) - 1, min(2 * _POINTS, len(run.returns))).round().astype(int))
    return getattr(run, axis)[index], run.returns[index]


def final_returns(task: TaskResult, colour: Mapping[str, str]) -> Picture:
    """
    :param task: the results on it
    :param colour: of each label
    :return: every run's return and the interquartile means with their intervals, at the common length and at the own end
    """
    lengths = {length for one in task.algorithms for length in one.length}
    different = len(lengths) > 1

    def draw(axes: "Axes") -> None:
        for row, one in enumerate(task.algorithms):
            groups = [(one.common, one.at_common, "o", 0.15 * different)]
            groups += [(one.own, one.at_own, "D", -0.2)] * different
            for values, estimate, marker, shift in groups:
                y = -row + shift
                axes.plot(values, np.full(len(values), y), "|", color=colour[one.label], alpha=0.6, markersize=9)
                _interval(axes, estimate, y, colour[one.label], marker)
        if different:
            axes.plot([], [], "o", color=INK, label=f"at {number(task.end)} steps")
            axes.plot([], [], "D", color=INK, markerfacecolor="none", label="at its own end")
        if task.threshold is not None:
            axes.axvline(task.threshold, color=INK, linestyle="--", linewidth=0.8, alpha=0.7)
        _rows(axes, [one.label for one in task.algorithms])
        axes.set_xlabel("return")

    values = "; ".join(f"{one.label} {with_interval(one.at_common)}" for one in task.algorithms)
    alt = f"Returns of all runs on {task.name} at {number(task.end)} steps, interquartile mean and 95 % interval: {values}."
    return picture(draw, "Final returns", alt, height=1.1 + 0.55 * len(task.algorithms) + 0.3 * different)


def _interval(axes: "Axes", estimate: Estimate, y: float, colour: str, marker: str) -> None:
    if np.isfinite(estimate.low):
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
    face = "none" if marker == "D" else colour
    axes.plot([estimate.value], [y], marker, color=colour, markerfacecolor=face, markersize=6)


def _rows(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks([-row for row in range(len(labels))], labels)
    axes.set_ylim(-len(labels) + 0.4, 0.6)
    axes.grid(axis="y", visible=False)


def solved_share(task: TaskResult, colour: Mapping[str, str]) -> Picture | None:
    """
    :param task: the results on it
    :param colour: of each label
    :return: the share of runs that have reached the threshold against steps, None without a threshold
    """
    if task.threshold is None:
        return None
    logarithmic = differ_much([one.length[1] for one in task.algorithms])

    def draw(axes: "Axes") -> None:
        if logarithmic:
            axes.set_xscale("log")
        for one in task.algorithms:
            assert one.solving is not None
            crossed = one.solving.crossing
            events, share = survival_curve(crossed.timesteps, crossed.reached)
            begin = one.runs[0].timesteps[min(1, len(one.runs[0].timesteps) - 1)] if logarithmic else task.start
            begin = min(begin, events[0]) if len(events) else begin
            x, y = np.concatenate([[begin], events, [one.length[1]]]), np.concatenate([[0], 1 - share])
            axes.step(x, np.append(y, y[-1]), where="post", color=colour[one.label], label=one.label, linewidth=2)
            ended = crossed.timesteps[~crossed.reached]
            height = [y[np.searchsorted(events, end, side="right")] for end in ended]
            axes.plot(ended, height, "|", color=colour[one.label], markersize=10, markeredgewidth=1.5)
        axes.set_ylim(-0.04, 1.04)
        axes.set_xlabel("environment steps")
        axes.set_ylabel(f"share of runs at or above {number(task.threshold)}")

    reached = "; ".join(f"{one.label} {one.solving.reached} of {one.n}" for one in task.algorithms if one.solving is not None)
    alt = (
        f"Share of runs that have reached {number(task.threshold)} on {task.name}, by steps: in the end {reached}. "
        "A vertical tick marks the end of runs that never did."
    )
    return picture(draw, "Who has reached the threshold", alt)


def pareto(task: TaskResult, colour: Mapping[str, str]) -> Picture | None:
    """
    :param task: the results on it
    :param colour: of each label
    :return: return at a run's end against the seconds it took, with the algorithms that nobody beats in both joined by a
        line; None if the seconds are unknown or nobody is there to compare with
    """
    if not task.axis or len(task.algorithms) < 2:
        return None
    cost = np.array([np.median([getattr(run, task.axis)[-1] for run in one.runs]) for one in task.algorithms])
    score = np.array([one.at_own.value for one in task.algorithms])
    front = pareto_front(cost, score)
    names = [one.label for one, on_it in zip(task.algorithms, front, strict=True) if on_it]

    def draw(axes: "Axes") -> None:
        if differ_much(list(cost)):
            axes.set_xscale("log")
        order = np.argsort(cost[front])
        axes.plot(cost[front][order], score[front][order], color=INK, linewidth=1, alpha=0.5, zorder=1)
        for one, x in zip(task.algorithms, cost, strict=True):
            estimate = one.at_own
            if np.isfinite(estimate.low):
                axes.plot([x, x], [estimate.low, estimate.high], color=colour[one.label], linewidth=3, alpha=0.45)
            axes.plot([x], [estimate.value], "o", color=colour[one.label], markersize=7, label=one.label)
        axes.margins(x=0.12)
        axes.set_xlabel(f"{SECONDS[task.axis]} of one run's training")
        axes.set_ylabel("return at its own end")

    points = "; ".join(
        f"{one.label} {number(x)} s, {with_interval(one.at_own)}" for one, x in zip(task.algorithms, cost, strict=True)
    )
    alt = (
        f"Return against cost on {task.name}: {points}. No other algorithm is both cheaper and better than {', '.join(names)}."
    )
    return picture(draw, "Return and cost (Pareto)", alt)


def aggregate(overall: Overall, name: str, colour: Mapping[str, str]) -> Picture:
    """
    :param overall: the tasks together
    :param name: of the aggregate, or ``"area under the curve"``
    :param colour: of each label
    :return: it, of each algorithm, with its interval
    """
    estimates = {
        label: overall.areas[label] if name == "area under the curve" else overall.aggregates[label][name]
        for label in overall.labels
    }

    def draw(axes: "Axes") -> None:
        for row, label in enumerate(overall.labels):
            _interval(axes, estimates[label], -row, colour[label], "o")
        _rows(axes, overall.labels)
        axes.set_xlabel(f"{name} of normalised scores" + (" (less is better)" if name == "optimality gap" else ""))

    values = "; ".join(f"{label} {with_interval(estimate)}" for label, estimate in estimates.items())
    title = name[0].upper() + name[1:]
    return picture(draw, title, f"{title} of the normalised scores with 95 % intervals: {values}.", 0.9 + 0.4 * len(estimates))


def profiles(overall: Overall, colour: Mapping[str, str]) -> Picture:
    """
    :param overall: the tasks together
    :param colour: of each label
    :return: the share of runs above each score
    """

    def draw(axes: "Axes") -> None:
        for label in overall.labels:
            profile, low, high = overall.profiles[label]
            axes.step(overall.thresholds, profile, where="post", color=colour[label], linewidth=2, label=label)
            axes.fill_between(overall.thresholds, low, high, step="post", color=colour[label], alpha=0.2, linewidth=0)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("normalised score")
        axes.set_ylabel("share of runs above it")

    halves = "; ".join(
        f"{label} {np.interp(0.5, overall.thresholds, overall.profiles[label][0]):.0%}" for label in overall.labels
    )
    alt = f"Performance profiles: share of runs above a normalised score, with 95 % bands. Above one half: {halves}."
    return picture(draw, "Performance profiles", alt)
