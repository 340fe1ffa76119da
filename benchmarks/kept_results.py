"""
What ``learning.py`` keeps of its runs with the source: tables and statistics, without the files of the runs themselves.

A checkout knows from them which seeds are done: ``read_results``, ``same_training``, and ``join_results`` for what has been
run since. ``training.csv`` is left beside tasks of DeepMind Control.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import read_csv
from tasks import DMC_FRAME_SKIP

from sb3_dreamer.compare.records import (
    Episode,
    FinishedRun,
    RunSpec,
    read_episodes,
    read_rows,
    write_csv,
    write_json,
    write_rows,
)
from sb3_dreamer.compare.summaries import summarize

WINDOW = 10_000
"""Frames over which returns of training are averaged, as the published curves are."""
TRAINING_COLUMNS = ("algo", "seed", "frames", "training_return")


def read_results(out: Path) -> list[FinishedRun]:
    """
    What ``compare`` left in a folder, of which ``runs`` is not kept with the source.

    :param out: the folder
    :return: its finished runs, without the episodes of training
    """
    if not (out / "summary.json").exists():
        return []
    entries = json.loads((out / "summary.json").read_text())["algorithms"]
    rows = read_rows(out / "results.csv")
    runs = []
    for algo, entry in entries.items():
        settings = {key: value for key, value in entry["settings"].items() if key not in ("env", "defaults", "sb3_dreamer")}
        for seed in entry["seeds"]:
            spec = RunSpec(env_id=entry["settings"]["env"], algo=algo, seed=seed, out=out, **settings)
            own = tuple(row for row in rows if (row.algo, row.seed) == (algo, seed))
            details = {**entry.get("details", {}), **entry.get("runs", {}).get(str(seed), {})}
            cpu_model = details.get("cpu_model", entry["cpu_models"][0])
            runs.append(FinishedRun(spec, own, entry["n_parameters"], entry["versions"], cpu_model, details=details))
    return runs


def same_training(out: Path, recorded: RunSpec, asked: RunSpec) -> bool:
    """
    :param out: the folder of the results
    :param recorded: a run that is in them
    :param asked: what is to be run, of any seed
    :return: whether that would be the same run, also by the defaults of then and now (arguments added since do not count, but
        what open ones become has to be known)
    """
    found = json.loads((out / "summary.json").read_text())["algorithms"][recorded.algo]["settings"]["defaults"]
    then, now = ({**spec.settings(), "seed": 0, "defaults": None} for spec in (recorded, asked))
    defaults = asked.settings()["defaults"]
    return then == now and ("usual" in found) == ("usual" in defaults) and _agree(found, defaults)


def _agree(then: Any, now: Any) -> bool:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return all(_agree(value, now[name]) for name, value in then.items() if name in now)
    return bool(then == now)


def join_results(out: Path, elsewhere: Sequence[FinishedRun], threshold: float) -> None:
    """
    Put the results of other runs to those that ``compare`` has left.

    :param out: the folder of the results
    :param elsewhere: the other runs
    :param threshold: evaluation return at which the task counts as solved
    """
    if not elsewhere:
        return
    taken = {(run.spec.algo, run.spec.seed) for run in elsewhere}
    new = [run for run in read_results(out) if (run.spec.algo, run.spec.seed) not in taken]
    runs = sorted([*elsewhere, *new], key=lambda run: (run.spec.algo, run.spec.seed))
    algos = list(dict.fromkeys(run.spec.algo for run in runs))
    missing = json.loads((out / "summary.json").read_text())["missing"]
    write_rows(out / "results.csv", (row for run in runs for row in run.rows))
    write_json(out / "summary.json", summarize(runs[0].spec.env, algos, threshold, runs, missing))


def training_return(episodes: Iterable[Episode], frames: int) -> float | None:
    """
    :param episodes: those of one run's training
    :param frames: an end of a window, in frames
    :return: mean return of the episodes that ended within it
    """
    window = [e.episode_return for e in episodes if frames - WINDOW < e.timesteps * DMC_FRAME_SKIP <= frames]
    return statistics.fmean(window) if window else None


def record_training(out: Path) -> None:
    """
    Leave ``training.csv`` beside the results of a task of DeepMind Control: the returns of training, window by window.

    :param out: the folder of the results
    """
    path = out / "training.csv"
    before = read_csv(path) if path.exists() else []
    lines: list[Sequence[str | int | float]] = []
    for run in read_results(out):
        if "DMC/" not in run.spec.env_id:
            continue
        if not run.spec.episodes_path.exists():  # it ran elsewhere
            own = (run.spec.algo, str(run.spec.seed))
            lines += [[line[name] for name in TRAINING_COLUMNS] for line in before if (line["algo"], line["seed"]) == own]
            continue
        episodes = read_episodes(run.spec.episodes_path)
        for frames in range(WINDOW, run.spec.total_timesteps * DMC_FRAME_SKIP + 1, WINDOW):
            mean = training_return(episodes, frames)
            if mean is not None:
                lines.append((run.spec.algo, run.spec.seed, frames, mean))
    if lines:
        write_csv(path, TRAINING_COLUMNS, lines)
