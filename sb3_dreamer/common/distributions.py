"""
What the heads predict, as small objects around tensors: ``mean`` and ``loss(target)`` for predictions,
``sample(noise)``, ``mode``, ``log_prob(action)`` and ``entropy`` for policies. No argument validation and no
``torch.distributions`` inside: these run in the innermost loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.math import hard_one_hot, safe_log, two_hot_cross_entropy, two_hot_mean
from sb3_dreamer.common.preprocessing import OneHotLayout

NEVER = -1e9
"""Logit of what cannot happen: its probability is exactly 0, and unlike minus infinity it stays finite times 0."""


class TwoHot:
    """
    A scalar as a categorical over exponentially spaced bins (symexp two-hot, DreamerV3).

    :param logits: ``(..., K)``
    :param bins: bin centres, ``(K,)``
    """

    def __init__(self, logits: th.Tensor, bins: th.Tensor) -> None:
        # float32 whatever the network's precision: the outer bins lie near ±5e8
        self.logits, self.bins = logits.float(), bins

    def __getitem__(self, index: tuple[slice, ...]) -> TwoHot:
        """
        :param index: into the leading axes
        :return: those scalars only
        """
        return TwoHot(self.logits[index], self.bins)

    @property
    def mean(self) -> th.Tensor:
        """Expectation over the bins, ``(...)``."""
        return two_hot_mean(th.softmax(self.logits, dim=-1), self.bins)

    @cached_property
    def _log_probs(self) -> th.Tensor:
        return th.log_softmax(self.logits, dim=-1)

    def loss(self, target: th.Tensor) -> th.Tensor:
        """
        :param target: numbers in their own units, ``(...)``
        :return: cross-entropy with the two-hot target, ``(...)``
        """
        return two_hot_cross_entropy(self._log_probs, target.detach(), self.bins)


class ScaledNumber:
    """
    A scalar as one number in units of a scale, with a squared error.

    :param prediction: ``(...)``
    :param scale: the unit, scalar
    """

    def __init__(self, prediction: th.Tensor, scale: th.Tensor) -> None:
        self.prediction, self.scale = prediction.float(), scale

    @property
    def mean(self) -> th.Tensor:
        """The number in its own units, ``(...)``."""
        return self.prediction * self.scale

    def loss(self, target: th.Tensor) -> th.Tensor:
        """
        :param target: numbers in their own units, ``(...)``
        :return: squared error in units of the scale, ``(...)``
        """
        return (self.prediction - target / self.scale).square()


class SoftBernoulli:
    """
    A probability; the target may be soft (a discounted continue flag).

    :param logits: ``(...)``
    """

    def __init__(self, logits: th.Tensor) -> None:
        self.logits = logits.float()

    @property
    def mean(self) -> th.Tensor:
        """The probability, ``(...)``."""
        return th.sigmoid(self.logits)

    def loss(self, target: th.Tensor) -> th.Tensor:
        """
        :param target: probabilities, ``(...)``
        :return: binary cross-entropy, ``(...)``
        """
        return F.binary_cross_entropy_with_logits(self.logits, target, reduction="none")


class BoundedNormal:
    """
    The policy for continuous actions: a plain normal whose mean lies in (-1, 1). Samples are NOT squashed or clipped
    (the environment clips them), so log-probability and entropy are the normal's own.

    :param raw_mean: before the tanh, ``(..., A)``
    :param std: ``(..., A)``
    """

    def __init__(self, raw_mean: th.Tensor, std: th.Tensor) -> None:
        self.raw_mean, self.mean, self.std = raw_mean, th.tanh(raw_mean), std

    @classmethod
    def stack(cls, policies: Sequence[BoundedNormal], dim: int) -> BoundedNormal:
        """
        :param policies: of equal shapes
        :param dim: the new axis
        :return: all of them as one
        """
        return cls(th.stack([p.raw_mean for p in policies], dim), th.stack([p.std for p in policies], dim))

    @property
    def mode(self) -> th.Tensor:
        """The mean, ``(..., A)``."""
        return self.mean

    def sample(self, noise: th.Tensor) -> th.Tensor:
        """
        :param noise: standard normal, ``(..., A)``
        :return: reparametrised sample, ``(..., A)``
        """
        return th.addcmul(self.mean, self.std, noise)

    def log_prob(self, action: th.Tensor) -> th.Tensor:
        """
        :param action: raw, also beyond the bounds, ``(..., A)``
        :return: log-density summed over the action's dimensions, ``(...)``
        """
        z = (action - self.mean) / self.std
        return -(0.5 * z.square() + self.std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    @property
    def entropy(self) -> th.Tensor:
        """Summed over the action's dimensions, in nats, ``(...)``."""
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    @property
    def saturation(self) -> th.Tensor:
        """Mean square of the pre-tanh mean, ``(...)``: what a penalty keeps from growing without bound."""
        return self.raw_mean.square().mean(-1)


