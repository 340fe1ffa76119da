"""How actor and critic learn: from trajectories that the world model imagines."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from sb3_dreamer.behaviour.algorithm import ImaginationAlgorithm
from sb3_dreamer.behaviour.curiosity import CURIOSITY_FLOOR
from sb3_dreamer.behaviour.losses import (
    critic_loss,
    dynamics_actor_loss,
    imagined_returns,
    reinforce_actor_loss,
    replay_returns,
)
from sb3_dreamer.behaviour.networks import Actor, Critic
from sb3_dreamer.common.distributions import ActionDistribution
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.dreamer.exploration import Explorer
from sb3_dreamer.dreamer.policies import DreamerPolicy
from sb3_dreamer.world_models import WorldModel


class Wanted(NamedTuple):
    """What the actor is to raise."""

    returns: th.Tensor
    """``(N, H)``."""
    value: th.Tensor
    """What is expected of the states anyway, ``(N, H)``."""
    scale: th.Tensor
    """Unit of both, scalar."""


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

    def _imagine(self, starts: LatentState) -> tuple[ImaginedRollout, ActionDistribution]:
        """
        Follow the actor through the model; gradients flow only where the actor's loss needs them.

        :return: the rollout, and the policies ``(N, H, A)`` that chose its actions
        """
        horizon = self.imagination_horizon
        noise = iter(self.actor.noise((len(starts.deter), horizon), starts.deter).unbind(1))
        policies: list[ActionDistribution] = []

        def act(feat: th.Tensor) -> th.Tensor:
            with th.enable_grad():
                policies.append(self.actor(feat.detach()))
            return policies[-1].sample(next(noise))

        with th.set_grad_enabled(self._through_dynamics):
            rollout = self.world_model.imagine(act, starts, horizon)
        return rollout, type(policies[0]).stack(policies, dim=1)  # type: ignore[arg-type]

    def _behaviour_losses(
        self, batch: SequenceBatch, posterior: LatentState, metrics: dict[str, th.Tensor]
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        :param batch: the replayed batch
        :param posterior: its states, ``(B, T, ...)``
        :param metrics: to be completed
        :return: loss of the actor, and of the critic on imagined and replayed states
        """
        starts, chosen = self._imagination_starts(posterior)
        actor_loss, value_loss, first_returns = self._imagined_losses(starts, metrics)
        if self.replay_value_scale > 0:
            replay_loss = self._replay_value_loss(batch, posterior, first_returns if chosen is None else None)
            value_loss = value_loss + self.replay_value_scale * replay_loss
            metrics["replay_value_loss"] = replay_loss
        return actor_loss, value_loss

    def _imagined_losses(self, starts: LatentState, metrics: dict[str, th.Tensor]) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param starts: where to imagine from, ``(N, ...)``
        :param metrics: to be completed
        :return: loss of the actor, loss of the critic, and the imagined returns of the starts, ``(N,)``
        """
        rollout, policy = self._compiled.get("imagine", self._imagine)(starts)
        feat = rollout.states.feat  # (N, H + 1, F)
        critic = self.critic(feat)
        with th.set_grad_enabled(self._through_dynamics):
            reward = self.world_model.predict_reward(rollout.states)
            discount = self.world_model.predict_discount(rollout.states)
            value = critic.mean
            returns, weights = imagined_returns(reward, discount, value, self.return_lambda)
        scale = self.policy.update_return_range(returns)
        wanted = Wanted(returns, value[:, :-1], scale)
        curious_loss: th.Tensor | None = None
        if self.policy.explorer is not None:
            wanted, curious_loss = self._curious(self.policy.explorer, rollout, weights, wanted, metrics)

        entropy = policy.entropy
        if self._through_dynamics:
            actor_loss = dynamics_actor_loss(entropy, wanted.returns, weights, wanted.scale, self._ent_coef).mean()
        else:
            log_prob = policy.log_prob(rollout.actions.detach())
            actor_loss = reinforce_actor_loss(
                log_prob, entropy, wanted.returns, wanted.value, weights, wanted.scale, self._ent_coef
            ).mean()
        saturation = policy.saturation
        if self.action_mean_penalty > 0:
            actor_loss = actor_loss + self.action_mean_penalty * saturation.mean()

        returns, feat = returns.detach(), feat[:, :-1].detach()
        # the graph of the returns leads back into the model, the critic's own must not
        critic = self.critic(feat) if self._through_dynamics else critic[:, :-1]
        value_loss = critic_loss(critic, returns, self._slow_value(feat), weights, self.slow_critic_scale).mean()
        metrics.update(
            actor_loss=actor_loss,
            critic_loss=value_loss,
            actor_entropy=entropy.mean(),
            actor_saturation=saturation.mean(),
            imagined_return=returns.mean(),
            imagined_reward=reward.mean(),
            return_scale=scale,
            value=value.mean(),
        )
        if curious_loss is not None:
            value_loss = value_loss + curious_loss
        return actor_loss, value_loss, returns[:, 0]

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
        with th.no_grad():
            slow = explorer.slow_critic(feat).mean if self.slow_critic_scale > 0 else None
        loss = critic_loss(explorer.critic(feat), returns, slow, weights, self.slow_critic_scale).mean()
        metrics.update(curiosity=reward.mean(), curiosity_scale=scale, exploration_critic_loss=loss)
        return both, loss

    def _replay_value_loss(self, batch: SequenceBatch, posterior: LatentState, imagined: th.Tensor | None) -> th.Tensor:
        """
        The critic's loss on the replayed sequences. Features are NOT detached: the model learns to keep what values need.

        :param batch: the replayed batch
        :param posterior: its states, ``(B, T, ...)``
        :param imagined: imagined returns of all of them ``(B * T,)``; None where only some were imagined from,
            then the critic's own value is what returns bootstrap with
        :return: scalar
        """
        feat = posterior.feat
        value = self.critic(feat)
        with th.no_grad():
            bootstrap = value.mean if imagined is None else imagined.view(batch.reward.shape)
            returns, weights = replay_returns(
                batch.reward, batch.is_last, batch.is_terminal, bootstrap, self.gamma, self.return_lambda
            )
        slow_value = self._slow_value(feat[:, :-1])
        return critic_loss(value[:, :-1], returns, slow_value, weights, self.slow_critic_scale).mean()

    @th.no_grad()
    def _slow_value(self, feat: th.Tensor) -> th.Tensor | None:
        """:return: what the critic is pulled towards, None if it is not"""
        return self.policy.slow_critic(feat).mean if self.slow_critic_scale > 0 else None
