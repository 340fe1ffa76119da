"""What policies share whose actors learn in imagination: a world model, copies that follow the networks, an optimizer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import torch as th
import torch.nn as nn
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule

from sb3_dreamer.behaviour.curiosity import Curiosity, Disagreement, StateEntropy
from sb3_dreamer.behaviour.goals import GoalAutoencoder
from sb3_dreamer.behaviour.networks import Critic
from sb3_dreamer.common.arguments import constructor_arguments
from sb3_dreamer.common.averaging import AveragedModelPolicy, Followers
from sb3_dreamer.common.extractors import ExtractorEncoder
from sb3_dreamer.common.networks import Norm
from sb3_dreamer.common.world_model import WorldModel, check_model_arguments
from sb3_dreamer.world_models import RSSM, ModelSize, StandaloneWorldModel
from sb3_dreamer.world_models.sizes import get_size

Exploration = Literal["plan2explore", "reconstruction", "state_entropy"]
"""What is worth exploring: see the three classes of :class:`~sb3_dreamer.behaviour.curiosity.Curiosity`."""


def check_exploration(exploration: str | None, *others: None) -> None:
    """
    :param exploration: the argument
    :param others: what else it may be
    :raises ValueError: it is none of these
    """
    known = (*get_args(Exploration), *others)
    if exploration not in known:
        raise ValueError(f"exploration must be one of {', '.join(map(repr, known))}, got {exploration!r}.")


class ImaginationPolicy(AveragedModelPolicy):
    """
    Base of policies whose actors learn from what a world model imagines. A subclass makes its networks, and says which ones
    are trained and which ones :meth:`predict` uses a Polyak average of.
    """

    _slow: Followers
    _sizes: ModelSize
    _norm: Norm

    @abstractmethod
    def trained_modules(self) -> dict[str, nn.Module]:
        """:return: the networks that the optimizer changes, by the name of their parameter group"""

    def _make_world_model(
        self,
        gamma: float,
        size: str | ModelSize,
        latent: str | None,
        world_model_class: type[WorldModel],
        world_model_kwargs: dict[str, Any] | None,
        features_extractor_class: type[BaseFeaturesExtractor] | None,
        features_extractor_kwargs: dict[str, Any] | None,
        base: type = WorldModel,
    ) -> WorldModel:
        """
        Sizes and normalisation of the other networks are then known as well. Arguments: see
        :class:`~sb3_dreamer.dreamer.policies.DreamerPolicy`.

        :param base: what the class must derive from
        :return: the world model
        """
        sizes = get_size(size)
        from_elsewhere = ("keys", "action_size", "size", "gamma", "encoder")
        check_model_arguments(world_model_class, base, world_model_kwargs, from_elsewhere)
        model_kwargs = {**world_model_class.small_task_kwargs, **(world_model_kwargs or {})}
        if latent is not None:
            model_kwargs["latent"] = latent
        if features_extractor_class is not None:
            model_kwargs["encoder"] = self._make_encoder(features_extractor_class, features_extractor_kwargs)
        elif features_extractor_kwargs:
            raise ValueError("features_extractor_kwargs need a features_extractor_class.")
        check_model_arguments(world_model_class, base, model_kwargs)
        self._sizes, self._norm = sizes, model_kwargs.get("norm", "rms")
        model = world_model_class(
            keys=self.observation_codec.keys,
            action_size=self.action_codec.size,
            size=sizes,
            gamma=gamma,
            **model_kwargs,
        )
        if isinstance(model, StandaloneWorldModel):
            model.attach(self.observation_codec, self.action_codec)
        return model

    def _new_curiosity(self, exploration: Exploration, kwargs: dict[str, Any] | None) -> Curiosity:
        """
        :param exploration: which one
        :param kwargs: its arguments, over what follows from the world model
        :raises ValueError: it is about deterministic states, and the world model has none
        """
        check_exploration(exploration)
        model, given = self.world_model, kwargs or {}
        kind = {"plan2explore": Disagreement, "reconstruction": GoalAutoencoder, "state_entropy": StateEntropy}[exploration]
        accepted, _ = constructor_arguments(kind)
        free = [name for name in accepted if name != "decode" and not name.endswith("_size")]  # the rest is the model's
        unknown = [name for name in given if name not in free]
        if unknown:
            raise ValueError(
                f"curiosity_kwargs has {', '.join(map(repr, unknown))}, but {exploration!r} takes {', '.join(free)}."
            )
        widths: dict[str, Any] = {"units": self._sizes.units, "layers": self._sizes.layers}
        if exploration == "plan2explore":
            return Disagreement(model.feat_size, self.action_codec.size, model.stoch_size, **{**widths, **given})
        if exploration == "state_entropy":
            return StateEntropy(model.decode, sum(key.size for key in self.observation_codec.keys), **given)
        if not isinstance(model, RSSM):
            raise ValueError(
                f"exploration={exploration!r} is about deterministic states, of which {type(model).__name__} has none: "
                "use an RSSM."
            )
        return GoalAutoencoder(model.deter_size, **{**widths, "norm": self._norm, **given})

    def _make_encoder(self, extractor_class: type[BaseFeaturesExtractor], kwargs: dict[str, Any] | None) -> ExtractorEncoder:
        extractor = extractor_class(self.observation_space, **(kwargs or {}))
        return ExtractorEncoder(extractor, self.observation_codec.keys, isinstance(self.observation_space, spaces.Dict))

    def _set_precision(self, precision: Literal["fp32", "bf16"], compile: bool) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', got {precision!r}.")
        self.precision, self.compiles = precision, compile

    def _new_critic(self, in_features: int | None = None) -> Critic:
        sizes = self._sizes
        return Critic(in_features or self.world_model.feat_size, sizes.units, sizes.layers, sizes.bins, self._norm)

    def _make_optimizer(
        self, optimizer_class: type[th.optim.Optimizer], optimizer_kwargs: dict[str, Any] | None, lr_schedule: Schedule
    ) -> th.optim.Optimizer:
        """:return: the optimizer of :meth:`trained_modules`, a parameter group each"""
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = dict(fused=True)  # the same update in one operation
        groups = [
            dict(params=list(module.parameters()), name=name, lr=lr_schedule(1))
            for name, module in self.trained_modules().items()
        ]
        return optimizer_class(groups, **(optimizer_kwargs or {}))

    def autocast(self) -> th.autocast:
        """:return: the context in which an update computes its losses"""
        return th.autocast(self.device.type, th.bfloat16, enabled=self.precision == "bf16")

    def update_slow_critic(self, rate: float) -> None:
        """
        :param rate: share of the online critic
        """
        self._slow.follow(rate)
