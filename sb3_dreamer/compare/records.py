"""What a run is, what it leaves on disk, and how that is read back."""

import csv
import dataclasses
import inspect
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.environments import env_name
from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.machine import cpu_model, installed_versions
from sb3_dreamer.compare.settings import default_settings
from sb3_dreamer.version import __version__

JOB_FILE = "job.pkl"


@dataclass(frozen=True)
class Row:
    """One evaluation, one line of ``results.csv``."""

    env: str
    algo: str
    seed: int
    timesteps: int
    eval_return_mean: float  # over the evaluation's episodes
    eval_return_std: float
    wall_seconds: float  # of training until here, evaluations left out
    cpu_seconds: float


COLUMNS = tuple(part.name for part in dataclasses.fields(Row))


@dataclass(frozen=True)
class Episode:
    """One episode of the training, one line of a run's ``episodes.csv``."""

    timesteps: int  # environment steps of the run when it ended
    episode_return: float  # undiscounted and unnormalised, of the policy that explores
    length: int


EPISODE_COLUMNS = ("timesteps", "return", "length")


@dataclass(frozen=True)
class RunSpec:
    """Everything that one run depends on, and where its files go."""

    env_id: str
    env_kwargs: Mapping[str, Any]
    algo: str  # the name that it has in files and tables
    seed: int
    total_timesteps: int
    eval_every: int
    n_eval_episodes: int
    hyperparameters: Mapping[str, Any]
    device: str
    out: Path  # folder of the results of this environment
    algorithm: str | None = None  # what it is: a name that we know, or "module:Class"; by default what ``algo`` says

    @property
    def implementation(self) -> str:
        return self.algorithm or self.algo

    @property
    def env(self) -> str:
        """The environment's name in files and tables."""
        return env_name(self.env_id)

    @property
    def label(self) -> str:
        return f"{self.algo} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.out / "runs" / f"{self.algo}-seed{self.seed}"

    @property
    def rows_path(self) -> Path:
        return self.folder / "evaluations.csv"

    @property
    def episodes_path(self) -> Path:
        return self.folder / "episodes.csv"

    @property
    def model_path(self) -> Path:
        return self.folder / "model.zip"

    @property
    def normalization_path(self) -> Path:
        """Statistics of ``VecNormalize``, of a run that has one."""
        return self.folder / "vecnormalize.pkl"

    @property
    def done_path(self) -> Path:
        """Written last: where it is, the run has finished and the other files are complete."""
        return self.folder / "meta.json"

    @property
    def job_path(self) -> Path:
        """Slurm's job of this run, while it waits or runs."""
        return self.folder / JOB_FILE

    @property
    def error_path(self) -> Path:
        """Why the last attempt failed, until one succeeds."""
        return self.folder / "error.txt"

    @property
    def log_path(self) -> Path:
        return self.folder / "log.txt"

    @property
    def attempts_path(self) -> Path:
        """How often the run has been started, until it has finished."""
        return self.folder / "attempts.txt"

    @property
    def grid(self) -> list[int]:
        """The steps at which the policy is evaluated: 0, every multiple of ``eval_every``, and the last step."""
        return [*range(0, self.total_timesteps, self.eval_every), self.total_timesteps]

    def settings(self) -> dict[str, Any]:
        """:return: what two runs must have in common to be the same run, as JSON can hold it"""
        return _plain(
            {
                "env": self.env,
                "env_kwargs": self.env_kwargs,
                "algo": self.algo,
                "algorithm": self.implementation,
                "seed": self.seed,
                "total_timesteps": self.total_timesteps,
                "eval_every": self.eval_every,
                "n_eval_episodes": self.n_eval_episodes,
                "hyperparameters": self.hyperparameters,
                "defaults": default_settings(self.implementation),
                "device": self.device,
                "sb3_dreamer": __version__,
            }
        )


DETAILS = (
    "versions",
    "cpu_model",
    "machine",
    "threads",
    "git_commit",
    "timings",
    "gradient_updates",
    "peak_memory_mb",
    "action_latency_ms",
    "attempts",
)
"""Of ``meta.json``, what is kept of every run where only a summary is."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that reached its last step."""

    spec: RunSpec
    rows: tuple[Row, ...]
    n_parameters: int
    versions: Mapping[str, str]
    cpu_model: str
    episodes: tuple[Episode, ...] = ()  # of the training; unknown of runs from before they were recorded
    details: Mapping[str, Any] = field(default_factory=dict)  # what else ``meta.json`` says that may differ between seeds


