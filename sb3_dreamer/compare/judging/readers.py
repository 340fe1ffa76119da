"""
Finds and reads results: the runs of a comparison, older recordings of one, and what Stable-Baselines3 itself leaves.

A comparison leaves ``<out>/runs/<label>-seed<seed>/`` with ``evaluations.csv`` and, last of all, ``meta.json``; or
``error.txt``, if it failed. Recordings have ``results.csv`` and ``summary.json`` for all runs together. Everything else is
the business of :mod:`~sb3_dreamer.compare.judging.sb3_files`.
"""

import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_dreamer.compare.errors import ComparisonError, require
from sb3_dreamer.compare.records import COLUMNS

if TYPE_CHECKING:
    import pandas

RUN_NAME = re.compile(r"(?P<label>.+)-seed(?P<seed>\d+)")
MISSING = re.compile(r"(?P<label>.+) seed (?P<seed>\d+)")
"""How ``summary.json`` calls a run that has not finished."""
EVALUATIONS = "evaluation episodes of the policy"


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """One finished run: its evaluations, in their order, and what is known about it."""

    env: str
    label: str  # the algorithm, or the variant of it
    seed: int
    folder: Path
    timesteps: np.ndarray  # environment steps of training at each evaluation, strictly rising, (N,)
    returns: np.ndarray  # (N,)
    wall_seconds: np.ndarray  # of training until there, (N,); NaN if unknown
    cpu_seconds: np.ndarray  # likewise
    meta: Mapping[str, Any] = field(default_factory=dict)  # the content of meta.json, as far as it is known
    source: str = EVALUATIONS  # what the returns are of

    @property
    def name(self) -> str:
        return f"{self.label} seed {self.seed}"

    def known(self, *keys: str) -> Any:
        """
        :param keys: of ``meta``, one below the other
        :return: the value, None if it is unknown
        """
        value: Any = self.meta
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


@dataclass(frozen=True)
class UnfinishedRun:
    """A run without a result that counts."""

    label: str
    seed: int
    folder: Path
    reason: str
    failed: bool  # else it was interrupted, or is still going on

    @property
    def name(self) -> str:
        return f"{self.label} seed {self.seed}"


@dataclass(frozen=True, eq=False)
class TaskRecords:
    """All that was found of one environment."""

    name: str
    runs: tuple[RecordedRun, ...]
    unfinished: tuple[UnfinishedRun, ...] = ()
    threshold: float | None = None  # the one that the comparison was asked for


@dataclass
class _Found:
    """What one folder of results holds: ``out`` in the words of the command line."""

    out: Path
    env: str
    runs: list[RecordedRun]
    unfinished: list[UnfinishedRun]
    threshold: float | None = None


def find_tasks(folder: str | Path) -> list[TaskRecords]:
    """
    :param folder: the results, at any depth
    :return: one entry an environment, by name; folders ``X`` and ``X-<anything>`` beside each other are one, if their
        environment is the same
    :raises ComparisonError: the folder does not exist or holds no results, or a file of it cannot be understood
    """
    require("pandas")
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise ComparisonError(f"folder must be a directory with results, but there is no directory {str(folder)!r}.")
    groups: list[list[_Found]] = []
    for found in sorted(_walk(folder), key=lambda found: (str(found.out.parent), len(found.out.name), found.out.name)):
        home = next((group for group in groups if _belongs(found, group[0])), None)
        if home is None:
            groups.append([found])
        else:
            home.append(found)
    if not groups:
        raise ComparisonError(
            f"No results under {str(folder)!r}. Looked for runs/<label>-seed<seed>/evaluations.csv, results.csv, and SB3's "
            "evaluations.npz, *monitor.csv and TensorBoard files."
        )
    names = [group[0].env for group in groups]
    return sorted(
        (
            _merge(env if names.count(env) == 1 else f"{env} ({os.path.relpath(group[0].out, folder)})", group)
            for env, group in zip(names, groups, strict=True)
        ),
        key=lambda task: task.name,
    )


def _belongs(found: _Found, first: _Found) -> bool:
    if found.env != first.env or found.out == first.out:
        return found.env == first.env
    if found.out.parent != first.out.parent or _arguments(found) != _arguments(first):
        return False
    stem = found.env.rpartition("/")[2]
    return any(
        found.out.name.startswith(f"{name}-") and (first.out.name == name or first.out.name.startswith(f"{name}-"))
        for name in (first.out.name, stem)
    )


