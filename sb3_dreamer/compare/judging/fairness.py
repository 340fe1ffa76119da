"""What to keep in mind when two algorithms of a task are compared: everything in which their runs differ."""

import json
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from sb3_dreamer.compare.judging.costs import common_seconds
from sb3_dreamer.compare.judging.formatting import SECONDS
from sb3_dreamer.compare.judging.readers import EVALUATIONS, RecordedRun, TaskRecords

# Keys of meta.json that should be the same for all runs of a task, and what to call them.
_SHARED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("settings", "env_kwargs"), "arguments of the environment"),
    (("settings", "n_eval_episodes"), "episodes of an evaluation"),
    (("settings", "device"), "device"),
    (("threads",), "torch threads"),
    (("cpu_model",), "processor (CPU seconds of different processors are not the same thing)"),
    (("versions",), "versions of packages"),
    (("git_commit",), "commit of the code"),
)

# An evaluation this far before the common end, as a share of it, says little about the end.
STALE = 0.1


def notes(records: TaskRecords, axis: str = "cpu_seconds") -> list[str]:
    """
    :param records: of a task
    :param axis: the seconds that are compared, ``"cpu_seconds"``, ``"wall_seconds"`` or ``""``
    :return: sentences, none if the runs differ in nothing but algorithm and seed
    """
    runs = records.runs
    found = _failures(records)
    first, last = max(run.timesteps[0] for run in runs), min(run.timesteps[-1] for run in runs)
    if first > last:
        found.append("Some runs have no step in common with others: their first evaluation stands for the common length.")
    stale = {run.label: _last_before(run, last) for run in runs if last - _last_before(run, last) > STALE * last}
    if stale:
        when = ", ".join(f"{label} at {step:,.0f}" for label, step in stale.items())
        found.append(f"For {last:,.0f} steps the last evaluation by then counts, and some of these are old: {when}.")
    seconds = common_seconds(runs, axis) if axis else np.nan
    old = {run.label: spent for run in runs if seconds - (spent := _last_seconds(run, seconds, axis)) > STALE * seconds}
    if old:
        when = ", ".join(f"{label} at {spent:,.3g}" for label, spent in old.items())
        found.append(
            f"At {seconds:,.3g} {SECONDS[axis]} the last evaluation by then counts, and some of these are old: {when}."
        )
    sources = _by_label(runs, lambda run: run.source)
    if len({source for own in sources.values() for source in own}) > 1:
        found.append("Returns are not of the same kind: " + _listed(sources) + ".")
    elif runs[0].source != EVALUATIONS:
        found.append(f"Returns are of {runs[0].source}, not of evaluations.")
    found += _difference("lengths", _by_label(runs, lambda run: f"{run.timesteps[-1]:,.0f}"))
    found += _difference("steps between evaluations", _by_label(runs, _interval))
    for keys, name in _SHARED:
        found += _difference(name, _by_label(runs, partial(_known, keys=keys)))
    for label, own in _by_label(runs, partial(_known, keys=("settings", "hyperparameters"))).items():
        if len(own) > 1:
            found.append(f"The runs of {label} do not share their hyperparameters.")
    arguments = {key for run in runs for key in (run.known("settings", "env_kwargs") or {})}
    if arguments:
        found.append(
            f"The environment was given {', '.join(sorted(arguments))}: a threshold and returns of score 0 and 1 that are "
            "known for the task as it usually is may not fit it."
        )
    if any(np.isnan(run.cpu_seconds).any() for run in runs):
        labels = dict.fromkeys(run.label for run in runs if np.isnan(run.cpu_seconds).any())
        found.append(f"CPU seconds are unknown of {', '.join(labels)}.")
    return found


def _last_before(run: RecordedRun, step: float) -> float:
    earlier = run.timesteps[run.timesteps <= step]
    return float(earlier[-1]) if len(earlier) else float(run.timesteps[0])


def _last_seconds(run: RecordedRun, seconds: float, axis: str) -> float:
    spent = getattr(run, axis) if axis else np.array([])
    earlier = spent[spent <= seconds]
    return float(earlier[-1]) if len(earlier) else np.nan


def _failures(records: TaskRecords) -> list[str]:
    failed = [run.name for run in records.unfinished if run.failed]
    going_on = [run.name for run in records.unfinished if not run.failed]
    found = []
    if failed:
        found.append(f"FAILED and in no number here, which may flatter the algorithm: {', '.join(failed)}.")
    if going_on:
        found.append(f"Not finished and in no number here: {', '.join(going_on)}.")
    return found


def _difference(name: str, values: dict[str, list[str]]) -> list[str]:
    distinct = {value for own in values.values() for value in own} - {"unknown"}
    return [f"Runs differ in {name}: {_listed(values)}."] if len(distinct) > 1 else []


def _by_label(runs: Sequence[RecordedRun], value: Callable[[RecordedRun], str]) -> dict[str, list[str]]:
    """:return: the distinct values of each label's runs, in their order"""
    return {
        label: list(dict.fromkeys(value(run) for run in runs if run.label == label))
        for label in dict.fromkeys(run.label for run in runs)
    }


def _listed(values: dict[str, list[str]]) -> str:
    return "; ".join(f"{label}: {' or '.join(own)}" for label, own in values.items())


def _interval(run: RecordedRun) -> str:
    return f"{np.median(np.diff(run.timesteps)):,.0f}" if len(run.timesteps) > 1 else "none"


def _known(run: RecordedRun, keys: tuple[str, ...]) -> str:
    value = run.known(*keys)
    if value is None:
        return "unknown"
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict | list) else str(value)
