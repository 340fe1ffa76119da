"""What a run is, what it leaves on disk, and how that is read back."""

import csv
import dataclasses
import inspect
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.environments import env_name
from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.settings import default_settings
from sb3_dreamer.version import __version__


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


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Episode:
    """One episode of the training, one line of a run's ``.episodes.csv``."""

    timesteps: int  # environment steps of the run when it ended
    episode_return: float  # undiscounted and unnormalised, of the policy that explores
    length: int


EPISODE_COLUMNS = ("timesteps", "return", "length")


@dataclass(frozen=True)
class RunSpec:
    """Everything that one run depends on, and where its files go."""

    env_id: str
    env_kwargs: Mapping[str, Any]
    algo: str
    seed: int
    total_timesteps: int
    eval_every: int
    n_eval_episodes: int
    hyperparameters: Mapping[str, Any]
    device: str
    out: Path

    @property
    def label(self) -> str:
        return f"{self.algo} seed {self.seed}"

    @property
    def rows_path(self) -> Path:
        return self.out / "runs" / f"{self.algo}-seed{self.seed}.csv"

    @property
    def episodes_path(self) -> Path:
        return self.out / "runs" / f"{self.algo}-seed{self.seed}.episodes.csv"

    @property
    def done_path(self) -> Path:
        return self.out / "runs" / f"{self.algo}-seed{self.seed}.json"

    @property
    def log_path(self) -> Path:
        return self.out / "logs" / f"{self.algo}-{self.seed}.log"

    @property
    def grid(self) -> list[int]:
        """The steps at which the policy is evaluated: 0, every multiple of ``eval_every``, and the last step."""
        return [*range(0, self.total_timesteps, self.eval_every), self.total_timesteps]

    def settings(self) -> dict[str, Any]:
        """:return: what two runs must have in common to be the same run, as JSON can hold it"""
        return _plain(
            {
                "env": env_name(self.env_id),
                "env_kwargs": self.env_kwargs,
                "algo": self.algo,
                "seed": self.seed,
                "total_timesteps": self.total_timesteps,
                "eval_every": self.eval_every,
                "n_eval_episodes": self.n_eval_episodes,
                "hyperparameters": self.hyperparameters,
                "defaults": default_settings(self.algo),
                "device": self.device,
                "sb3_dreamer": __version__,
            }
        )


@dataclass(frozen=True)
class FinishedRun:
    """A run that reached its last step."""

    spec: RunSpec
    rows: tuple[Row, ...]
    n_parameters: int
    versions: Mapping[str, str]
    cpu_model: str
    episodes: tuple[Episode, ...] = ()  # of the training; unknown of runs from before they were recorded


def _plain(value: Any) -> Any:
    """:return: the same value out of dicts, lists, strings and numbers; classes and functions by their name"""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


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


def finish(spec: RunSpec, rows: Iterable[Row], n_parameters: int, episodes: Iterable[Episode] = ()) -> None:
    """
    Leave a finished run's files; the ``.json`` comes last and says that the others are complete.

    :param spec: the run
    :param rows: its evaluations
    :param n_parameters: number of trained parameters
    :param episodes: those of the training
    """
    write_rows(spec.rows_path, rows)
    write_episodes(spec.episodes_path, episodes)
    content = {
        "settings": spec.settings(),
        "n_parameters": n_parameters,
        "versions": installed_versions(),
        "cpu_model": cpu_model(),
    }
    write_json(spec.done_path, content)


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
    rows = tuple(read_rows(spec.rows_path))
    episodes = tuple(read_episodes(spec.episodes_path)) if spec.episodes_path.exists() else ()
    return FinishedRun(spec, rows, done["n_parameters"], done["versions"], done["cpu_model"], episodes)


def discard(spec: RunSpec) -> None:
    """
    Forget a run; its ``.json`` goes first, as without it the rest does not count.

    :param spec: the run
    """
    for path in (spec.done_path, spec.rows_path, spec.episodes_path, spec.log_path):
        path.unlink(missing_ok=True)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted({*old, *new}):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            lines += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            lines.append(f"{prefix}{key}: {before!r} there, {now!r} now")
    return lines


def installed_versions() -> dict[str, str]:
    """:return: versions of what decides about a run's numbers"""
    import gymnasium
    import numpy
    import stable_baselines3
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "gymnasium": gymnasium.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "sb3_dreamer": __version__,
    }


def cpu_model() -> str:
    """:return: the processor's name, as CPU seconds mean nothing without it"""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
