"""Balance a pole on a cart that is pushed with a force of any size, instead of left or right in full."""

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, ToyEnv, ToyTask, Transition
from envs.drawing import BLACK, BLUE, BROWN, Canvas
from envs.vector import ToyVectorEnv

GRAVITY = 9.8  # m/s²
MASS_CART = 1.0  # kg
MASS_POLE = 0.1  # kg
MASS_TOTAL = MASS_CART + MASS_POLE
HALF_LENGTH = 0.5  # m, from the hinge to the pole's middle
MAX_FORCE = 10.0  # N
TIME_STEP = 0.02  # s
MAX_POSITION = 2.4  # m
MAX_ANGLE = math.radians(12)
EPISODE_STEPS = 200


def push_cart(state: FloatArray, action: npt.NDArray[Any], half_length: FloatArray | float) -> FloatArray:
    """Integrate one time step (explicit Euler, as Gymnasium does).

    :param state: position, velocity, angle and angular velocity, shape ``(..., 4)``
    :param action: force in units of 10 N, shape ``(..., 1)``
    :param half_length: from the hinge to the pole's middle in m, ``(...)`` or a number
    :return: next state, shape ``(..., 4)``
    """
    x, x_velocity, theta, theta_velocity = (state[..., i] for i in range(4))
    moment = MASS_POLE * half_length
    force = MAX_FORCE * action[..., 0]
    cos, sin = np.cos(theta), np.sin(theta)
    push = (force + moment * theta_velocity * theta_velocity * sin) / MASS_TOTAL
    theta_acceleration = (GRAVITY * sin - cos * push) / (half_length * (4 / 3 - MASS_POLE * cos * cos / MASS_TOTAL))
    x_acceleration = push - moment * theta_acceleration * cos / MASS_TOTAL
    x = x + TIME_STEP * x_velocity
    x_velocity = x_velocity + TIME_STEP * x_acceleration
    theta = theta + TIME_STEP * theta_velocity
    theta_velocity = theta_velocity + TIME_STEP * theta_acceleration
    return np.stack((x, x_velocity, theta, theta_velocity), axis=-1)


class CartPoleTask(ToyTask):
    """Rules of Gymnasium's CartPole (Barto, Sutton and Anderson 1983) under a force of ``10·a`` newton.

    The state ``(..., 4)`` is the cart's position in m and velocity in m/s, the pole's angle in radians (0 upright,
    positive to the right) and angular velocity in rad/s.
    """

    screen_size: ClassVar[tuple[int, int]] = (600, 400)

    def __init__(self) -> None:
        # Twice the limits, so that the state that ended the episode is inside too.
        high = np.array([2 * MAX_POSITION, np.inf, 2 * MAX_ANGLE, np.inf], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw all four numbers from U(-0.05, 0.05).

        :param rng: the only source of randomness
        :return: state, shape ``(4,)``
        """
        return rng.uniform(low=-0.05, high=0.05, size=4)

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Integrate one time step (explicit Euler, as Gymnasium does).

        :param state: shape ``(..., 4)``
        :param action: force in units of 10 N, shape ``(..., 1)``
        :return: next state ``(..., 4)``; reward ``(...)``, 1 unless the episode ends here; ``|x| > 2.4 m`` or
            ``|θ| > 12°`` ``(...)``
        """
        state = push_cart(state, action, HALF_LENGTH)
        x, theta = state[..., 0], state[..., 2]
        terminated = (np.abs(x) > MAX_POSITION) | (np.abs(theta) > MAX_ANGLE)
        return state, np.where(terminated, 0.0, 1.0), terminated

    def observe(self, state: FloatArray) -> npt.NDArray[np.float32]:
        """Show the whole state.

        :param state: shape ``(..., 4)``
        :return: shape ``(..., 4)``
        """
        return state.astype(np.float32)

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the cart on its track and the pole on the cart.

        :param canvas: an empty canvas
        :param state: shape ``(4,)``
        """
        scale = canvas.width / (2 * MAX_POSITION)  # pixels a metre
        middle, track = canvas.width / 2 + float(state[0]) * scale, 100.0
        canvas.rectangle((0, track - 1), (canvas.width, track + 1), BLACK)
        canvas.rectangle((middle - 25, track - 15), (middle + 25, track + 15), BLACK)
        canvas.rod((middle, track + 7), -float(state[2]), length=2 * HALF_LENGTH * scale, width=10, color=BROWN)
        canvas.circle((middle, track + 7), 5, BLUE)


class ContinuousCartPoleEnv(ToyEnv):
    """Balance the pole: observation ``[x, ẋ, θ, θ̇]``, action in [-1, 1] (times 10 N), at most 200 steps of 0.02 s.

    A step that ends the episode gives no reward, so falling at step k returns k - 1 and balancing throughout 200. A
    random policy collects about 27.

    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 50}  # noqa: RUF012
    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(CartPoleTask(), render_mode)


class ContinuousCartPoleVectorEnv(ToyVectorEnv):
    """A batch of :class:`ContinuousCartPoleEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 50}  # noqa: RUF012

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = EPISODE_STEPS, render_mode: str | None = None
    ) -> None:
        super().__init__(CartPoleTask(), num_envs, max_episode_steps, render_mode)
