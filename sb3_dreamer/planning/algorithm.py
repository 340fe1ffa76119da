"""What algorithms without an actor share: arguments of the planner, a learning rate, and dreams of what is planned."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_dreamer.common.arguments import check_numbers, check_scheduled
from sb3_dreamer.planning.imagination import DreamingAlgorithm
from sb3_dreamer.planning.planners import Method
from sb3_dreamer.planning.policy import PlanningPolicy


class PlanningAlgorithm(DreamingAlgorithm):
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
        check_scheduled(self.lr_schedule(remaining), "learning rate of the world_model", remaining)
        super()._update_learning_rate(optimizers)
