"""The pendulum that is told nothing until it stands: it hangs at first, and only the top is rewarded."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from envs.base import FloatArray, Transition
from envs.pendulum import ContinuousPendulumEnv, ContinuousPendulumVectorEnv, PendulumTask

TOP = np.pi / 12
"""Half the width of what counts as the top, rad (15 degrees)."""
START = 0.1
"""Largest angle from hanging, rad, and velocity, rad/s, at the start."""


class PendulumSparseTask(PendulumTask):
    """Rules of the pendulum, with a reward of 1 for each step that ends near the top, and 0 elsewhere."""

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Hang, almost at rest.

        :param rng: the only source of randomness
        :return: state, shape ``(2,)``
        """
        theta, velocity = rng.uniform(low=-START, high=START, size=2)
        return np.array([theta % (2 * np.pi) - np.pi, velocity])

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Play one step.

        :param state: angle and angular velocity, shape ``(..., 2)``
        :param action: torque in N m, shape ``(..., 1)``
        :return: next state ``(..., 2)``, reward 1 within 15 degrees of the top ``(...)``, never terminated ``(...)``
        """
        state, _, terminated = super().transition(state, action)
        return state, (np.abs(state[..., 0]) < TOP).astype(np.float64), terminated


class ContinuousPendulumSparseEnv(ContinuousPendulumEnv):
    """Find the top and stay there; seeing, torque and length are as in :class:`envs.ContinuousPendulumEnv`.

    Torques drawn at random at every step do not lift it (not once in 5,000 episodes); who swings it up at once and balances
    it collects about 150.

    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    task_class: ClassVar[type[PendulumTask]] = PendulumSparseTask


class ContinuousPendulumSparseVectorEnv(ContinuousPendulumVectorEnv):
    """A batch of :class:`ContinuousPendulumSparseEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    task_class: ClassVar[type[PendulumTask]] = PendulumSparseTask
