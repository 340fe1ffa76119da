"""The policy of PlaNet: a world model with a memory, an average of it, and a planner."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from sb3_dreamer.common.averaging import AveragedModelPolicy
from sb3_dreamer.common.recurrent_policy import PicturePolicy
from sb3_dreamer.common.world_model import WorldModel, check_model_arguments
from sb3_dreamer.planning.policy import PlanningPolicy
from sb3_dreamer.world_models import RSSM, ModelSize, StandaloneWorldModel


class PlaNetPolicy(AveragedModelPolicy, PlanningPolicy):
    """
    Plans in the latent space of the world model in training; :meth:`predict` in that of its Polyak average, which is steadier.

    :param observation_space: observations
    :param action_space: actions
    :param lr_schedule: learning rate by remaining progress
    :param gamma: discount factor
    :param size: widths and depths, by name or as a ModelSize
    :param world_model_class: the world model, see :class:`~sb3_dreamer.dreamer.policies.DreamerPolicy`
    :param world_model_kwargs: its arguments, over its ``small_task_kwargs``
    :param normalize_images: divide images by 255; False for pictures that are floats between 0 and 1 already
    :param optimizer_class: optimizer of the world model
    :param optimizer_kwargs: its arguments, but the learning rate
    :param planning: further arguments of :class:`~sb3_dreamer.planning.policy.PlanningPolicy`
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        gamma: float = 0.99,
        size: str | ModelSize = "toy",
        world_model_class: type[WorldModel] = RSSM,
        world_model_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **planning: Any,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_images=normalize_images, **planning)
        self._constructor = dict(
            lr_schedule=self._dummy_schedule,  # as SB3: a policy alone does not learn
            gamma=gamma,
            size=size,
            world_model_class=world_model_class,
            world_model_kwargs=world_model_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **planning,
        )
        check_model_arguments(world_model_class, WorldModel, world_model_kwargs, ("keys", "action_size", "size", "gamma"))
        self.world_model = world_model_class(
            keys=self.observation_codec.keys,
            action_size=self.action_codec.size,
            size=size,
            gamma=gamma,
            **{**world_model_class.small_task_kwargs, **(world_model_kwargs or {})},
        )
        if isinstance(self.world_model, StandaloneWorldModel):
            self.world_model.attach(self.observation_codec, self.action_codec)
        self._keep_averages()
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = dict(fused=True)  # the same update in one operation
        group = dict(params=list(self.world_model.parameters()), lr=lr_schedule(1))
        self.optimizer = optimizer_class([group], **(optimizer_kwargs or {}))


MlpPolicy = PlaNetPolicy


class CnnPolicy(PicturePolicy, PlaNetPolicy):
    """The policy for images: encoder and decoder of the world model are convolutional."""


class MultiInputPolicy(PlaNetPolicy):
    """The policy for dictionaries: images among their keys go through convolutions, all else through an MLP."""

    convolve: ClassVar[bool] = True
