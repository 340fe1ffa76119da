"""Go to one of several places, which is another in every task, and never told: it is found by having been there."""

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, Observation, ToyTask, Transition
from envs.drawing import BLUE, GREY, RED, Canvas, Point
from envs.drawn import DrawnPhysicsEnv
from envs.vector import ToyVectorEnv

STEP_LENGTH = 0.15
"""Longest way in one step, in a world that is the square [-1, 1]²."""
START_SPREAD = 0.05
RING = 0.8
"""Distance of all places from the middle, where the point starts."""
PLACE_RADIUS = 0.2
PLACES = 4
EPISODE_STEPS = 20


class MetaReachTask(ToyTask):
    """Rules of the search: a point moves by at most ``STEP_LENGTH`` a step; places lie evenly on a circle around its start,
    and one of them is the goal. The state is ``(..., 3)``: position, number of the goal.

    :param places: how many there are
    :raises ValueError: fewer than two, or more than there is room for
    """

    def __init__(self, places: int = PLACES) -> None:
        most = int(math.pi * RING / PLACE_RADIUS)
        if not isinstance(places, int | np.integer) or isinstance(places, bool) or not 2 <= places <= most:
            raise ValueError(f"places must be a whole number from 2 to {most}, of which none overlap, got {places!r}.")
        self.places = int(places)
        self.observation_space = spaces.Box(-1.0, 1.0, shape=(3,), dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw the position, at most ``START_SPREAD`` from the middle in each direction, and the goal.

        :param rng: the only source of randomness
        :return: state, shape ``(3,)``
        """
        return np.append(rng.uniform(-START_SPREAD, START_SPREAD, size=2), float(rng.integers(self.places)))

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Move.

        :param state: shape ``(..., 3)``
        :param action: direction, and share of the longest step as its length (at most 1), shape ``(..., 2)``
        :return: next state ``(..., 3)``, reward 1 at the goal and 0 elsewhere ``(...)``, never terminated ``(...)``
        """
        right, up = action[..., 0], action[..., 1]
        length = np.maximum(np.sqrt(right * right + up * up), 1.0)
        x = np.clip(state[..., 0] + right * STEP_LENGTH / length, -1.0, 1.0)
        y = np.clip(state[..., 1] + up * STEP_LENGTH / length, -1.0, 1.0)
        moved = np.stack((x, y, state[..., 2]), axis=-1)
        there = self.at_goal(moved)
        return moved, there.astype(np.float64), np.zeros(np.shape(there), dtype=np.bool_)

    def observe(self, state: FloatArray) -> Observation:
        """Show the position, and whether this is the goal.

        :param state: shape ``(..., 3)``
        :return: float32, shape ``(..., 3)``
        """
        return np.stack((state[..., 0], state[..., 1], self.at_goal(state)), axis=-1).astype(np.float32)

    def at_goal(self, state: FloatArray) -> npt.NDArray[np.bool_]:
        """
        :param state: shape ``(..., 3)``
        :return: whether the position is within ``PLACE_RADIUS`` of the goal, ``(...)``
        """
        angle = state[..., 2] * (2.0 * math.pi / self.places)
        off_x, off_y = state[..., 0] - RING * np.cos(angle), state[..., 1] - RING * np.sin(angle)
        return np.asarray(np.sqrt(off_x * off_x + off_y * off_y) < PLACE_RADIUS)

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the places (the goal red once the point is there, as a picture tells no more than the numbers) and the point.

        :param canvas: an empty canvas
        :param state: shape ``(3,)``
        """
        scale = canvas.width / 2

        def at(x: float, y: float) -> Point:
            return (x + 1.0) * scale, (y + 1.0) * scale

        found = bool(self.at_goal(state))
        for place in range(self.places):
            angle = place * 2.0 * math.pi / self.places
            color = RED if found and place == int(state[2]) else GREY
            canvas.circle(at(RING * math.cos(angle), RING * math.sin(angle)), PLACE_RADIUS * scale, color)
        canvas.circle(at(float(state[0]), float(state[1])), 0.04 * scale, BLUE)


class MetaReachEnv(DrawnPhysicsEnv):
    """Find out which of the places is the goal, and stay there: observation ``[x, y, 1 at the goal]``, action a step, reward 1
    a step at the goal, 20 steps. Every reset draws a new goal, ``reset(options={"same_task": True})`` keeps it, as
    :class:`envs.TrialWrapper` does for several episodes.

    The way from the middle to a place takes four steps, from one of four places to the next five: who knows the goal collects
    16.5, who looks for it anew in each episode 7.9.

    :param places: how many there are
    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS
    n_constants: ClassVar[int] = 1

    def __init__(self, places: int = PLACES, render_mode: str | None = None) -> None:
        super().__init__(MetaReachTask(places), render_mode)


class MetaReachVectorEnv(ToyVectorEnv):
    """A batch of :class:`MetaReachEnv`; every episode has a new goal.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param places: how many there are
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = EPISODE_STEPS,
        places: int = PLACES,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(MetaReachTask(places), num_envs, max_episode_steps, render_mode)
