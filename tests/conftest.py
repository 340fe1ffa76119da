"""Shared by all tests: one torch thread, no screen, tiny agents and tiny environments."""

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

from sb3_dreamer import PETS, Director, Dreamer, PlaNet

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

PLAN: dict[str, Any] = dict(horizon=3, n_samples=6, n_iterations=2, n_elites=2)
PLANNING: dict[str, Any] = dict(planner_kwargs=PLAN, replan_every=2)
"""With every other step from the plan before, there is more in the state, and less to compute."""


def tiny_planet(env: Any = "envs:ContinuousPendulum-v0", policy: str = "MlpPolicy", **kwargs: Any) -> PlaNet:
    """A PlaNet that learns and plans in seconds (nothing useful)."""
    common = {name: value for name, value in TINY.items() if not name.startswith("imagination")}
    return PlaNet(policy, env, **{**common, **PLANNING, "seed": 0, **kwargs})


tiny_planet.algorithm = PlaNet  # type: ignore[attr-defined]


def tiny_pets(env: Any = "envs:ContinuousPendulum-v0", policy: str = "MlpPolicy", **kwargs: Any) -> PETS:
    """A PETS that learns and plans in seconds (nothing useful)."""
    tiny = dict(learning_starts=40, train_freq=8, max_epochs=2, buffer_size=2_000, device="cpu")
    small = dict(world_model_kwargs=dict(n_members=2, units=8, layers=1))
    return PETS(policy, env, **{**tiny, **PLANNING, "policy_kwargs": small, "seed": 0, **kwargs})


tiny_pets.algorithm = PETS  # type: ignore[attr-defined]

GOALS: dict[str, Any] = dict(goal_steps=2, imagination_horizon=4)


def tiny_director(env: Any = "envs:ContinuousPendulum-v0", policy: str = "MlpPolicy", **kwargs: Any) -> Director:
    """A Director that learns in seconds (nothing useful)."""
    return Director(policy, env, **{**TINY, **GOALS, "seed": 0, **kwargs})


tiny_director.algorithm = Director  # type: ignore[attr-defined]

ALGORITHMS: dict[str, Callable[..., Any]] = {
    "dreamer": tiny_dreamer,
    "director": tiny_director,
    "planet": tiny_planet,
    "pets": tiny_pets,
}
"""Makes a tiny model of every algorithm, from an environment, ``policy`` and other arguments; ``algorithm`` is its class."""
FROM_WINDOWS = ["dreamer", "director", "planet"]
"""Those that learn from replayed windows, at a train ratio, and see images; PETS is fitted to single steps every few."""


@pytest.fixture(scope="session", params=ALGORITHMS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Of each algorithm; of some with ``@pytest.mark.parametrize("make", [their names], indirect=True)``."""
    return ALGORITHMS[request.param]


def note_training(model: Any) -> list[int]:
    """:return: steps taken at every update (PETS: fit) that is asked for from now on"""
    noted: list[int] = []
    train = model.train

    def noting(gradient_steps: int) -> None:
        before = model._n_updates
        train(gradient_steps)
        assert model._n_updates - before == gradient_steps or isinstance(model, PETS)  # whose fits take many
        noted.extend([model.num_timesteps] * gradient_steps)

    model.train = noting
    return noted


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


def weights_of(model: Any) -> dict[str, th.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_equal_weights(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert th.equal(value, second[name]), name
