"""
Reads what Stable-Baselines3 leaves of any training: ``evaluations.npz``, ``*monitor.csv`` and TensorBoard files.

``EvalCallback`` writes the first, ``Monitor`` the second and the logger the third; RL Baselines3 Zoo leaves all of them.
None of them knows the CPU time. Their wall time includes evaluations, as far as they were made in the same process.
"""

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sb3_dreamer.compare.errors import ComparisonError, require
from sb3_dreamer.compare.judging.readers import EVALUATIONS, RUN_NAME, RecordedRun, checked

# As many episodes as SB3's `rollout/ep_rew_mean` takes the mean of.
WINDOW = 100
TRAINING = f"training episodes of the policy that explores, mean of the last {WINDOW}"

# RL Baselines3 Zoo: <algorithm>/<environment>_<number>; TensorBoard: <environment>/<algorithm>_<number>.
_NUMBERED = re.compile(r"(?P<name>.+)_(?P<number>\d+)")
_SEED = re.compile(r"(?:seed[_-]?)?(?P<seed>\d+)")
_ENVIRONMENT = re.compile(r".+-v\d+")


def is_run(files: Iterable[str]) -> bool:
    """
    :param files: names of a folder's files
    :return: whether SB3 left a run there
    """
    return any(
        name == "evaluations.npz" or name.endswith("monitor.csv") or name.startswith("events.out.tfevents") for name in files
    )


def read_run(folder: str | Path, env: str | None = None, label: str | None = None, seed: int | None = None) -> RecordedRun:
    """
    Read a run from the best that there is: the evaluations, if there were any, otherwise the episodes of the training.

    :param folder: of one run
    :param env: the environment; by default what ``Monitor`` wrote down, or the folder's place says
    :param label: the algorithm, by default what the folder's place says: ``<env>/<algorithm>-seed<n>``,
        ``<env>/<algorithm>/<n>``, ``<algorithm>/<env>_<n>`` (the zoo's) or ``<env>/<algorithm>_<n>`` (TensorBoard's)
    :param seed: likewise
    :return: the run
    :raises ComparisonError: there is nothing to read
    """
    folder = Path(folder)
    _, env_there, label_there, seed_there = place(folder.resolve())
    timesteps, returns, wall, source = _read_best(folder)
    return checked(
        RecordedRun(
            env or _monitored_env(folder) or env_there,
            label or label_there,
            seed_there if seed is None else seed,
            folder,
            timesteps,
            returns,
            wall,
            np.full(len(timesteps), np.nan),
            source=source,
        )
    )


def _read_best(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """:return: environment steps, returns and wall seconds, each ``(N,)``, and what the returns are of"""
    names = [path.name for path in folder.iterdir()]
    if "evaluations.npz" in names:
        timesteps, returns = read_evaluations_npz(folder / "evaluations.npz")
        return timesteps, returns, np.full(len(timesteps), np.nan), EVALUATIONS
    monitored = any(name.endswith("monitor.csv") for name in names)
    if any(name.startswith("events.out.tfevents") for name in names):
        try:
            return read_tensorboard(folder)
        except ComparisonError:
            if not monitored:
                raise
    if not monitored:
        raise ComparisonError(f"{folder} holds none of evaluations.npz, *monitor.csv and TensorBoard files.")
    return (*read_monitor(folder), TRAINING)


def read_evaluations_npz(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """
    :param path: the file of SB3's ``EvalCallback``
    :return: environment steps and mean return of each evaluation, each ``(N,)``
    """
    try:
        with np.load(path) as content:
            timesteps, results = content["timesteps"].astype(np.float64), content["results"].astype(np.float64)
        returns = results.reshape(len(timesteps), -1).mean(axis=1)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ComparisonError(f"{path} is not what SB3's EvalCallback writes: {error}") from error
    steps, means = _last_of_each(timesteps, returns)
    return steps, means


def read_monitor(folder: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param folder: with the files of SB3's ``Monitor``, one an environment
    :return: environment steps, mean return of the last ``WINDOW`` episodes and wall seconds at the end of each episode, each
        ``(N,)``
    """
    from stable_baselines3.common.monitor import LoadMonitorResultsError, load_results

    try:
        episodes = load_results(str(folder))
    except (LoadMonitorResultsError, ValueError, AssertionError) as error:
        raise ComparisonError(f"{folder} does not hold what SB3's Monitor writes: {error}") from error
    if not len(episodes):
        raise ComparisonError(f"No episode ended yet in {folder}: monitor.csv is empty.")
    means = episodes["r"].rolling(WINDOW, min_periods=1).mean().to_numpy(dtype=np.float64)
    timesteps = episodes["l"].to_numpy(dtype=np.float64).cumsum()
    return timesteps, means, episodes["t"].to_numpy(dtype=np.float64)


def read_tensorboard(folder: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """
    :param folder: with TensorBoard files of SB3's logger
    :return: environment steps, mean return and wall seconds since the first entry, each ``(N,)``, and what the returns are of
    """
    events = _events(folder)
    tags = events.Tags()["scalars"]
    for tag, source in (("eval/mean_reward", EVALUATIONS), ("rollout/ep_rew_mean", TRAINING)):
        if tag in tags:
            scalars = events.Scalars(tag)
            start = events.FirstEventTimestamp()
            columns = np.array([(entry.step, entry.value, entry.wall_time - start) for entry in scalars], dtype=np.float64)
            return (*_last_of_each(*columns.T), source)  # type: ignore[return-value]
    raise ComparisonError(
        f"{folder} has neither eval/mean_reward nor rollout/ep_rew_mean, but: {', '.join(tags) or 'nothing'}."
    )


def _events(folder: str | Path) -> Any:
    require("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: keep all of them
    return events.Reload()


def _last_of_each(timesteps: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """A training that was taken up again repeats steps: the later entry counts."""
    steps, reverse_index = np.unique(timesteps[::-1], return_index=True)
    index = len(timesteps) - 1 - reverse_index
    return (steps, *(column[index] for column in columns))


def place(folder: Path) -> tuple[Path, str, str, int]:
    """
    :param folder: of one run, absolute
    :return: the folder of the environment's runs, and what the run's place says about environment, label and seed
    """
    name, parent = folder.name, folder.parent
    if match := RUN_NAME.fullmatch(name):
        home = parent.parent if parent.name == "runs" else parent
        return home, home.name, match["label"], int(match["seed"])
    if match := _SEED.fullmatch(name):
        return parent.parent, parent.parent.name, parent.name, int(match["seed"])
    if match := _NUMBERED.fullmatch(name):
        if _ENVIRONMENT.fullmatch(match["name"]):
            return parent.parent, match["name"], parent.name, int(match["number"])
        return parent, parent.name, match["name"].lower(), int(match["number"])
    return parent, parent.name, name, 0


def _monitored_env(folder: Path) -> str | None:
    """:return: the environment's id, if ``Monitor`` wrote it down"""
    for path in sorted(folder.glob("*monitor.csv")):
        with path.open(encoding="utf-8", errors="replace") as file:
            line = file.readline().removeprefix("#")
        try:
            env_id = json.loads(line).get("env_id")
        except (ValueError, AttributeError):
            continue
        if env_id and env_id != "None":
            return str(env_id)
    return None
