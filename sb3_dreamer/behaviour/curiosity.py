"""Curiosity: to be rewarded, in imagination, for going where the world model's future is not yet known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.math import without_autocast
from sb3_dreamer.common.networks import bounded
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.world_models.members import BatchedLinear
from sb3_dreamer.world_models.observations import VectorScaling

CURIOSITY_FLOOR = 1e-4
"""Least range of the returns of curiosity: what is less is noise."""


class Curiosity(nn.Module, ABC):
    """What says how much there is to discover in imagined states, and learns it from replayed ones."""

    name: ClassVar[str]
    """In the log, and of its parameter group."""

    @abstractmethod
    def loss(self, batch: SequenceBatch, posterior: LatentState) -> th.Tensor:
        """
        :param batch: the replayed batch
        :param posterior: its states, ``(B, T, ...)``, which do not learn from it
        :return: scalar
        """

    @abstractmethod
    def reward(self, rollout: ImaginedRollout) -> th.Tensor:
        """
        :param rollout: N dreams of H steps
        :return: what each state is worth, given with the state as rewards are, ``(N, H + 1)``; the first is never used
        """


class Disagreement(Curiosity):
    """
    Several networks that predict the next stochastic state from the features of the state before and the action. They differ
    in their first weights alone; where they have learnt, they agree. The variance of their means is what the model does not
    know; noise, which all of them average out, adds nothing to it (Sekar et al. 2020, https://arxiv.org/abs/2005.05960).

    :param feat_size: F
    :param action_size: A
    :param stoch_size: Z
    :param units: width
    :param layers: hidden layers
    :param members: number of networks
    """

    name: ClassVar[str] = "disagreement"

    def __init__(self, feat_size: int, action_size: int, stoch_size: int, units: int, layers: int, members: int = 8) -> None:
        super().__init__()
        sizes = [feat_size + action_size, *[units] * layers]
        self.members = members
        self.hidden = nn.ModuleList(BatchedLinear(members, a, b) for a, b in pairwise(sizes))
        self.head = BatchedLinear(members, units, stoch_size)
        self.scaling = VectorScaling("running", stoch_size)
        """Of the targets, so that no latent counts more than another."""

    def forward(self, feat: th.Tensor, action: th.Tensor) -> th.Tensor:
        """
        :param feat: ``(n, F)``
        :param action: taken there, ``(n, A)``
        :return: the next stochastic states expected, scaled, ``(members, n, Z)``
        """
        x = th.cat([feat, bounded(action)], dim=-1).expand(self.members, -1, -1)
        for layer in self.hidden:
            x = F.silu(layer(x))
        return self.head(x)

    def loss(self, batch: SequenceBatch, posterior: LatentState) -> th.Tensor:
        """
        Squared error on replayed steps; neither states nor targets learn from it, or they would be made easy to agree on.

        :param batch: the batch
        :param posterior: its states, ``(B, T, ...)``
        :return: mean over steps and latents, summed over the members, scalar
        """
        inside = batch.is_first[:, 1:] == 0  # steps within an episode
        feat, target = posterior.feat.detach()[:, :-1][inside], posterior.stoch.detach()[:, 1:][inside]
        if len(target) == 0:
            return posterior.feat.new_zeros(()).requires_grad_()
        if bool(th.isfinite(target).all()):  # else the update is skipped, and the scales would never forget it
            self.scaling.update(target)
        error = self(feat, batch.prev_action[:, 1:][inside]) - self.scaling(target)
        return error.square().mean((1, 2)).sum()

    def reward(self, rollout: ImaginedRollout) -> th.Tensor:
        """
        What a step is worth, given with the state it leads to, as rewards are: the k-th state's is that of the action taken
        at the state before it; the first one's is 0.

        :param rollout: N dreams of H steps
        :return: variances over the members, means over the latents, ``(N, H + 1)``
        """
        feat, action = rollout.states.feat[:, :-1], rollout.actions
        predicted = self(feat.flatten(0, 1), action.flatten(0, 1))
        variance = predicted.var(0, unbiased=False).mean(-1).view(action.shape[:2])
        return F.pad(variance, (1, 0))


class UsualValue(nn.Module):
    """A running mean: of the numbers so far, of the last hundred or so where there have been more; 1 before the first."""

    mean: th.Tensor
    count: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", th.ones(()))
        self.register_buffer("count", th.zeros(()))

    @th.no_grad()
    def update(self, value: th.Tensor) -> th.Tensor:
        """
        :param value: a number more, scalar; what is not finite does not count
        :return: the mean, scalar
        """
        sound = th.isfinite(value)
        self.count.add_(sound)
        mean = self.mean + (value - self.mean) / self.count.clamp(1, 100)
        self.mean.copy_(th.where(sound, mean, self.mean))
        return self.mean


class StateEntropy(Curiosity):
    """
    What is far from all that has been seen: the mean distance to the ``neighbours`` nearest in a sample of replayed states, of
    which a policy that is rewarded for it makes the distribution of its states ever more even. Unlike disagreement it does
    not end where the model could have told in advance what is there: an empty room is worth a visit too (particle-based
    entropy, Liu and Abbeel 2021, https://arxiv.org/abs/2103.04551).

    Distances are those between observations as the world model expects them from its states, each number in units of its
    deviation: the states themselves hold much that is not a place, such as the last action.

    :param decode: the world model's ``decode``
    :param obs_size: numbers in an observation
    :param particles: states in the sample, one of each window of the last batches: neighbours in time are neighbours in
        space, and would tell of nothing else
    :param neighbours: k
    """

    name: ClassVar[str] = "state_entropy"

    particles: th.Tensor

    def __init__(
        self,
        decode: Callable[[LatentState], dict[str, th.Tensor]],
        obs_size: int,
        particles: int = 1024,
        neighbours: int = 8,
    ) -> None:
        super().__init__()
        if not 1 <= neighbours <= particles:
            raise ValueError(
                f"neighbours must lie between 1 and particles, got particles={particles!r}, neighbours={neighbours!r}."
            )
        self.neighbours = neighbours
        self._decode = decode
        self.scaling = VectorScaling("running", obs_size)
        self.usual_distance = UsualValue()
        self.register_buffer("particles", th.zeros(particles, obs_size))

    @th.no_grad()
    def loss(self, batch: SequenceBatch, posterior: LatentState) -> th.Tensor:
        """
        Nothing is learnt: a state of each window, as often as states occur, takes the place of the oldest in the sample. To be
        called when the batch has been dreamt of: else every start is near to what has been seen, and any way from there novel.

        :param batch: the batch
        :param posterior: its states, ``(B, T, ...)``
        :return: 0
        """
        states = posterior.map(lambda part: part[: batch.n_uniform or None])
        n, length = states.deter.shape[:2]
        row, window = th.randint(length, (n,), device=states.deter.device), th.arange(n, device=states.deter.device)
        fresh = self._expected(states.map(lambda part: part[window, row]))[: len(self.particles)]
        sound, first = th.isfinite(fresh).all(), self.scaling.count == 0
        if bool(sound):  # else the update is skipped, and the sample would keep it
            self.scaling.update(fresh)
            distance = self.distance(fresh).mean()  # before they are in the sample themselves
            self.usual_distance.update(th.where(first, th.nan, distance))
            copies = -(-len(self.particles) // len(fresh))
            begun = fresh.repeat(copies, 1)[: len(self.particles)]
            self.particles.copy_(th.where(first, begun, th.cat([self.particles[len(fresh) :], fresh])))
        return fresh.new_zeros(())

    def _expected(self, states: LatentState) -> th.Tensor:
        """:return: observations ``(..., O)`` of states ``(..., D)``, ``(..., Z)``"""
        axes = states.deter.dim() - 1
        return th.cat([part.float().flatten(axes) for part in self._decode(states).values()], dim=-1)

    def distance(self, obs: th.Tensor) -> th.Tensor:
        """
        :param obs: ``(..., O)``
        :return: mean distance to the nearest of the sample, ``(...)``
        """
        known, asked = self.scaling(self.particles), self.scaling(obs.float().flatten(0, -2))
        with without_autocast(asked.device.type):  # near states, whose difference short numbers would lose
            square = asked.square().sum(-1, keepdim=True) + known.square().sum(-1) - 2 * asked @ known.T
        nearest = square.topk(self.neighbours, largest=False, sorted=False).values
        return nearest.clamp_min(1e-6).sqrt().mean(-1).view(obs.shape[:-1])

    def reward(self, rollout: ImaginedRollout) -> th.Tensor:
        """
        :param rollout: N dreams of H steps
        :return: ``log(1 + distance)`` of each state, in units of the usual distance, ``(N, H + 1)``
        """
        return th.log1p(self.distance(self._expected(rollout.states)) / self.usual_distance.mean.clamp_min(1e-6))
