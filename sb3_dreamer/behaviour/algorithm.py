"""What algorithms share whose actors learn in imagination: arguments, learning rates, starts of dreams, dreams to see."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_dreamer.behaviour.losses import dynamics_actor_loss, hand_over
from sb3_dreamer.behaviour.policy import ImaginationPolicy
from sb3_dreamer.common.arguments import (
    check_evaluation_rate,
    check_max_grad_norm,
    check_numbers,
    check_ranges,
    check_scheduled,
)
from sb3_dreamer.common.compilation import Compiled
from sb3_dreamer.common.distributions import ActionDistribution
from sb3_dreamer.common.model_based_algorithm import USUAL_START, share_left
from sb3_dreamer.common.optimizers import clip_grad_norms_
from sb3_dreamer.common.plain_data import Classes, name_classes
from sb3_dreamer.common.sequence_buffer import RowIndex
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.planning.imagination import DreamingAlgorithm
from sb3_dreamer.world_models import SEQUENCE_MODELS, ModelSize


class ImaginationAlgorithm(DreamingAlgorithm):
    """Base of algorithms whose actors and critics learn in imagination. A subclass sets what is declared here."""

    policy: ImaginationPolicy
    imagination_horizon: int
    imagination_starts: int | None
    return_lambda: float
    actor_gradient: Literal["auto", "reinforce", "dynamics"]
    ent_coef: float | Literal["auto"]
    action_mean_penalty: float | Literal["auto"]
    intrinsic_coef: float | Schedule
    extrinsic_coef: float
    actor_learning_rate: float | Schedule | None
    critic_learning_rate: float | Schedule | None
    warmup_updates: int
    max_grad_norm: float | None
    slow_critic_scale: float
    slow_critic_rate: float
    evaluation_rate: float | None
    usual: ClassVar[dict[str, Any]] = dict(
        learning_starts=USUAL_START,
        rows=256,
        batch_length={"continuous": 8, "discrete": 32},
        ent_coef={"continuous": 2e-2, "discrete": 3e-2},
        entropy_steps=2000,
        least_entropy=0.1,
        action_mean_penalty=1e-2,
        penalty_steps=1000,
        least_penalty=0.02,
    )
    """
    What arguments become that are left open, recorded with results, as it may change between versions. ``rows`` of a batch
    make the number of windows. After so many environment steps the weight of the entropy falls, in inverse proportion to them,
    and the penalty on actions, with their square, down to the least shares.
    """
    rate_of: ClassVar[dict[str, str]]
    """Which argument is the learning rate of a parameter group, where it is not ``learning_rate``."""
    _through_dynamics: bool
    """Whether the actor's gradient comes through the imagined dynamics (else REINFORCE's)."""
    _usual_ent_coef: float
    """Where it is left open."""
    _first_ent_coef: float
    _ent_coef: float
    """Now."""
    _action_mean_penalty: float
    """Now."""
    _behaviour_began: int = 0
    """Environment steps before the behaviour began anew."""
    _compiled: dict[str, Compiled]
    """Compiled functions by name."""

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.actor_gradient not in ("auto", "reinforce", "dynamics"):
            raise ValueError(f"actor_gradient must be 'auto', 'reinforce' or 'dynamics', got {self.actor_gradient!r}.")
        for name in ("ent_coef", "action_mean_penalty"):
            value = getattr(self, name)
            if not isinstance(value, str):
                check_numbers(self, real=(name,))
            elif value != "auto":
                raise ValueError(f"{name} must be 'auto' or a number of at least 0, got {value!r}.")
        check_numbers(self, whole=("imagination_horizon", "imagination_starts"), optional=("imagination_starts",), minimum=1)
        check_numbers(self, whole=("warmup_updates",))
        check_max_grad_norm(self)
        rates = ("learning_rate", "actor_learning_rate", "critic_learning_rate")
        check_numbers(self, real=[name for name in rates if not callable(getattr(self, name))], optional=rates[1:])
        check_ranges(shares=dict(return_lambda=self.return_lambda, slow_critic_rate=self.slow_critic_rate))
        check_evaluation_rate(self)
        check_numbers(self, real=("slow_critic_scale", "extrinsic_coef"))
        if not callable(self.intrinsic_coef):
            check_numbers(self, real=("intrinsic_coef",))

    def _setup_model(self) -> None:
        kind = "continuous" if isinstance(self.action_space, spaces.Box) else "discrete"
        if self.batch_length is None:
            usual = self.usual["batch_length"][kind]
            self.batch_length = getattr(self.policy_kwargs.get("world_model_class"), "usual_window", None) or usual
        check_numbers(self, whole=("batch_length",), minimum=1)
        if self.batch_size is None:
            self.batch_size = max(1, self._usual_rows() // self.batch_length)
        super()._setup_model()
        self._create_aliases()
        given = {name: getattr(self, name) for name in set(self.rate_of.values())}
        schedules = {name: self.lr_schedule if rate is None else FloatSchedule(rate) for name, rate in given.items()}
        self._schedules = {group: schedules[name] for group, name in self.rate_of.items()}
        self._through_dynamics = self.actor_gradient == "dynamics" or (self.actor_gradient == "auto" and kind == "continuous")
        self._usual_ent_coef = self.usual["ent_coef"][kind]
        self._first_ent_coef = self._usual_ent_coef if self.ent_coef == "auto" else float(self.ent_coef)
        self._ent_coef = self._first_ent_coef
        penalty = self.usual["action_mean_penalty"] if self.action_mean_penalty == "auto" else self.action_mean_penalty
        self._action_mean_penalty = float(penalty)

    def _usual_rows(self) -> int:
        """:return: replayed rows a batch, where the number of windows is left open"""
        return int(self.usual["rows"])

    def _create_aliases(self) -> None:
        """Compile what is to be compiled; a subclass may name the policy's networks."""
        self._compiled = {}
        if self.policy.compiles:  # the unrolls, which take the most operations
            self._compiled = {"loss": Compiled(self.world_model.loss), "imagine": Compiled(self._imagine)}

    def _scheduled(self, name: str) -> float:
        """:return: an argument's value now: a number, or what a function makes of the remaining progress"""
        value = getattr(self, name)
        if callable(value):
            value = value(self._current_progress_remaining)
            check_scheduled(value, name, self._current_progress_remaining)
        return float(value)

    @abstractmethod
    def _imagine(self, starts: LatentState, nudge: th.Tensor | None) -> Any:
        """
        :param starts: where to imagine from, ``(N, ...)``
        :param nudge: from :meth:`_nudge`
        :return: what the losses of behaviour need of the dreams
        """

    def _nudge(self, starts: LatentState) -> th.Tensor | None:
        """
        :param starts: where to imagine from, ``(N, ...)``
        :return: zeros to add to the actions, by whose gradient a loss of the dreams reaches the actor
            (:func:`~sb3_dreamer.behaviour.losses.hand_over`), ``(N, H, A)``; None for REINFORCE, whose gradient does not go
            through dreams
        """
        shape = (len(starts.deter), self.imagination_horizon, self.action_codec.size)
        return th.zeros(shape, device=starts.deter.device, requires_grad=True) if self._through_dynamics else None

    @staticmethod
    def _forget_casts() -> None:
        """
        To be called between acting in a dream, without a graph, and evaluating the same actor with one: autocast keeps weights
        that it has cast, in older versions of torch also those that were cast without a graph, which would cut the gradient.
        (The latter is done outside of what is compiled, whose graph is used up as a whole.)
        """
        th.clear_autocast_cache()

    def _dynamics_loss(
        self,
        policy: ActionDistribution,
        noise: th.Tensor,
        nudge: th.Tensor,
        returns: th.Tensor,
        weights: th.Tensor,
        scale: th.Tensor,
        ent_coef: float,
    ) -> th.Tensor:
        """
        Of an actor that learns through the dynamics.

        :param policy: that chose the actions of dreams, ``(..., A)``
        :param noise: with which, ``(..., A)``
        :param nudge: from :meth:`_nudge`
        :param returns: whose graph leads to the nudge; it is used up, ``(...)``
        :param weights: what they count, ``(...)``
        :param scale: range of the returns, scalar
        :param ent_coef: weight of the entropy
        :return: scalar, whose graph leads to the actor alone
        """
        worth = dynamics_actor_loss(th.zeros_like(returns), returns, weights, scale, 0.0).mean()
        loss = dynamics_actor_loss(policy.entropy, returns.detach(), weights, scale, ent_coef).mean()
        return loss + hand_over(worth, nudge, policy.sample(noise).view_as(nudge))

    def _update_rates(self) -> None:
        warmup = min(1.0, self._n_updates / self.warmup_updates) if self.warmup_updates else 1.0
        for group in self.policy.optimizer.param_groups:
            rate = self._schedules.get(group["name"], self.lr_schedule)(self._current_progress_remaining)
            check_scheduled(rate, f"learning rate of the {group['name']}", self._current_progress_remaining)
            group["lr"] = warmup * rate
        self.logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])
        # of the behaviour's learning: a late start is a start
        usual = self.usual
        steps = self._steps_in_all - max(self._behaviour_began, self._first_update_at() - usual["learning_starts"])
        if self.ent_coef == "auto":
            self._ent_coef = self._first_ent_coef * share_left(steps, usual["entropy_steps"], usual["least_entropy"])
        if self.action_mean_penalty == "auto":
            share = share_left(steps, usual["penalty_steps"], usual["least_penalty"], power=2)
            self._action_mean_penalty = usual["action_mean_penalty"] * share
        self.logger.record("train/ent_coef", self._ent_coef)
        self.logger.record("train/action_mean_penalty", self._action_mean_penalty)

    def _clip_gradients(self, metrics: dict[str, th.Tensor]) -> list[th.Tensor]:
        """:return: norms of the gradients before, scalars"""
        groups = self.policy.optimizer.param_groups
        norms = clip_grad_norms_([group["params"] for group in groups], self.max_grad_norm)
        metrics.update({f"{group['name']}_grad_norm": norm for group, norm in zip(groups, norms, strict=True)})
        return norms

    def _find_gradients(
        self,
        model_loss: th.Tensor,
        losses_of_behaviour: tuple[th.Tensor, th.Tensor] | tuple[()],
        metrics: dict[str, th.Tensor],
        meanwhile: Callable[[], None],
    ) -> bool:
        """
        :param model_loss: of world model and curiosity
        :param losses_of_behaviour: of the actors, and of the critics; empty while the model learns alone
        :param metrics: to be completed
        :param meanwhile: to be done while a GPU works
        :return: whether all are finite, and are to be used
        """
        sum(losses_of_behaviour, start=model_loss).backward()
        norms = self._clip_gradients(metrics)
        return self._is_sound(model_loss, *losses_of_behaviour, *norms, meanwhile=meanwhile)

    def _remember(self, index: RowIndex, posterior: LatentState, losses: dict[str, th.Tensor]) -> None:
        """
        Write to the replay what the model makes of its rows now.

        :param index: where they lie
        :param posterior: their states, ``(B, T, ...)``
        :param losses: of the world model, ``(B, T)`` each
        """
        assert self.replay_buffer is not None
        self.replay_buffer.write_latents(index, posterior)
        if self.prioritized_replay > 0:
            self.replay_buffer.write_priorities(index, self.world_model.row_losses(losses))

    def _step_networks(self) -> None:
        """One step of the optimizer, and of what follows the networks: slow critics and averages."""
        self.policy.optimizer.step()
        self.policy.update_slow_critic(self.slow_critic_rate)
        self.policy.update_average(self.evaluation_rate)

    def _imagination_starts(self, posterior: LatentState) -> tuple[LatentState, th.Tensor | None]:
        """:return: detached states ``(N, ...)`` and which of the ``B * T`` they are, None for all"""
        flat = posterior.detach().map(lambda x: x.flatten(0, 1))
        total = len(flat.deter)
        if self.imagination_starts is None or self.imagination_starts >= total:
            return flat, None
        chosen = th.randperm(total, device=flat.deter.device)[: self.imagination_starts]
        return flat.map(lambda x: x[chosen]), chosen

    @classmethod
    def plain_classes(cls) -> Classes:
        return {**super().plain_classes(), **name_classes([], [*SEQUENCE_MODELS, ModelSize])}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_compiled", "_schedules"]
