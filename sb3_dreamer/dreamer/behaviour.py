"""How actor and critic learn: from trajectories that the world model imagines."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from sb3_dreamer.behaviour.algorithm import ImaginationAlgorithm
from sb3_dreamer.behaviour.curiosity import CURIOSITY_FLOOR
from sb3_dreamer.behaviour.losses import (
    critic_loss,
    imagined_returns,
    reinforce_actor_loss,
    replay_returns,
)
from sb3_dreamer.behaviour.networks import Actor, Critic
from sb3_dreamer.common.distributions import ActionDistribution, TwoHot
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.dreamer.exploration import Explorer
from sb3_dreamer.dreamer.policies import DreamerPolicy
from sb3_dreamer.world_models import WorldModel


class Dream(NamedTuple):
    """What an actor has imagined."""

    rollout: ImaginedRollout
    policy: ActionDistribution
    """That chose its actions, ``(N, H, A)``."""
    noise: th.Tensor
    """With which, ``(N, H, A)``."""
    nudge: th.Tensor | None
    """Zeros, added to the actions: see :meth:`~sb3_dreamer.behaviour.algorithm.ImaginationAlgorithm._nudge`."""


class Wanted(NamedTuple):
    """What an actor is to raise."""

    returns: th.Tensor
    """``(N, H)``."""
    value: th.Tensor
    """What is expected of the states anyway, ``(N, H)``."""
    scale: th.Tensor
    """Unit of both, scalar."""


class Judged(NamedTuple):
    """What the task makes of dreams."""

    critic: TwoHot
    """Of all states, ``(N, H + 1)``."""
    reward: th.Tensor
    """Of all states, ``(N, H + 1)``."""
    returns: th.Tensor
    """``(N, H)``."""
    weights: th.Tensor
    """How much each state counts, ``(N, H)``."""


class BehaviourLosses(ImaginationAlgorithm):
    """
    An algorithm whose actor and critic learn in imagination. A subclass sets what is declared here and puts the losses into
    its updates.
    """

    policy: DreamerPolicy
    world_model: WorldModel
    actor: Actor
    critic: Critic
    replay_value_scale: float

    def _imagine(self, starts: LatentState, nudge: th.Tensor | None, actor: Actor | None = None) -> Dream:
        """
        Follow an actor through the model; gradients flow only where its loss needs them.

        :param starts: where to imagine from, ``(N, ...)``
        :param nudge: from :meth:`_nudge`
        :param actor: who acts; None for the one that learns the task
        :return: the dream; with a nudge its policy has no graph
        """
        actor = self.actor if actor is None else actor
        noise = actor.noise((len(starts.deter), self.imagination_horizon), starts.deter)
        steps = iter(zip(noise.unbind(1), noise.unbind(1) if nudge is None else nudge.unbind(1), strict=True))
        policies: list[ActionDistribution] = []

        def act(feat: th.Tensor) -> th.Tensor:
            noise_now, nudge_now = next(steps)
            with th.set_grad_enabled(nudge is None):
                policies.append(actor(feat.detach()))
                action = policies[-1].sample(noise_now).detach()
            return action if nudge is None else action + nudge_now

        with th.set_grad_enabled(nudge is not None):
            rollout = self.world_model.imagine(act, starts, self.imagination_horizon)
        return Dream(rollout, type(policies[0]).stack(policies, dim=1), noise, nudge)  # type: ignore[arg-type]

    def _dream(self, starts: LatentState, explorer: Actor | None = None) -> Dream:
        """
        :param starts: where to imagine from, ``(N, ...)``
        :param explorer: who acts instead of the one that learns the task
        :return: the dream, whose policy has a graph that leads to the actor alone
        """
        if explorer is None:
            dream: Dream = self._compiled.get("imagine", self._imagine)(starts, self._nudge(starts))
        else:
            dream = self._imagine(starts, self._nudge(starts), explorer)
        if dream.nudge is None:
            return dream
        self._forget_casts()
        actor = self.actor if explorer is None else explorer
        return dream._replace(policy=actor(dream.rollout.states.feat[:, :-1].detach()))

    def _behaviour_losses(
        self, batch: SequenceBatch, posterior: LatentState, metrics: dict[str, th.Tensor]
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        :param batch: the replayed batch
        :param posterior: its states, ``(B, T, ...)``
        :param metrics: to be completed
        :return: loss of the actors, and of the critics on imagined and replayed states
        """
        starts, chosen = self._imagination_starts(posterior)
        actor_loss, value_loss, first_returns = self._imagined_losses(starts, metrics)
        if self.replay_value_scale > 0:
            replay_loss = self._replay_value_loss(batch, posterior, first_returns if chosen is None else None)
            value_loss = value_loss + self.replay_value_scale * replay_loss
            metrics["replay_value_loss"] = replay_loss
        if self.policy.explorer is not None:
            exploring, its_critics = self._exploring_losses(starts, self.policy.explorer, metrics)
            actor_loss, value_loss = actor_loss + exploring, value_loss + its_critics
        return actor_loss, value_loss

    def _imagined_losses(self, starts: LatentState, metrics: dict[str, th.Tensor]) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        The task's actor and critic.

        :param starts: where to imagine from, ``(N, ...)``
        :param metrics: to be completed
        :return: loss of the actor, loss of the critic, and the imagined returns of the starts, ``(N,)``
        """
        dream = self._dream(starts)
        judged = self._judge(dream.rollout, self.critic)
        value = judged.critic.mean
        scale = self.policy.update_return_range(judged.returns)
        wanted = Wanted(judged.returns, value[:, :-1], scale)
        actor_loss = self._actor_loss(dream, wanted, judged.weights, self._ent_coef, metrics)
        value_loss = self._critic_loss(dream.rollout, judged, self.critic, self.policy.slow_critic)
        metrics.update(
            actor_loss=actor_loss,
            critic_loss=value_loss,
            imagined_return=judged.returns.mean(),
            imagined_reward=judged.reward.mean(),
            return_scale=scale,
            value=value.mean(),
        )
        return actor_loss, value_loss, judged.returns[:, 0].detach()

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
        dream = self._dream(starts, explorer.actor)
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

    def _judge(self, rollout: ImaginedRollout, critic: Critic) -> Judged:
        """:return: what the task makes of the dreams, with the critic's values of what comes after them"""
        found = critic(rollout.states.feat)  # (N, H + 1, F)
        with th.set_grad_enabled(self._through_dynamics):
            reward = self.world_model.predict_reward(rollout.states)
            discount = self.world_model.predict_discount(rollout.states)
            returns, weights = imagined_returns(reward, discount, found.mean, self.return_lambda)
        return Judged(found, reward, returns, weights)

    def _actor_loss(
        self, dream: Dream, wanted: Wanted, weights: th.Tensor, ent_coef: float, metrics: dict[str, th.Tensor]
    ) -> th.Tensor:
        """:return: scalar, whose graph leads to the actor alone"""
        policy, nudge = dream.policy, dream.nudge
        entropy, saturation = policy.entropy, policy.saturation
        if nudge is not None:
            loss = self._dynamics_loss(policy, dream.noise, nudge, wanted.returns, weights, wanted.scale, ent_coef)
        else:
            log_prob = policy.log_prob(dream.rollout.actions)
            loss = reinforce_actor_loss(
                log_prob, entropy, wanted.returns, wanted.value, weights, wanted.scale, ent_coef
            ).mean()
        if self._action_mean_penalty > 0:
            loss = loss + self._action_mean_penalty * saturation.mean()
        metrics.update(actor_entropy=entropy.mean(), actor_saturation=saturation.mean())
        return loss

    def _critic_loss(self, rollout: ImaginedRollout, judged: Judged, critic: Critic, slow_critic: Critic) -> th.Tensor:
        """:return: scalar; the graph of the returns leads back into the model, the critic's own does not"""
        feat = rollout.states.feat[:, :-1].detach()
        found = critic(feat) if self._through_dynamics else judged.critic[:, :-1]
        slow_value = self._slow_value(feat, slow_critic)
        return critic_loss(found, judged.returns.detach(), slow_value, judged.weights, self.slow_critic_scale).mean()

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

    def _replay_value_loss(self, batch: SequenceBatch, posterior: LatentState, imagined: th.Tensor | None) -> th.Tensor:
        """
        The critic's loss on the replayed sequences; while exploring, that of the explorer's critic of the task: the explorer
        collects most of them, and the task's own actor would find other returns. Features are NOT detached: the model learns
        to keep what values need.

        :param batch: the replayed batch
        :param posterior: its states, ``(B, T, ...)``
        :param imagined: imagined returns of all of them ``(B * T,)``; None where only some were imagined from, then the
            critic's own value is what returns bootstrap with, as it is while exploring
        :return: scalar
        """
        feat, explorer = posterior.feat, self.policy.explorer
        critic, slow_critic = self.critic, self.policy.slow_critic
        if explorer is not None:
            critic, slow_critic, imagined = explorer.task_critic, explorer.slow_task_critic, None
        value = critic(feat)
        with th.no_grad():
            bootstrap = value.mean if imagined is None else imagined.view(batch.reward.shape)
            returns, weights = replay_returns(
                batch.reward, batch.is_last, batch.is_terminal, bootstrap, self.gamma, self.return_lambda
            )
        slow_value = self._slow_value(feat[:, :-1], slow_critic)
        return critic_loss(value[:, :-1], returns, slow_value, weights, self.slow_critic_scale).mean()

    @th.no_grad()
    def _slow_value(self, feat: th.Tensor, slow_critic: Critic) -> th.Tensor | None:
        """:return: what a critic is pulled towards, None if it is not"""
        return slow_critic(feat).mean if self.slow_critic_scale > 0 else None
