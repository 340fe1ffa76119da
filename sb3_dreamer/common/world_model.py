"""The one interface of world models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.arguments import constructor_arguments
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch

Policy = Callable[[th.Tensor], th.Tensor]
"""Features ``(N, F)`` to actions in the model's space ``(N, A)``."""


class WorldModel(nn.Module, ABC):
    """
    A model of an environment in a latent space. Observations come as a dictionary of preprocessed tensors
    (:class:`~sb3_dreamer.common.preprocessing.ObservationCodec`), actions in ``[-1, 1]`` or one-hot.
    """

    small_task_kwargs: ClassVar[dict[str, Any]] = {}
    """Arguments that suit small tasks, over the constructor's defaults, which are the published ones."""
    learns_from_sequences: ClassVar[bool] = True
    """Whether :meth:`loss` on replayed windows is all that it learns from; else it is fitted to single steps."""
    usual_window: ClassVar[int | None] = None
    """Rows a window, where an algorithm is told none; None for what it takes by itself."""
    shares_randomness: ClassVar[bool] = False
    """Whether :meth:`imagine` heeds a :class:`~sb3_dreamer.common.math.SharedGenerator`: who overrides that must do so too."""
    deter_size: int
    stoch_size: int
    gamma: float
    """Discount factor, part of :meth:`predict_discount`."""
    loss_scales: dict[str, float]
    """Weight of every loss that :meth:`loss` returns."""

    @property
    def feat_size(self) -> int:
        """F, the number of features of a state."""
        return self.deter_size + self.stoch_size

    def initial_state(self, batch_size: int) -> LatentState:
        """
        :param batch_size: B
        :return: the state before any observation: zeros
        """
        like = next(self.parameters())
        return LatentState(
            th.zeros(batch_size, self.deter_size, device=like.device),
            th.zeros(batch_size, self.stoch_size, device=like.device),
        )

    def renew_reward_scale(self, reward: th.Tensor) -> None:
        """
        Rewards are others from now on: forget how large they were.

        :param reward: new ones, ``(n,)``
        """

    def after_episode(self, deter: np.ndarray) -> np.ndarray:
        """
        :param deter: deterministic states at the last observations that were acted on, ``(n, D)``
        :return: what of them the next episode may still use, ``(n, D)``: nothing, or what is known of the task
        """
        return np.zeros_like(deter)

    @abstractmethod
    def observe_step(
        self,
        obs: dict[str, th.Tensor],
        prev_action: th.Tensor,
        is_first: th.Tensor,
        state: LatentState,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> LatentState:
        """
        One step of filtering, for acting.

        :param obs: ``(B, ...)`` a key
        :param prev_action: ``(B, A)``
        :param is_first: where the state and the action before are to be forgotten, ``(B,)``
        :param state: the state before
        :param deterministic: the mode of the posterior, no sample
        :param generator: where the sample's randomness comes from, torch's own by default
        :return: the posterior state
        """

    @abstractmethod
    def observe(self, batch: SequenceBatch, deterministic: bool = False) -> LatentState:
        """
        Filter a batch of sequences.

        :param batch: B sequences of T rows
        :param deterministic: modes of the posteriors, no samples
        :return: posterior states ``(B, T, ...)``
        """

    @abstractmethod
    def imagine(
        self,
        policy_or_actions: Policy | th.Tensor,
        state: LatentState,
        horizon: int,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> ImaginedRollout:
        """
        Dream ahead without observations.

        :param policy_or_actions: chooses the actions, or the actions themselves ``(N, H, A)``
        :param state: where to start, ``(N, ...)``
        :param horizon: H
        :param deterministic: modes of the prior, no samples
        :param generator: where the samples' randomness comes from, torch's own by default
        :return: ``H + 1`` states and the ``H`` actions between them
        """

    @abstractmethod
    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        """
        :param state: ``(..., D)``, ``(..., Z)``
        :return: predicted observations in their own units ``(..., size)``, images ``(..., C, H, W)`` a key
        """

    @abstractmethod
    def predict_reward(self, state: LatentState) -> th.Tensor:
        """
        :param state: ``(..., D)``, ``(..., Z)``
        :return: the expected reward that arrives with the state ``(...)``
        """

    @abstractmethod
    def predict_discount(self, state: LatentState) -> th.Tensor:
        """
        :param state: ``(..., D)``, ``(..., Z)``
        :return: probability that the episode continues after the state, times the discount factor, ``(...)``
        """

    @abstractmethod
    def loss(self, batch: SequenceBatch) -> tuple[LatentState, dict[str, th.Tensor], dict[str, th.Tensor]]:
        """
        :param batch: B sequences of T rows
        :return: posterior states ``(B, T, ...)``, unweighted losses, each ``(B, T)``, with the keys of
            :attr:`loss_scales`, and metrics (scalars)
        """

    def total_loss(self, losses: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param losses: from :meth:`loss`
        :return: the sum of their means, each with its weight, scalar
        """
        return th.stack([self.loss_scales[name] * loss.mean() for name, loss in losses.items()]).sum()

    def row_losses(self, losses: dict[str, th.Tensor]) -> th.Tensor:
        """
        How badly each row of a batch was predicted, beyond what its best tenth has: some of a loss is never 0, such as free
        nats and the entropy of a soft flag, and would make all rows look alike.

        :param losses: from :meth:`loss`, each ``(B, T)`` or of the last rows alone
        :return: their weighted sums less that, at least 0, ``(B, T)``, without gradient
        """
        length = max(loss.shape[1] for loss in losses.values())
        weighted = [
            self.loss_scales[name] * F.pad(loss.detach(), (length - loss.shape[1], 0)) for name, loss in losses.items()
        ]
        total = th.stack(weighted).sum(0)
        # the first rows of windows have no step before them, and in some models fewer losses
        usual = (total[:, 1:] if length > 1 else total).float().quantile(0.1)
        return (total - usual).clamp_min(0.0)

    def update_statistics(self, obs: dict[str, th.Tensor], reward: th.Tensor) -> None:
        """
        Learn what the model needs to know of the scale of observations and rewards; called with every new row.

        :param obs: ``(n, ...)`` a key
        :param reward: ``(n,)``
        """


def check_model_arguments(model_class: Any, base: type, kwargs: Mapping[str, Any] | None, derived: Sequence[str] = ()) -> None:
    """
    :param model_class: what a policy is to make its world model of
    :param base: which it must derive from
    :param kwargs: ``world_model_kwargs``, with all that the policy adds
    :param derived: arguments that come from elsewhere
    :raises ValueError: it is no such class, or does not take the arguments
    """
    if not (isinstance(model_class, type) and issubclass(model_class, base)):
        raise ValueError(f"world_model_class must be a class of world models, a {base.__name__}, got {model_class!r:.100}.")
    if base.learns_from_sequences and not model_class.learns_from_sequences:  # type: ignore[attr-defined]
        raise ValueError(
            f"world_model_class={model_class.__name__} is fitted to single steps, and this algorithm learns from sequences: "
            "use PETS or MBPO with it, or an RSSM, VAEWorldModel or MLPWorldModel here."
        )
    taken = [name for name in derived if name in (kwargs or {})]
    if taken:
        raise ValueError(
            f"world_model_kwargs must not hold {', '.join(taken)}: these are arguments of policy or algorithm, or come from "
            "the environment."
        )
    accepted, open_ended = constructor_arguments(model_class)
    unknown = [name for name in kwargs or {} if name not in accepted]
    if unknown and not open_ended:
        raise ValueError(
            f"{model_class.__name__} has no argument {', '.join(map(repr, unknown))}, only {', '.join(accepted)}."
        )
