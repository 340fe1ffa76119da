"""Turning what a caller passed as action(s) into a clean array, or saying clearly what is wrong with it."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces


def check_action(action: Any, space: spaces.Space[Any], batch_shape: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    """Validate one action, or a batch of them, and clip it into a Box.

    A wrong shape or a NaN is always a mistake of the caller, so it is refused instead of being broadcast or carried
    into the state. A number outside the Box is not: policies with unbounded noise send those, so it is clipped
    (infinities too).

    :param action: what ``step`` was given
    :param space: action space of a single environment: a ``Box`` or a ``Discrete``
    :param batch_shape: ``()`` for one action, ``(num_envs,)`` for a batch
    :return: float64 ``batch_shape + space.shape`` for a Box, int64 ``batch_shape`` for a Discrete
    :raises ValueError: wrong shape, not a number, NaN, not an integer or out of range
    """
    if isinstance(space, spaces.Box):
        return _check_box(action, space, batch_shape)
    if isinstance(space, spaces.Discrete):
        return _check_discrete(action, space, batch_shape)
    raise TypeError(f"space must be a Box or a Discrete, got {space}.")


def _check_box(action: Any, space: spaces.Box, batch_shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    shape = (*batch_shape, *space.shape)
    try:
        array = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"action must hold numbers of shape {shape}, got {action!r}. Pass a float array.") from error
    if array.shape != shape:
        raise ValueError(
            f"action must have shape {shape}, got shape {array.shape}: {action!r}. "
            "Pass an array like action_space.sample() returns."
        )
    if np.isnan(array).any():
        raise ValueError(
            f"action must not contain NaN, got {action!r}. Find out where the NaN comes from: "
            "a policy that outputs NaN has usually diverged."
        )
    return np.clip(array, space.low, space.high, dtype=np.float64)


def _check_discrete(action: Any, space: spaces.Discrete, batch_shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    first, last = int(space.start), int(space.start + space.n - 1)
    array = np.asarray(action)
    if array.shape != batch_shape:
        wanted = "a single integer" if batch_shape == () else f"integers of shape {batch_shape}"
        raise ValueError(
            f"action must be {wanted}, got shape {array.shape}: {action!r}. Pass an action like action_space.sample() returns."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"action must be an integer from {first} to {last}, got {action!r}. Convert it with int(...).")
    if (array < first).any() or (array > last).any():
        raise ValueError(
            f"action must be an integer from {first} to {last}, got {action!r}. Pass an action that action_space contains."
        )
    return array.astype(np.int64)
