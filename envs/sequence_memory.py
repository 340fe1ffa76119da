"""Steer the recent average of a running value to one half, by nudging it down or up."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, ToyEnv, ToyTask, Transition
from envs.drawing import BLUE, GREY, RED, Canvas
from envs.vector import ToyVectorEnv

MEMORY = 5  # values remembered
RECENT = 3  # values the reward looks at
NUDGE = 0.1
EPISODE_STEPS = 50


class SequenceMemoryTask(ToyTask):
    """Rules: the last value moves down (action 0) or up (1) by 0.1 within [0, 1] and joins the memory of five.

    The state ``(..., 7)`` is the five values, the oldest first, then the last action and the number of steps played.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, shape=(4,), dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw the five values from U(0, 1).

        :param rng: the only source of randomness
        :return: state, shape ``(7,)``
        """
        return np.concatenate((rng.uniform(size=MEMORY), np.zeros(2)))

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Append a value, forget the oldest.

        :param state: shape ``(..., 7)``
        :param action: 0 for down, 1 for up, shape ``(...)``
        :return: next state ``(..., 7)``, reward ``1 - 2·|mean of the last three values - 0.5|`` ``(...)``, never
            terminated ``(...)``
        """
        _, second, third, fourth, fifth, _, step = (state[..., i] for i in range(7))
        value = np.clip(fifth + np.where(action == 1, NUDGE, -NUDGE), 0.0, 1.0)
        next_state = np.stack((second, third, fourth, fifth, value, action.astype(np.float64), step + 1), axis=-1)
        reward = 1 - 2 * np.abs((fourth + fifth + value) / RECENT - 0.5)
        return next_state, reward, np.zeros(np.shape(value), dtype=np.bool_)

    def observe(self, state: FloatArray) -> npt.NDArray[np.float32]:
        """Show ``[last value, mean of the five, last action, step / 50]``, and nothing at all before the first step.

        :param state: shape ``(..., 7)``
        :return: shape ``(..., 4)``
        """
        first, second, third, fourth, fifth, action, step = (state[..., i] for i in range(7))
        mean = (first + second + third + fourth + fifth) / MEMORY  # written out: see ToyTask
        clock = np.minimum(step / EPISODE_STEPS, 1.0)  # stays in the space if someone lifts the time limit
        observation = np.stack((fifth, mean, action, clock), axis=-1)
        return np.where(state[..., 6:] == 0, 0.0, observation).astype(np.float32)

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the five values as bars, those that the reward looks at in blue, and the target as a line.

        :param canvas: an empty canvas
        :param state: shape ``(7,)``
        """
        width = canvas.width / MEMORY
        for index, value in enumerate(state[:MEMORY]):
            color = BLUE if index >= MEMORY - RECENT else GREY
            top = max(float(value) * canvas.height, 1.0)
            canvas.rectangle((index * width + 5, 0), ((index + 1) * width - 5, top), color)
        canvas.rectangle((0, canvas.height / 2 - 1), (canvas.width, canvas.height / 2 + 1), RED)


class SequenceMemoryEnv(ToyEnv):
    """Keep the mean of the last three values at 0.5: two actions, 50 steps, at most 1 a step.

    A random policy collects about 23.5, "up while the last value is below 0.5" about 45.8, and 46.75 is the best that
    can be expected. The first observation hides all; the later ones tell nearly all, so this task asks for a little
    prediction, not for a long memory (for that, see :class:`envs.DelayedRecallEnv`).

    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012
    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(SequenceMemoryTask(), render_mode)


class SequenceMemoryVectorEnv(ToyVectorEnv):
    """A batch of :class:`SequenceMemoryEnv`.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {**ToyVectorEnv.metadata, "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = EPISODE_STEPS, render_mode: str | None = None
    ) -> None:
        super().__init__(SequenceMemoryTask(), num_envs, max_episode_steps, render_mode)
