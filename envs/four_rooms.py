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
EDGE = 1.0
"""Half the side of the world."""
EPISODE_STEPS = 200


class FourRoomsTask(ToyTask):
    """Rules of the maze: a point moves by at most ``STEP_LENGTH`` a step; walls stop it.

    The world is the square [-1, 1]², its walls are the axes. Three doors join the four rooms in a row; there is none
    between the first, where the point starts, and the last, where the goal is::

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
        x = _move(x, right * STEP_LENGTH / length, np.abs(y - DOOR) < DOOR_WIDTH / 2)
        y = _move(y, up * STEP_LENGTH / length, np.abs(np.abs(x) - DOOR) < DOOR_WIDTH / 2)
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
        scale, gap, wall = canvas.width / (2 * EDGE), DOOR_WIDTH / 2, 0.01

        def at(x: float, y: float) -> Point:
            return (x + EDGE) * scale, (y + EDGE) * scale

        canvas.circle(at(*GOAL), GOAL_RADIUS * scale, RED)
        for low, high in ((-EDGE, DOOR - gap), (DOOR + gap, EDGE)):
            canvas.rectangle(at(-wall, low), at(wall, high), BLACK)
        for low, high in ((-EDGE, -DOOR - gap), (-DOOR + gap, DOOR - gap), (DOOR + gap, EDGE)):
            canvas.rectangle(at(low, -wall), at(high, wall), BLACK)
        canvas.circle(at(float(state[0]), float(state[1])), 0.04 * scale, BLUE)


def _move(position: FloatArray, by: FloatArray, door: npt.NDArray[np.bool_]) -> FloatArray:
    """:return: one coordinate after a step that may not cross 0 but through a door"""
    there = np.clip(position + by, -EDGE, EDGE)
    side = np.where(position < 0, -1.0, 1.0)
    crosses = (there * side < 0) | ((there == 0) & (side < 0))
    # stopped just before the wall, on the side it came from
    return np.where(crosses & ~door, side * 1e-6, there)


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
