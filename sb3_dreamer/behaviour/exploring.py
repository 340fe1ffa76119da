"""An actor that explores, beside the behaviour that learns the task."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch as th
import torch.nn as nn
from stable_baselines3.common.utils import safe_mean

from sb3_dreamer.behaviour.curiosity import CURIOSITY_FLOOR, Curiosity
from sb3_dreamer.behaviour.dreams import ActorLearning, Wanted
from sb3_dreamer.behaviour.losses import critic_loss, imagined_returns
from sb3_dreamer.behaviour.networks import Actor, Critic, ReturnRange
from sb3_dreamer.behaviour.policy import ImaginationPolicy
from sb3_dreamer.common.averaging import frozen_copy
from sb3_dreamer.common.types import ImaginedRollout, LatentState

RATE_OF_EXPLORER = {
    "exploration_actor": "actor_learning_rate",
    "exploration_critic": "critic_learning_rate",
    "exploration_task_critic": "critic_learning_rate",
}
"""Which argument is the learning rate of the parameter groups of an :class:`Explorer`."""


class Explorer(nn.Module):
    """
    Who explores: an actor that collects data for curiosity and task, while the policy's own behaviour learns the task alone
    (Sekar et al. 2020, https://arxiv.org/abs/2005.05960, section 2), and critics of what this one will find of either, with
    ranges of their own, as curiosity and task are on different scales.

    :param curiosity: gives the rewards
    :param actor: that collects data
    :param critic: of the returns of curiosity
    :param task_critic: of the task's
    """

    def __init__(self, curiosity: Curiosity, actor: Actor, critic: Critic, task_critic: Critic) -> None:
        super().__init__()
        self.curiosity = curiosity
        self.actor = actor
        self.critic, self.task_critic = critic, task_critic
        self.slow_critic, self.slow_task_critic = frozen_copy(critic), frozen_copy(task_critic)
        self.range, self.task_range = ReturnRange(), ReturnRange()

    def trained_modules(self) -> dict[str, nn.Module]:
        """:return: what the optimizer changes beside the curiosity, by the name of the parameter group"""
        return {
            "exploration_actor": self.actor,
            "exploration_critic": self.critic,
            "exploration_task_critic": self.task_critic,
        }

    def slow_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """:return: slow copies, each with its original"""
        return [(self.slow_critic, self.critic), (self.slow_task_critic, self.task_critic)]


class ExploringPolicy(ImaginationPolicy):
    """Base of policies that may have an actor to explore with; None where they have none."""

    explorer: Explorer | None

    def _new_actor(self) -> Actor:
        """:return: one that follows no goals"""
        classes, size = self.action_codec.classes, self.action_codec.size
        given: dict[str, Any] = self._constructor["actor_kwargs"] or {}
        return Actor(self.world_model.feat_size, size, classes, self._sizes.units, self._sizes.layers, self._norm, **given)

    def _new_explorer(self, curiosity: Curiosity) -> Explorer:
        return Explorer(curiosity, self._new_actor(), self._new_critic(), self._new_critic())

    @th.no_grad()
    def let_explorer_act(self, state: tuple[np.ndarray, ...], where: np.ndarray) -> np.ndarray:
        """
        :param state: after a step in which the behaviour that learns the task chose
        :param where: the environments in which the explorer is to choose instead, ``(n,)``
        :return: actions in the model's space, ``(n, A)``
        """
        assert self.explorer is not None
        actor, actions = self.explorer.actor, state[-1].copy()
        deter, stoch = (th.as_tensor(part[where], device=self.device) for part in state[:2])
        chosen = actor(LatentState(deter, stoch).feat).sample(actor.noise((len(deter),), deter))
        actions[where] = chosen.cpu().numpy()
        return actions


class ExploringAlgorithm(ActorLearning):
    """
    An algorithm whose policy may have an :class:`Explorer`, with which it then shares the episodes. The log's
    ``rollout/task_ep_rew_mean`` is of those that the explorer did not collect.
    """

    policy: ExploringPolicy
    _found_reward: bool = False
    """Whether any step has been worth anything: before, there is no task."""
    _explored: np.ndarray | None = None
    """Which environments' episodes the explorer collects, once there is a task, ``(n_envs,)``."""

    _task_returns: deque[float] | None = None
    """Of the latest episodes that the explorer did not collect."""

    def _explorers_share(self) -> float:
        """:return: of the episodes, once there is a task"""
        return 1.0

    # ---- acting

    def _act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        actions = super()._act(obs)
        assert self._last_rewards is not None and self._last_state is not None
        self._found_reward |= bool(self._last_rewards.any())
        if self.policy.explorer is None or self._acts_at_random():
            return actions
        where = self._explored_now()
        if where.any():
            actions = self.policy.let_explorer_act(self._last_state, where)
            self._last_state = (*self._last_state[:-1], actions)
        return actions

    def _explored_now(self) -> np.ndarray:
        """:return: where the explorer acts: everywhere before there is a task, then in its share of episodes, ``(n_envs,)``"""
        starts = np.asarray(self._last_episode_starts)
        if not self._found_reward:
            return np.ones_like(starts)
        if self._explored is None or len(self._explored) != len(starts):  # those on their way
            self._explored = np.ones_like(starts)
        self._explored = np.where(starts, th.rand(len(starts)).numpy() < self._explorers_share(), self._explored)
        return self._explored

    def _add_last_row(self, i: int, reward: float, info: dict[str, Any]) -> None:
        super()._add_last_row(i, reward, info)
        self._found_reward |= bool(reward)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        if dones is None or self._explored is None:
            return
        if self._task_returns is None:
            self._task_returns = deque(maxlen=self._stats_window_size)
        self._task_returns += [
            infos[i]["episode"]["r"] for i in np.flatnonzero(dones & ~self._explored) if "episode" in infos[i]
        ]

    def dump_logs(self) -> None:
        """Write the log."""
        if self._task_returns:
            self.logger.record("rollout/task_ep_rew_mean", safe_mean(self._task_returns))
        super().dump_logs()

    def _begin_rollout(self) -> None:
        super()._begin_rollout()
        self._task_returns = None

    # ---- learning

    def _exploring_losses(
        self, starts: LatentState, explorer: Explorer, metrics: dict[str, th.Tensor]
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        The actor that collects data, and its critics of curiosity and task.

        :param starts: where to imagine from, ``(N, ...)``
        :param explorer: these networks
        :param metrics: to be completed
        :return: loss of the actor, and of the critics
        """
        dream = self._with_graph(self._follow(explorer.actor, starts, self._nudge(starts)), explorer.actor)
        rollout, judged = dream.rollout, self._judge(dream.rollout, explorer.task_critic)
        task = Wanted(judged.returns, judged.critic.mean[:, :-1], explorer.task_range.update(judged.returns))
        wanted, curious_loss = self._curious(explorer, rollout, judged.weights, task, metrics)
        its_metrics: dict[str, th.Tensor] = {}
        # whose entropy is worth what it was at first: it is not to settle down
        actor_loss = self._actor_loss(dream, wanted, judged.weights, self._first_ent_coef, its_metrics)
        value_loss = self._critic_loss(rollout, judged, explorer.task_critic, explorer.slow_task_critic)
        metrics.update({f"exploration_{name}": value for name, value in its_metrics.items()})
        metrics.update(exploration_actor_loss=actor_loss, exploration_task_critic_loss=value_loss)
        return actor_loss, value_loss + curious_loss

    def _curious(
        self,
        explorer: Explorer,
        rollout: ImaginedRollout,
        weights: th.Tensor,
        task: Wanted,
        metrics: dict[str, th.Tensor],
    ) -> tuple[Wanted, th.Tensor]:
        """
        Returns of curiosity beside those of the task, each in units of its own range (Plan2Explore, Sekar et al. 2020,
        https://arxiv.org/abs/2005.05960, where it is the disagreement of predictions). Curiosity does not end with the
        episode, or it would keep away from whatever ends it, be it the goal (Burda et al. 2018,
        https://arxiv.org/abs/1810.12894, section 2.3).

        :param explorer: says what is worth exploring
        :param rollout: N dreams of H steps
        :param weights: of their steps, ``(N, H)``
        :param task: what the task's reward wants
        :param metrics: to be completed
        :return: what is wanted in all, and the loss of the critic of curiosity
        """
        feat = rollout.states.feat
        critic = explorer.critic(feat)
        with th.set_grad_enabled(self._through_dynamics):
            reward = explorer.curiosity.reward(rollout)
            discount = th.full_like(reward, self.gamma)
            returns, _ = imagined_returns(reward, discount, critic.mean, self.return_lambda)
        scale = explorer.range.update(returns, CURIOSITY_FLOOR)
        task_share, share = self.extrinsic_coef / task.scale, self._scheduled("intrinsic_coef") / scale
        both = Wanted(
            task_share * task.returns + share * returns,
            task_share * task.value + share * critic.mean[:, :-1],
            th.ones_like(scale),
        )
        feat, returns = feat[:, :-1].detach(), returns.detach()
        slow = self._slow_value(feat, explorer.slow_critic)
        loss = critic_loss(explorer.critic(feat), returns, slow, weights, self.slow_critic_scale).mean()
        metrics.update(curiosity=reward.mean(), curiosity_scale=scale, exploration_critic_loss=loss)
        return both, loss

    # ---- saving

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_task_returns"]
