"""Pendulums of unknown mass and length for ``meta_learning.py``: to learn from, to judge by, and one that is told."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs import MetaPendulumEnv, TrialWrapper
from envs.pendulum import EPISODE_STEPS

INSIDE: dict[str, Any] = dict(mass=(0.5, 2.0), length=(0.5, 1.5))
"""Ranges of the tasks of training."""
OUTSIDE: dict[str, Any] = dict(mass=(2.0, 3.0), length=(1.5, 2.0))
"""Heavier and longer than any of these."""
HELD_OUT = 10_000
"""Added to a seed for the tasks to judge by."""
Line = dict[str, Any]
"""Of a table of results."""


@dataclass(frozen=True)
class HeldOut:
    """A task to judge by."""

    where: str  # "inside" or "outside"
    number: int
    mass: float  # in kg
    length: float  # in m

    @property
    def fixed(self) -> dict[str, Any]:
        """Arguments of an environment that is this task alone."""
        return dict(mass=(self.mass, self.mass), length=(self.length, self.length))


def held_out_tasks(n: int, seed: int) -> list[HeldOut]:
    """:return: n tasks from inside the ranges of training and n from outside"""
    rng = np.random.default_rng(HELD_OUT + seed)
    ranges = [("inside", INSIDE)] * n + [("outside", OUTSIDE)] * n
    return [
        HeldOut(where, number, float(rng.uniform(*limits["mass"])), float(rng.uniform(*limits["length"])))
        for number, (where, limits) in enumerate(ranges)
    ]


def trial_env(steps: int = EPISODE_STEPS, show_action: bool = False, **task: Any) -> TrialWrapper:
    """:return: two episodes of every task"""
    return TrialWrapper(TimeLimit(MetaPendulumEnv(**task), steps), episodes=2, show_action=show_action)


class Untold(gym.ObservationWrapper):
    """
    The same tasks in the same order, of whose borders nothing tells.

    :param env: from :func:`trial_env`
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        inner: Any = env.observation_space
        self.observation_space = inner["obs"]

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        """:return: the pendulum's own, ``(3,)``"""
        own: np.ndarray = observation["obs"]
        return own


def plain_env(steps: int = EPISODE_STEPS, **task: Any) -> gym.Env:
    """:return: two episodes of every task, of which nothing tells"""
    return Untold(trial_env(steps, **task))


class Told(gym.ObservationWrapper):
    """
    An oracle's: the observation ends with mass and length.

    :param env: from :func:`plain_env`
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        inner: Any = env.observation_space
        low, high = np.append(inner.low, [0.0, 0.0]), np.append(inner.high, [np.inf, np.inf])
        self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """:return: the observation with mass and length, ``(5,)``"""
        constants: Any = self.unwrapped.constants  # type: ignore[attr-defined]
        return np.append(observation, constants).astype(np.float32)


def told_env(**task: Any) -> gym.Env:
    """:return: two episodes of every task, whose mass and length are told"""
    return Told(plain_env(**task))