def _arguments(found: _Found) -> Any:
    """:return: those of the environment; with others it is another task"""
    return next((run.known("settings", "env_kwargs") for run in found.runs), None) or {}


def _merge(name: str, group: list[_Found]) -> TaskRecords:
    """One task out of all its folders. The same run in two of them are two runs, and its label says where each is."""
    taken: set[tuple[str, int]] = set()
    runs: list[RecordedRun] = []
    for found in group:
        keys = {(run.label, run.seed) for run in found.runs}
        labels = {label for label, _ in keys & taken}
        runs += [replace(run, label=f"{run.label} ({found.out.name})") if run.label in labels else run for run in found.runs]
        taken |= keys
    unfinished = [run for found in group for run in found.unfinished]
    threshold = next((found.threshold for found in group if found.threshold is not None), None)
    return TaskRecords(name, tuple(runs), tuple(unfinished), threshold)


def _walk(folder: Path) -> Iterable[_Found]:
    """Every folder of results, from the top; nothing inside a run is looked at again."""
    from sb3_dreamer.compare.judging import sb3_files

    foreign: dict[tuple[Path, str], _Found] = {}
    for path, folders, files in os.walk(folder):
        here = Path(path)
        folders.sort()
        run_folders = [] if here.name != "runs" else [name for name in folders if RUN_NAME.fullmatch(name)]
        ours = [name for name in run_folders if {"evaluations.csv", "meta.json", "error.txt"} & set(os.listdir(here / name))]
        if ours:
            yield _read_runs(here, ours)
            folders[:] = [name for name in folders if name not in ours]
        has_runs = (here / "runs").is_dir() and any(RUN_NAME.fullmatch(name) for name in _folders(here / "runs"))
        if "results.csv" in files and not has_runs and _is_recording(here / "results.csv"):
            yield from _read_recording(here)
        elif sb3_files.is_run(files):
            folders.clear()
            out, env, label, seed = sb3_files.place(here)
            try:
                run: RecordedRun | UnfinishedRun = sb3_files.read_run(here)
            except ComparisonError as error:
                run = UnfinishedRun(label, seed, here, str(error), failed=True)
            env = run.env if isinstance(run, RecordedRun) else env
            home = foreign.setdefault((out, env), _Found(out, env, [], []))
            if isinstance(run, RecordedRun):
                home.runs.append(run)
            else:
                home.unfinished.append(run)
    yield from foreign.values()


def _folders(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if entry.is_dir()]


def _read_json(path: Path) -> dict[str, Any]:
    """:return: the content; an empty one if there is no such file"""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ComparisonError(f"{path} is not JSON: {error}. Remove it, or the run it belongs to.") from error
    if not isinstance(content, dict):
        raise ComparisonError(f"{path} must hold a JSON object, not {type(content).__name__}.")
    return content


def _read_runs(folder: Path, names: list[str]) -> _Found:
    """:return: the runs of one comparison, the content of its folder ``runs``"""
    summary = _read_json(folder.parent / "summary.json")
    found = _Found(folder.parent, str(summary.get("env") or folder.parent.name), [], [], _number(summary.get("threshold")))
    for name in names:
        match = RUN_NAME.fullmatch(name)
        assert match is not None
        label, seed, path = match["label"], int(match["seed"]), folder / name
        read = _read_run(path, label, seed)
        if isinstance(read, RecordedRun):
            found.runs.append(read)
        else:
            found.unfinished.append(read)
    there = {(run.label, run.seed) for run in found.runs} | {(run.label, run.seed) for run in found.unfinished}
    for name in summary.get("missing", ()):  # of which there is no folder
        match = MISSING.fullmatch(str(name))
        if match is not None and (match["label"], int(match["seed"])) not in there:
            path = folder / f"{match['label']}-seed{match['seed']}"
            found.unfinished.append(UnfinishedRun(match["label"], int(match["seed"]), path, "not started", failed=False))
    envs = sorted({run.env for run in found.runs})
    if len(envs) > 1:
        raise ComparisonError(
            f"{folder} holds runs of different environments: {', '.join(envs)}. Give each a folder of its own."
        )
    found.env = envs[0] if envs else found.env
    return found


