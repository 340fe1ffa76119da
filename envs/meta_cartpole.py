"""Balance a pole whose length is another's in every task, and never told."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from envs.base import FloatArray, Transition
from envs.cartpole import EPISODE_STEPS, MAX_ANGLE, MAX_POSITION, CartPoleTask, push_cart
from envs.drawing import Canvas
from envs.drawn import DrawnPhysicsEnv, Range, check_range
from envs.vector import ToyVectorEnv

HALF_LENGTH_RANGE = (0.2, 1.5)  # m


class MetaCartPoleTask(CartPoleTask):
    """Rules of the cart-pole with the pole's half length in its state ``(..., 5)``, in m, after the cart-pole's own four.

    :param half_length: smallest and largest distance from the hinge to the pole's middle in m
    """

    def __init__(self, half_length: Range = HALF_LENGTH_RANGE) -> None:
        super().__init__()
        self.half_length = check_range("half_length", half_length)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw position, angle and velocities as the cart-pole does, the half length uniformly from its range.

        :param rng: the only source of randomness
        :return: state, shape ``(5,)``
        """
        return np.concatenate((super().initial_state(rng), rng.uniform(*self.half_length, size=1)))

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Integrate one time step, see :func:`envs.cartpole.push_cart`.

        :param state: shape ``(..., 5)``
        :param action: force in units of 10 N, shape ``(..., 1)``
        :return: next state ``(..., 5)``; reward ``(...)``, 1 unless the episode ends here; ``|x| > 2.4 m`` or
            ``|θ| > 12°`` ``(...)``
        """
        moved = push_cart(state[..., :4], action, state[..., 4])
        terminated = (np.abs(moved[..., 0]) > MAX_POSITION) | (np.abs(moved[..., 2]) > MAX_ANGLE)
        return np.concatenate((moved, state[..., 4:]), axis=-1), np.where(terminated, 0.0, 1.0), terminated

    def observe(self, state: FloatArray) -> npt.NDArray[np.float32]:
        """Show all but the length.

        :param state: shape ``(..., 5)``
        :return: shape ``(..., 4)``
        """
        return super().observe(state[..., :4])

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the cart and a pole that is always of the same size: a picture tells no more than the numbers.

        :param canvas: an empty canvas
        :param state: shape ``(5,)``
        """
        super().draw(canvas, state[:4])


class MetaCartPoleEnv(DrawnPhysicsEnv):
    """Balance a pole of unknown length: observation ``[x, ẋ, θ, θ̇]``, action in [-1, 1] (times 10 N), at most 200 steps of
    0.02 s. Every reset draws a new pole, ``reset(options={"same_task": True})`` keeps it, as :class:`envs.TrialWrapper`
    does for several episodes.

    :param half_length: smallest and largest distance from the hinge to the pole's middle in m, equal ones to fix it
    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 50}  # noqa: RUF012
    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS
    n_constants: ClassVar[int] = 1

    def __init__(self, half_length: Range = HALF_LENGTH_RANGE, render_mode: str | None = None) -> None:
        super().__init__(MetaCartPoleTask(half_length), render_mode)


class MetaCartPoleVectorEnv(ToyVectorEnv):
    """A batch of :class:`MetaCartPoleEnv`; every episode has a new pole.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param half_length: smallest and largest distance from the hinge to the pole's middle in m
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 50}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = EPISODE_STEPS,
        half_length: Range = HALF_LENGTH_RANGE,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(MetaCartPoleTask(half_length), num_envs, max_episode_steps, render_mode)
