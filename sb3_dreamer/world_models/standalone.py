"""What a user does with a world model alone: fit it to data, look at what it has understood, dream with it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_dreamer.common.bookkeeping import seeded
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec, is_picture, pick
from sb3_dreamer.common.types import ImaginedRollout, LatentState
from sb3_dreamer.common.vec_env import channels_first
from sb3_dreamer.common.world_model import Policy
from sb3_dreamer.world_models.saving import SavedWorldModel
from sb3_dreamer.world_models.sizes import ModelSize
from sb3_dreamer.world_models.trajectories import (
    ImaginedTrajectory,
    actions_for_model,
    check_horizon,
    describe_rollout,
)

if TYPE_CHECKING:
    from sb3_dreamer.world_models.dataset import EpisodeDataset
    from sb3_dreamer.world_models.dream import DreamEnv, DreamVecEnv
    from sb3_dreamer.world_models.evaluation import ModelEvaluation
    from sb3_dreamer.world_models.fitting import FitHistory

SelfModel = TypeVar("SelfModel", bound="StandaloneWorldModel")


class StandaloneWorldModel(SavedWorldModel):
    """
    A world model that knows the spaces of its environment, and so speaks of observations and actions as that does.
    :meth:`from_spaces` makes one; the world model of a Dreamer (``model.world_model``) is one as well.
    """

    observation_codec: ObservationCodec
    action_codec: ActionCodec
    alone_kwargs: ClassVar[dict[str, Any]] = dict(gamma=1.0)
    """Further ones of :meth:`from_spaces`, where no agent learns from the model: heavier predictions where that helps, and no
    discount, of which a dream's end would have to be told apart."""
    _fitted_to: EpisodeDataset | None = None
    """What the last fit learnt from."""

    # ---- making one

    @classmethod
    def from_spaces(
        cls: type[SelfModel],
        observation_space: spaces.Space,
        action_space: spaces.Space,
        size: str | ModelSize = "small",
        convolve: bool | None = None,
        normalize_images: bool = True,
        seed: int | None = None,
        device: th.device | str = "cpu",
        **kwargs: Any,
    ) -> SelfModel:
        """
        :param observation_space: of the environment
        :param action_space: of the environment
        :param size: widths and depths, by name or as a ModelSize
        :param convolve: see images with convolutions; None to do so where there are any of at least 16 by 16 pixels
        :param normalize_images: SB3's: False for images that are floats between 0 and 1 already
        :param seed: of the weights; None for torch's own random numbers
        :param device: torch device
        :param kwargs: further arguments of the class, over :attr:`small_task_kwargs` and :attr:`alone_kwargs`
        :return: a model, not fitted yet
        :raises ValueError: spaces that are not supported, or wrong arguments
        """
        observation_space = channels_first(observation_space)
        if convolve is None:
            parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
            convolve = any(is_picture(part, normalize_images) and min(part.shape[-2:]) >= 16 for part in parts)  # type: ignore[index]
        observation_codec = ObservationCodec(observation_space, convolve, normalize_images)
        action_codec = ActionCodec(action_space)
        arguments = {**cls.small_task_kwargs, **cls.alone_kwargs, **kwargs}
        with seeded(th.device("cpu"), seed):
            model = cls(keys=observation_codec.keys, action_size=action_codec.size, size=size, **arguments)
        model.attach(observation_codec, action_codec)
        model._arguments = dict(
            observation_space=observation_space,
            action_space=action_space,
            size=size,
            convolve=convolve,
            normalize_images=normalize_images,
            **arguments,
        )
        return model.to(device).eval()

    def attach(self, observation_codec: ObservationCodec, action_codec: ActionCodec) -> None:
        """
        :param observation_codec: of the environment, with the keys the model was made with
        :param action_codec: of the environment
        """
        self.observation_codec, self.action_codec = observation_codec, action_codec

    @property
    def observation_space(self) -> spaces.Space:
        """Of the environment, images channels first."""
        return self.observation_codec.space

    @property
    def action_space(self) -> spaces.Space:
        """Of the environment."""
        return self.action_codec.space

    @property
    def device(self) -> th.device:
        """Where the weights are."""
        return next(self.parameters()).device

    # ---- looking

    def _inputs(self, obs: Any) -> tuple[dict[str, th.Tensor], int, bool]:
        """:return: tensors of one or of many observations, their number, and whether it was one without a batch axis"""
        obs = self.observation_codec.transpose(obs)
        single = not self.observation_codec.is_batch(obs)
        found = self.observation_codec.find_invalid(obs)
        if found is not None:
            raise ValueError(f"observation {found[0]} has {found[2]} in key {found[1]!r}: {obs!r:.200}")
        arrays = self.observation_codec.to_arrays(obs)
        return self.observation_codec.to_tensors(arrays, self.device), len(next(iter(arrays.values()))), single

    @th.no_grad()
    def encode(
        self,
        obs: Any,
        state: LatentState | None = None,
        prev_action: Any = None,
        deterministic: bool = True,
        generator: th.Generator | None = None,
    ) -> LatentState:
        """
        The latent states of observations: of each alone, as at an episode's start, or after a state and an action.

        :param obs: one observation, or a batch of n
        :param state: before, ``(n, ...)``
        :param prev_action: that led from there to the observation, in the action space; needed with a state
        :param deterministic: the modes, no samples
        :param generator: where the samples' randomness comes from
        :return: ``(n, ...)``, n = 1 for a single observation
        :raises ValueError: shapes or values that do not match the spaces
        """
        return self._filter_inputs(*self._inputs(obs), state, prev_action, deterministic, generator)

    def _filter_inputs(
        self,
        inputs: dict[str, th.Tensor],
        n: int,
        single: bool,
        state: LatentState | None = None,
        prev_action: Any = None,
        deterministic: bool = True,
        generator: th.Generator | None = None,
    ) -> LatentState:
        """As :meth:`encode`, of what :meth:`_inputs` gives."""
        if (state is None) != (prev_action is None):
            raise ValueError("state and prev_action go together: give both, or neither at an episode's start.")
        is_first = th.full((n,), float(state is None), device=self.device)
        if state is None:
            state, action = self.initial_state(n), th.zeros(n, self.action_codec.size, device=self.device)
        else:
            given, shape = np.asarray(prev_action), self.action_space.shape or ()
            expected = shape if single else (n, *shape)
            if given.shape != expected or len(state.deter) != n:
                raise ValueError(
                    f"prev_action has shape {given.shape} and state {len(state.deter)} rows, but "
                    f"{'one observation needs' if single else f'{n} observations need'} {expected} and {n}."
                )
            action = actions_for_model(given.reshape(n, 1, *shape), self.action_codec, n, 1, False, self.device)[:, 0]
        return self.observe_step(inputs, action, is_first, state, deterministic, generator)

    @th.no_grad()
    def reconstruct(self, obs: Any) -> Any:
        """
        :param obs: one observation, or a batch
        :return: what the model decodes from their states, same shapes (images channels first)
        :raises ValueError: shapes or values that do not match the space
        """
        inputs, n, single = self._inputs(obs)
        decoded = self.observation_codec.from_tensors(self.decode(self._filter_inputs(inputs, n, single)))
        return pick(decoded, 0) if single else decoded

    @overload
    def imagine(
        self,
        policy_or_actions: Policy | th.Tensor,
        state: LatentState,
        horizon: int,
        deterministic: bool | None = None,
        generator: th.Generator | None = None,
    ) -> ImaginedRollout: ...

    @overload
    def imagine(
        self,
        obs: Any,
        actions: np.ndarray,
        horizon: int | None = None,
        deterministic: bool | None = None,
        generator: th.Generator | None = None,
        *,
        before: LatentState | None = None,
        prev_action: Any = None,
    ) -> ImaginedTrajectory: ...

    def imagine(self, *args: Any, **kwargs: Any) -> Any:
        """
        Dream ahead without observations, in one of two ways:

        - ``imagine(policy_or_actions, state, horizon)`` from latent states, with tensors: :meth:`unroll`, which has the
          arguments. Samples by default, gradients flow.
        - ``imagine(obs, actions, horizon=None, deterministic=True, generator=None, before=None, prev_action=None)`` in the
          environment's units: from one observation or a batch of n, with actions of the action space, ``(H, ...)`` or
          ``(n, H, ...)``, all of them or the first ``horizon``. Every observation counts as an episode's first, unless
          ``before`` is the state before it (from :meth:`encode`) and ``prev_action`` what led from there. Modes by default.

        :param args: see above
        :param kwargs: see above
        :return: an ImaginedRollout; or an ImaginedTrajectory
        :raises ValueError: shapes or values that do not match the spaces
        """
        state = kwargs.get("state", args[1] if len(args) > 1 else None)
        if isinstance(state, LatentState):
            return self._unroll_checked(*args, **kwargs)
        return self._imagine_from(*args, **kwargs)

    def _unroll_checked(
        self,
        policy_or_actions: Policy | th.Tensor,
        state: LatentState,
        horizon: int,
        deterministic: bool | None = None,
        generator: th.Generator | None = None,
    ) -> ImaginedRollout:
        if not callable(policy_or_actions) and policy_or_actions.shape[:2] != (len(state.deter), check_horizon(horizon)):
            raise ValueError(
                f"actions has shape {tuple(policy_or_actions.shape)}, but {len(state.deter)} states and horizon={horizon} "
                f"need {(len(state.deter), horizon, self.action_size)}."
            )
        return self.unroll(policy_or_actions, state, horizon, bool(deterministic), generator)

    @th.no_grad()
    def _imagine_from(
        self,
        obs: Any,
        actions: Any,
        horizon: int | None = None,
        deterministic: bool | None = None,
        generator: th.Generator | None = None,
        before: LatentState | None = None,
        prev_action: Any = None,
    ) -> ImaginedTrajectory:
        deterministic = deterministic is not False
        inputs, n, single = self._inputs(obs)
        actions = np.asarray(actions)
        if horizon is None:
            horizon = actions.shape[0 if single else 1] if actions.ndim > (0 if single else 1) else 0
        horizon = check_horizon(horizon)
        actions = actions[:horizon] if single else actions[:, :horizon]
        plan = actions_for_model(actions, self.action_codec, n, horizon, single, self.device)
        start = self._filter_inputs(inputs, n, single, before, prev_action, deterministic, generator)
        rollout = self.unroll(plan, start, horizon, deterministic, generator)
        trajectory = describe_rollout(self, rollout, self.observation_codec, self.action_codec)
        return trajectory.first() if single else trajectory

    @abstractmethod
    def unroll(
        self,
        policy_or_actions: Policy | th.Tensor,
        state: LatentState,
        horizon: int,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> ImaginedRollout:
        """
        Dream ahead from latent states.

        :param policy_or_actions: chooses the actions, or the actions themselves ``(N, H, A)``
        :param state: where to start, ``(N, ...)``
        :param horizon: H
        :param deterministic: modes of the prior, no samples
        :param generator: where the samples' randomness comes from, torch's own by default
        :return: ``H + 1`` states and the ``H`` actions between them
        """

    # ---- learning, judging, dreaming

    def fit(self, dataset: EpisodeDataset, updates: int | None = None, **kwargs: Any) -> FitHistory:
        """
        Learn from a data set; see :func:`~sb3_dreamer.world_models.fitting.fit`, which has the arguments.

        :param dataset: episodes
        :param updates: how many
        :param kwargs: of ``fit``
        :return: every loss along the way
        """
        from sb3_dreamer.world_models.fitting import fit

        return fit(self, dataset, updates, **kwargs)

    def evaluate(self, dataset: EpisodeDataset, **kwargs: Any) -> ModelEvaluation:
        """
        :param dataset: episodes the model has not learnt from
        :param kwargs: of :func:`~sb3_dreamer.world_models.evaluation.evaluate_model`
        :return: errors by output and horizon
        """
        from sb3_dreamer.world_models.evaluation import evaluate_model

        return evaluate_model(self, dataset, **kwargs)

    @overload
    def as_env(self, starts: EpisodeDataset | None = None, n_envs: None = None, **kwargs: Any) -> DreamEnv: ...

    @overload
    def as_env(self, starts: EpisodeDataset | None, n_envs: int, **kwargs: Any) -> DreamVecEnv: ...

    def as_env(self, starts: EpisodeDataset | None = None, n_envs: int | None = None, **kwargs: Any) -> DreamEnv | DreamVecEnv:
        """
        The dream as an environment: Gymnasium's, or an SB3 VecEnv of many dreams side by side, on the model's device.

        :param starts: episodes whose observations dreams start with; None for those the model was fitted to
        :param n_envs: how many dreams; None for one, with Gymnasium's interface
        :param kwargs: of :class:`~sb3_dreamer.world_models.dream.DreamVecEnv`
        :return: the environment
        :raises ValueError: no episodes were given, and the model was not fitted since it was made or loaded
        """
        if starts is None:
            if self._fitted_to is None:
                raise ValueError("as_env needs episodes to start dreams from: as_env(dataset).")
            starts = self._fitted_to
        from sb3_dreamer.world_models.dream import DreamEnv, DreamVecEnv

        return DreamEnv(self, starts, **kwargs) if n_envs is None else DreamVecEnv(self, starts, n_envs, **kwargs)
