"""Shared by all tests: one torch thread, no screen, a tiny agent and tiny environments."""

from __future__ import annotations

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
# one thread in child processes too: threads that wait for each other on a busy machine take minutes for seconds of work
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_dreamer import Dreamer

th.set_num_threads(1)

TINY: dict[str, Any] = dict(
    learning_starts=40,
    batch_size=4,
    batch_length=8,
    train_ratio=32 / 8,  # an update every eighth step
    pretrain_updates=0,
    imagination_horizon=4,
    imagination_starts=8,
    buffer_size=2_000,
    device="cpu",
    policy_kwargs=dict(size="debug"),
)


def tiny_dreamer(env: Any = "envs:ContinuousPendulum-v0", policy: str = "MlpPolicy", **kwargs: Any) -> Dreamer:
    """A Dreamer that learns in seconds (nothing useful)."""
    return Dreamer(policy, env, **{**TINY, "seed": 0, **kwargs})


tiny_dreamer.algorithm = Dreamer  # type: ignore[attr-defined]

ALGORITHMS: dict[str, Callable[..., Any]] = {"dreamer": tiny_dreamer}
"""Makes a tiny model of every algorithm, from an environment, ``policy`` and other arguments; ``algorithm`` is its class."""


@pytest.fixture(scope="session", params=ALGORITHMS.values(), ids=ALGORITHMS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param


class Clock(gym.Env):
    """
    Counts: the observation is (episode number, step number), the reward of a step is the step number it leads to.
    Ends after ``length`` steps, by termination or by truncation.
    """

    action_space = gym.spaces.Box(-2.0, 2.0, (1,))
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, length: int = 5, terminates: bool = True) -> None:
        self.length, self.terminates, self.episode, self.clock = length, terminates, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode += 1
        self.clock = 0
        return self._obs(), {}

    def _obs(self) -> np.ndarray:
        return np.array([self.episode, self.clock], dtype=np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.clock += 1
        over = self.clock >= self.length
        return self._obs(), float(self.clock), over and self.terminates, over and not self.terminates, {}


@pytest.fixture
def clock() -> type[Clock]:
    return Clock


def weights_of(model: Dreamer) -> dict[str, th.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_equal_weights(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert th.equal(value, second[name]), name
