"""
What the heads predict, as small objects around tensors: ``mean`` and ``loss(target)`` for predictions,
``sample(noise)``, ``mode``, ``log_prob(action)`` and ``entropy`` for policies. No argument validation and no
``torch.distributions`` inside: these run in the innermost loops.
"""

from __future__ import annotations

import math

import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.math import safe_log, two_hot_cross_entropy, two_hot_mean


class TwoHot:
    """
    A scalar as a categorical over exponentially spaced bins (symexp two-hot, DreamerV3).

    :param logits: ``(..., K)``
    :param bins: bin centres, ``(K,)``
    """

    def __init__(self, logits: th.Tensor, bins: th.Tensor) -> None:
        # float32 whatever the network's precision: the outer bins lie near ±5e8
        self.logits, self.bins = logits.float(), bins

    @property
    def mean(self) -> th.Tensor:
        """Expectation over the bins, ``(...)``."""
        return two_hot_mean(self.logits, self.bins)

    def loss(self, target: th.Tensor) -> th.Tensor:
        """
        :param target: numbers in their own units, ``(...)``
        :return: cross-entropy with the two-hot target, ``(...)``
        """
        return two_hot_cross_entropy(self.logits, target.detach(), self.bins)


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


class OneHotCategorical:
    """
    The policy for discrete actions: a one-hot of the action, mixed with a share of the uniform distribution.
    Samples pass gradients straight through to the probabilities.

    :param logits: ``(..., A)``
    :param unimix: share of the uniform distribution, bounds the log-probability of rare actions
    """

    def __init__(self, logits: th.Tensor, unimix: float = 0.01) -> None:
        probs = th.softmax(logits.float(), dim=-1)
        self.probs = probs * (1 - unimix) + unimix / logits.shape[-1]
        self._logits = logits

    @property
    def mode(self) -> th.Tensor:
        """One-hot of the most probable action, ``(..., A)``."""
        return self._hard(self.probs)

    def _hard(self, score: th.Tensor) -> th.Tensor:
        return th.zeros_like(self.probs).scatter_(-1, score.argmax(-1, keepdim=True), 1.0)

    def sample(self, noise: th.Tensor) -> th.Tensor:
        """
        :param noise: Exponential(1), ``(..., A)``
        :return: one-hot sample with straight-through gradient, ``(..., A)``
        """
        hard = self._hard(self.probs.detach() / noise)
        return hard + (self.probs - self.probs.detach())

    def log_prob(self, action: th.Tensor) -> th.Tensor:
        """
        :param action: one-hot, ``(..., A)``
        :return: log-probability, ``(...)``
        """
        return (safe_log(self.probs) * action).sum(-1)

    @property
    def entropy(self) -> th.Tensor:
        """In nats, ``(...)``."""
        return -(self.probs * safe_log(self.probs)).sum(-1)

    @property
    def saturation(self) -> th.Tensor:
        """Mean square of the centred logits, ``(...)``."""
        return (self._logits - self._logits.mean(-1, keepdim=True)).square().mean(-1)


ActionDistribution = BoundedNormal | OneHotCategorical
