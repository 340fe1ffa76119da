"""Walk through four rooms to a goal that lies next door, behind a wall."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, Observation, ToyEnv, ToyTask, Transition
from envs.drawing import BLACK, BLUE, RED, Canvas, Point
from envs.vector import ToyVectorEnv

STEP_LENGTH = 0.04
"""Longest way in one step; the rooms are squares of side 1."""
START = (-0.85, -0.85)
START_SPREAD = 0.05
GOAL = (0.85, -0.85)
GOAL_RADIUS = 0.15
DOOR = 0.5
"""Distance of the middle of every door from the middle of the world."""
DOOR_WIDTH = 0.3
WALL = 0.05
"""Half the thickness of a wall: on either side of one, positions differ by more than two steps."""
ROUNDING = 1e-6
EDGE = 1.0
"""Half the side of the world."""
EPISODE_STEPS = 200


class FourRoomsTask(ToyTask):
    """Rules of the maze: a point moves by at most ``STEP_LENGTH`` a step; walls stop it.

    The world is the square [-1, 1]², its walls lie along the axes, ``2 WALL`` thick. Three doors join the four rooms in a row;
    there is none between the first, where the point starts, and the last, where the goal is::

        +-----------+-----------+
        |                       |
        |           .  (door)   |
        |           |           |
        +---  . ----+---- .  ---+
        |           |           |
        |           |           |
        |  start    |     goal  |
        +-----------+-----------+

    The state ``(..., 2)`` is the position.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-EDGE, EDGE, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw the position, at most ``START_SPREAD`` from ``START`` in each direction.

        :param rng: the only source of randomness
        :return: state, shape ``(2,)``
        """
        return np.array(START) + rng.uniform(-START_SPREAD, START_SPREAD, size=2)

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Move, first to the side, then up or down, as far as walls allow.

        :param state: shape ``(..., 2)``
        :param action: direction, and share of the longest step as its length (at most 1), shape ``(..., 2)``
        :return: next state ``(..., 2)``, reward 1 on arrival at the goal, else 0 ``(...)``, whether it arrived ``(...)``
        """
        x, y = state[..., 0], state[..., 1]
        right, up = action[..., 0], action[..., 1]
        length = np.maximum(np.sqrt(right * right + up * up), 1.0)
        # the upright wall has its door above; the lying one has two, left and right
        left, below = np.where(x < 0, -1.0, 1.0), np.where(y < 0, -1.0, 1.0)
        x = _move(x, right * STEP_LENGTH / length, left, _within(y, DOOR), np.abs(y) < WALL - ROUNDING, left * DOOR)
        open_below = _within(x, np.where(x < 0, -DOOR, DOOR))
        y = _move(y, up * STEP_LENGTH / length, below, open_below, np.abs(x) < WALL - ROUNDING, np.full_like(y, DOOR))
        off_x, off_y = x - GOAL[0], y - GOAL[1]
        arrived = np.asarray(np.sqrt(off_x * off_x + off_y * off_y) < GOAL_RADIUS)
        return np.stack((x, y), axis=-1), arrived.astype(np.float64), arrived

    def observe(self, state: FloatArray) -> Observation:
        """Show the position.

        :param state: shape ``(..., 2)``
        :return: float32, shape ``(..., 2)``
        """
        return state.astype(np.float32)

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the walls, the goal (red) and the point (blue).

        :param canvas: an empty canvas
        :param state: shape ``(2,)``
        """
        scale, gap, wall = canvas.width / (2 * EDGE), DOOR_WIDTH / 2, WALL

        def at(x: float, y: float) -> Point:
            return (x + EDGE) * scale, (y + EDGE) * scale

        canvas.circle(at(*GOAL), GOAL_RADIUS * scale, RED)
        for low, high in ((-EDGE, DOOR - gap), (DOOR + gap, EDGE)):
            canvas.rectangle(at(-wall, low), at(wall, high), BLACK)
        for low, high in ((-EDGE, -DOOR - gap), (-DOOR + gap, DOOR - gap), (DOOR + gap, EDGE)):
            canvas.rectangle(at(low, -wall), at(high, wall), BLACK)
        canvas.circle(at(float(state[0]), float(state[1])), 0.04 * scale, BLUE)


def _within(position: FloatArray, door: FloatArray | float) -> npt.NDArray[np.bool_]:
    """:return: whether a coordinate is where a door is"""
    return np.abs(position - door) < DOOR_WIDTH / 2 + ROUNDING


def _move(
    position: FloatArray,
    by: FloatArray,
    side: FloatArray,
    at_door: npt.NDArray[np.bool_],
    in_passage: npt.NDArray[np.bool_],
    passage: FloatArray,
) -> FloatArray:
    """
    :param position: one coordinate
    :param by: how far to move
    :param side: of the wall across the way, -1 or 1
    :param at_door: nothing is in the way
    :param in_passage: the other coordinate is within the other wall, so that this one must stay within its door
    :param passage: the middle of that door
    :return: the coordinate after the step
    """
    gap = DOOR_WIDTH / 2
    low = np.where(in_passage, passage - gap, np.where(at_door | (side < 0), -EDGE, WALL))
    high = np.where(in_passage, passage + gap, np.where(at_door | (side > 0), EDGE, -WALL))
    return np.clip(position + by, low, high)


class FourRoomsEnv(ToyEnv):
    """Find a goal that is 1.7 from the start as the crow flies and 3.2 on foot: observation ``[x, y]``, action a step.

    The reward is 1 on arrival, which ends the episode, and 0 before; the time limit is 200 steps. At full speed the way
    takes about 80 steps through three doors. Steps are short on purpose: the noise of a random policy cancels over
    them (after 200 steps it is about 0.3 from where it was, and has hardly left the first room), so that the goal is
    only found by who keeps a direction, for a reason other than reward.

    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(FourRoomsTask(), render_mode)


class FourRoomsVectorEnv(ToyVectorEnv):
    """A batch of :class:`FourRoomsEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = EPISODE_STEPS, render_mode: str | None = None
    ) -> None:
        super().__init__(FourRoomsTask(), num_envs, max_episode_steps, render_mode)
