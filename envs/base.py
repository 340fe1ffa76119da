"""What all toy tasks share: the form of a task's rules, and the single environment that plays by them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.actions import check_action
from envs.drawing import Canvas

FloatArray = npt.NDArray[np.float64]
Observation = npt.NDArray[np.float32] | npt.NDArray[np.uint8]  # numbers, or a picture
Transition = tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]


class ToyTask(ABC):
    """The rules of a task as pure functions of an explicit state.

    The state is a float64 array of shape ``(..., S)``, where ``...`` is empty in the single environment and
    ``(num_envs,)`` in the batched one. Both call the very same functions. To be equal to the last bit in both shapes,
    a rule must avoid what NumPy computes in another order or with another routine for arrays than for scalars: sums
    over an axis (``a.sum(-1)``) and powers (``a**2``). Write such sums and squares out.

    :ivar observation_space: float32 or, for pictures, uint8 space of one observation
    :ivar action_space: space of one action
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    screen_size: ClassVar[tuple[int, int]] = (400, 400)
    """Width and height of a rendered frame in pixels."""

    @abstractmethod
    def initial_state(self, rng: np.random.Generator) -> FloatArray:
        """Draw the first state of an episode.

        :param rng: the only source of randomness
        :return: state, shape ``(S,)``
        """

    @abstractmethod
    def transition(self, state: FloatArray, action: npt.NDArray[Any]) -> Transition:
        """Play one step. The arguments are not changed.

        :param state: shape ``(..., S)``
        :param action: checked and clipped action: float64 ``(..., A)`` or, for a discrete choice, int64 ``(...)``
        :return: next state ``(..., S)``, reward ``(...)``, whether the task has ended ``(...)``
        """

    @abstractmethod
    def observe(self, state: FloatArray) -> Observation:
        """Show what an agent may see of the state.

        :param state: shape ``(..., S)``
        :return: a new array of the space's dtype, shape ``(..., *observation_space.shape)``
        """

    @abstractmethod
    def draw(self, canvas: Canvas, state: FloatArray) -> None:
        """Paint one state.

        :param canvas: an empty canvas of ``screen_size`` pixels
        :param state: shape ``(S,)``
        """


class ToyEnv(gym.Env[Observation, Any]):
    """One environment that plays a :class:`ToyTask`.

    It never truncates: the time limit is the ``TimeLimit`` wrapper's, which ``gym.make`` adds from the registration.

    :param task: the rules
    :param render_mode: ``None``, ``"rgb_array"`` or ``"human"``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 30}  # noqa: RUF012
    max_episode_steps: ClassVar[int | None] = None
    """Time limit in steps, used by the registration."""

    def __init__(self, task: ToyTask, render_mode: str | None = None) -> None:
        check_render_mode(render_mode, self.metadata)
        self.task = task
        self.render_mode = render_mode
        self.observation_space = task.observation_space
        self.action_space = task.action_space
        self._state: FloatArray | None = None
        self._canvas: Canvas | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        :param seed: new seed of ``np_random``; ``None`` goes on with the present generator
        :param options: accepted as Gymnasium asks; the toy tasks know none
        :return: observation, empty info
        """
        super().reset(seed=seed)
        self._state = self.task.initial_state(self.np_random)
        if self.render_mode == "human":
            self.render()
        return self.task.observe(self._state), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one step.

        :param action: an element of ``action_space``; continuous ones are clipped into it
        :return: observation, reward, terminated, truncated (always False), empty info
        :raises ValueError: the action has a wrong shape, is NaN, or is not one of the choices
        """
        checked = check_action(action, self.action_space)
        self._state, reward, terminated = self.task.transition(self._current_state("step"), checked)
        if self.render_mode == "human":
            self.render()
        return self.task.observe(self._state), float(reward), bool(terminated), False, {}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Draw the present state.

        :return: RGB image, uint8 ``(height, width, 3)``, in the mode ``"rgb_array"``, else ``None``
        """
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render_mode. Choose one when making the environment, "
                'for example gym.make(..., render_mode="rgb_array").'
            )
            return None
        if self._canvas is None:
            self._canvas = Canvas(self.task.screen_size, self.render_mode, self.metadata["render_fps"])
        state = self._current_state("render")
        return self._canvas.paint(lambda canvas: self.task.draw(canvas, state))

    def close(self) -> None:
        """Close the window, if there is one. May be called several times."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def get_state(self) -> dict[str, Any]:
        """Copy all that decides how the environment goes on.

        The step count of a ``TimeLimit`` wrapper around it is not in here: see :func:`envs.get_env_state`.

        :return: ``state`` (float64 ``(S,)``, or ``None`` before the first reset) and ``np_random`` (the generator's)
        """
        return {
            "state": None if self._state is None else self._state.copy(),
            "np_random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`get_state` was called.

        :param state: what :meth:`get_state` returned
        """
        if not {"state", "np_random"} <= set(state):
            raise ValueError(f"state must come from get_state(), got a dict with the keys {sorted(state)}.")
        self._state = None if state["state"] is None else np.array(state["state"], dtype=np.float64)
        self.np_random.bit_generator.state = state["np_random"]

    def _current_state(self, caller: str) -> FloatArray:
        if self._state is None:
            raise gym.error.ResetNeeded(f"Call reset() before {caller}().")
        return self._state


def check_render_mode(render_mode: str | None, metadata: dict[str, Any]) -> None:
    """Refuse a render mode that the environment does not have.

    :param render_mode: what the constructor was given
    :param metadata: the environment's, with ``render_modes``
    """
    if render_mode is not None and render_mode not in metadata["render_modes"]:
        raise ValueError(f"render_mode must be None or one of {metadata['render_modes']}, got {render_mode!r}.")
