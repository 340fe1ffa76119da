"""What a training loop needs beside learning: means of metrics, refusing bad values, whole files or none."""

from __future__ import annotations

import glob
import os
import pathlib
import platform
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_dreamer.common.preprocessing import ObservationCodec, batched


class MetricMeans:
    """Sums metrics on their device; the host reads them only when the log is written."""

    def __init__(self) -> None:
        self._totals: dict[str, th.Tensor] = {}
        self._counts: dict[str, int] = {}

    @th.no_grad()
    def add(self, metrics: dict[str, th.Tensor]) -> None:
        """
        :param metrics: scalars of one update
        """
        for name, value in metrics.items():
            value = value.detach()
            self._totals[name] = self._totals[name] + value if name in self._totals else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """:return: means over the updates since the last call that had them"""
        means = {name: float(total) / self._counts[name] for name, total in self._totals.items()}
        self._totals, self._counts = {}, {}
        return means


def where_not_to_print(name: str) -> tuple[str, ...]:
    """
    SB3's table cuts names and refuses two that are equal then, as long keys of an observation may be.

    :param name: of a metric
    :return: what to exclude when it is recorded
    """
    return ("stdout", "log") if len(name) > 30 else ()


def check_finite(
    codec: ObservationCodec,
    num_timesteps: int,
    obs: Any,
    rewards: np.ndarray | None = None,
    dones: np.ndarray | None = None,
    infos: list[dict[str, Any]] | None = None,
) -> None:
    """
    Refuse NaN, infinity and choices that are not in the space before they reach the replay or the statistics of a
    normalisation.

    :param codec: knows the observation's keys
    :param num_timesteps: for the message
    :param obs: a batch of observations, the reset ones where an episode ended
    :param rewards: ``(n_envs,)``
    :param dones: where an episode ended, ``(n_envs,)``
    :param infos: hold the last observations of those
    """
    found = codec.find_invalid(obs)
    if dones is not None and infos is not None:
        for i in np.flatnonzero(dones):
            last = codec.find_invalid(batched(infos[i]["terminal_observation"]))
            found = (int(i), *last[1:]) if last else found
    what = None
    if found is not None:
        what = f"Observation with {found[2]} from environment {found[0]}, key {found[1]!r}"
    elif rewards is not None:
        with np.errstate(over="ignore"):
            bad = np.flatnonzero(~np.isfinite(np.asarray(rewards, dtype=np.float32)))
        if len(bad):
            what = f"Reward {rewards[bad[0]]} from environment {bad[0]}"
    if what is not None:
        raise ValueError(
            f"{what}, after {num_timesteps} steps: the model cannot learn from it. Correct the environment, or wrap it "
            "to replace such values. Nothing of this step was stored (a VecNormalize that is in training has counted it: load "
            "its statistics anew)."
        )


def capture_random_state(action_space: spaces.Space, predict_generator: th.Generator) -> dict[str, Any]:
    """
    :param action_space: draws random actions
    :param predict_generator: the policy's
    :return: where every source of randomness stands, for :func:`restore_random_state`
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
        "actions": action_space.np_random.bit_generator.state,
        "predict": predict_generator.get_state(),
    }


def restore_random_state(state: dict[str, Any], action_space: spaces.Space, predict_generator: th.Generator) -> None:
    """
    :param state: from :func:`capture_random_state`
    :param action_space: draws random actions
    :param predict_generator: the policy's
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    if th.cuda.is_available() and len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(state["cuda"])
    action_space.np_random.bit_generator.state = state["actions"]
    predict_generator.set_state(state["predict"])


def write_atomically(path: str | pathlib.Path, write: Callable[[pathlib.Path], object], suffix: str = "") -> None:
    """
    Write a file so that a reader, or whoever comes after a crash, meets the old content or the new one, never half of it.

    :param path: the file
    :param write: writes the content to the path it is given
    :param suffix: added to the path if it has none
    """
    path = pathlib.Path(path)
    if path.suffix == "":
        path = path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a process that was killed while it wrote
        if not process_runs(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{process_name()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # the content must reach the disk before the name does
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def find_file(path: str | pathlib.Path, suffix: str) -> pathlib.Path:
    """
    :param path: a file that :func:`write_atomically` wrote
    :param suffix: added to the path if it has none
    :return: the file
    :raises FileNotFoundError: there is none
    """
    path = pathlib.Path(path)
    if not path.exists() and path.suffix == "":
        path = path.with_suffix(suffix)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    return path


def process_name() -> str:
    """:return: this process's, among those of all machines that share a disk: letters, numbers and one ``-``"""
    return f"{re.sub('[^A-Za-z0-9]', '', platform.node()) or 'host'}-{os.getpid()}"


def process_runs(name: str) -> bool:
    """
    :param name: a process's, from :func:`process_name`
    :return: whether it runs, True if that cannot be told: elsewhere, say
    """
    host, _, pid = name.partition("-")
    if host != process_name().partition("-")[0] or os.name == "nt":  # where signal 0 is no question
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        pass
    return True


@contextmanager
def seeded(device: th.device, seed: int | None) -> Iterator[None]:
    """
    Inside, torch's random numbers are those of a seed; afterwards they go on as if nothing had been.

    :param device: whose random numbers are used, beside the processor's
    :param seed: the seed; None to leave them alone
    """
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with th.random.fork_rng(devices):
        th.default_generator.manual_seed(seed)
        for each in devices:
            with th.cuda.device(each):
                th.cuda.manual_seed(seed)
        yield
