"""Touch pads in their order, with no hint of it but the reward at the end."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, Observation, ToyEnv, ToyTask, Transition
from envs.drawing import BLACK, BLUE, BROWN, GREY, RED, Canvas, Color
from envs.vector import ToyVectorEnv

WIDTH, HEIGHT = 14, 14
"""Cells of the floor."""
PAD_SIDE = 3
CORNERS = ((0, 0), (11, 11), (11, 0), (0, 11), (5, 0), (5, 11))
"""Lower left cells of the pads, in their order: each is across the floor from the one before."""
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
COLORS: tuple[Color, ...] = (RED, BLUE, BROWN, (96, 160, 96), (150, 110, 170), (230, 190, 70))
EPISODE_STEPS = 200


class PinPadTask(ToyTask):
    """Rules: a walker on a floor of 14 x 14 cells; touching the last pad, all before having been touched in order, pays 1.

    A wrong pad undoes what has been done (the first pad counts as a new beginning); standing on a pad touches it once.
    The state ``(..., 3)`` is the cell ``x, y`` and how many pads have been touched in order, ``0 .. pads - 1``: after the
    reward it is 0 again.

    :param pads: how many
    """

    def __init__(self, pads: int) -> None:
        whole = isinstance(pads, int | np.integer) and not isinstance(pads, bool)
        if not whole or not 2 <= pads <= len(CORNERS):
            raise ValueError(f"pads must be an integer from 2 to {len(CORNERS)}, got {pads!r}.")
        self.pads = int(pads)
        self.observation_space = spaces.Box(-1.0, 1.0, shape=(2 + self.pads,), dtype=np.float32)
        self.action_space = spaces.Discrete(len(MOVES))

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw a cell near the middle, where there is no pad.

        :param rng: the only source of randomness
        :return: state, shape ``(3,)``
        """
        return np.array([rng.integers(4, WIDTH - 4), rng.integers(4, HEIGHT - 4), 0], dtype=np.float64)

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Take a step, and touch the pad that is there.

        :param state: shape ``(..., 3)``
        :param action: 0 to stay, 1 left, 2 right, 3 down, 4 up, shape ``(...)``
        :return: next state ``(..., 3)``, reward ``(...)``, never terminated ``(...)``
        """
        step = np.array(MOVES, dtype=np.float64)[action]
        x = np.clip(state[..., 0] + step[..., 0], 0, WIDTH - 1)
        y = np.clip(state[..., 1] + step[..., 1], 0, HEIGHT - 1)
        touched, done = self._pad(x, y), state[..., 2]
        right = touched == done
        # on the last of those done it rests; none (-1) is no pad at all. After the reward, 0 are done
        resting = (touched < 0) | ((touched == done - 1) & (done > 0))
        done = np.where(resting, done, np.where(right, done + 1, np.where(touched == 0, 1.0, 0.0)))
        complete = done == self.pads
        return np.stack((x, y, np.where(complete, 0.0, done)), axis=-1), complete * 1.0, np.zeros(np.shape(x), dtype=np.bool_)

    def _pad(self, x: FloatArray, y: FloatArray) -> npt.NDArray[np.int64]:
        """:return: number of the pad at a cell, -1 for none"""
        found = np.full(np.shape(x), -1, dtype=np.int64)
        for number, (left, low) in enumerate(CORNERS[: self.pads]):
            inside = (x >= left) & (x < left + PAD_SIDE) & (y >= low) & (y < low + PAD_SIDE)
            found = np.where(inside, number, found)
        return found

    def observe(self, state: FloatArray) -> Observation:
        """Show the cell, from -1 to 1, and a one-hot of how many pads have been touched in order.

        :param state: shape ``(..., 3)``
        :return: float32, shape ``(..., 2 + pads)``
        """
        x, y = state[..., :1] * 2 / (WIDTH - 1) - 1, state[..., 1:2] * 2 / (HEIGHT - 1) - 1
        return np.concatenate((x, y, np.arange(self.pads) == state[..., 2:]), axis=-1).astype(np.float32)

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the pads, those that have been touched in order with a dot each, and the walker (black).

        :param canvas: an empty canvas
        :param state: shape ``(3,)``
        """
        cell = canvas.width / WIDTH
        for number, (left, low) in enumerate(CORNERS[: self.pads]):
            canvas.rectangle((left * cell, low * cell), ((left + PAD_SIDE) * cell, (low + PAD_SIDE) * cell), COLORS[number])
            if number < state[2]:
                canvas.circle(((left + PAD_SIDE / 2) * cell, (low + PAD_SIDE / 2) * cell), cell / 2, GREY)
        x, y = float(state[0]) * cell, float(state[1]) * cell
        canvas.rectangle((x, y), (x + cell, y + cell), BLACK)


class PinPadEnv(ToyEnv):
    """Touch the pads in order, for a reward of 1 each time the last one is reached; 200 steps.

    After the visual PinPad of the Director paper (Hafner et al. 2022), with numbers instead of a picture: the more pads,
    the rarer is a first reward. With three pads the best score is about 6 an episode.

    :param pads: how many, from 2 to 6
    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 15}  # noqa: RUF012
    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS

    def __init__(self, pads: int = 3, render_mode: str | None = None) -> None:
        super().__init__(PinPadTask(pads), render_mode)


class PinPadVectorEnv(ToyVectorEnv):
    """A batch of :class:`PinPadEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param pads: how many, from 2 to 6
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = EPISODE_STEPS,
        pads: int = 3,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(PinPadTask(pads), num_envs, max_episode_steps, render_mode)
