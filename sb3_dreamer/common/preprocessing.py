"""
Spaces to tensors and back. Every observation space is a dictionary of keys inside (a plain space has the one key
``"obs"``), and every action a flat vector in ``[-1, 1]`` or of one-hots: nothing behind this file knows Gymnasium's spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose
from stable_baselines3.common.vec_env import VecNormalize


@dataclass(frozen=True)
class OneHotLayout:
    """
    Where the choices of several discrete variables lie in one vector of concatenated one-hots. ``G`` variables of at most
    ``K`` choices; a variable with fewer is padded.
    """

    classes: tuple[int, ...]
    """Number of choices of every variable."""

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(self.classes)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each variable's one-hot begins, ``(G,)``."""
        return np.cumsum([0, *self.classes[:-1]])

    @cached_property
    def valid(self) -> np.ndarray:
        """Which entries of the padded grid exist, ``(G, K)``."""
        return np.arange(max(self.classes)) < np.array(self.classes)[:, None]

    @cached_property
    def index(self) -> np.ndarray:
        """Position in the vector of every entry of the padded grid, the vector's length where there is none, ``(G, K)``."""
        return np.where(self.valid, self.offsets[:, None] + np.arange(max(self.classes)), self.size)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """
        :param values: choices from 0, ``(..., G)``
        :return: one-hots, float32 ``(..., size)``
        """
        encoded = np.zeros((*values.shape[:-1], self.size), dtype=np.float32)
        np.put_along_axis(encoded, values.astype(np.int64) + self.offsets, 1.0, axis=-1)
        return encoded

    def decode(self, scores: np.ndarray) -> np.ndarray:
        """
        :param scores: one-hots or probabilities, ``(..., size)``
        :return: the choice with the largest score, ``(..., G)``
        """
        padded = np.concatenate([scores, np.full((*scores.shape[:-1], 1), -np.inf, dtype=scores.dtype)], axis=-1)
        return padded[..., self.index].argmax(-1)


