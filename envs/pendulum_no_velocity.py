"""The pendulum without its velocity: one observation no longer tells where it is heading, two in a row do."""

from typing import ClassVar

import numpy as np
from gymnasium import spaces

from envs.base import FloatArray, Observation
from envs.pendulum import ContinuousPendulumEnv, ContinuousPendulumVectorEnv, PendulumTask


class PendulumNoVelocityTask(PendulumTask):
    """Rules of the pendulum, of which only the angle is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)

    def observe(self, state: FloatArray) -> Observation:
        """Show ``[cos θ, sin θ]``.

        :param state: angle in radians and angular velocity in rad/s, shape ``(..., 2)``
        :return: float32, shape ``(..., 2)``
        """
        return super().observe(state)[..., :2].copy()


class ContinuousPendulumNoVelocityEnv(ContinuousPendulumEnv):
    """Swing up and balance seeing ``[cos θ, sin θ]`` only; all else is as in :class:`envs.ContinuousPendulumEnv`.

    A policy without memory cannot tell a falling from a rising pendulum, so it gains little over a random one.

    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    task_class: ClassVar[type[PendulumTask]] = PendulumNoVelocityTask


class ContinuousPendulumNoVelocityVectorEnv(ContinuousPendulumVectorEnv):
    """A batch of :class:`ContinuousPendulumNoVelocityEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    task_class: ClassVar[type[PendulumTask]] = PendulumNoVelocityTask
