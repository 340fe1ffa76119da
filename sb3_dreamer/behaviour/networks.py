"""Dreamer's actor and critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
import torch.nn as nn

from sb3_dreamer.common.distributions import ActionDistribution, BoundedNormal, OneHotCategorical, OneHotGroups, TwoHot
from sb3_dreamer.common.math import percentile_range, random_like, symexp_bins
from sb3_dreamer.common.networks import MLP, Linear, Norm


class Actor(nn.Module):
    """
    The policy network: features to a distribution over actions.

    :param feat_size: F
    :param action_size: A
    :param classes: choices of every discrete action; empty for numbers
    :param units: width
    :param layers: hidden layers
    :param norm: kind of normalisation
    :param min_std: smallest standard deviation (continuous)
    :param max_std: largest one
    :param unimix: share of the uniform distribution (discrete)
    """

    def __init__(
        self,
        feat_size: int,
        action_size: int,
        classes: Sequence[int],
        units: int,
        layers: int,
        norm: Norm,
        min_std: float = 0.1,
        max_std: float = 1.0,
        unimix: float = 0.01,
    ) -> None:
        super().__init__()
        self.action_size = action_size
        self.groups = OneHotGroups(classes) if classes else None
        self.min_std, self.max_std, self.unimix = min_std, max_std, unimix
        self.trunk = MLP(feat_size, units, layers, norm=norm)
        self.mean = Linear(units, action_size, scale=0.01)  # or the logits
        self.std = None if classes else Linear(units, action_size, scale=0.01)

    def forward(self, feat: th.Tensor) -> ActionDistribution:
        """
        :param feat: ``(..., F)``
        :return: distribution over actions ``(..., A)``
        """
        hidden = self.trunk(feat)
        if self.groups is not None:
            return OneHotCategorical(self.mean(hidden).float(), self.groups, self.unimix)
        assert self.std is not None
        std = self.min_std + (self.max_std - self.min_std) * th.sigmoid(self.std(hidden).float() + 2.0)
        return BoundedNormal(self.mean(hidden).float(), std)

    def noise(self, shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param shape: batch shape
        :param like: a tensor on the device wanted
        :param generator: where the randomness comes from, torch's own by default
        :return: what the distribution's ``sample`` needs, ``(*shape, A)``
        """
        return random_like("exponential" if self.groups else "normal", (*shape, self.action_size), like, generator)


class Critic(nn.Module):
    """
    The value network: features to a symexp two-hot distribution, exactly 0 at first.

    :param feat_size: F
    :param units: width
    :param layers: hidden layers
    :param bins: number of bins
    :param norm: kind of normalisation
    """

    def __init__(self, feat_size: int, units: int, layers: int, bins: int, norm: Norm) -> None:
        super().__init__()
        self.net = MLP(feat_size, units, layers, bins, norm, out_scale=0.0)
        self.register_buffer("bins", symexp_bins(bins), persistent=False)
        self.bins: th.Tensor

    def forward(self, feat: th.Tensor) -> TwoHot:
        """
        :param feat: ``(..., F)``
        :return: distribution over values ``(...)``
        """
        return TwoHot(self.net(feat), self.bins)


@th.no_grad()
def track_range(low: th.Tensor, high: th.Tensor, returns: th.Tensor, rate: float, limit: float) -> th.Tensor:
    """
    :param low: running 5th percentile, changed in place
    :param high: running 95th percentile, changed in place
    :param returns: any shape
    :param rate: of the running averages
    :param limit: smallest scale
    :return: what to divide by, scalar
    """
    for kept, now in zip((low, high), percentile_range(returns), strict=True):
        # of an update that will be skipped; a running average would never forget it
        kept.lerp_(th.where(th.isfinite(now), now, kept), rate)
    return (high - low).clamp_min(limit)


class ReturnRange(nn.Module):
    """Running 5th and 95th percentiles of returns, from 0, which say what a large difference between them is."""

    low: th.Tensor
    high: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", th.zeros(()))
        self.register_buffer("high", th.zeros(()))

    def update(self, returns: th.Tensor, limit: float = 1.0) -> th.Tensor:
        """
        :param returns: any shape
        :param limit: smallest scale, so that small returns are not blown up
        :return: what to divide by, scalar
        """
        return track_range(self.low, self.high, returns, 0.01, limit)
