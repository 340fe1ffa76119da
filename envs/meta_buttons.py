"""Press the button that pays, which is another in every task, and never told: it is found by pressing."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.base import FloatArray, Observation, ToyTask, Transition
from envs.drawing import BLACK, GREY, RED, Canvas
from envs.drawn import DrawnPhysicsEnv
from envs.vector import ToyVectorEnv

BUTTONS = 4
EPISODE_STEPS = 6


class MetaButtonsTask(ToyTask):
    """Rules of the buttons: one of them pays 1 whenever it is pressed, the others nothing. The state is ``(..., 2)``: the
    button pressed last (-1 before the first), the one that pays.

    :param buttons: how many there are
    :raises ValueError: fewer than two
    """

    def __init__(self, buttons: int = BUTTONS) -> None:
        if not isinstance(buttons, int | np.integer) or isinstance(buttons, bool) or buttons < 2:
            raise ValueError(f"buttons must be a whole number of at least 2, got {buttons!r}.")
        self.buttons = int(buttons)
        self.observation_space = spaces.Box(0.0, 1.0, shape=(self.buttons + 1,), dtype=np.float32)
        self.action_space = spaces.Discrete(self.buttons)

    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw the button that pays.

        :param rng: the only source of randomness
        :return: state, shape ``(2,)``
        """
        return np.array([-1.0, float(rng.integers(self.buttons))])

    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Press.

        :param state: shape ``(..., 2)``
        :param action: a button, int64 ``(...)``
        :return: next state ``(..., 2)``, reward 1 if it pays, else 0 ``(...)``, never terminated ``(...)``
        """
        pressed = np.stack((np.asarray(action, dtype=np.float64), state[..., 1]), axis=-1)
        paid = self.paid(pressed)
        return pressed, paid.astype(np.float64), np.zeros(np.shape(paid), dtype=np.bool_)

    def observe(self, state: FloatArray) -> Observation:
        """Show the button pressed last, and whether it paid.

        :param state: shape ``(..., 2)``
        :return: float32, shape ``(..., buttons + 1)``
        """
        pressed = state[..., :1] == np.arange(self.buttons)
        return np.concatenate((pressed, self.paid(state)[..., None]), axis=-1).astype(np.float32)

    @staticmethod
    def paid(state: FloatArray) -> npt.NDArray[np.bool_]:
        """
        :param state: shape ``(..., 2)``
        :return: whether the button pressed last is the one that pays, ``(...)``
        """
        return np.asarray(state[..., 0] == state[..., 1])

    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint the buttons: the one pressed last is red if it paid and black if not.

        :param canvas: an empty canvas
        :param state: shape ``(2,)``
        """
        width = canvas.width / self.buttons
        for button in range(self.buttons):
            pressed = button == int(state[0])
            color = (RED if self.paid(state) else BLACK) if pressed else GREY
            canvas.circle(((button + 0.5) * width, canvas.height / 2), 0.4 * width, color)


class MetaButtonsEnv(DrawnPhysicsEnv):
    """Find out which of the buttons pays, and go on pressing it: observation which one was pressed last and whether it paid,
    action a button, 6 steps. Every reset draws another button to pay, ``reset(options={"same_task": True})`` keeps it, as
    :class:`envs.TrialWrapper` does for several episodes.

    Who knows the one of four collects 6; who must look for it in each episode, without pressing one twice in vain, 4.5.

    :param buttons: how many there are
    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    max_episode_steps: ClassVar[int | None] = EPISODE_STEPS
    n_constants: ClassVar[int] = 1

    def __init__(self, buttons: int = BUTTONS, render_mode: str | None = None) -> None:
        super().__init__(MetaButtonsTask(buttons), render_mode)


class MetaButtonsVectorEnv(ToyVectorEnv):
    """A batch of :class:`MetaButtonsEnv`; in every episode another button pays.

    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param buttons: how many there are
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = EPISODE_STEPS,
        buttons: int = BUTTONS,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(MetaButtonsTask(buttons), num_envs, max_episode_steps, render_mode)
