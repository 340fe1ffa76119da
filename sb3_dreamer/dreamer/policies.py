"""Dreamer's networks as one SB3 policy: world model, actor, critic, and their slow copies."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch as th
import torch.nn as nn
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule

from sb3_dreamer.common.distributions import ActionDistribution, BoundedNormal, OneHotCategorical, OneHotGroups, TwoHot
from sb3_dreamer.common.extractors import ExtractorEncoder
from sb3_dreamer.common.math import percentile_range, random_like, symexp_bins
from sb3_dreamer.common.networks import MLP, Linear, Norm
from sb3_dreamer.common.preprocessing import is_picture
from sb3_dreamer.common.recurrent_policy import RecurrentModelPolicy
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models import RSSM, ModelSize, StandaloneWorldModel, WorldModel
from sb3_dreamer.world_models.sizes import get_size


class Actor(nn.Module):
    """
    The policy network: features to a distribution over actions.

    :param feat_size: F
    :param action_size: A
    :param classes: choices of every discrete action; empty for numbers
    :param units: width
    :param layers: hidden layers
    :param norm: kind of normalisation
    :param min_std: smallest standard deviation (continuous)
    :param max_std: largest one
    :param unimix: share of the uniform distribution (discrete)
    """

    def __init__(
        self,
        feat_size: int,
        action_size: int,
        classes: Sequence[int],
        units: int,
        layers: int,
        norm: Norm,
        min_std: float = 0.1,
        max_std: float = 1.0,
        unimix: float = 0.01,
    ) -> None:
        super().__init__()
        self.action_size = action_size
        self.groups = OneHotGroups(classes) if classes else None
        self.min_std, self.max_std, self.unimix = min_std, max_std, unimix
        self.trunk = MLP(feat_size, units, layers, norm=norm)
        self.mean = Linear(units, action_size, scale=0.01)  # or the logits
        self.std = None if classes else Linear(units, action_size, scale=0.01)

    def forward(self, feat: th.Tensor) -> ActionDistribution:
        """
        :param feat: ``(..., F)``
        :return: distribution over actions ``(..., A)``
        """
        hidden = self.trunk(feat)
        if self.groups is not None:
            return OneHotCategorical(self.mean(hidden).float(), self.groups, self.unimix)
        assert self.std is not None
        std = self.min_std + (self.max_std - self.min_std) * th.sigmoid(self.std(hidden).float() + 2.0)
        return BoundedNormal(self.mean(hidden).float(), std)

    def noise(self, shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param shape: batch shape
        :param like: a tensor on the device wanted
        :param generator: where the randomness comes from, torch's own by default
        :return: what the distribution's ``sample`` needs, ``(*shape, A)``
        """
        return random_like("exponential" if self.groups else "normal", (*shape, self.action_size), like, generator)


class Critic(nn.Module):
    """
    The value network: features to a symexp two-hot distribution, exactly 0 at first.

    :param feat_size: F
    :param units: width
    :param layers: hidden layers
    :param bins: number of bins
    :param norm: kind of normalisation
    """

    def __init__(self, feat_size: int, units: int, layers: int, bins: int, norm: Norm) -> None:
        super().__init__()
        self.net = MLP(feat_size, units, layers, bins, norm, out_scale=0.0)
        self.register_buffer("bins", symexp_bins(bins), persistent=False)
        self.bins: th.Tensor

    def forward(self, feat: th.Tensor) -> TwoHot:
        """
        :param feat: ``(..., F)``
        :return: distribution over values ``(...)``
        """
        return TwoHot(self.net(feat), self.bins)


