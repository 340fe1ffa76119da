"""Plan2Explore: to be rewarded, in imagination, for going where the world model's future is not yet known."""

from __future__ import annotations

from itertools import pairwise

import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.behaviour.goals import Curiosity
from sb3_dreamer.behaviour.networks import Critic
from sb3_dreamer.common.averaging import frozen_copy
from sb3_dreamer.common.networks import bounded
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.world_models.members import BatchedLinear
from sb3_dreamer.world_models.observations import VectorScaling


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


class Explorer(nn.Module):
    """
    What exploring needs beside an actor: a curiosity, and a critic with a range of returns of its own, as curiosity and
    task are on different scales.

    :param name: of the curiosity, as it is saved and logged: ``"disagreement"`` or ``"autoencoder"``
    :param curiosity: gives the rewards
    :param critic: of their returns
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, name: str, curiosity: Curiosity, critic: Critic) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, curiosity)
        self.critic = critic
        self.slow_critic = frozen_copy(critic)
        self.register_buffer("low", th.zeros(()))
        self.register_buffer("high", th.zeros(()))

    @property
    def curiosity(self) -> Curiosity:
        """What gives the rewards."""
        curiosity = self.get_submodule(self.name)
        assert isinstance(curiosity, Curiosity)
        return curiosity
