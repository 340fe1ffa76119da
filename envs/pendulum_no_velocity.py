"""The pendulum without its velocity: one observation no longer tells where it is heading, two in a row do."""

from typing import Any

import numpy as np
from gymnasium import spaces

from envs.base import FloatArray, Observation, ToyEnv
from envs.pendulum import EPISODE_STEPS, ContinuousPendulumEnv, PendulumTask
from envs.vector import ToyVectorEnv


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

    def __init__(self, render_mode: str | None = None) -> None:
        ToyEnv.__init__(self, PendulumNoVelocityTask(), render_mode)


class ContinuousPendulumNoVelocityVectorEnv(ToyVectorEnv):
    """A batch of :class:`ContinuousPendulumNoVelocityEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 20}  # noqa: RUF012

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = EPISODE_STEPS, render_mode: str | None = None
    ) -> None:
        super().__init__(PendulumNoVelocityTask(), num_envs, max_episode_steps, render_mode)