class OneHotGroups(nn.Module):
    """
    Takes vectors of concatenated one-hots (or their logits) apart into a padded grid of ``G`` variables by ``K`` choices,
    and puts them together again. It has no weights, only index tensors.

    :param classes: number of choices of every variable
    """

    index: th.Tensor
    flat: th.Tensor
    uniform: th.Tensor

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        layout = OneHotLayout(tuple(classes))
        self.size, self.grid = layout.size, layout.valid.shape
        self.ragged = not layout.valid.all()
        self.register_buffer("index", th.as_tensor(layout.index), persistent=False)
        self.register_buffer("flat", th.as_tensor(np.flatnonzero(layout.valid)), persistent=False)
        uniform = layout.valid / np.array(layout.classes)[:, None]
        self.register_buffer("uniform", th.as_tensor(uniform, dtype=th.float32), persistent=False)

    def split(self, x: th.Tensor, fill: float) -> th.Tensor:
        """
        :param x: ``(..., size)``
        :param fill: value of the padding
        :return: ``(..., G, K)``
        """
        if not self.ragged:
            return x.unflatten(-1, self.grid)
        return F.pad(x, (0, 1), value=fill)[..., self.index]

    def join(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: ``(..., G, K)``
        :return: ``(..., size)``
        """
        return x.flatten(-2)[..., self.flat] if self.ragged else x.flatten(-2)

    def softmax(self, logits: th.Tensor, unimix: float = 0.0) -> th.Tensor:
        """
        :param logits: ``(..., size)``
        :param unimix: share of the uniform distribution
        :return: probabilities of each variable, 0 in the padding, ``(..., G, K)``
        """
        probs = th.softmax(self.split(logits.float(), NEVER), dim=-1)
        return th.lerp(probs, self.uniform, unimix) if unimix > 0 else probs

    def cross_entropy(self, logits: th.Tensor, target: th.Tensor) -> th.Tensor:
        """
        :param logits: ``(..., size)``
        :param target: one-hots, ``(..., size)``
        :return: summed over the variables, ``(...)``
        """
        log_probs = th.log_softmax(self.split(logits.float(), NEVER), dim=-1)
        return -(log_probs * self.split(target, 0.0)).sum((-2, -1))


class OneHotCategorical:
    """
    The policy for discrete actions: one-hots of one or several independent variables, each mixed with a share of the uniform
    distribution. Samples pass gradients straight through to the probabilities.

    :param logits: ``(..., A)``
    :param groups: the variables
    :param unimix: share of the uniform distribution, bounds the log-probability of rare actions
    """

    def __init__(self, logits: th.Tensor, groups: OneHotGroups, unimix: float = 0.01) -> None:
        self.groups, self.unimix, self.logits = groups, unimix, logits
        self.probs = groups.softmax(logits, unimix)  # (..., G, K)

    @classmethod
    def stack(cls, policies: Sequence[OneHotCategorical], dim: int) -> OneHotCategorical:
        """
        :param policies: of equal shapes
        :param dim: the new axis
        :return: all of them as one
        """
        first = policies[0]
        return cls(th.stack([p.logits for p in policies], dim), first.groups, first.unimix)

    @property
    def mode(self) -> th.Tensor:
        """One-hot of the most probable action, ``(..., A)``."""
        return self.groups.join(hard_one_hot(self.probs))

    def sample(self, noise: th.Tensor) -> th.Tensor:
        """
        :param noise: Exponential(1), ``(..., A)``
        :return: one-hot sample with straight-through gradient, ``(..., A)``
        """
        # argmax of p / Exponential(1) is a draw from p
        hard = hard_one_hot(self.probs.detach() / self.groups.split(noise, 1.0))
        return self.groups.join(hard + (self.probs - self.probs.detach()))

    def log_prob(self, action: th.Tensor) -> th.Tensor:
        """
        :param action: one-hot, ``(..., A)``
        :return: log-probability summed over the variables, ``(...)``
        """
        return (safe_log(self.probs) * self.groups.split(action, 0.0)).sum((-2, -1))

    @property
    def entropy(self) -> th.Tensor:
        """Summed over the variables, in nats, ``(...)``."""
        return -(self.probs * safe_log(self.probs)).sum((-2, -1))

    @property
    def saturation(self) -> th.Tensor:
        """Mean square of the logits, centred for each variable, ``(...)``."""
        logits = self.groups.split(self.logits, 0.0)
        mean = (logits * self.groups.uniform).sum(-1, keepdim=True)
        return self.groups.join(logits - mean).square().mean(-1)


ActionDistribution = BoundedNormal | OneHotCategorical
