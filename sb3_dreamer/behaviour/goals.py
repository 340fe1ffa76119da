"""Goals that are states: an autoencoder that names latent states by discrete codes, and finds strange what it cannot name."""

from __future__ import annotations

import math
from typing import ClassVar

import torch as th
import torch.nn as nn

from sb3_dreamer.behaviour.curiosity import Curiosity
from sb3_dreamer.common.distributions import OneHotCategorical, OneHotGroups
from sb3_dreamer.common.math import random_like
from sb3_dreamer.common.networks import MLP, Norm
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch


class AdaptiveWeight(nn.Module):
    """
    A weight of a loss that follows a target: by a tenth up or down wherever the measured value is more than a tenth off
    (as Director's, Hafner et al. 2022, https://arxiv.org/abs/2206.04114).

    :param start: first weight
    :param target: of the measured value, positive
    :param rises_above: whether the weight rises where the value is above the target (a penalty), or below (a bonus)
    :param limits: least and largest weight
    """

    def __init__(self, start: float, target: float, rises_above: bool, limits: tuple[float, float] = (1e-5, 1.0)) -> None:
        super().__init__()
        self.target, self.rises_above, self.limits = target, rises_above, limits
        self.register_buffer("weight", th.tensor(start))
        self.weight: th.Tensor

    @th.no_grad()
    def update(self, value: th.Tensor) -> th.Tensor:
        """
        :param value: measured now, scalar
        :return: the weight before, which is meant for the loss of now, scalar
        """
        now = self.weight.clone()
        above, below = value > 1.1 * self.target, value < self.target / 1.1
        rises, falls = (above, below) if self.rises_above else (below, above)
        factor = th.where(rises, 1.1, th.where(falls, 1 / 1.1, 1.0))
        self.weight.mul_(factor).clamp_(*self.limits)
        return now


class GoalAutoencoder(Curiosity):
    """
    Deterministic states as codes of ``G`` choices among ``K``: ``L = |h - dec(z)|² + β KL[enc(z | h) ‖ uniform]``, with a β
    that keeps the KL near a share of its maximum, ``G ln K``, so that codes are used evenly and any of them decodes to a state
    like those seen. A manager chooses among the codes, not among states.

    As curiosity it rewards what it reconstructs badly, as Director does: the mean square over the state's dimensions.

    :param deter_size: D
    :param code: ``(G, K)``
    :param units: width
    :param layers: hidden layers
    :param norm: kind of normalisation
    :param kl_share: the KL wanted, as a share of its maximum (published: 10 nats of 8 ln 8)
    """

    name: ClassVar[str] = "autoencoder"

    def __init__(
        self,
        deter_size: int,
        code: tuple[int, int] = (8, 8),
        units: int = 64,
        layers: int = 2,
        norm: Norm = "rms",
        kl_share: float = 0.6,
    ) -> None:
        super().__init__()
        sound = isinstance(code, tuple | list) and len(code) == 2 and all(isinstance(number, int) for number in code)
        if not sound or code[0] < 1 or code[1] < 2:
            raise ValueError(f"code must be two whole numbers, groups (at least 1) and classes (at least 2), got {code!r}.")
        groups, classes = code
        if not 0 < kl_share < 1:
            raise ValueError(f"kl_share must lie between 0 and 1, got {kl_share!r}.")
        self.choices = (classes,) * groups
        self.groups = OneHotGroups(self.choices)
        self.max_entropy = len(self.choices) * math.log(classes)
        self.encoder = MLP(deter_size, units, layers, self.groups.size, norm)
        self.decoder = MLP(self.groups.size, units, layers, deter_size, norm)
        self.kl_weight = AdaptiveWeight(1e-3, kl_share * self.max_entropy, rises_above=True)

    def encode(self, deter: th.Tensor) -> OneHotCategorical:
        """
        :param deter: ``(..., D)``
        :return: distribution over codes ``(..., G * K)``
        """
        return OneHotCategorical(self.encoder(deter), self.groups, unimix=0.0)

    def decode(self, code: th.Tensor) -> th.Tensor:
        """
        :param code: one-hots, ``(..., G * K)``
        :return: the state it stands for, ``(..., D)``
        """
        return self.decoder(code).float()

    def loss(self, batch: SequenceBatch, posterior: LatentState) -> th.Tensor:
        return self.state_loss(posterior.deter.detach().flatten(0, -2))

    def state_loss(self, deter: th.Tensor) -> th.Tensor:
        """
        :param deter: states without a gradient, ``(n, D)``
        :return: scalar; the weight of the KL moves on
        """
        codes = self.encode(deter)
        noise = random_like("exponential", (len(deter), self.groups.size), deter, None)
        error = (self.decode(codes.sample(noise)) - deter).square().sum(-1).mean()
        kl = self.max_entropy - codes.entropy.mean()
        return error + self.kl_weight.update(kl.detach()) * kl

    def error(self, deter: th.Tensor) -> th.Tensor:
        """
        :param deter: ``(..., D)``
        :return: mean square error of what its most probable code stands for, ``(...)``
        """
        return (self.decode(self.encode(deter).mode) - deter).square().mean(-1)

    def reward(self, rollout: ImaginedRollout) -> th.Tensor:
        return self.error(rollout.states.deter)
