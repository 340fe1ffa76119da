"""Distributions over sequences of actions, which planners sample from and refit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch as th

from sb3_dreamer.common.distributions import OneHotGroups
from sb3_dreamer.common.math import hard_one_hot, random_like


class ActionSequences(Protocol):
    """For B plans at once, H steps each. Axis ``N`` counts candidates."""

    def sample(self, n: int, colour: float = 0.0, generator: th.Generator | None = None) -> th.Tensor:
        """
        All plans share the random numbers: what is found for one does not depend on how many others there are.

        :param n: N, candidates a plan
        :param colour: exponent β of the noise's spectrum ``f^-β`` over the steps: 0 white, 2 a random walk's
        :param generator: where the randomness comes from, torch's own by default
        :return: ``(B, N, H, A)``
        """

    def refit(self, candidates: th.Tensor, weights: th.Tensor, momentum: float) -> ActionSequences:
        """
        :param candidates: ``(B, N, H, A)``
        :param weights: of each, they sum to 1, ``(B, N)``
        :param momentum: share of the old distribution that stays
        :return: the distribution nearest to the weighted candidates
        """

    def shift(self) -> ActionSequences:
        """:return: what is left when the first action has been taken, with nothing known of the new last one"""

    @property
    def mode(self) -> th.Tensor:
        """The most probable sequences, ``(B, H, A)``."""


@dataclass(frozen=True)
class NormalSequences:
    """Numbers in ``[-1, 1]``: independent normals, whose samples are clipped."""

    mean: th.Tensor
    """``(B, H, A)``."""
    std: th.Tensor
    """``(B, H, A)``."""
    min_std: float = 0.05
    init_std: float = 1.0

    @classmethod
    def fresh(
        cls, batch: int, horizon: int, size: int, device: th.device, init_std: float = 1.0, min_std: float = 0.05
    ) -> NormalSequences:
        """
        :param batch: B
        :param horizon: H
        :param size: A
        :param device: where
        :param init_std: standard deviation around 0
        :param min_std: least one that :meth:`refit` finds, so that the search does not stop too early
        :return: a distribution that knows nothing
        """
        mean = th.zeros(batch, horizon, size, device=device)
        return cls(mean, th.full_like(mean, init_std), min_std, init_std)

    def sample(self, n: int, colour: float = 0.0, generator: th.Generator | None = None) -> th.Tensor:
        _, horizon, size = self.mean.shape
        noise = coloured_noise((1, n, size), horizon, colour, self.mean, generator).transpose(-1, -2)
        return th.addcmul(self.mean.unsqueeze(1), self.std.unsqueeze(1), noise).clamp_(-1.0, 1.0)

    def refit(self, candidates: th.Tensor, weights: th.Tensor, momentum: float) -> NormalSequences:
        weights = weights[..., None, None]
        mean = (weights * candidates).sum(1)
        std = (weights * (candidates - mean.unsqueeze(1)).square()).sum(1).sqrt().clamp_min(self.min_std)
        return NormalSequences(mean.lerp(self.mean, momentum), std.lerp(self.std, momentum), self.min_std, self.init_std)

    def shift(self) -> NormalSequences:
        mean = th.cat([self.mean[:, 1:], th.zeros_like(self.mean[:, :1])], dim=1)
        return NormalSequences(mean, th.full_like(mean, self.init_std), self.min_std, self.init_std)

    @property
    def mode(self) -> th.Tensor:
        return self.mean.clamp(-1.0, 1.0)


@dataclass(frozen=True)
class CategoricalSequences:
    """Choices: independent categoricals, one a step and variable."""

    probs: th.Tensor
    """``(B, H, G, K)``, 0 where a variable has fewer choices than another."""
    groups: OneHotGroups
    min_prob: float = 0.02
    """Least share of the uniform distribution."""

    @classmethod
    def fresh(cls, batch: int, horizon: int, groups: OneHotGroups, min_prob: float = 0.02) -> CategoricalSequences:
        """
        :param batch: B
        :param horizon: H
        :param groups: how the choices lie in the actions
        :param min_prob: least share of the uniform distribution, so that the search does not stop too early
        :return: a distribution that knows nothing
        """
        return cls(groups.uniform.expand(batch, horizon, *groups.uniform.shape), groups, min_prob)

    def sample(self, n: int, colour: float = 0.0, generator: th.Generator | None = None) -> th.Tensor:
        noise = random_like("exponential", (1, n, *self.probs.shape[1:]), self.probs, generator)
        return self.groups.join(hard_one_hot(self.probs.unsqueeze(1) / noise))  # argmax of p / Exponential(1) is a draw from p

    def refit(self, candidates: th.Tensor, weights: th.Tensor, momentum: float) -> CategoricalSequences:
        counts = (weights[..., None, None] * candidates).sum(1)  # (B, H, A)
        probs = self.groups.split(counts, 0.0).lerp(self.probs, momentum)
        return CategoricalSequences(probs.lerp(self.groups.uniform, self.min_prob), self.groups, self.min_prob)

    def shift(self) -> CategoricalSequences:
        last = self.groups.uniform.expand_as(self.probs[:, :1])
        probs = th.cat([self.probs[:, 1:], last], dim=1)
        return CategoricalSequences(probs.lerp(self.groups.uniform, 0.5), self.groups, self.min_prob)

    @property
    def mode(self) -> th.Tensor:
        return self.groups.join(hard_one_hot(self.probs))


def coloured_noise(
    shape: tuple[int, ...], steps: int, colour: float, like: th.Tensor, generator: th.Generator | None = None
) -> th.Tensor:
    """
    Normal noise with the spectrum ``f^-β`` over its last axis and standard deviation 1 (Timmer and König 1995; in planning:
    Pinneri et al. 2020, https://arxiv.org/abs/2008.06389). The lowest frequency counts as that of one period in all steps.

    :param shape: of the leading axes
    :param steps: length of the last axis
    :param colour: β, 0 for white noise
    :param like: a tensor on the device wanted
    :param generator: where the randomness comes from, torch's own by default
    :return: ``(*shape, steps)``
    """
    if colour == 0 or steps == 1:
        return random_like("normal", (*shape, steps), like, generator)
    bins = steps // 2 + 1
    frequency = th.arange(bins, device=like.device, dtype=like.dtype).clamp_min(1.0) / steps
    scale = frequency ** (-colour / 2)
    real, imaginary = random_like("normal", (2, *shape, bins), like, generator).unbind(0)
    mirrored = th.ones_like(scale)  # bins that stand for one frequency, not for it and its mirror image
    mirrored[0] = 0.0
    if steps % 2 == 0:
        mirrored[-1] = 0.0
    # what has no mirror image is real: its variance must be that of both parts
    real = th.where(mirrored > 0, real, real * math.sqrt(2.0))
    noise = th.fft.irfft(th.complex(real, imaginary * mirrored) * scale, n=steps)
    power = (2.0 * scale.square() * (1.0 + mirrored)).sum()
    return noise * (steps / power.sqrt())
