"""How actor and critic learn: from trajectories that the world model imagines."""

from __future__ import annotations

import torch as th

from sb3_dreamer.behaviour.dreams import Dream, Wanted
from sb3_dreamer.behaviour.exploring import ExploringAlgorithm
from sb3_dreamer.behaviour.losses import critic_loss, replay_returns
from sb3_dreamer.behaviour.networks import Actor, Critic
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.dreamer.policies import DreamerPolicy
from sb3_dreamer.world_models import WorldModel


class BehaviourLosses(ExploringAlgorithm):
    """
    An algorithm whose actor and critic learn in imagination. A subclass sets what is declared here and puts the losses into
    its updates.
    """

    policy: DreamerPolicy
    world_model: WorldModel
    actor: Actor
    critic: Critic
    replay_value_scale: float

    def _imagine(self, starts: LatentState, nudge: th.Tensor | None) -> Dream:
        return self._follow(self.actor, starts, nudge)

    def _dream(self, starts: LatentState) -> Dream:
        """
        :param starts: where to imagine from, ``(N, ...)``
        :return: what the task's actor imagines, whose policy has a graph that leads to it alone
        """
        return self._with_graph(self._compiled.get("imagine", self._imagine)(starts, self._nudge(starts)), self.actor)

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
        actor_loss = self._actor_loss(
            dream.policy, dream.rollout.actions, dream.noise, dream.nudge, wanted, judged.weights, self._ent_coef
        )
        value_loss = self._critic_loss(dream.rollout, judged, self.critic, self.policy.slow_critic)
        metrics.update(
            actor_loss=actor_loss,
            actor_entropy=dream.policy.entropy.mean(),
            actor_saturation=dream.policy.saturation.mean(),
            critic_loss=value_loss,
            imagined_return=judged.returns.mean(),
            imagined_reward=judged.reward.mean(),
            return_scale=scale,
            value=value.mean(),
        )
        return actor_loss, value_loss, judged.returns[:, 0].detach()

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
