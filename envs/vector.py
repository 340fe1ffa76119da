"""The batched environment: many copies of a toy task played by one set of NumPy operations."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.actions import check_action
from envs.base import FloatArray, Observation, ToyTask, check_render_mode
from envs.drawing import Canvas

VectorStep = tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]


class ToyVectorEnv(VectorEnv[Observation, Any, npt.NDArray[Any]]):
    """``num_envs`` independent copies of a :class:`envs.base.ToyTask`, equal to single ones to the last bit.

    It behaves as ``SyncVectorEnv(..., autoreset_mode=AutoresetMode.SAME_STEP)`` over ``gym.make``'s environments: every
    copy has its own generator, and ``step`` returns the first observation of the next episode with the last reward of
    the old one, whose last observation is in ``infos["final_obs"]``.

    :param task: the rules
    :param num_envs: how many copies
    :param max_episode_steps: time limit in steps, ``None`` for none
    :param render_mode: ``None`` or ``"rgb_array"``
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 30,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }
    STATE_KEYS: ClassVar[frozenset[str]] = frozenset({"states", "steps", "np_random"})

    def __init__(
        self, task: ToyTask, num_envs: int = 1, max_episode_steps: int | None = None, render_mode: str | None = None
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be None or at least 1, got {max_episode_steps}.")
        check_render_mode(render_mode, self.metadata)
        self.task = task
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.single_observation_space = task.observation_space
        self.single_action_space = task.action_space
        self.observation_space = batch_space(task.observation_space, num_envs)
        self.action_space = batch_space(task.action_space, num_envs)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs
        self._states: FloatArray | None = None  # (num_envs, S)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._canvas: Canvas | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every copy.

        :param seed: an integer gives copy ``i`` the seed ``seed + i``, a list one seed to each; where it is ``None``
            the present generator goes on
        :param options: accepted as Gymnasium asks; the toy tasks know none
        :return: observations ``(num_envs, ...)``, empty infos
        """
        seeds = [int(seed) + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        if seeds is not None:
            if len(seeds) != self.num_envs:
                raise ValueError(f"seed must be an integer or {self.num_envs} of them, got {len(seeds)}: {seed!r}.")
            for index, one_seed in enumerate(seeds):
                if one_seed is not None:
                    self._generators[index], self._seeds[index] = seeding.np_random(int(one_seed))
        self._states = np.stack([self.task.initial_state(rng) for rng in self.np_random])
        self._steps[:] = 0
        return self.task.observe(self._states), {}

    def step(self, actions: Any) -> VectorStep:
        """Play one step in every copy, and start a new episode where one has ended.

        :param actions: float ``(num_envs, A)``, clipped into the action space, or integer ``(num_envs,)``
        :return: observations ``(num_envs, ...)``, rewards, terminations, truncations (``(num_envs,)`` each), infos
        """
        checked = check_action(actions, self.single_action_space, (self.num_envs,))
        states, rewards, terminations = self.task.transition(self._current_states("step"), checked)
        self._steps += 1
        if self.max_episode_steps is None:
            truncations = np.zeros(self.num_envs, dtype=np.bool_)
        else:
            truncations = self._steps >= self.max_episode_steps
        observations = self.task.observe(states)
        infos: dict[str, Any] = {}
        ended = np.flatnonzero(terminations | truncations)
        if len(ended) > 0:
            generators = self.np_random
            for index in ended:
                final = {"final_obs": observations[index].copy(), "final_info": {}}
                infos = self._add_info(infos, final, int(index))
                states[index] = self.task.initial_state(generators[index])
            self._steps[ended] = 0
            observations[ended] = self.task.observe(states[ended])
        self._states = states
        return observations, rewards, terminations, truncations, infos

    def render(self) -> tuple[npt.NDArray[np.uint8], ...] | None:
        """Draw every copy.

        :return: ``num_envs`` RGB images, uint8 ``(height, width, 3)``, or ``None`` without a render mode
        """
        if self.render_mode is None:
            return None
        if self._canvas is None:
            self._canvas = Canvas(self.task.screen_size, self.render_mode, self.metadata["render_fps"])
        frames = []
        for state in self._current_states("render"):
            frame = self._canvas.paint(lambda canvas, state=state: self.task.draw(canvas, state))  # type: ignore[misc]
            assert frame is not None
            frames.append(frame)
        return tuple(frames)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of all copies; one that was never seeded gets a random seed."""
        for index, generator in enumerate(self._generators):
            if generator is None:
                self._generators[index], self._seeds[index] = seeding.np_random()
        return tuple(generator for generator in self._generators if generator is not None)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds that the generators began with."""
        return tuple(self._seeds) if self.np_random else ()

    def get_state(self) -> dict[str, Any]:
        """Copy all that decides how the environments go on.

        :return: ``states`` (float64 ``(num_envs, S)``, or ``None`` before the first reset), ``steps`` (since each
            episode began, int64 ``(num_envs,)``) and ``np_random`` (a list of the generators' states)
        """
        return {
            "states": None if self._states is None else self._states.copy(),
            "steps": self._steps.copy(),
            "np_random": [generator.bit_generator.state for generator in self.np_random],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`get_state` was called.

        :param state: what :meth:`get_state` returned in an environment with as many copies
        """
        if not self.STATE_KEYS <= set(state) or len(state["np_random"]) != self.num_envs:
            raise ValueError(f"state must come from get_state() with {self.num_envs} copies, got the keys {sorted(state)}.")
        self._states = None if state["states"] is None else np.array(state["states"], dtype=np.float64)
        self._steps = np.array(state["steps"], dtype=np.int64)
        for generator, generator_state in zip(self.np_random, state["np_random"], strict=True):
            generator.bit_generator.state = generator_state

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the canvas (called by ``close``)."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def _current_states(self, caller: str) -> FloatArray:
        if self._states is None:
            raise ResetNeeded(f"Call reset() before {caller}().")
        return self._states
