"""An SB3 policy that acts from the latent state of a world model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec, check_picture
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.common.world_model import WorldModel


class RecurrentModelPolicy(BasePolicy):
    """
    Base of world-model policies. The state between two steps is a tuple of numpy arrays, batch axis first:
    deterministic state ``(n, D)``, stochastic state ``(n, Z)``, what a subclass adds, and the action before ``(n, A)``.
    Nothing is kept inside.

    :meth:`predict` draws from a random generator of its own, so that evaluating does not change what training draws.

    :param observation_space: observations
    :param action_space: actions
    :param normalize_images: SB3's: False for pictures that are floats already
    """

    world_model: WorldModel
    optimizer: th.optim.Optimizer
    _constructor: dict[str, Any]
    """Arguments of the constructor after the spaces."""
    convolve: ClassVar[bool] = False
    """Whether images are seen by convolutions; otherwise they are vectors."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, normalize_images: bool = True) -> None:
        super().__init__(observation_space, action_space, normalize_images=normalize_images)
        self.observation_codec = ObservationCodec(observation_space, self.convolve, normalize_images)
        self.action_codec = ActionCodec(action_space)
        self.predict_generator = th.Generator()
        self.predict_generator.manual_seed(th.initial_seed())

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(observation_space=self.observation_space, action_space=self.action_space, **self._constructor)

    def set_training_mode(self, mode: bool) -> None:
        """
        :param mode: whether the networks are being trained
        """
        if {self.training, self.world_model.training} != {mode}:  # to tell every module takes a quarter of predict()'s time
            super().set_training_mode(mode)

    @abstractmethod
    def choose_action(self, state: LatentState, deterministic: bool, evaluation: bool) -> th.Tensor:
        """
        :param state: ``(n, ...)``
        :param deterministic: the mode, no sample
        :param evaluation: for :meth:`predict`, not for collecting data
        :return: actions in the model's space, ``(n, A)``
        """

    def dream_actor(self, state: tuple[np.ndarray, ...], deterministic: bool) -> Callable[[LatentState], th.Tensor]:
        """
        :param state: the state before the dream
        :param deterministic: modes, no samples
        :return: what chooses the actions ``(n, A)`` of the dream, from its latent states in their order
        """
        return lambda latent: self.choose_action(latent, deterministic, evaluation=True)

    def acting_model(self, evaluation: bool) -> WorldModel:
        """
        :param evaluation: for :meth:`predict`, not for collecting data
        :return: the world model that filters observations
        """
        return self.world_model

    def state_sizes(self) -> tuple[int, ...]:
        """:return: columns of the state's parts: the latent state's two first, the action before last"""
        return self.world_model.deter_size, self.world_model.stoch_size, self.action_codec.size

    def initial_state(self, n: int) -> tuple[np.ndarray, ...]:
        """
        :param n: number of environments
        :return: the state before any observation
        """
        return tuple(np.zeros((n, size), dtype=np.float32) for size in self.state_sizes())

    def check_state(self, state: tuple[np.ndarray, ...], n: int) -> None:
        """
        :param state: given to :meth:`predict`
        :param n: number of observations
        :raises ValueError: it is of another shape
        """
        expected = self.state_sizes()
        given = [np.shape(part) for part in state] if isinstance(state, tuple | list) else state
        if given != [(n, size) for size in expected]:
            raise ValueError(
                f"state must hold arrays of {n} rows and {expected} columns for these observations, got "
                f"{given}: give back what predict() returned for the same environments, or None."
            )

    def update_statistics(self, obs: dict[str, np.ndarray], reward: np.ndarray) -> None:
        """
        :param obs: new observations ``(n, ...)`` a key
        :param reward: that arrived with them, ``(n,)``
        """
        self.world_model.update_statistics(
            self.observation_codec.to_tensors(obs, self.device), th.as_tensor(reward, device=self.device)
        )

    def filter(
        self,
        obs: dict[str, np.ndarray],
        state: tuple[np.ndarray, ...],
        episode_start: np.ndarray,
        deterministic: bool,
        evaluation: bool,
    ) -> LatentState:
        """
        :param obs: observations ``(n, ...)`` a key
        :param state: the state before
        :param episode_start: where that is to be forgotten, ``(n,)``
        :param deterministic: the mode of the posterior, no sample
        :param evaluation: for :meth:`predict`, not for collecting data
        :return: the latent state at the observations
        """
        device = self.device  # SB3 looks for it among all parameters
        parts = (state[0], state[1], state[-1])
        deter, stoch, action = (th.as_tensor(part, dtype=th.float32, device=device) for part in parts)
        return self.acting_model(evaluation).observe_step(
            self.observation_codec.to_tensors(obs, device),
            action,
            th.as_tensor(episode_start, device=device),
            LatentState(deter, stoch),
            deterministic=deterministic,
            generator=self.predict_generator if evaluation else None,
        )

    @th.no_grad()
    def step(
        self,
        obs: dict[str, np.ndarray],
        state: tuple[np.ndarray, ...],
        episode_start: np.ndarray,
        deterministic: bool = False,
        evaluation: bool = False,
        actions: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ...]:
        """
        Filter observations and choose actions.

        :param obs: observations ``(n, ...)`` a key
        :param state: the state before
        :param episode_start: where that is to be forgotten, ``(n,)``
        :param deterministic: modes instead of samples
        :param evaluation: for :meth:`predict`, not for collecting data
        :param actions: take these (in the model's space) instead of the policy's, ``(n, A)``
        :return: the new state, whose last part is the raw action chosen
        """
        self.check_state(state, len(episode_start))
        latent = self.filter(obs, state, episode_start, deterministic, evaluation)
        # what was intended is forgotten where an episode starts, and where something else is done
        goes_on = ~np.asarray(episode_start, dtype=bool)[:, None] if actions is None else False
        intended = tuple(np.asarray(part, dtype=np.float32) * goes_on for part in state[2:-1])
        if actions is None:
            actions, intended = self._act(latent, intended, deterministic, evaluation)
        return latent.deter.cpu().numpy(), latent.stoch.cpu().numpy(), *intended, actions

    def _act(
        self, latent: LatentState, intended: tuple[np.ndarray, ...], deterministic: bool, evaluation: bool
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """
        :param latent: the latent state at the observations
        :param intended: what a subclass adds to the state, zeros where nothing is known of it
        :param deterministic: modes instead of samples
        :param evaluation: for :meth:`predict`, not for collecting data
        :return: actions in the model's space ``(n, A)``, and what is intended from now on
        """
        return self.choose_action(latent, deterministic, evaluation).cpu().numpy(), intended

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        See :meth:`ModelBasedAlgorithm.predict`.

        :param observation: one observation or a batch
        :param state: the state of the call before, None at the start
        :param episode_start: where it is to be forgotten, ``(n,)``
        :param deterministic: modes instead of samples
        :return: actions in the action space, and the new state
        """
        self.set_training_mode(False)
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
            raise ValueError("observation is a tuple of two: did you pass what env.reset() returned? Use its first part.")
        observation = self.observation_codec.transpose(observation)
        vectorized = self.observation_codec.is_batch(observation)
        self.check_observation(observation)
        obs = self.observation_codec.to_arrays(observation)
        n = len(next(iter(obs.values())))
        if state is None:
            state = self.initial_state(n)
        if episode_start is None:
            episode_start = np.zeros(n, dtype=bool)
        if np.size(episode_start) != n:
            raise ValueError(f"episode_start has {np.size(episode_start)} entries, but there are {n} observations.")
        state = self.step(obs, state, np.asarray(episode_start).reshape(n), deterministic, evaluation=True)
        actions = self.action_codec.to_env(state[-1])
        return (actions if vectorized else actions[0]), state

    def check_observation(self, observation: Any) -> None:
        """
        :param observation: one observation or a batch
        :raises ValueError: it has a value that no model can read
        """
        found = self.observation_codec.find_invalid(observation)
        if found is not None:
            raise ValueError(f"observation {found[0]} has {found[2]} in key {found[1]!r}: {observation!r:.200}")

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        """
        SB3's stateless prediction: the first step of an episode.

        :param observation: a batch of observations
        :param deterministic: modes instead of samples
        :return: actions in the action space
        """
        parts = dict(observation) if isinstance(observation, dict) else {"obs": observation}
        arrays = {name: part.cpu().numpy() if isinstance(part, th.Tensor) else part for name, part in parts.items()}
        actions, _ = self.predict(arrays if isinstance(observation, dict) else arrays["obs"], deterministic=deterministic)
        return th.as_tensor(actions, device=self.device)


class PicturePolicy(RecurrentModelPolicy):
    """What makes a policy one for images, before the class of the policy: its world model is convolutional."""

    convolve: ClassVar[bool] = True

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, *args: Any, **kwargs: Any) -> None:
        check_picture(observation_space, kwargs.get("normalize_images", True))
        super().__init__(observation_space, action_space, *args, **kwargs)
