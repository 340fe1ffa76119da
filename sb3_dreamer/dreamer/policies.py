"""Dreamer's networks as one SB3 policy: world model, actor, critic, and their slow copies."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch as th
import torch.nn as nn
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule

from sb3_dreamer.behaviour.exploring import Explorer, ExploringPolicy
from sb3_dreamer.behaviour.networks import track_range
from sb3_dreamer.behaviour.policy import Exploration
from sb3_dreamer.common.averaging import Followers, frozen_copy
from sb3_dreamer.common.recurrent_policy import PicturePolicy
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models import RSSM, ModelSize, WorldModel


class DreamerPolicy(ExploringPolicy):
    """
    World model, actor and critic; the slow critic, the range of the returns, and a Polyak average of world model and
    actor, which :meth:`predict` uses: it is steadier than the networks in training. While exploring, another actor collects
    most of the data, with critics of its own. All of it is saved with the policy.

    :param observation_space: observations
    :param action_space: actions
    :param lr_schedule: learning rate by remaining progress
    :param gamma: discount factor
    :param size: widths and depths: a name of :data:`~sb3_dreamer.world_models.SIZES` or a ModelSize
    :param latent: of an RSSM: ``"categorical"`` or ``"gaussian"``; None for the latter
    :param world_model_class: the world model: :class:`~sb3_dreamer.world_models.RSSM`,
        :class:`~sb3_dreamer.world_models.VAEWorldModel`, :class:`~sb3_dreamer.world_models.MLPWorldModel`, or one of your own
    :param world_model_kwargs: its arguments, over its ``small_task_kwargs``
    :param features_extractor_class: an SB3 features extractor as the world model's encoder (for predictions by
        :attr:`world_model`; what it encodes is learnt from all of the model's losses); None for the model's own
    :param features_extractor_kwargs: its arguments
    :param normalize_images: divide images by 255; False for pictures that are floats between 0 and 1 already
    :param actor_kwargs: ``min_std``, ``max_std`` (continuous actions), ``unimix`` (discrete ones)
    :param exploration: what is worth exploring, the algorithm's argument
    :param curiosity_kwargs: of what is explored: ``members``, ``units``, ``layers`` (``"plan2explore"``), the arguments of
        :class:`~sb3_dreamer.behaviour.goals.GoalAutoencoder` (``"reconstruction"``), ``particles``, ``neighbours``
        (``"state_entropy"``)
    :param precision: ``"fp32"``, or ``"bf16"`` for updates with matrix products and convolutions in bfloat16: weights,
        states, normalisations, distributions and losses stay in float32. Faster where networks are not tiny, on GPUs and
        on CPUs with such instructions (``avx512_bf16``, ``amx_bf16``)
    :param compile: compile the unrolls of the world model, over replayed sequences and in imagination, with
        ``torch.compile``: worth its minutes in long runs
    :param optimizer_class: optimizer of all networks
    :param optimizer_kwargs: its arguments, but the learning rate
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        gamma: float = 0.99,
        size: str | ModelSize = "toy",
        latent: Literal["categorical", "gaussian"] | None = None,
        world_model_class: type[WorldModel] = RSSM,
        world_model_kwargs: dict[str, Any] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        actor_kwargs: dict[str, Any] | None = None,
        exploration: Exploration | None = None,
        curiosity_kwargs: dict[str, Any] | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_images)
        self._constructor = dict(
            lr_schedule=self._dummy_schedule,  # as SB3: a policy alone does not learn
            gamma=gamma,
            size=size,
            latent=latent,
            world_model_class=world_model_class,
            world_model_kwargs=world_model_kwargs,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            actor_kwargs=actor_kwargs,
            exploration=exploration,
            curiosity_kwargs=curiosity_kwargs,
            precision=precision,
            compile=compile,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self._set_precision(precision, compile)
        self.world_model = self._make_world_model(
            gamma,
            size,
            latent,
            world_model_class,
            world_model_kwargs,
            features_extractor_class,
            features_extractor_kwargs,
        )
        self.actor, self.critic = self._new_actor(), self._new_critic()
        self.slow_critic = frozen_copy(self.critic)
        self.explorer: Explorer | None = None
        if exploration is not None:
            self.explorer = self._new_explorer(self._new_curiosity(exploration, curiosity_kwargs))
        elif curiosity_kwargs:
            raise ValueError("curiosity_kwargs need an exploration.")
        self.average_actor = frozen_copy(self.actor)
        self._slow = self._list_slow()
        self._keep_averages((self.average_actor, self.actor))
        self.register_buffer("return_low", th.zeros(()))
        self.register_buffer("return_high", th.zeros(()))
        self.return_low: th.Tensor
        self.return_high: th.Tensor
        self.optimizer = self._make_optimizer(optimizer_class, optimizer_kwargs, lr_schedule)

    def trained_modules(self) -> dict[str, nn.Module]:
        """:return: the networks that the optimizer changes, by the name of their parameter group"""
        modules: dict[str, nn.Module] = {"world_model": self.world_model, "actor": self.actor, "critic": self.critic}
        if self.explorer is not None:
            modules.update(self.explorer.trained_modules())
            if list(self.explorer.curiosity.parameters()):
                modules[self.explorer.curiosity.name] = self.explorer.curiosity
        return modules

    def _list_slow(self) -> Followers:
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.slow_critic, self.critic)]
        if self.explorer is not None:
            pairs.extend(self.explorer.slow_pairs())
        return Followers(pairs)

    def stop_exploring(self, anew: bool) -> None:
        """
        Forget what exploring has learnt. The world model stays.

        :param anew: actor and critic begin anew as well, for another task
        """
        self.explorer = None
        self._constructor.update(exploration=None, curiosity_kwargs=None)
        self._slow = self._list_slow()
        groups = self.optimizer.param_groups
        groups[:] = [group for group in groups if group["name"] in self.trained_modules()]
        kept = {parameter for group in groups for parameter in group["params"]}
        if anew:
            for module, fresh in ((self.actor, self._new_actor()), (self.critic, self._new_critic())):
                module.load_state_dict(fresh.state_dict())
            self.slow_critic.load_state_dict(self.critic.state_dict())
            self.average_actor.load_state_dict(self.actor.state_dict())
            for number in (self.return_low, self.return_high, self.averaged_updates):
                number.zero_()
            kept = set(self.world_model.parameters())
        for parameter in [parameter for parameter in self.optimizer.state if parameter not in kept]:
            del self.optimizer.state[parameter]

    # ---- acting

    def choose_action(self, state: LatentState, deterministic: bool, evaluation: bool) -> th.Tensor:
        actor = self.average_actor if evaluation and self._averaged else self.actor
        policy = actor(state.feat)
        if deterministic:
            return policy.mode
        generator = self.predict_generator if evaluation else None
        return policy.sample(actor.noise(tuple(state.deter.shape[:-1]), state.deter, generator))

    # ---- what changes beside the gradients

    @th.no_grad()
    def update_return_range(self, returns: th.Tensor, rate: float = 0.01, limit: float = 1.0) -> th.Tensor:
        """
        Track the 5th and 95th percentile of the returns, ``p <- (1 - rate) p + rate p_now`` from 0 (DreamerV3, eq. 7).

        :param returns: imagined returns, any shape
        :param rate: of the running averages
        :param limit: smallest scale, so that small returns are not blown up
        :return: what to divide advantages by, scalar
        """
        return track_range(self.return_low, self.return_high, returns, rate, limit)


MlpPolicy = DreamerPolicy


class CnnPolicy(PicturePolicy, DreamerPolicy):
    """The policy for images: encoder and decoder of the world model are convolutional."""


class MultiInputPolicy(DreamerPolicy):
    """The policy for dictionaries: images among their keys go through convolutions, all else through an MLP."""

    convolve: ClassVar[bool] = True
