"""How manager and worker learn, both from the same imagined rollouts."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_dreamer.behaviour.curiosity import CURIOSITY_FLOOR
from sb3_dreamer.behaviour.dreams import Wanted
from sb3_dreamer.behaviour.exploring import ExploringAlgorithm
from sb3_dreamer.behaviour.losses import critic_loss
from sb3_dreamer.behaviour.networks import Critic, ReturnRange
from sb3_dreamer.common.distributions import ActionDistribution
from sb3_dreamer.common.types import ImaginedRollout, LatentState
from sb3_dreamer.director.losses import manager_returns, max_cosine, step_weights, worker_returns
from sb3_dreamer.director.policies import DirectorPolicy

Metrics = dict[str, th.Tensor]


class Blocks(NamedTuple):
    """N dreams of M blocks, each with one goal for K steps; axes as in :mod:`sb3_dreamer.director.losses`."""

    states: LatentState
    """The last state of a block and the first of the next are the same, ``(N, M, K + 1, ...)``."""
    actions: th.Tensor
    """``(N, M, K, A)``."""
    codes: th.Tensor
    """``(N, M, C)``."""
    goals: th.Tensor
    """The states that the codes stand for, ``(N, M, D)``."""
    manager: ActionDistribution
    """What the codes were drawn from, ``(N, M, C)``."""
    worker: ActionDistribution
    """What the actions were drawn from, ``(N, M, K, A)``."""
    noise: th.Tensor
    """With which, ``(N, M, K, A)``."""
    nudge: th.Tensor | None
    """Zeros, added to the actions: see :meth:`~sb3_dreamer.behaviour.algorithm.ImaginationAlgorithm._nudge`."""
    discount: th.Tensor
    """Of the states, ``(N, M, K + 1)``."""
    weights: th.Tensor
    """What the steps count, ``(N, M, K)``."""


class DirectorLosses(ExploringAlgorithm):
    """An algorithm whose manager and worker learn in imagination. A subclass puts the losses into its updates."""

    policy: DirectorPolicy
    goal_steps: int
    worker_intrinsic_coef: float | Schedule

    def _imagine(self, starts: LatentState, nudge: th.Tensor | None) -> Blocks:
        """
        Follow manager and worker through the model; gradients flow only where the worker's loss needs them, and never from
        one block into the one before: what the worker does for a goal is not to serve the next one.

        :param starts: where to imagine from, ``(N, ...)``
        :param nudge: from :meth:`_nudge`
        :return: the dreams; with a nudge, what their codes and actions were drawn from has no graph
        """
        policy, steps = self.policy, self.goal_steps
        n, count = len(starts.deter), self.imagination_horizon // steps
        manager_noise = policy.manager.noise((n, count), starts.deter).unbind(1)
        worker_noise = policy.worker.noise((n, count * steps), starts.deter)
        noises = iter(worker_noise.unbind(1))
        nudges = iter(() if nudge is None else nudge.unbind(1))
        rollouts: list[ImaginedRollout] = []
        codes: list[th.Tensor] = []
        goals: list[th.Tensor] = []
        managers: list[ActionDistribution] = []
        workers: list[ActionDistribution] = []
        state = starts
        for block in range(count):
            with th.set_grad_enabled(nudge is None):
                managers.append(policy.manager(state.feat.detach()))
            with th.no_grad():
                codes.append(managers[-1].sample(manager_noise[block]).detach())
                goals.append(policy.autoencoder.decode(codes[-1]))

            def act(feat: th.Tensor) -> th.Tensor:
                with th.set_grad_enabled(nudge is None):
                    workers.append(policy.worker(th.cat([feat.detach(), goals[-1]], dim=-1)))
                    action = workers[-1].sample(next(noises)).detach()
                return action if nudge is None else action + next(nudges)

            with th.set_grad_enabled(self._through_dynamics):
                rollouts.append(self.world_model.imagine(act, state, steps))
            state = rollouts[-1].states.map(lambda x: x[:, -1]).detach()
        states = LatentState.stack([rollout.states for rollout in rollouts], dim=1)
        by_block = [type(workers[0]).stack(workers[i * steps : (i + 1) * steps], dim=1) for i in range(count)]  # type: ignore[arg-type]
        with th.set_grad_enabled(self._through_dynamics):
            discount = self.world_model.predict_discount(states)
        return Blocks(
            states,
            th.stack([rollout.actions for rollout in rollouts], dim=1),
            th.stack(codes, dim=1),
            th.stack(goals, dim=1),
            type(managers[0]).stack(managers, dim=1),  # type: ignore[arg-type]
            type(by_block[0]).stack(by_block, dim=1),  # type: ignore[arg-type]
            worker_noise.unflatten(1, (count, steps)),
            nudge,
            discount,
            step_weights(discount),
        )

    def _dream(self, starts: LatentState) -> Blocks:
        """
        :param starts: where to imagine from, ``(N, ...)``
        :return: the dreams, with graphs that lead to manager and worker alone from what they chose from
        """
        blocks: Blocks = self._compiled.get("imagine", self._imagine)(starts, self._nudge(starts))
        if blocks.nudge is None:
            return blocks
        self._forget_casts()
        feat = blocks.states.feat.detach()
        goals = blocks.goals.unsqueeze(2).expand(-1, -1, self.goal_steps, -1)
        worker = self.policy.worker(th.cat([feat[:, :, :-1], goals], dim=-1))
        return blocks._replace(manager=self.policy.manager(feat[:, :, 0]), worker=worker)

    def _behaviour_losses(self, posterior: LatentState, metrics: Metrics) -> tuple[th.Tensor, th.Tensor]:
        """
        :param posterior: states of the replayed batch, ``(B, T, ...)``
        :param metrics: to be completed
        :return: loss of manager and worker, and of their critics, with those of who explores, if another one does
        """
        starts, _ = self._imagination_starts(posterior)
        blocks = self._dream(starts)
        worker_loss, worker_value_loss = self._worker_losses(blocks, metrics)
        manager_loss, manager_value_loss = self._manager_losses(blocks, metrics)
        actor_loss, value_loss = worker_loss + manager_loss, worker_value_loss + manager_value_loss
        if self.policy.explorer is not None:
            exploring, its_critics = self._exploring_losses(starts, self.policy.explorer, metrics)
            actor_loss, value_loss = actor_loss + exploring, value_loss + its_critics
        return actor_loss, value_loss

    def _worker_losses(self, blocks: Blocks, metrics: Metrics) -> tuple[th.Tensor, th.Tensor]:
        """
        The worker is to come near the goal, and to see what is new if asked to: it hears neither of the task's reward nor of
        an end.
        """
        policy = self.policy
        goals = blocks.goals.unsqueeze(2).expand(-1, -1, self.goal_steps + 1, -1)  # (N, M, K + 1, D)
        pursuing = th.cat([blocks.states.feat, goals], dim=-1)
        critic = policy.worker_critic(pursuing)
        with th.set_grad_enabled(self._through_dynamics):
            reward = max_cosine(blocks.states.deter, goals)
            share = self._scheduled("worker_intrinsic_coef")
            if share > 0:
                novelty = self._novelty(blocks)
                usual = policy.usual_novelty.update(novelty[..., 1:].mean().detach())
                reward = reward + share * novelty / usual.clamp_min(CURIOSITY_FLOOR)
            value = critic.mean
            returns = worker_returns(reward, th.full_like(reward, self.gamma), value, self.return_lambda)
        scale, weights = policy.worker_range.update(returns), blocks.weights
        wanted = Wanted(returns, value[..., :-1], scale)
        actor_loss = self._actor_loss(
            blocks.worker, blocks.actions, blocks.noise, blocks.nudge, wanted, weights, self._ent_coef
        )
        value_loss = self._value_loss(policy.worker_critic, policy.slow_worker_critic, pursuing[..., :-1, :], returns, weights)
        metrics.update(
            worker_loss=actor_loss,
            worker_critic_loss=value_loss,
            worker_entropy=blocks.worker.entropy.mean(),
            worker_saturation=blocks.worker.saturation.mean(),
            worker_scale=scale,
            goal_reward=reward.mean(),
            goal_reward_start=reward[..., 0].mean(),
            goal_reward_end=reward[..., -1].mean(),
        )
        return actor_loss, value_loss

    def _novelty(self, blocks: Blocks) -> th.Tensor:
        """:return: of each state, that of a block's first is not used, ``(N, M, K + 1)``"""
        flat = ImaginedRollout(blocks.states.map(lambda x: x.flatten(0, 1)), blocks.actions.flatten(0, 1))
        return self.policy.curiosity.reward(flat).unflatten(0, blocks.actions.shape[:2])

    def _manager_losses(self, blocks: Blocks, metrics: Metrics) -> tuple[th.Tensor, th.Tensor]:
        """The manager's steps are blocks; its rewards are the task's, and what is new, if nobody else is to explore."""
        policy, states = self.policy, blocks.states
        with th.no_grad():
            task_reward = self.world_model.predict_reward(states)
        critics = (policy.manager_critic, policy.slow_manager_critic, policy.task_range)
        advantage, value_loss = self._manager_advantage("task", blocks, task_reward, blocks.discount, *critics, 1.0, metrics)
        if policy.explorer is None:  # else the critic of novelty rests
            with th.no_grad():
                novelty = self._novelty(blocks)
            critics = (policy.novelty_critic, policy.slow_novelty_critic, policy.novelty_range)
            endless = th.full_like(novelty, self.gamma)  # or it would keep away from whatever ends an episode, be it the goal
            for_novelty, novelty_loss = self._manager_advantage(
                "novelty", blocks, novelty, endless, *critics, CURIOSITY_FLOOR, metrics
            )
            advantage = self.extrinsic_coef * advantage + self._scheduled("intrinsic_coef") * for_novelty
            value_loss = value_loss + novelty_loss

        log_prob, entropy, weights = blocks.manager.log_prob(blocks.codes), blocks.manager.entropy, blocks.weights[..., 0]
        ent_coef = policy.manager_ent.update(entropy.mean().detach())
        loss = (-weights * (log_prob * advantage + ent_coef * entropy)).mean()
        metrics.update(manager_loss=loss, manager_entropy=entropy.mean(), manager_ent_coef=ent_coef)
        return loss, value_loss

    def _manager_advantage(
        self,
        name: str,
        blocks: Blocks,
        reward: th.Tensor,
        discount: th.Tensor,
        critic: Critic,
        slow: Critic,
        tracked: ReturnRange,
        floor: float,
        metrics: Metrics,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        One of the manager's rewards.

        :param name: for the log
        :param blocks: the dreams
        :param reward: of their states, ``(N, M, K + 1)``
        :param discount: of their states, ``(N, M, K + 1)``
        :param critic: of its returns
        :param slow: the critic's slow copy
        :param tracked: range of the returns
        :param floor: the least that counts as a range
        :param metrics: to be completed
        :return: advantages in units of the range, without gradient ``(N, M)``, and the critic's loss
        """
        feat = blocks.states.feat
        feat = th.cat([feat[:, :, 0], feat[:, -1:, -1]], dim=1).detach()  # (N, M + 1, F)
        with th.no_grad():
            value = critic(feat).mean
            returns = manager_returns(reward, discount, value, self.return_lambda)
        scale = tracked.update(returns, floor)
        loss = self._value_loss(critic, slow, feat[:, :-1], returns, blocks.weights[..., 0])
        metrics[f"{name}_reward"], metrics[f"{name}_return"] = reward.mean(), returns.mean()
        metrics[f"{name}_scale"], metrics[f"{name}_value"] = scale, value.mean()
        metrics[f"{name}_critic_loss"] = loss
        return (returns - value[:, :-1]) / scale, loss

    def _value_loss(self, critic: Critic, slow: Critic, feat: th.Tensor, returns: th.Tensor, weights: th.Tensor) -> th.Tensor:
        """:return: a critic's loss on states ``(..., F)``, into which no gradient goes, scalar"""
        feat = feat.detach()
        slow_value = self._slow_value(feat, slow)
        return critic_loss(critic(feat), returns.detach(), slow_value, weights, self.slow_critic_scale).mean()
