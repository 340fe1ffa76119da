"""
Spaces to tensors and back. Every observation space is a dictionary of keys inside (a plain space has the one key
``"obs"``), and every action a flat vector in ``[-1, 1]`` or one-hot: nothing behind this file knows Gymnasium's spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces


@dataclass(frozen=True)
class ObservationKey:
    """One part of an observation."""

    name: str
    kind: Literal["vector", "discrete"]
    """``vector``: real numbers; ``discrete``: a one-hot."""
    size: int
    """Number of inputs (dimensions, or classes)."""
    shape: tuple[int, ...]
    """Shape in which the environment gives it and the replay stores it."""
    dtype: Any
    """Type in which the replay stores it."""
    start: int = 0
    """Smallest value of a discrete key."""


def _describe(name: str, space: spaces.Space) -> ObservationKey:
    if isinstance(space, spaces.Box) and not (space.dtype == np.uint8 and len(space.shape) >= 2):
        size = int(np.prod(space.shape))
        if size == 0:
            raise ValueError(f"The observation space {space} has no elements: give it at least one dimension.")
        return ObservationKey(name, "vector", size, space.shape, np.float32)
    if isinstance(space, spaces.Discrete):
        return ObservationKey(name, "discrete", int(space.n), (), np.int64, int(space.start))
    raise ValueError(
        f"Observation space {space} is not supported: use a Box of real numbers or a Discrete space "
        "(gymnasium.wrappers.FlattenObservation turns most others into a Box)."
    )


class ObservationCodec:
    """
    Between the environment's observations, the replay's arrays and the model's input tensors.

    :param space: the observation space; ValueError if it is not supported
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        self.keys: tuple[ObservationKey, ...] = (_describe("obs", space),)

    def to_arrays(self, obs: Any) -> dict[str, np.ndarray]:
        """
        :param obs: a batch of observations as a VecEnv returns it
        :return: an array ``(n_envs, ...)`` a key, a fresh copy in the replay's type
        """
        key = self.keys[0]
        return {key.name: np.array(obs, dtype=key.dtype).reshape(-1, *key.shape)}

    def to_tensors(self, arrays: dict[str, np.ndarray], device: th.device) -> dict[str, th.Tensor]:
        """
        :param arrays: stored observations, each ``(..., *shape)``
        :param device: where the tensors go
        :return: model inputs, each ``(..., size)``: vectors flattened, discrete values one-hot
        """
        tensors = {}
        for key in self.keys:
            array = th.as_tensor(arrays[key.name], device=device)
            if key.kind == "discrete":
                tensors[key.name] = F.one_hot(array - key.start, key.size).float()
            else:
                lead = array.shape[: array.ndim - len(key.shape)]
                tensors[key.name] = array.reshape(*lead, key.size).float()
        return tensors

    def from_tensors(self, tensors: dict[str, th.Tensor]) -> Any:
        """
        The inverse of :meth:`to_tensors`, for what a model predicts.

        :param tensors: predictions, each ``(..., size)``
        :return: observations as the space has them, ``(..., *shape)``
        """
        key = self.keys[0]
        tensor = tensors[key.name].detach().cpu()
        if key.kind == "discrete":
            return tensor.argmax(-1).numpy() + key.start
        return tensor.reshape(*tensor.shape[:-1], *key.shape).numpy()

    def find_non_finite(self, obs: Any) -> tuple[int, str] | None:
        """
        :param obs: a batch of observations
        :return: environment index and key of the first NaN or infinity, None if there is none
        """
        for name, array in self.to_arrays(obs).items():
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            if bad.any():
                return int(bad.argmax()), name
        return None


class ActionCodec:
    """
    Between the environment's actions and the model's. A Box is scaled to ``[-1, 1]`` and flattened, a Discrete action is a
    one-hot. The model's actions stay raw: only what goes to the environment is clipped.

    :param space: the action space; ValueError if it is not supported
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.size = int(space.n)
        elif isinstance(space, spaces.Box):
            if not np.all(np.isfinite(np.stack([space.low, space.high]))):
                raise ValueError(
                    f"Action space {space} has infinite bounds: give the Box finite bounds "
                    "(gymnasium.wrappers.RescaleAction or ClipAction help)."
                )
            if not np.all(space.low < space.high):
                raise ValueError(f"Action space {space} needs low < high in every dimension.")
            self.size = int(np.prod(space.shape))
            self._center = (space.high.astype(np.float64) + space.low).reshape(-1) / 2
            self._half = (space.high.astype(np.float64) - space.low).reshape(-1) / 2
        else:
            raise ValueError(f"Action space {space} is not supported: use a Box with finite bounds or a Discrete space.")

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """
        :param action: the model's actions, ``(..., A)``
        :return: actions of the space, clipped into its bounds, ``(..., *shape)``
        """
        if isinstance(self.space, spaces.Discrete):
            return action.argmax(-1) + self.space.start
        assert isinstance(self.space, spaces.Box)
        scaled = np.clip(action, -1.0, 1.0) * self._half + self._center
        return scaled.reshape(*action.shape[:-1], *self.space.shape).astype(self.space.dtype)

    def from_env(self, action: np.ndarray) -> np.ndarray:
        """
        :param action: actions of the space, ``(..., *shape)``
        :return: the model's actions, ``(..., A)``, float32
        """
        action = np.asarray(action)
        if isinstance(self.space, spaces.Discrete):
            return np.eye(self.size, dtype=np.float32)[action.astype(np.int64) - int(self.space.start)]
        lead = action.shape[: action.ndim - len(self.space.shape or ())]
        return ((action.reshape(*lead, self.size) - self._center) / self._half).astype(np.float32)


def batched(obs: Any) -> Any:
    """
    :param obs: one observation
    :return: the same as a batch of one
    """
    if isinstance(obs, dict):
        return {name: np.asarray(value)[None] for name, value in obs.items()}
    return np.asarray(obs)[None]