def _plain(value: Any) -> Any:
    """:return: the same value out of dicts, lists, strings and numbers; classes and functions by their name"""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no number for it
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # an address is another one in each process


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """
    :param path: the file, written atomically
    :param content: what JSON can hold
    """
    text = json.dumps(content, indent=2, allow_nan=False)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """
    :param path: the CSV file, written atomically
    :param columns: their names
    :param lines: a value for each of them
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(lines)

    write_atomically(path, write)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """
    :param path: the CSV file, written atomically
    :param rows: its lines
    """
    write_csv(path, COLUMNS, (dataclasses.astuple(row) for row in rows))


def read_rows(path: Path) -> list[Row]:
    """
    :param path: a CSV file of :func:`write_rows`
    :return: its lines
    """
    converters: dict[str, Callable[[str], Any]] = {"env": str, "algo": str, "seed": int, "timesteps": int}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{column: converters.get(column, float)(line[column]) for column in COLUMNS}) for line in csv.DictReader(file)
        ]


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """
    :param path: the CSV file, written atomically
    :param episodes: its lines
    """
    write_csv(path, EPISODE_COLUMNS, (dataclasses.astuple(episode) for episode in episodes))


def read_episodes(path: Path) -> list[Episode]:
    """
    :param path: a CSV file of :func:`write_episodes`
    :return: its lines
    """
    with path.open(newline="", encoding="utf-8") as file:
        return [Episode(int(line["timesteps"]), float(line["return"]), int(line["length"])) for line in csv.DictReader(file)]


def begin_attempt(spec: RunSpec) -> int:
    """
    Clear away what an attempt left that did not reach its end, so that no file ever mixes two of them, and count this one.

    :param spec: the run, which has not finished
    :return: how often it has been started, this time included
    """
    for path in (spec.done_path, spec.rows_path, spec.episodes_path, spec.model_path, spec.normalization_path):
        path.unlink(missing_ok=True)
    try:
        attempt = int(spec.attempts_path.read_text(encoding="ascii")) + 1
    except (FileNotFoundError, ValueError):
        attempt = 1
    write_atomically(spec.attempts_path, lambda temporary: temporary.write_text(str(attempt), encoding="ascii"))
    return attempt


def finish(
    spec: RunSpec,
    rows: Iterable[Row],
    n_parameters: int,
    episodes: Iterable[Episode] = (),
    details: Mapping[str, Any] | None = None,
) -> None:
    """
    Leave a finished run's files; ``meta.json`` comes last and says that the others are complete.

    :param spec: the run
    :param rows: its evaluations
    :param n_parameters: number of trained parameters
    :param episodes: those of the training
    :param details: what else ``meta.json`` is to hold
    """
    write_rows(spec.rows_path, rows)
    write_episodes(spec.episodes_path, episodes)
    content = {
        "settings": spec.settings(),
        "env_id": spec.env_id,
        "n_parameters": n_parameters,
        "versions": installed_versions(),
        "cpu_model": cpu_model(),
        **(details or {}),
    }
    spec.error_path.unlink(missing_ok=True)
    write_json(spec.done_path, content)
    spec.attempts_path.unlink(missing_ok=True)


def read_finished(spec: RunSpec) -> FinishedRun | None:
    """
    :param spec: a run
    :return: what it left, None if it has not finished; an error if a *different* run left its files there
    """
    if not (spec.done_path.exists() and spec.rows_path.exists()):
        return None
    done = json.loads(spec.done_path.read_text(encoding="utf-8"))
    differences = _differences(done["settings"], spec.settings())
    if differences:
        raise ComparisonError(
            f"{spec.done_path} is a finished run with other settings:\n  "
            + "\n  ".join(differences)
            + "\nChoose another --out, or pass --overwrite to run it anew."
        )
    return _read(spec, done)


def _read(spec: RunSpec, done: Mapping[str, Any]) -> FinishedRun:
    rows = tuple(read_rows(spec.rows_path))
    episodes = tuple(read_episodes(spec.episodes_path)) if spec.episodes_path.exists() else ()
    details = {key: done[key] for key in DETAILS if key in done}
    return FinishedRun(spec, rows, done["n_parameters"], done["versions"], done["cpu_model"], episodes, details)


def read_runs(out: Path) -> list[FinishedRun]:
    """
    :param out: folder of the results of one environment
    :return: its finished runs, as their files describe them, whatever has been asked for
    """
    runs = []
    for path in sorted((out / "runs").glob("*/meta.json")):
        done = json.loads(path.read_text(encoding="utf-8"))
        settings = {key: value for key, value in done["settings"].items() if key not in ("env", "defaults", "sb3_dreamer")}
        spec = RunSpec(env_id=done.get("env_id", done["settings"]["env"]), out=out, **settings)
        runs.append(_read(spec, done))
    return runs


def result_folders(folder: Path) -> list[Path]:
    """
    :param folder: what a comparison was given as ``out``
    :return: the folder of each environment: itself, or those in it
    :raises ComparisonError: there are none
    """
    found = [folder] if (folder / "runs").is_dir() else sorted(path.parent for path in folder.glob("*/runs"))
    if not found:
        raise ComparisonError(f"{folder} holds no results of a comparison: name the --out of a run.")
    return found


def discard(spec: RunSpec) -> None:
    """
    Forget a run; its ``meta.json`` goes first, as without it the rest does not count.

    :param spec: the run
    """
    spec.done_path.unlink(missing_ok=True)
    if spec.folder.exists():
        shutil.rmtree(spec.folder)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted({*old, *new}):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            lines += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            lines.append(f"{prefix}{key}: {before!r} there, {now!r} now")
    return lines
