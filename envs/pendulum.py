"""Swing up a pendulum whose motor is too weak to lift it in one go, and balance it."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, Observation, ToyEnv, ToyTask, Transition
from envs.drawing import BLACK, RED, Canvas
from envs.vector import ToyVectorEnv

GRAVITY = 10.0  # m/s²
MASS = 1.0  # kg
LENGTH = 1.0  # m
TIME_STEP = 0.05  # s
MAX_TORQUE = 2.0  # N m
MAX_VELOCITY = 8.0  # rad/s
EPISODE_STEPS = 200


def swing(
    state: FloatArray, action: npt.NDArray[Any], mass: FloatArray | float, length: FloatArray | float
) -> tuple[FloatArray, FloatArray]:
    """Integrate one time step (semi-implicit Euler) of a rod. The cost is that of the state arrived at.

    :param state: angle and angular velocity, shape ``(..., 2)``
    :param action: torque in N m, shape ``(..., 1)``
    :param mass: in kg, ``(...)`` or a number
    :param length: in m, ``(...)`` or a number
    :return: next state ``(..., 2)``, reward ``-(θ² + 0.1 θ̇² + 0.001 u²)`` ``(...)``
    """
    theta, velocity, torque = state[..., 0], state[..., 1], action[..., 0]
    acceleration = 3 * GRAVITY / (2 * length) * np.sin(theta) + 3 / (mass * length * length) * torque
    velocity = np.clip(velocity + acceleration * TIME_STEP, -MAX_VELOCITY, MAX_VELOCITY)
    theta = (theta + velocity * TIME_STEP + np.pi) % (2 * np.pi) - np.pi
    reward = -(theta * theta + 0.1 * velocity * velocity + 0.001 * torque * torque)
    return np.stack((theta, velocity), axis=-1), reward


class PendulumTask(ToyTask):
    """Rules of the pendulum: ``θ̈ = 3g/(2l)·sin θ + 3/(m l²)·u``, with θ = 0 upright.

    The state ``(..., 2)`` is the angle in radians, in ``[-π, π)``, and the angular velocity in rad/s.
    """

    def __init__(self) -> None:
        high = np.array([1.0, 1.0, MAX_VELOCITY], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-MAX_TORQUE, MAX_TORQUE, shape=(1,), dtype=np.float32)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw θ from U(-π, π) and θ̇ from U(-1, 1).

        :param rng: the only source of randomness
        :return: state, shape ``(2,)``
        """
        return rng.uniform(low=[-np.pi, -1.0], high=[np.pi, 1.0])

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Integrate one time step (semi-implicit Euler). The cost is that of the state arrived at.

        :param state: angle and angular velocity, shape ``(..., 2)``
        :param action: torque in N m, shape ``(..., 1)``
        :return: next state ``(..., 2)``, reward ``-(θ² + 0.1 θ̇² + 0.001 u²)`` ``(...)``, never terminated ``(...)``
        """
        state, reward = swing(state, action, MASS, LENGTH)
        return state, reward, np.zeros(np.shape(reward), dtype=np.bool_)

    def observe(self, state: FloatArray) -> Observation:
        """Show ``[cos θ, sin θ, θ̇]``.

        :param state: shape ``(..., 2)``
        :return: float32, shape ``(..., 3)``
        """
        theta, velocity = state[..., 0], state[..., 1]
        return np.stack((np.cos(theta), np.sin(theta), velocity), axis=-1).astype(np.float32)

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the rod on its axle.

        :param canvas: an empty canvas
        :param state: shape ``(2,)``
        """
        center = (canvas.width / 2, canvas.height / 2)
        canvas.rod(center, float(state[0]), length=0.4 * canvas.height, width=0.08 * canvas.width, color=RED)
        canvas.circle(center, 0.02 * canvas.width, BLACK)


class ContinuousPendulumEnv(ToyEnv):
    """Swing up and balance: observation ``[cos θ, sin θ, θ̇]``, torque in [-2, 2] N m, 200 steps of 0.05 s.

    Unlike Gymnasium's ``Pendulum-v1`` the cost is taken after the step, at the new angle and velocity. A random policy
    collects about -1230 an episode, a perfect one about -134.

    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012
    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS
    task_class: ClassVar[type[PendulumTask]] = PendulumTask
    """The rules, which differ in what they show."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(self.task_class(), render_mode)


class ContinuousPendulumVectorEnv(ToyVectorEnv):
    """A batch of :class:`ContinuousPendulumEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 20}  # noqa: RUF012
    task_class: ClassVar[type[PendulumTask]] = PendulumTask

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = EPISODE_STEPS, render_mode: str | None = None
    ) -> None:
        super().__init__(self.task_class(), num_envs, max_episode_steps, render_mode)
