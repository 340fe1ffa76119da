"""Swing up a pendulum whose mass and length are another's in every task, and never told."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from envs.base import FloatArray, Observation, Transition
from envs.drawing import Canvas
from envs.drawn import DrawnPhysicsEnv, Range, check_range
from envs.pendulum import EPISODE_STEPS, PendulumTask, swing
from envs.vector import ToyVectorEnv

MASS_RANGE = (0.5, 2.0)  # kg
LENGTH_RANGE = (0.5, 1.5)  # m


class MetaPendulumTask(PendulumTask):
    """Rules of the pendulum with mass and length in its state ``(..., 4)``: angle, angular velocity, mass in kg, length in m.

    :param mass: smallest and largest mass in kg
    :param length: smallest and largest length in m
    """

    def __init__(self, mass: Range = MASS_RANGE, length: Range = LENGTH_RANGE) -> None:
        super().__init__()
        self.mass, self.length = check_range("mass", mass), check_range("length", length)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw angle and velocity as the pendulum does, mass and length uniformly from their ranges.

        :param rng: the only source of randomness
        :return: state, shape ``(4,)``
        """
        (m_low, m_high), (l_low, l_high) = self.mass, self.length
        return np.concatenate((super().initial_state(rng), rng.uniform(low=[m_low, l_low], high=[m_high, l_high])))

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Integrate one time step, see :func:`envs.pendulum.swing`.

        :param state: shape ``(..., 4)``
        :param action: torque in N m, shape ``(..., 1)``
        :return: next state ``(..., 4)``, reward ``(...)``, never terminated ``(...)``
        """
        moved, reward = swing(state[..., :2], action, state[..., 2], state[..., 3])
        return np.concatenate((moved, state[..., 2:]), axis=-1), reward, np.zeros(np.shape(reward), dtype=np.bool_)

    def observe(self, state: FloatArray) -> Observation:
        """Show ``[cos θ, sin θ, θ̇]``.

        :param state: shape ``(..., 4)``
        :return: float32, shape ``(..., 3)``
        """
        return super().observe(state[..., :2])

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the rod on its axle, always of the same size: a picture tells no more than the numbers.

        :param canvas: an empty canvas
        :param state: shape ``(4,)``
        """
        super().draw(canvas, state[:2])


class MetaPendulumEnv(DrawnPhysicsEnv):
    """Swing up and balance a rod of unknown mass and length: observation ``[cos θ, sin θ, θ̇]``, torque in [-2, 2] N m, 200
    steps of 0.05 s. Every reset draws a new rod, ``reset(options={"same_task": True})`` keeps it, as
    :class:`envs.TrialWrapper` does for several episodes.

    A light short rod can be lifted in one go, a heavy long one needs several swings.

    :param mass: smallest and largest mass in kg, equal ones for a fixed mass
    :param length: smallest and largest length in m
    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012
    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS
    n_constants: ClassVar[int] = 2

    def __init__(self, mass: Range = MASS_RANGE, length: Range = LENGTH_RANGE, render_mode: str | None = None) -> None:
        super().__init__(MetaPendulumTask(mass, length), render_mode)


class MetaPendulumVectorEnv(ToyVectorEnv):
    """A batch of :class:`MetaPendulumEnv`; every episode has a new mass and length.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param mass: smallest and largest mass in kg
    :param length: smallest and largest length in m
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = EPISODE_STEPS,
        mass: Range = MASS_RANGE,
        length: Range = LENGTH_RANGE,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(MetaPendulumTask(mass, length), num_envs, max_episode_steps, render_mode)