class DreamerPolicy(RecurrentModelPolicy):
    """
    World model, actor and critic; the slow critic, the range of the returns, and a Polyak average of world model and
    actor, which :meth:`predict` uses: it is steadier than the networks in training. All of it is saved with the policy.

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
            precision=precision,
            compile=compile,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', got {precision!r}.")
        self.precision, self.compiles = precision, compile
        sizes = get_size(size)
        if not (isinstance(world_model_class, type) and issubclass(world_model_class, WorldModel)):
            raise ValueError(
                f"world_model_class must be a class of world models, such as RSSM, got {world_model_class!r:.100}."
            )
        taken = [name for name in ("keys", "action_size", "size", "gamma", "encoder") if name in (world_model_kwargs or {})]
        if taken:
            raise ValueError(
                f"world_model_kwargs must not hold {', '.join(taken)}: size and features_extractor_class are arguments of the "
                "policy, gamma of the algorithm, the rest comes from the environment."
            )
        model_kwargs = {**world_model_class.small_task_kwargs, **(world_model_kwargs or {})}
        if latent is not None:
            model_kwargs["latent"] = latent
        if features_extractor_class is not None:
            model_kwargs["encoder"] = self._make_encoder(features_extractor_class, features_extractor_kwargs)
        elif features_extractor_kwargs:
            raise ValueError("features_extractor_kwargs need a features_extractor_class.")
        accepted = inspect.signature(world_model_class).parameters
        unknown = [name for name in model_kwargs if name not in accepted]
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            raise ValueError(
                f"{world_model_class.__name__} has no argument {', '.join(map(repr, unknown))}, only {', '.join(accepted)}."
            )
        norm: Norm = model_kwargs.get("norm", "rms")
        self.world_model = world_model_class(
            keys=self.observation_codec.keys,
            action_size=self.action_codec.size,
            size=sizes,
            gamma=gamma,
            **model_kwargs,
        )
        if isinstance(self.world_model, StandaloneWorldModel):
            self.world_model.attach(self.observation_codec, self.action_codec)
        feat_size = self.world_model.feat_size
        self.actor = Actor(
            feat_size,
            self.action_codec.size,
            self.action_codec.classes,
            sizes.units,
            sizes.layers,
            norm,
            **(actor_kwargs or {}),
        )
        self.critic = Critic(feat_size, sizes.units, sizes.layers, sizes.bins, norm)
        self.slow_critic = _frozen_copy(self.critic)
        self.average_world_model = _frozen_copy(self.world_model)
        self.average_actor = _frozen_copy(self.actor)
        self._slow = _tensors(self.slow_critic, self.critic)
        self._averages = _tensors(
            nn.ModuleList([self.average_world_model, self.average_actor]), nn.ModuleList([self.world_model, self.actor])
        )
        self.register_buffer("return_low", th.zeros(()))
        self.register_buffer("return_high", th.zeros(()))
        self.register_buffer("averaged_updates", th.zeros((), dtype=th.int64))
        self.return_low: th.Tensor
        self.return_high: th.Tensor
        self.averaged_updates: th.Tensor
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = dict(fused=True)  # the same update in one operation
        self.optimizer = optimizer_class(
            [
                dict(params=list(module.parameters()), name=name, lr=lr_schedule(1))
                for name, module in self.trained_modules().items()
            ],
            **(optimizer_kwargs or {}),
        )

    def _make_encoder(self, extractor_class: type[BaseFeaturesExtractor], kwargs: dict[str, Any] | None) -> ExtractorEncoder:
        extractor = extractor_class(self.observation_space, **(kwargs or {}))
        return ExtractorEncoder(extractor, self.observation_codec.keys, isinstance(self.observation_space, spaces.Dict))

    def trained_modules(self) -> dict[str, nn.Module]:
        """:return: the networks that the optimizer changes, by the name of their parameter group"""
        return {"world_model": self.world_model, "actor": self.actor, "critic": self.critic}

    def autocast(self) -> th.autocast:
        """:return: the context in which an update computes its losses"""
        return th.autocast(self.device.type, th.bfloat16, enabled=self.precision == "bf16")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(observation_space=self.observation_space, action_space=self.action_space, **self._constructor)

    # ---- acting

    @property
    def _averaged(self) -> bool:
        return bool(self.averaged_updates > 0)

    def acting_model(self, evaluation: bool) -> WorldModel:
        return self.average_world_model if evaluation and self._averaged else self.world_model

    def acting_actor(self, evaluation: bool) -> Actor:
        """
        :param evaluation: for :meth:`predict`, not for collecting data
        :return: the actor that chooses actions
        """
        return self.average_actor if evaluation and self._averaged else self.actor

    def choose_action(self, state: LatentState, deterministic: bool, evaluation: bool) -> th.Tensor:
        actor = self.acting_actor(evaluation)
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
        low, high = percentile_range(returns)
        # of an update that will be skipped; a running average would never forget it
        low, high = th.where(th.isfinite(low), low, self.return_low), th.where(th.isfinite(high), high, self.return_high)
        self.return_low.lerp_(low, rate)
        self.return_high.lerp_(high, rate)
        return (self.return_high - self.return_low).clamp_min(limit)

    @th.no_grad()
    def update_slow_critic(self, rate: float) -> None:
        """
        :param rate: share of the online critic
        """
        th._foreach_lerp_(self._slow.copies, self._slow.originals, rate)

    @th.no_grad()
    def update_average(self, rate: float) -> None:
        """
        Move the average of world model and actor towards the networks in training. The rate is at least 24 over the
        number of updates, so that the average keeps up at first.

        :param rate: share of the networks in training
        """
        self.averaged_updates += 1
        rate = min(1.0, max(rate, 24.0 / int(self.averaged_updates)))
        th._foreach_lerp_(self._averages.copies, self._averages.originals, rate)
        th._foreach_copy_(self._averages.buffer_copies, self._averages.buffers)


def _frozen_copy(module: Any) -> Any:
    return copy.deepcopy(module).requires_grad_(False)


class _Tensors(NamedTuple):
    """What a copy of networks follows, listed once: to go through all modules takes as long as the arithmetic."""

    copies: list[th.Tensor]
    originals: list[th.Tensor]
    buffer_copies: list[th.Tensor]
    buffers: list[th.Tensor]


def _tensors(copied: nn.Module, original: nn.Module) -> _Tensors:
    return _Tensors(list(copied.parameters()), list(original.parameters()), list(copied.buffers()), list(original.buffers()))


MlpPolicy = DreamerPolicy


class CnnPolicy(DreamerPolicy):
    """The policy for images: encoder and decoder of the world model are convolutional."""

    convolve: ClassVar[bool] = True

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, *args: Any, **kwargs: Any) -> None:
        if not is_picture(observation_space, kwargs.get("normalize_images", True)):
            raise ValueError(
                f"CnnPolicy is for images, not for {observation_space}: images are uint8 with bounds 0 and 255 (or pass "
                "policy_kwargs=dict(normalize_images=False) for floats). Otherwise use MlpPolicy, or MultiInputPolicy."
            )
        super().__init__(observation_space, action_space, *args, **kwargs)


class MultiInputPolicy(DreamerPolicy):
    """The policy for dictionaries: images among their keys go through convolutions, all else through an MLP."""

    convolve: ClassVar[bool] = True
