"""Remember a cue over a stretch of blank observations, then name it."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, ToyEnv, ToyTask, Transition
from envs.drawing import BLUE, GREY, RED, Canvas
from envs.vector import ToyVectorEnv


class DelayedRecallTask(ToyTask):
    """Rules, as a time line for ``delay = 2``::

        observation   cue   blank   blank   answer due
        action        any   any     any     the answer      then the episode ends with reward 1 or 0

    The state ``(..., 2)`` is the cue and the number of steps played.

    :param num_cues: how many cues there are, and how many actions
    :param delay: blank observations between the cue and the one at which the answer is due
    """

    def __init__(self, num_cues: int, delay: int) -> None:
        if not _is_integer(num_cues) or num_cues < 2:
            raise ValueError(f"num_cues must be an integer of at least 2, got {num_cues!r}.")
        if not _is_integer(delay) or delay < 0:
            raise ValueError(f"delay must be an integer of at least 0, got {delay!r}.")
        self.num_cues = int(num_cues)
        self.answer_step = int(delay) + 1
        self.observation_space = spaces.Box(0.0, 1.0, shape=(self.num_cues + 1,), dtype=np.float32)
        self.action_space = spaces.Discrete(self.num_cues)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw the cue, each as likely as the others.

        :param rng: the only source of randomness
        :return: state, shape ``(2,)``
        """
        return np.array([rng.integers(self.num_cues), 0], dtype=np.float64)

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Let a step pass, and judge the answer if it was due.

        :param state: shape ``(..., 2)``
        :param action: the cue that the agent names, shape ``(...)``
        :return: next state ``(..., 2)``, reward ``(...)``, whether an answer was given ``(...)``
        """
        cue, step = state[..., 0], state[..., 1]
        correct = (step == self.answer_step) & (action == cue)
        return np.stack((cue, step + 1), axis=-1), correct * 1.0, step >= self.answer_step

    def observe(self, state: FloatArray) -> npt.NDArray[np.float32]:
        """Show the cue as a one-hot on the first step only; the last entry is 1 when the answer is due.

        :param state: shape ``(..., 2)``
        :return: shape ``(..., num_cues + 1)``
        """
        cue, step = state[..., :1], state[..., 1:]
        shown = (np.arange(self.num_cues) == cue) & (step == 0)
        return np.concatenate((shown, step == self.answer_step), axis=-1).astype(np.float32)

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint what the agent sees: a disc for each cue, blue where shown, and a red bar when the answer is due.

        :param canvas: an empty canvas
        :param state: shape ``(2,)``
        """
        observation = self.observe(state)
        width = canvas.width / self.num_cues
        for index in range(self.num_cues):
            color = BLUE if observation[index] == 1 else GREY
            canvas.circle(((index + 0.5) * width, canvas.height / 2), 0.4 * width, color)
        if observation[-1] == 1:
            canvas.rectangle((0, 0), (canvas.width, 0.1 * canvas.height), RED)


class DelayedRecallEnv(ToyEnv):
    """Name the cue that was shown on the first step: reward 1 if right, else 0, and the episode ends.

    A policy without memory scores ``1 / num_cues``, one with memory 1. An episode has ``delay + 2`` steps; it always
    ends with the answer, so there is no time limit that a longer delay could run into.

    :param num_cues: how many cues there are, and how many actions
    :param delay: blank observations between the cue and the one at which the answer is due
    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, num_cues: int = 4, delay: int = 10, render_mode: str | None = None) -> None:
        super().__init__(DelayedRecallTask(num_cues, delay), render_mode)


class DelayedRecallVectorEnv(ToyVectorEnv):
    """A batch of :class:`DelayedRecallEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param num_cues: how many cues there are, and how many actions
    :param delay: blank observations between the cue and the one at which the answer is due
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 5}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        num_cues: int = 4,
        delay: int = 10,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(DelayedRecallTask(num_cues, delay), num_envs, max_episode_steps, render_mode)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