@dataclass(frozen=True)
class ObservationKey:
    """One part of an observation."""

    name: str
    kind: Literal["vector", "image", "discrete", "binary"]
    """``vector``: real numbers; ``image``: for convolutions; ``discrete``: one-hots; ``binary``: zeros and ones."""
    size: int
    """Number of inputs."""
    shape: tuple[int, ...]
    """Shape in which the environment gives it and the replay stores it."""
    dtype: str
    """Type in which the replay stores it."""
    classes: tuple[int, ...] = ()
    """Number of choices of each variable of a discrete key."""
    start: tuple[int, ...] = ()
    """Their smallest values; the replay stores choices from 0."""
    scale: float = 1.0
    """Value of an image's brightest pixel."""

    @cached_property
    def layout(self) -> OneHotLayout:
        """Of the one-hots of a discrete key."""
        return OneHotLayout(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.shape if len(self.shape) == 3 else (1, *self.shape)
        return channels, height, width


def _describe(name: str, space: spaces.Space, convolve: bool, normalize_images: bool) -> ObservationKey:
    where = "The observation space" if name == "obs" else f"The observation space's key {name!r},"
    if isinstance(space, spaces.Discrete):
        return _describe_choices(name, (), (int(space.n),), (int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        classes = tuple(int(n) for n in space.nvec.flatten())
        return _describe_choices(name, space.shape, classes, tuple(int(start) for start in space.start.flatten()))
    if isinstance(space, spaces.MultiBinary | spaces.Box) and 0 in space.shape:
        raise ValueError(f"{where} {space} has no elements: give it at least one in every dimension.")
    if isinstance(space, spaces.MultiBinary):
        return ObservationKey(name, "binary", int(np.prod(space.shape)), tuple(space.shape), "uint8")
    if isinstance(space, spaces.Box):
        size, shape = int(np.prod(space.shape)), tuple(space.shape)
        if convolve and is_picture(space, normalize_images):
            scale = 255.0 if normalize_images else 1.0
            return ObservationKey(name, "image", size, shape, _stored_type(space.dtype), scale=scale)
        return ObservationKey(name, "vector", size, shape, _stored_type(space.dtype))
    raise ValueError(
        f"{where} {space} is not supported: use Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these "
        "(gymnasium.wrappers.FlattenObservation turns most others into a Box)."
    )


def _describe_choices(name: str, shape: tuple[int, ...], classes: tuple[int, ...], start: tuple[int, ...]) -> ObservationKey:
    stored = str(np.min_scalar_type(max(classes) - 1))
    return ObservationKey(name, "discrete", sum(classes), shape, stored, classes, start)


def _stored_type(dtype: Any) -> str:
    """Numbers that one or two bytes hold stay so, all others become float32, as which the model sees them."""
    dtype = np.dtype(dtype)
    small = dtype.itemsize <= 2 and dtype.kind in "iub"
    return str(dtype) if small else "float32"


def is_picture(space: spaces.Space, normalize_images: bool = True) -> bool:
    """
    :param space: any space
    :param normalize_images: False for pictures that are floats already; else bytes from 0 to 255
    :return: whether convolutions can see it: SB3's images, and grey ones ``(height, width)`` as well
    """
    if not isinstance(space, spaces.Box):
        return False
    if not normalize_images:
        return len(space.shape) in (2, 3)
    grey = len(space.shape) == 2 and space.dtype == np.uint8 and bool((space.low == 0).all() and (space.high == 255).all())
    return grey or is_image_space(space)


def check_picture(space: spaces.Space, normalize_images: bool) -> None:
    """
    :param space: of a CnnPolicy
    :param normalize_images: see :func:`is_picture`
    :raises ValueError: it is no image's
    """
    if not is_picture(space, normalize_images):
        raise ValueError(
            f"CnnPolicy is for images, not for {space}: images are uint8 with bounds 0 and 255 (or pass "
            "policy_kwargs=dict(normalize_images=False) for floats). Otherwise use MlpPolicy, or MultiInputPolicy."
        )


class ObservationCodec:
    """
    Between the environment's observations, the replay's arrays and the model's input tensors.

    :param space: the observation space, images channels first; ValueError if it is not supported
    :param convolve: images are images; otherwise they are vectors like any other
    :param normalize_images: SB3's: False for pictures that are floats already
    """

    def __init__(self, space: spaces.Space, convolve: bool = True, normalize_images: bool = True) -> None:
        self.space = space
        self.is_dict = isinstance(space, spaces.Dict)
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"obs": space}
        if not parts:
            raise ValueError(f"The observation space {space} has no keys: give it at least one.")
        for name, part in parts.items():
            if part is not space and isinstance(part, spaces.Dict | spaces.Tuple):
                raise ValueError(f"Nested observation spaces are not supported, but key {name!r} is {part}: flatten it.")
        self.keys: tuple[ObservationKey, ...] = tuple(
            _describe(name, part, convolve, normalize_images) for name, part in sorted(parts.items())
        )

    def _part(self, obs: Any, key: ObservationKey) -> Any:
        return obs[key.name] if self.is_dict else obs

    def to_arrays(self, obs: Any) -> dict[str, np.ndarray]:
        """
        :param obs: a batch of observations as a VecEnv returns it
        :return: an array ``(n_envs, ...)`` a key, a fresh copy (a VecEnv may reuse its own) in the replay's type (but float32
            where a VecNormalize has made fractions of whole numbers), choices from 0
        """
        arrays = {}
        for key in self.keys:
            array = np.asarray(self._part(obs, key))
            if key.kind == "discrete":
                array = array.reshape(-1, len(key.classes)) - np.array(key.start)
            fractions = array.dtype.kind == "f" and key.kind in ("vector", "image")
            arrays[key.name] = array.reshape(-1, *key.shape).astype("float32" if fractions else key.dtype)
        return arrays

    def to_env(self, arrays: dict[str, np.ndarray]) -> Any:
        """
        :param arrays: stored observations, each ``(n, *shape)``
        :return: as the environment gives them: choices from their start, a dictionary only where the space is one
        """
        shown = {}
        for key in self.keys:
            array = arrays[key.name]
            if key.kind == "discrete":
                array = array.astype(np.int64) + np.array(key.start).reshape(key.shape)
            shown[key.name] = array
        return shown if self.is_dict else shown["obs"]

    def to_tensors(self, arrays: dict[str, np.ndarray], device: th.device) -> dict[str, th.Tensor]:
        """
        :param arrays: stored observations, each ``(..., *shape)``
        :param device: where the tensors go
        :return: model inputs: vectors and bits flattened to ``(..., size)``, choices as one-hots ``(..., size)``, images
            ``(..., C, H, W)`` in their own type
        """
        tensors = {}
        for key in self.keys:
            array = arrays[key.name]
            lead = array.shape[: array.ndim - len(key.shape)]
            if key.kind == "discrete":
                array = key.layout.encode(array.reshape(*lead, len(key.classes)))
            elif key.kind == "image":
                array = array.reshape(*lead, *key.image_shape)
            else:
                array = array.reshape(*lead, key.size)
            tensor = to_device(array, device)
            tensors[key.name] = tensor if key.kind == "image" else tensor.float()
        return tensors

    def from_tensors(self, tensors: dict[str, th.Tensor]) -> Any:
        """
        The inverse of :meth:`to_tensors`, for what a model predicts.

        :param tensors: predictions, each ``(..., size)``, images ``(..., C, H, W)``
        :return: observations as the space has them, ``(..., *shape)``; vectors as floats, whatever their type
        """
        observations: dict[str, np.ndarray] = {}
        for key in self.keys:
            array = tensors[key.name].detach().cpu().numpy()
            lead = array.shape[: -3 if key.kind == "image" else -1]
            if key.kind == "discrete":
                array = key.layout.decode(array) + np.array(key.start)
            elif key.kind == "binary":
                array = (array > 0.5).astype(np.int8)
            elif key.kind == "image" and key.dtype == "uint8":
                array = np.rint(array.clip(0, 255)).astype(np.uint8)
            observations[key.name] = array.reshape(*lead, *key.shape)
        return observations if self.is_dict else observations["obs"]

    def transpose(self, obs: Any) -> Any:
        """
        SB3 shows models images channels first; whoever calls ``predict`` may have them channels last.

        :param obs: one observation or a batch
        :return: the same with images channels first
        """
        if isinstance(self.space, spaces.Dict):
            missing = [name for name in self.space.spaces if not isinstance(obs, dict) or name not in obs]
            if missing:
                raise ValueError(
                    f"The observation must be a dictionary with the keys {list(self.space.spaces)}, got {obs!r:.200}."
                )
            return {name: maybe_transpose(np.asarray(obs[name]), space) for name, space in self.space.spaces.items()}
        return maybe_transpose(np.asarray(obs), self.space)

    def is_batch(self, obs: Any) -> bool:
        """
        :param obs: one observation or a batch, images channels first
        :return: whether it is a batch
        :raises ValueError: its shape is neither
        """
        found: set[int | None] = set()  # lengths of the batch axis, None where there is none
        for key in self.keys:
            shape = np.shape(self._part(obs, key))
            if shape != key.shape and shape[1:] != key.shape:
                where = f"of key {key.name!r} " if self.is_dict else ""
                raise ValueError(
                    f"Unexpected observation shape {shape} {where}for {self.space}: use {key.shape} for one observation or "
                    f"{('n_env', *key.shape)} for a batch."
                )
            found.add(shape[0] if len(shape) > len(key.shape) else None)
        if len(found) > 1:
            raise ValueError(
                f"The keys of the observation have batch axes of different lengths {found} (None: no batch axis): use one."
            )
        return found.pop() is not None

    def normalize(self, arrays: dict[str, np.ndarray], env: VecNormalize) -> dict[str, np.ndarray]:
        """
        :param arrays: stored observations, each ``(..., *shape)``
        :param env: knows the statistics
        :return: the same, normalised
        """
        if isinstance(self.space, spaces.Dict):
            normalized = env.normalize_obs(dict(arrays))
            assert isinstance(normalized, dict)
            return normalized
        return {"obs": np.asarray(env.normalize_obs(arrays["obs"]))}

    def find_invalid(self, obs: Any) -> tuple[int, str, str] | None:
        """
        :param obs: a batch of observations
        :return: environment index and key of the first bad value, and what is wrong with it; None if all is well
        """
        for key in self.keys:
            array = np.asarray(self._part(obs, key))
            if key.kind == "discrete":
                choices = array.reshape(-1, len(key.classes)) - np.array(key.start)
                good, what = (choices >= 0) & (choices < np.array(key.classes)), "a choice that is not in the space"
            elif key.dtype == "float32" or array.dtype.kind == "f":
                # what float32 cannot hold is infinite to the model
                with np.errstate(over="ignore"):
                    good, what = np.isfinite(array.astype(np.float32, copy=False)), "NaN or infinity"
            elif key.kind == "binary":
                good, what = (array == 0) | (array == 1), "a bit that is neither 0 nor 1"
            else:
                continue
            bad = ~good.reshape(-1, max(1, int(np.prod(key.shape)))).all(axis=1)
            if bad.any():
                return int(bad.argmax()), key.name, what
        return None


class ActionCodec:
    """
    Between the environment's actions and the model's. A Box is scaled to ``[-1, 1]`` and flattened. All discrete spaces
    become concatenated one-hots (a bit of a MultiBinary is a choice between two), so that one distribution serves them.
    The model's actions stay raw: only what goes to the environment is clipped.

    :param space: the action space; ValueError if it is not supported
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        self.classes: tuple[int, ...] = ()
        """Number of choices of every discrete variable; empty for a Box."""
        start = np.zeros(1, dtype=np.int64)
        if isinstance(space, spaces.Discrete):
            self.classes, start = (int(space.n),), np.array([space.start])
        elif isinstance(space, spaces.MultiDiscrete):
            self.classes, start = tuple(int(n) for n in space.nvec.flatten()), space.start.flatten()
        elif isinstance(space, spaces.MultiBinary):
            self.classes = (2,) * int(np.prod(space.shape))
        elif isinstance(space, spaces.Box):
            if not np.all(np.isfinite(np.stack([space.low, space.high]))):
                raise ValueError(
                    f"Action space {space} has infinite bounds: give the Box finite bounds "
                    "(gymnasium.wrappers.RescaleAction or ClipAction help)."
                )
            high, low = (bound.astype(np.float64).reshape(-1) for bound in (space.high, space.low))
            self._center, self._half = high / 2 + low / 2, high / 2 - low / 2
        else:
            raise ValueError(
                f"Action space {space} is not supported: use a Box with finite bounds, Discrete, MultiDiscrete or MultiBinary."
            )
        self.start = start
        """First choice of every discrete variable, ``(n,)``."""
        self.discrete = isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        self.layout = OneHotLayout(self.classes)
        self.size = self.layout.size if self.discrete else int(np.prod(space.shape or ()))
        if self.size == 0:
            raise ValueError(f"Action space {space} has no elements: give it at least one in every dimension.")

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """
        :param action: the model's actions, ``(..., A)``
        :return: actions of the space, clipped into its bounds, ``(..., *shape)``
        """
        lead, shape = action.shape[:-1], self.space.shape or ()
        if self.discrete:
            chosen = self.layout.decode(action) + self.start
            return chosen.reshape(*lead, *shape).astype(self.space.dtype)
        assert isinstance(self.space, spaces.Box)
        scaled = np.clip(action, -1.0, 1.0) * self._half + self._center
        if np.issubdtype(self.space.dtype, np.integer):
            scaled = np.rint(scaled)
        scaled = scaled.reshape(*lead, *shape)
        low, high = self.space.low, self.space.high
        # rounding may leave the bounds; and the largest whole numbers are not exact in floating point
        inside = np.where((scaled > low) & (scaled < high), scaled, 0).astype(self.space.dtype)
        return np.where(scaled >= high, high, np.where(scaled <= low, low, inside))

    def from_env(self, action: np.ndarray) -> np.ndarray:
        """
        :param action: actions of the space, ``(..., *shape)``
        :return: the model's actions, ``(..., A)``, float32
        """
        action = np.asarray(action)
        lead = action.shape[: action.ndim - len(self.space.shape or ())]
        if self.discrete:
            return self.layout.encode(action.reshape(*lead, len(self.classes)) - self.start)
        fixed = self._half == 0  # a dimension with one value only
        scaled = (action.reshape(*lead, self.size) - self._center) / np.where(fixed, 1.0, self._half)
        return np.where(fixed, 0.0, scaled).astype(np.float32)


PINNED = 2**26
"""Most bytes that are copied to a GPU from pinned memory."""


def to_device(array: np.ndarray, device: th.device) -> th.Tensor:
    """
    :param array: numbers
    :param device: where they are wanted
    :return: a tensor: on a CPU of the same memory; to a GPU a batch travels while the process goes on
    """
    if device.type == "cuda" and array.nbytes <= PINNED:  # memory that is pinned is not given back
        return th.as_tensor(array).pin_memory().to(device, non_blocking=True)
    return th.as_tensor(array, device=device)


def pick(obs: Any, i: int) -> Any:
    """
    :param obs: a batch of observations
    :param i: which
    :return: that one
    """
    return {name: part[i] for name, part in obs.items()} if isinstance(obs, dict) else obs[i]


def batched(obs: Any) -> Any:
    """
    :param obs: one observation
    :return: the same as a batch of one
    """
    if isinstance(obs, dict):
        return {name: np.asarray(value)[None] for name, value in obs.items()}
    return np.asarray(obs)[None]