def _read_run(path: Path, label: str, seed: int) -> RecordedRun | UnfinishedRun:
    if not (path / "meta.json").exists():
        error = path / "error.txt"
        failed = error.exists()
        lines = error.read_text(encoding="utf-8", errors="replace").strip().splitlines() if failed else []
        reason = (lines[-1].strip() if lines else "it left no message") if failed else "not finished"
        return UnfinishedRun(label, seed, path, reason, failed)
    meta = _read_json(path / "meta.json")
    try:
        table = _read_table(path / "evaluations.csv")
        return _recorded_run(table, label, seed, path, meta)
    except (ComparisonError, FileNotFoundError) as error:
        return UnfinishedRun(label, seed, path, str(error), failed=True)


def _is_recording(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return set(COLUMNS) <= {name.strip() for name in file.readline().split(",")}


def _read_recording(folder: Path) -> Iterable[_Found]:
    """:return: what ``results.csv`` and ``summary.json`` hold, one entry an environment"""
    table, summary = _read_table(folder / "results.csv"), _read_json(folder / "summary.json")
    # What else distinguishes runs has a column of its own; it becomes a part of the label.
    others = [column for column in table.columns if column not in COLUMNS and table[column].nunique() > 1]
    for env, of_env in table.groupby("env", sort=False):
        found = _Found(folder, str(env), [], [], _number(summary.get("threshold")))
        for key, of_run in of_env.groupby(["algo", *others, "seed"], sort=False):
            algo, *values, seed = key
            suffix = ", ".join(f"{column} {value}" for column, value in zip(others, values, strict=True))
            label = f"{algo} ({suffix})" if suffix else str(algo)
            entry = (summary.get("algorithms") or {}).get(str(algo)) or {}
            meta = {name: entry[name] for name in ("settings", "n_parameters", "versions") if name in entry}
            if entry.get("cpu_models"):
                meta["cpu_model"] = ", ".join(entry["cpu_models"])
            meta |= {**(entry.get("details") or {}), **((entry.get("runs") or {}).get(str(int(seed))) or {})}
            try:
                found.runs.append(_recorded_run(of_run, label, int(seed), folder, meta))
            except ComparisonError as error:
                found.unfinished.append(UnfinishedRun(label, int(seed), folder, str(error), failed=True))
        yield found


def _read_table(path: Path) -> "pandas.DataFrame":
    import pandas

    # Recordings to which a column was appended may have kept a carriage return before it.
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\r", "")
    try:
        table = pandas.read_csv(io.StringIO(text), keep_default_na=False)  # an algorithm may be called "None"
    except (ValueError, pandas.errors.ParserError) as error:
        raise ComparisonError(f"{path} is not a table of evaluations: {error}") from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing or table.empty:
        raise ComparisonError(f"{path} " + (f"has no column {', '.join(missing)}." if missing else "holds no evaluation."))
    return table


def _recorded_run(table: "pandas.DataFrame", label: str, seed: int, folder: Path, meta: Mapping[str, Any]) -> RecordedRun:
    columns = {}
    for column in COLUMNS[3:]:
        try:
            columns[column] = table[column].to_numpy(dtype=np.float64)
        except ValueError as error:
            raise ComparisonError(
                f"the evaluations of {label} seed {seed} hold a {column} that is no number: {error}"
            ) from error
    return checked(
        RecordedRun(
            str(table["env"].iloc[0]),
            label,
            seed,
            folder,
            columns["timesteps"],
            columns["eval_return_mean"],
            columns["wall_seconds"],
            columns["cpu_seconds"],
            meta,
        )
    )


def checked(run: RecordedRun) -> RecordedRun:
    """
    :param run: as it was read
    :return: the same
    :raises ComparisonError: its numbers cannot be compared
    """
    if not np.isfinite(run.returns).all():
        raise ComparisonError(f"the evaluations of {run.name} hold returns that are not finite")
    if not (np.isfinite(run.timesteps).all() and (np.diff(run.timesteps) > 0).all()):
        raise ComparisonError(f"the steps of the evaluations of {run.name} do not rise from line to line")
    return run


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
