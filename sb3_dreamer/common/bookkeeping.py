"""What a training loop needs beside learning: means of metrics, refusing bad values, whole files or none."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from sb3_dreamer.common.preprocessing import ObservationCodec, batched


class MetricMeans:
    """Sums metrics on their device; the host reads them only when the log is written."""

    def __init__(self) -> None:
        self._totals: dict[str, th.Tensor] = {}
        self._count = 0

    @th.no_grad()
    def add(self, metrics: dict[str, th.Tensor]) -> None:
        """
        :param metrics: scalars of one update, the same names every time
        """
        for name, value in metrics.items():
            value = value.detach()
            self._totals[name] = self._totals[name] + value if name in self._totals else value
        self._count += 1

    def take(self) -> dict[str, float]:
        """:return: means since the last call, empty if there was no update"""
        means = {name: float(total) / self._count for name, total in self._totals.items()}
        self._totals, self._count = {}, 0
        return means


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
            "to replace such values. Nothing of this step was stored."
        )


def write_atomically(path: str | pathlib.Path, write: Callable[[pathlib.Path], object], suffix: str = "") -> None:
    """
    Write a file so that a reader, or an interruption, meets the old content or the new one, never half of it.

    :param path: the file
    :param write: writes the content to the path it is given
    :param suffix: added to the path if it has none
    """
    path = pathlib.Path(path)
    if path.suffix == "":
        path = path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
