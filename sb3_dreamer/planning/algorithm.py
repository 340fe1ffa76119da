"""What algorithms without an actor share: arguments of the planner, a learning rate, and dreams of what is planned."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th

from sb3_dreamer.common.arguments import check_numbers, check_rate
from sb3_dreamer.common.model_based_algorithm import ModelBasedAlgorithm
from sb3_dreamer.planning.imagination import imagine_from_observations
from sb3_dreamer.planning.planners import Method
from sb3_dreamer.planning.policy import PlanningPolicy
from sb3_dreamer.world_models.trajectories import ImaginedTrajectory


class PlanningAlgorithm(ModelBasedAlgorithm):
    """Base of algorithms that plan in the dreams of their world model. A subclass sets what is declared here."""

    policy: PlanningPolicy
    planner: Method
    planner_kwargs: dict[str, Any] | None
    particles: int | None
    replan_every: int
    exploration_noise: float

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_numbers(self, whole=("particles", "replan_every"), optional=("particles",), minimum=1)
        rates = () if callable(self.learning_rate) else ("learning_rate",)
        check_numbers(self, real=("exploration_noise", *rates))

    def _policy_arguments(self) -> dict[str, Any]:
        return dict(
            planner=self.planner,
            planner_kwargs=self.planner_kwargs,
            particles=self.particles,
            replan_every=self.replan_every,
            noise=self.exploration_noise,
            **super()._policy_arguments(),
        )

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        remaining = self._current_progress_remaining
        check_rate(self.lr_schedule(remaining), "world_model", remaining)
        super()._update_learning_rate(optimizers)

    def imagine(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        horizon: int,
        actions: np.ndarray | None = None,
        state: tuple[np.ndarray, ...] | None = None,
        deterministic: bool = True,
    ) -> ImaginedTrajectory:
        """
        What the model expects to happen after an observation.

        :param obs: one observation, or a batch of n
        :param horizon: steps to imagine
        :param actions: actions of the action space to imagine with, ``(horizon, ...)`` for one observation or
            ``(n, horizon, ...)`` for a batch; None to plan at every step of the dream
        :param state: the state that :meth:`predict` returned for the observation before, None at an episode's start
        :param deterministic: modes instead of samples
        :return: observations, rewards, continue probabilities and actions
        """
        return imagine_from_observations(self.policy, obs, horizon, actions, state, deterministic)
