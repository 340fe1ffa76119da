"""All numbers of a report: each task by itself, then all tasks together on one scale."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from sb3_dreamer.compare.curves import Crossing, area_between, carried_forward, crossing
from sb3_dreamer.compare.judging import costs, fairness
from sb3_dreamer.compare.judging.intervals import (
    Estimate,
    bootstrap,
    median_time,
    probability_of_improvement,
    profile_band,
    share_interval,
)
from sb3_dreamer.compare.judging.readers import RecordedRun, TaskRecords
from sb3_dreamer.compare.judging.scores import Scale, scale
from sb3_dreamer.compare.judging.statistics import AGGREGATES, ENOUGH_RUNS, mann_whitney_p_value, mean
from sb3_dreamer.compare.settings import THRESHOLDS

PROFILE_POINTS = 101


@dataclass(frozen=True, eq=False)
class Solving:
    """When the runs of an algorithm reached the threshold."""

    crossing: Crossing
    reached: int
    share: tuple[float, float]  # 95 % interval of the share of runs that do
    median_steps: Estimate  # infinite if fewer than half of the runs got there
    median_seconds: Estimate | None  # of the task's axis, None if unknown
    restricted_steps: Estimate  # mean of min(steps, common length): a lower bound if a run never got there


@dataclass(frozen=True, eq=False)
class AlgorithmResult:
    """One algorithm on one task. Estimates are interquartile means over its runs."""

    label: str
    runs: tuple[RecordedRun, ...]
    common: np.ndarray  # return of each run at the common number of steps, (runs,)
    at_common: Estimate
    own: np.ndarray  # return at each run's own last evaluation, (runs,)
    at_own: Estimate
    length: tuple[float, float]  # fewest and most steps of its runs
    area: Estimate  # mean return from the common start to the common end, mean over the runs
    at_seconds: Estimate | None  # at equal seconds of the task's axis
    solving: Solving | None
    cost: Mapping[str, float]
    seconds_at_common: float  # median CPU or wall seconds that it took to the common number of steps

    @property
    def n(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class Improvement:
    """How likely one algorithm's run is to beat the other's."""

    probability: Estimate
    p_value: float  # two-sided, of Mann and Whitney's test; NaN over several tasks
    tasks: int


@dataclass(frozen=True, eq=False)
class TaskResult:
    """All algorithms on one task, best first."""

    records: TaskRecords
    threshold: float | None
    algorithms: tuple[AlgorithmResult, ...]
    start: float  # environment steps from which on all runs have a value
    end: float  # the shortest run's length
    shortest: str  # whose that is
    axis: str  # the seconds that are compared: "cpu_seconds", "wall_seconds" or ""
    seconds: float  # the fewest seconds that a run took, NaN if unknown
    improvement: Mapping[tuple[str, str], Improvement]
    break_even: Mapping[tuple[str, str], costs.BreakEven]
    scale: Scale
    notes: tuple[str, ...]  # what to keep in mind when comparing

    @property
    def name(self) -> str:
        return self.records.name

    @property
    def few(self) -> tuple[str, ...]:
        """Algorithms with too few runs to claim anything, and how many they have."""
        return tuple(f"{one.label} (n = {one.n})" for one in self.algorithms if one.n < ENOUGH_RUNS)


@dataclass(frozen=True, eq=False)
class Overall:
    """Several tasks together, on normalised scores at each task's common number of steps."""

    labels: tuple[str, ...]  # that ran on all of the tasks, best first
    left_out: tuple[str, ...]
    tasks: tuple[str, ...]
    aggregates: Mapping[str, Mapping[str, Estimate]]  # by label and name of the aggregate
    areas: Mapping[str, Estimate]  # mean over the tasks of the normalised area under the curve
    thresholds: np.ndarray  # of the profiles, (K,)
    profiles: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # share of runs above, its limits, (K,)
    improvement: Mapping[tuple[str, str], Improvement]


