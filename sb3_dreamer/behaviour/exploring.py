"""An actor that explores, beside the behaviour that learns the task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
import torch.nn as nn
from stable_baselines3.common.utils import safe_mean

from sb3_dreamer.behaviour.curiosity import CURIOSITY_FLOOR, Curiosity
from sb3_dreamer.behaviour.dreams import ActorLearning, Dream, Wanted
from sb3_dreamer.behaviour.losses import critic_loss, imagined_returns
from sb3_dreamer.behaviour.networks import Actor, Critic, ReturnRange
from sb3_dreamer.behaviour.policy import ImaginationPolicy
from sb3_dreamer.common.averaging import frozen_copy
from sb3_dreamer.common.compilation import Compiled
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
    (Sekar et al. 2020, https://arxiv.org/abs/2005.05960, section 2); critics of what this one will find of either, with ranges
    of their own, as curiosity and task are on different scales; and whether there is a task yet.

    :param curiosity: gives the rewards
    :param actor: that collects data
    :param critic: of the returns of curiosity
    :param task_critic: of the task's
    """

    found_reward: th.Tensor
    """Whether any step has been worth anything, scalar."""

    def __init__(self, curiosity: Curiosity, actor: Actor, critic: Critic, task_critic: Critic) -> None:
        super().__init__()
        self.curiosity = curiosity
        self.actor = actor
        self.critic, self.task_critic = critic, task_critic
        self.slow_critic, self.slow_task_critic = frozen_copy(critic), frozen_copy(task_critic)
        self.range, self.task_range = ReturnRange(), ReturnRange()
        self.register_buffer("found_reward", th.zeros((), dtype=th.bool))

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

    def update_statistics(self, obs: dict[str, np.ndarray], reward: np.ndarray) -> None:
        super().update_statistics(obs, reward)
        if self.explorer is not None and reward.any():
            self.explorer.found_reward.fill_(True)

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
    _explored: np.ndarray | None = None
    """Which environments' episodes the explorer collects, once there is a task, ``(n_envs,)``."""

    def _share_to_explore(self) -> float:
        """:return: of the episodes, once there is a task"""
        return 1.0

    def _explorers_ent_coef(self) -> float:
        """:return: weight of its entropy, which stays what it was at first: it is not to settle down"""
        return self._first_ent_coef

    def _create_aliases(self) -> None:
        super()._create_aliases()
        if self.policy.compiles and self.policy.explorer is not None:
            self._compiled["explore"] = Compiled(self._explore)

    # ---- acting

    def _begin_rollout(self) -> None:
        super()._begin_rollout()
        self._explored = None

    def _act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        actions = super()._act(obs)
        if self.policy.explorer is None or self._acts_at_random():
            return actions
        where = self._assign_episodes(self.policy.explorer)
        if where.any():
            assert self._last_state is not None
            actions = self.policy.let_explorer_act(self._last_state, where)
            self._last_state = (*self._last_state[:-1], actions)
        return actions

    def _assign_episodes(self, explorer: Explorer) -> np.ndarray:
        """:return: where the explorer acts: everywhere before there is a task, then in its share of episodes, ``(n_envs,)``"""
        starts = np.asarray(self._last_episode_starts)
        if not bool(explorer.found_reward):
            return np.ones_like(starts)
        if self._explored is None:  # those on their way
            self._explored = np.ones_like(starts)
        self._explored = np.where(starts, th.rand(len(starts)).numpy() < self._share_to_explore(), self._explored)
        return self._explored

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        if dones is not None and self._explored is not None and self.policy.explorer is not None:
            for i in np.flatnonzero(dones):
                if "episode" in infos[i]:
                    infos[i]["episode"]["explored"] = bool(self._explored[i])
        super()._update_info_buffer(infos, dones)

    def dump_logs(self) -> None:
        """Write the log."""
        of_the_task = [info["r"] for info in self.ep_info_buffer or () if info.get("explored") is False]
        if of_the_task:
            self.logger.record("rollout/task_ep_rew_mean", safe_mean(of_the_task))
        super().dump_logs()

    # ---- learning

    def _explore(self, starts: LatentState, nudge: th.Tensor | None) -> Dream:
        """:return: what the explorer imagines, as :meth:`_follow` does"""
        assert self.policy.explorer is not None
        return self._follow(self.policy.explorer.actor, starts, nudge)

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
        explored = self._compiled.get("explore", self._explore)(starts, self._nudge(starts))
        dream = self._with_graph(explored, explorer.actor)
        rollout, judged = dream.rollout, self._judge(dream.rollout, explorer.task_critic)
        task = Wanted(judged.returns, judged.critic.mean[:, :-1], explorer.task_range.update(judged.returns))
        wanted, curious_loss = self._curious(explorer, rollout, judged.weights, task, metrics)
        policy, ent_coef = dream.policy, self._explorers_ent_coef()
        actor_loss = self._actor_loss(policy, rollout.actions, dream.noise, dream.nudge, wanted, judged.weights, ent_coef)
        value_loss = self._critic_loss(rollout, judged, explorer.task_critic, explorer.slow_task_critic)
        metrics.update(
            exploration_actor_loss=actor_loss,
            exploration_actor_entropy=policy.entropy.mean(),
            exploration_actor_saturation=policy.saturation.mean(),
            exploration_task_critic_loss=value_loss,
        )
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
        https://arxiv.org/abs/1810.12894, section 2.3). There it goes on in the next episode; a dream has none, and goes on
        where the model was never taught anything: what comes after an end may look more novel than it is.

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
