"""How an actor learns from trajectories that it imagines alone, one action after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from sb3_dreamer.behaviour.algorithm import ImaginationAlgorithm
from sb3_dreamer.behaviour.losses import critic_loss, imagined_returns, reinforce_actor_loss
from sb3_dreamer.behaviour.networks import Actor, Critic
from sb3_dreamer.common.distributions import ActionDistribution, TwoHot
from sb3_dreamer.common.types import ImaginedRollout, LatentState


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


class ActorLearning(ImaginationAlgorithm):
    """An algorithm that may have an actor that follows no goals, and a critic of what it will find."""

    def _follow(self, actor: Actor, starts: LatentState, nudge: th.Tensor | None) -> Dream:
        """
        Follow an actor through the model; gradients flow only where its loss needs them.

        :param actor: who acts
        :param starts: where to imagine from, ``(N, ...)``
        :param nudge: from :meth:`_nudge`
        :return: the dream; with a nudge its policy has no graph
        """
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

    def _with_graph(self, dream: Dream, actor: Actor) -> Dream:
        """
        :param dream: from :meth:`_follow`
        :param actor: who acted there
        :return: the dream, whose policy has a graph that leads to the actor alone
        """
        if dream.nudge is None:
            return dream
        self._forget_casts()
        return dream._replace(policy=actor(dream.rollout.states.feat[:, :-1].detach()))

    def _judge(self, rollout: ImaginedRollout, critic: Critic) -> Judged:
        """:return: what the task makes of the dreams, with the critic's values of what comes after them"""
        found = critic(rollout.states.feat)  # (N, H + 1, F)
        with th.set_grad_enabled(self._through_dynamics):
            reward = self.world_model.predict_reward(rollout.states)
            discount = self.world_model.predict_discount(rollout.states)
            returns, weights = imagined_returns(reward, discount, found.mean, self.return_lambda)
        return Judged(found, reward, returns, weights)

    def _actor_loss(
        self,
        policy: ActionDistribution,
        actions: th.Tensor,
        noise: th.Tensor,
        nudge: th.Tensor | None,
        wanted: Wanted,
        weights: th.Tensor,
        ent_coef: float,
    ) -> th.Tensor:
        """
        :param policy: that chose the actions of dreams, with a graph that leads to the actor alone, ``(..., A)``
        :param actions: these, ``(..., A)``
        :param noise: with which, ``(..., A)``
        :param nudge: from :meth:`_nudge`, or None
        :param wanted: what is to be raised, ``(...)``
        :param weights: how much each step counts, ``(...)``
        :param ent_coef: weight of the entropy
        :return: scalar, whose graph leads to the actor alone
        """
        if nudge is not None:
            loss = self._dynamics_loss(policy, noise, nudge, wanted.returns, weights, wanted.scale, ent_coef)
        else:
            log_prob, entropy = policy.log_prob(actions.detach()), policy.entropy
            loss = reinforce_actor_loss(
                log_prob, entropy, wanted.returns, wanted.value, weights, wanted.scale, ent_coef
            ).mean()
        if self._action_mean_penalty > 0:
            loss = loss + self._action_mean_penalty * policy.saturation.mean()
        return loss

    def _critic_loss(self, rollout: ImaginedRollout, judged: Judged, critic: Critic, slow_critic: Critic) -> th.Tensor:
        """:return: scalar; the graph of the returns leads back into the model, the critic's own does not"""
        feat = rollout.states.feat[:, :-1].detach()
        found = critic(feat) if self._through_dynamics else judged.critic[:, :-1]
        slow_value = self._slow_value(feat, slow_critic)
        return critic_loss(found, judged.returns.detach(), slow_value, judged.weights, self.slow_critic_scale).mean()

    @th.no_grad()
    def _slow_value(self, feat: th.Tensor, slow_critic: Critic) -> th.Tensor | None:
        """:return: what a critic is pulled towards, None if it is not"""
        return slow_critic(feat).mean if self.slow_critic_scale > 0 else None