@dataclass(frozen=True, eq=False)
class Analysis:
    """The content of a report."""

    tasks: tuple[TaskResult, ...]
    empty: tuple[TaskRecords, ...]  # tasks without a finished run
    overall: Overall | None  # None without any finished run
    labels: tuple[str, ...]  # all of them, in the order of their colours


def analyse(
    tasks: Sequence[TaskRecords],
    threshold: float | Mapping[str, float] | None = None,
    references: Mapping[str, tuple[float, float]] | None = None,
) -> Analysis:
    """
    :param tasks: as from :func:`~sb3_dreamer.compare.judging.readers.find_tasks`
    :param threshold: return at which a task counts as solved, for all or by task; by default the one that its comparison
        was asked for, ``settings.THRESHOLDS``' or Gymnasium's
    :param references: returns of a random and of a very good policy by task, for normalisation
    :return: all numbers
    """
    results = tuple(_task(records, _threshold(records, threshold), references) for records in tasks if records.runs)
    labels = {run.label for records in tasks for run in records.runs}
    labels |= {run.label for records in tasks for run in records.unfinished}
    return Analysis(
        results,
        tuple(records for records in tasks if not records.runs),
        _overall(results) if results else None,
        tuple(sorted(labels)),
    )


def _threshold(records: TaskRecords, given: float | Mapping[str, float] | None) -> float | None:
    env = records.runs[0].env
    if isinstance(given, Mapping):
        given = next((given[key] for key in (records.name, env) if key in given), None)
    if given is not None:
        return float(given)
    if records.threshold is not None:
        return records.threshold
    spec = gym.registry.get(env)
    for name in (env, env.rpartition("/")[2]):
        if name in THRESHOLDS:
            return THRESHOLDS[name]
    return spec.reward_threshold if spec is not None else None


def _task(records: TaskRecords, threshold: float | None, references: Mapping[str, tuple[float, float]] | None) -> TaskResult:
    runs = records.runs
    start, end = max(run.timesteps[0] for run in runs), min(run.timesteps[-1] for run in runs)
    axis = _axis(runs)
    seconds = costs.common_seconds(runs, axis) if axis else np.nan
    algorithms = [
        _algorithm(label, [run for run in runs if run.label == label], threshold, float(start), float(end), axis, seconds)
        for label in dict.fromkeys(run.label for run in runs)
    ]
    algorithms.sort(key=lambda one: -one.at_common.value)
    by_label = {one.label: one for one in algorithms}
    pairs = [(a, b) for a in by_label for b in by_label if a != b]
    solving = {one.label: one.solving for one in algorithms if one.solving is not None}
    break_even = {
        (a, b): costs.break_even(solving[a].crossing, solving[b].crossing, axis)
        for a, b in pairs
        if axis and a in solving and b in solving
    }
    shortest = min(runs, key=lambda run: run.timesteps[-1]).name
    return TaskResult(
        records=records,
        threshold=threshold,
        algorithms=tuple(algorithms),
        start=float(start),
        end=float(end),
        shortest=shortest,
        axis=axis,
        seconds=seconds,
        improvement=_improvement([{one.label: one.common for one in algorithms}], list(by_label)),
        break_even=break_even,
        scale=scale(runs[0].env, runs, references),
        notes=tuple(fairness.notes(records, axis)),
    )


def _axis(runs: Sequence[RecordedRun]) -> str:
    """:return: the seconds that all runs know; those by the clock where a GPU works, whose time no processor counts"""
    axes = ["cpu_seconds", "wall_seconds"]
    if any(run.known("machine", "gpu") for run in runs):
        axes.reverse()
    return next((axis for axis in axes if np.isfinite(costs.common_seconds(runs, axis))), "")


