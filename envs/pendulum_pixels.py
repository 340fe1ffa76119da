"""The pendulum as a small picture: one shows the angle, two in a row the motion."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray
from envs.drawing import BLUE, RED, WHITE
from envs.pendulum import ContinuousPendulumEnv, ContinuousPendulumVectorEnv, PendulumTask

SIZE = 64  # pixels, of the square picture; the axle is in its middle
ROD_LENGTH = 23.0  # pixels, from the axle to the middle of the bob
ROD_RADIUS = 2.5  # pixels, half of the rod's width
BOB_RADIUS = 5.0  # pixels

# The pendulum is drawn in one corner of the picture, which reaches over the axle by a little more than the bob's radius,
# and mirrored to where it belongs.
CORNER = SIZE // 2 + 6  # pixels
# Positions of the corner's pixels in the direction away from the axle: of its columns, and of its rows.
_AWAY = np.arange(SIZE - CORNER, SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)  # (C,)


class PendulumPixelsTask(PendulumTask):
    """Rules of the pendulum, of which a picture is shown: a red rod with a blue bob at its tip, on white."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, shape=(SIZE, SIZE, 3), dtype=np.uint8)

    def observe(self, state: FloatArray) -> npt.NDArray[np.uint8]:
        """Show the rod at the angle θ: upright for 0, leaning left if it is positive, like ``render``.

        A pixel's share of a shape is estimated from the distance of its centre to the shape's edge, so that the picture
        changes smoothly with the angle.

        :param state: angle in radians and angular velocity in rad/s, shape ``(..., 2)``
        :return: RGB pictures, shape ``(..., 64, 64, 3)``
        """
        theta = state[..., 0]
        right, up = -np.sin(theta), np.cos(theta)  # from the axle to the bob, in lengths of the rod
        # float32 is twice as fast, and exact enough for 256 levels.
        corners = _draw_corner(np.abs(right).astype(np.float32), np.abs(up).astype(np.float32))  # (..., C, C, 3)
        pictures = np.full((*theta.shape, SIZE, SIZE, 3), 255, dtype=np.uint8)  # white
        for index in np.ndindex(theta.shape):
            columns = slice(None, None, 1 if right[index] > 0 else -1)
            rows = slice(None, None, -1 if up[index] > 0 else 1)
            pictures[index][rows, columns][-CORNER:, -CORNER:] = corners[index]
        return pictures


class ContinuousPendulumPixelsEnv(ContinuousPendulumEnv):
    """Swing up and balance seeing a 64 x 64 RGB picture only; all else is as in :class:`envs.ContinuousPendulumEnv`.

    The pictures are drawn with NumPy: pygame is needed for ``render`` alone.

    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    task_class: ClassVar[type[PendulumTask]] = PendulumPixelsTask


class ContinuousPendulumPixelsVectorEnv(ContinuousPendulumVectorEnv):
    """A batch of :class:`ContinuousPendulumPixelsEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    task_class: ClassVar[type[PendulumTask]] = PendulumPixelsTask


def _draw_corner(side: npt.NDArray[np.float32], height: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Draw a pendulum that points into the lower right corner.

    :param side: horizontal distance of the bob from the axle, in lengths of the rod, shape ``(...)``
    :param height: vertical distance, likewise
    :return: RGB picture of the corner, shape ``(..., C, C, 3)``
    """
    side, height = side[..., np.newaxis, np.newaxis], height[..., np.newaxis, np.newaxis]
    columns, rows = _AWAY, _AWAY[:, np.newaxis]
    across = columns * height - rows * side  # (..., C, C), as all that follows
    along = columns * side + rows * height
    beyond = along - np.clip(along, 0, ROD_LENGTH)
    rod = _share(across * across + beyond * beyond, ROD_RADIUS)
    from_bob = along - np.float32(ROD_LENGTH)
    bob = _share(across * across + from_bob * from_bob, BOB_RADIUS)
    rod *= 1 - bob  # the bob lies on the rod
    corner = np.empty((*rod.shape, 3), dtype=np.uint8)
    for channel, (white, red, blue) in enumerate(zip(WHITE, RED, BLUE, strict=True)):
        # Half a level more, as the conversion to uint8 cuts.
        corner[..., channel] = rod * (red - white) + bob * (blue - white) + (white + 0.5)
    return corner


def _share(squared_distance: npt.NDArray[np.float32], radius: float) -> npt.NDArray[np.float32]:
    """
    :param squared_distance: squared distance of each pixel's centre from the middle of a shape, in pixels²
    :param radius: how far the shape reaches from its middle, in pixels
    :return: share of each pixel that the shape covers, from 0 to 1
    """
    return np.clip(np.float32(radius + 0.5) - np.sqrt(squared_distance), 0, 1)
