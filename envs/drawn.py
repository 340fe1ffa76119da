"""Tasks whose physics are drawn at random and never shown: what all of them share."""

import math
from typing import Any, ClassVar

import numpy as np

from envs.base import FloatArray, Observation, ToyEnv

Range = tuple[float, float]
"""Smallest and largest value of a number that is drawn uniformly between them; equal ones fix it."""


def check_range(name: str, given: Any) -> Range:
    """
    :param name: of the argument
    :param given: smallest and largest value
    :return: the same as numbers
    :raises ValueError: it is no pair of positive numbers in order
    """
    try:
        low, high = (float(number) for number in given)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (0 < low <= high < math.inf):
        raise ValueError(
            f"{name} must be two positive numbers, the smallest value and the largest, got {given!r}. "
            f"Use for example {name}=(0.5, 2.0), or equal ones for a fixed value."
        )
    return low, high


class DrawnPhysicsEnv(ToyEnv):
    """A toy environment whose state ends with physical constants that every reset draws anew, unless it is told not to:
    ``reset(options={"same_task": True})`` keeps them. :class:`envs.TrialWrapper` does so.
    """

    n_constants: ClassVar[int]
    """How many entries at the end of the state are constants."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        :param seed: new seed of ``np_random``; ``None`` goes on with the present generator
        :param options: ``{"same_task": True}`` for the constants of the episode before, if there was one
        :return: observation, empty info
        """
        before = self._state
        observation, info = super().reset(seed=seed)  # draws constants in any case: what is drawn later is the same
        if before is None or not (options or {}).get("same_task", False):
            return observation, info
        assert self._state is not None
        self._state[-self.n_constants :] = before[-self.n_constants :]
        return self.task.observe(self._state), info

    @property
    def constants(self) -> FloatArray:
        """What the present task's constants are, shape ``(n_constants,)``: for oracles and tests, an agent never sees them."""
        return np.array(self._current_state("constants")[-self.n_constants :])