def _algorithm(
    label: str, runs: list[RecordedRun], threshold: float | None, start: float, end: float, axis: str, seconds: float
) -> AlgorithmResult:
    # The runs may have no step in common: then the one evaluation at or before the end is what there is.
    common = np.array([carried_forward(np.array([end]), run.timesteps, run.returns)[0] for run in runs])
    common = np.where(np.isnan(common), [run.returns[0] for run in runs], common)
    own = np.array([run.returns[-1] for run in runs])
    areas = np.array([area_between(run, start, end) for run in runs])
    # Time passes between evaluations, too: here, and only here, a line between them is the better guess.
    spent = [np.interp(end, run.timesteps, getattr(run, axis)) for run in runs] if axis else [np.nan]
    return AlgorithmResult(
        label=label,
        runs=tuple(runs),
        common=common,
        at_common=bootstrap([common]),
        own=own,
        at_own=bootstrap([own]),
        length=(min(run.timesteps[-1] for run in runs), max(run.timesteps[-1] for run in runs)),
        area=bootstrap([areas], mean),
        at_seconds=costs.at_equal_seconds(runs, seconds, axis) if axis else None,
        solving=None if threshold is None else _solving(runs, threshold, end, axis),
        cost=costs.costs(runs),
        seconds_at_common=float(np.median(spent)),
    )


def _solving(runs: list[RecordedRun], threshold: float, end: float, axis: str) -> Solving:
    crossed = crossing(runs, threshold)
    reached = int(crossed.reached.sum())
    return Solving(
        crossing=crossed,
        reached=reached,
        share=share_interval(reached, len(runs)),
        median_steps=median_time(crossed.timesteps, crossed.reached),
        median_seconds=median_time(getattr(crossed, axis), crossed.reached) if axis else None,
        restricted_steps=bootstrap([np.minimum(crossed.timesteps, end)], mean),
    )


def _overall(tasks: Sequence[TaskResult]) -> Overall:
    """Aggregates over the tasks: of the algorithms that ran on all of them, as anything else would compare tasks."""
    scores = {task.name: {one.label: task.scale(one.common) for one in task.algorithms} for task in tasks}
    labels = {label for of_task in scores.values() for label in of_task}
    everywhere = [label for label in labels if all(label in of_task for of_task in scores.values())]
    names = tuple(scores)
    per_label = {label: [scores[name][label] for name in names] for label in everywhere}
    aggregates = {
        label: {name: bootstrap(own, statistic) for name, statistic in AGGREGATES.items()} for label, own in per_label.items()
    }
    ordered = tuple(sorted(everywhere, key=lambda label: (-aggregates[label]["IQM"].value, label)))
    values = np.concatenate([task for own in per_label.values() for task in own]) if per_label else np.array([0.0, 1.0])
    thresholds = np.linspace(min(0.0, values.min()), max(1.0, values.max()), PROFILE_POINTS)
    return Overall(
        labels=ordered,
        left_out=tuple(sorted(labels - set(everywhere))),
        tasks=names,
        aggregates=aggregates,
        areas={label: _mean_area(tasks, label) for label in ordered},
        thresholds=thresholds,
        profiles={label: profile_band(per_label[label], thresholds) for label in ordered},
        improvement=_improvement(list(scores.values()), sorted(labels)),
    )


def _mean_area(tasks: Sequence[TaskResult], label: str) -> Estimate:
    areas = []
    for task in tasks:
        runs = next(one.runs for one in task.algorithms if one.label == label)
        areas.append(task.scale(np.array([area_between(run, task.start, task.end) for run in runs])))
    return bootstrap(areas, mean)


def _improvement(scores: Sequence[Mapping[str, np.ndarray]], labels: Sequence[str]) -> dict[tuple[str, str], Improvement]:
    """Of each pair, over the tasks on which both ran."""
    found = {}
    for a, b in itertools.combinations(labels, 2):
        both = [of_task for of_task in scores if a in of_task and b in of_task]
        if both:
            one = probability_of_improvement([task[a] for task in both], [task[b] for task in both])
            p_value = mann_whitney_p_value(both[0][a], both[0][b]) if len(both) == 1 else np.nan
            found[a, b] = Improvement(one, p_value, len(both))
            other = Estimate(1 - one.value, 1 - one.high, 1 - one.low, one.n)
            found[b, a] = Improvement(other, p_value, len(both))
    return found
