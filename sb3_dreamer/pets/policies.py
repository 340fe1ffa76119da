"""The policy of PETS: a probabilistic world model and a planner."""

from __future__ import annotations

from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import update_learning_rate

from sb3_dreamer.common.world_model import check_model_arguments
from sb3_dreamer.planning.policy import PlanningPolicy
from sb3_dreamer.world_models import EnsembleWorldModel, ModelSize, ProbabilisticWorldModel
from sb3_dreamer.world_models.ensemble_fitting import make_optimizer


class PETSPolicy(PlanningPolicy):
    """
    :param observation_space: observations, all that matters in them (no images)
    :param action_space: actions
    :param lr_schedule: learning rate by remaining progress
    :param gamma: discount factor
    :param size: width and depth of the networks, by name or as a ModelSize
    :param world_model_class: :class:`~sb3_dreamer.world_models.EnsembleWorldModel`, or another that says how sure it is
    :param world_model_kwargs: its arguments: ``n_members``, ``n_elites``, ``units``, ``layers``, ``propagation``,
        ``reward_fn``, ``termination_fn`` ...
    :param normalize_images: SB3's
    :param particles: dreams of each candidate, 1 for that of the mean of all members; None for one an elite member, or 1 if
        ``propagation="expectation"``
    :param planning: further arguments of :class:`~sb3_dreamer.planning.policy.PlanningPolicy`
    """

    world_model: ProbabilisticWorldModel

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        gamma: float = 0.99,
        size: str | ModelSize = "small",
        world_model_class: type[ProbabilisticWorldModel] = EnsembleWorldModel,
        world_model_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        particles: int | None = None,
        **planning: Any,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            normalize_images=normalize_images,
            particles=1 if particles is None else particles,
            **planning,
        )
        self._constructor = dict(
            lr_schedule=self._dummy_schedule,  # as SB3: a policy alone does not learn
            gamma=gamma,
            size=size,
            world_model_class=world_model_class,
            world_model_kwargs=world_model_kwargs,
            normalize_images=normalize_images,
            particles=particles,
            **planning,
        )
        from_elsewhere = ("keys", "action_size", "size", "gamma")
        check_model_arguments(world_model_class, ProbabilisticWorldModel, world_model_kwargs, from_elsewhere)
        self.world_model = world_model_class(
            keys=self.observation_codec.keys,
            action_size=self.action_codec.size,
            size=size,
            gamma=gamma,
            **(world_model_kwargs or {}),
        )
        self.world_model.attach(self.observation_codec, self.action_codec)
        if particles is None and self.world_model.propagation != "expectation":  # of which all dreams would be alike
            self.particles = len(self.world_model.elites)
        self.optimizer = make_optimizer(self.world_model)
        update_learning_rate(self.optimizer, lr_schedule(1))

    def update_statistics(self, obs: Any, reward: Any) -> None:
        """Nothing: a fit sees all data."""


MlpPolicy = PETSPolicy


class MultiInputPolicy(PETSPolicy):
    """The policy for dictionaries, without images among their keys."""

    convolve: ClassVar[bool] = True  # for images to be told from vectors, and refused
