"""An SB3 policy without an actor: it plans anew, at every step or every few, in the dreams of its world model."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_dreamer.common.arguments import check_ranges, check_whole
from sb3_dreamer.common.distributions import OneHotGroups
from sb3_dreamer.common.math import SharedGenerator, hard_one_hot, random_like
from sb3_dreamer.common.recurrent_policy import RecurrentModelPolicy
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.common.world_model import WorldModel
from sb3_dreamer.planning.planners import Method, Planner
from sb3_dreamer.planning.scoring import Value, imagined_score
from sb3_dreamer.planning.sequences import ActionSequences, CategoricalSequences, NormalSequences

SMALL: dict[str, Any] = dict(horizon=15, n_samples=64, n_iterations=3, n_elites=10)
"""A search that small tasks are content with, as every plan starts from what is left of the one before."""


MOST_ROWS = 16_384
"""Dreams at once: beyond that, more of them cost memory and save no time."""


class PlanningPolicy(RecurrentModelPolicy):
    """
    Acts by the first of the actions that a planner found best. Between two steps, the state holds the rest of the plan as
    well, from which the next one starts: latent state ``(n, D)``, ``(n, Z)``, plan ``(n, H * A)``, steps for which it is still
    to be followed ``(n, 1)``, and the action before ``(n, A)``.

    With ``deterministic=True``, candidates and dreams are drawn with the same random numbers every time, so that the action
    is a function of observation and state, whatever else is in the batch (but for rounding).

    :param observation_space: observations
    :param action_space: actions
    :param planner: ``"cem"``, ``"icem"`` or ``"mppi"``
    :param planner_kwargs: further arguments of :class:`~sb3_dreamer.planning.planners.Planner`
    :param particles: dreams of each candidate, whose mean return counts
    :param replan_every: steps taken of a plan before the next
    :param noise: of actions while data are collected: standard deviation around the plan's (numbers, in units of
        half the action space), or probability of a random choice
    :param normalize_images: SB3's
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        planner: Method = "icem",
        planner_kwargs: dict[str, Any] | None = None,
        particles: int = 1,
        replan_every: int = 1,
        noise: float = 0.0,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_images)
        check_whole(particles=particles, replan_every=replan_every)
        check_ranges(at_least_0=dict(noise=noise))
        if self.action_codec.discrete and noise > 1:
            raise ValueError(f"The noise of discrete actions is a probability and must be at most 1, got {noise}.")
        self.planner = make_planner(planner, planner_kwargs)
        if replan_every > self.planner.horizon:
            raise ValueError(f"replan_every={replan_every} cannot be more than the planner's horizon={self.planner.horizon}.")
        self.particles, self.replan_every, self.noise = int(particles), int(replan_every), float(noise)
        self.groups = OneHotGroups(self.action_codec.classes) if self.action_codec.discrete else None
        self.value: Value | None = None
        """Of what comes after a dream's last state; None for nothing."""

    def state_sizes(self) -> tuple[int, ...]:
        """:return: columns of the state's parts"""
        deter, stoch, action = super().state_sizes()
        return deter, stoch, self.planner.horizon * action, 1, action

    def _act(
        self, latent: LatentState, intended: tuple[np.ndarray, ...], deterministic: bool, evaluation: bool
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See :meth:`RecurrentModelPolicy._act`: what is left of the plans, and for how long those are to be followed."""
        plan, clock = intended
        generator = self.predict_generator if evaluation else None
        due = np.flatnonzero(clock[:, 0] == 0)
        sequences = th.as_tensor(plan, device=self.device).unflatten(-1, (self.planner.horizon, -1)).clone()
        if len(due):
            rows = th.as_tensor(due, device=self.device)
            starts = latent.map(lambda part: part[rows])
            sequences[rows] = self._plan(self.acting_model(evaluation), starts, sequences[rows], generator, deterministic)
            clock[due] = self.replan_every
        whole = self._from_state(sequences)
        actions = whole.mode[:, 0]
        if not deterministic and self.noise > 0:
            actions = self._explore(actions, generator)
        left = self._to_state(whole.shift()).flatten(1)
        return actions.cpu().numpy(), (left.cpu().numpy(), clock - 1.0)

    def _plan(
        self, model: WorldModel, latent: LatentState, before: th.Tensor, generator: th.Generator | None, deterministic: bool
    ) -> th.Tensor:
        """
        :param model: whose dreams are judged
        :param latent: where to start, ``(n, ...)``
        :param before: what is left of earlier plans, ``(n, H, A)``; zeros for none
        :param generator: where the randomness comes from
        :param deterministic: the same random numbers every time instead
        :return: the plans as the state keeps them, ``(n, H, A)``
        """
        sampled = self.particles > 1
        most = max(1, MOST_ROWS // (self.planner.n_samples * self.particles))
        if deterministic and sampled and not model.shares_randomness:  # what a dream draws depends on those beside it
            most = 1
        if len(before) > most:
            parts = zip(latent.deter.split(most), latent.stoch.split(most), before.split(most), strict=True)
            plans = [self._plan(model, LatentState(*start), left, generator, deterministic) for *start, left in parts]
            return th.cat(plans)
        if deterministic:
            generator = SharedGenerator.seeded(0, groups=len(before))
        score = imagined_score(model, latent, self.value, self.particles, not sampled, generator)
        return self._to_state(self.planner.plan(score, self._from_state(before), generator=generator).sequences)

    def _from_state(self, plan: th.Tensor) -> ActionSequences:
        """:return: a distribution around a plan as the state keeps it, ``(n, H, A)``"""
        if self.groups is None:
            return NormalSequences(
                plan, th.full_like(plan, self.planner.init_std), self.planner.min_std, self.planner.init_std
            )
        fresh = CategoricalSequences.fresh(len(plan), plan.shape[1], self.groups)
        known = plan.abs().sum((1, 2), keepdim=True).unsqueeze(-1) > 0
        return CategoricalSequences(th.where(known, self.groups.split(plan, 0.0), fresh.probs), self.groups)

    def _to_state(self, sequences: ActionSequences) -> th.Tensor:
        """:return: ``(n, H, A)``: means, or probabilities"""
        if isinstance(sequences, CategoricalSequences):
            return sequences.groups.join(sequences.probs)
        return sequences.mode

    def _explore(self, actions: th.Tensor, generator: th.Generator | None) -> th.Tensor:
        if self.groups is None:
            return (actions + self.noise * random_like("normal", tuple(actions.shape), actions, generator)).clamp(-1.0, 1.0)
        groups = self.groups.split(actions, 0.0)
        uniform = self.groups.uniform.expand_as(groups)
        drawn = hard_one_hot(uniform / random_like("exponential", tuple(uniform.shape), actions, generator))
        wait = random_like("exponential", (*uniform.shape[:-1], 1), actions, generator)
        instead = wait < -math.log1p(-min(self.noise, 1 - 1e-6))
        return self.groups.join(th.where(instead, drawn, groups))

    def choose_action(self, state: LatentState, deterministic: bool, evaluation: bool) -> th.Tensor:
        """
        A plan from scratch, of which only the first action counts; :meth:`step` goes on with earlier ones.

        :param state: ``(n, ...)``
        :param deterministic: the same random numbers every time
        :param evaluation: for :meth:`predict`, not for collecting data
        :return: actions in the model's space, ``(n, A)``
        """
        n = len(state.deter)
        actions, _ = self._act(state, self.initial_state(n)[2:-1], deterministic, evaluation)
        return th.as_tensor(actions, device=self.device)


def make_planner(method: Method, planner_kwargs: dict[str, Any] | None) -> Planner:
    """
    :param method: ``"cem"``, ``"icem"`` or ``"mppi"``
    :param planner_kwargs: further arguments of :class:`~sb3_dreamer.planning.planners.Planner`, over :data:`SMALL`
    :return: the planner
    :raises ValueError: arguments that it does not have, or that cannot work
    """
    if method not in get_args(Method):
        raise ValueError(f"planner must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}.")
    known = set(Planner.__dataclass_fields__) - {"method"}
    unknown = sorted(set(planner_kwargs or {}) - known)
    if unknown:
        raise ValueError(f"planner_kwargs has no {', '.join(map(repr, unknown))}: it takes {', '.join(sorted(known))}.")
    return Planner(method=method, **{**SMALL, **(planner_kwargs or {})})
