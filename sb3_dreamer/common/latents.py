"""
The two families of stochastic latent state. A family knows how many numbers a network must give it, and turns them
into samples, modes and divergences; it holds no weights. Noise is passed in, so a whole sequence's can be drawn at once
(and a test can fix it).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.math import hard_one_hot, random_like, safe_log


class StateFamily(Protocol):
    """A distribution of states, given its parameters. ``P`` is how many numbers these are."""

    def noise(self, shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param shape: batch shape
        :param like: a tensor on the device wanted
        :param generator: where the randomness comes from, torch's own by default
        :return: fresh noise for that many samples
        """

    def sample(self, params: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """
        :param params: ``(..., P)``
        :param noise: from :meth:`noise`
        :return: differentiable samples, ``(..., Z)``
        """

    def mode(self, params: th.Tensor) -> th.Tensor:
        """
        :param params: ``(..., P)``
        :return: the most probable values, ``(..., Z)``
        """


class LatentFamily(StateFamily, Protocol):
    """What a recurrent world model asks of its latents. ``P`` below is ``param_size``."""

    param_size: int
    """How many numbers parametrise one distribution."""
    size: int
    """``Z``: how many numbers a sample has."""

    def kl(self, posterior: th.Tensor, prior: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param posterior: ``(..., P)``
        :param prior: ``(..., P)``
        :return: ``KL(sg(posterior) ‖ prior)`` and ``KL(posterior ‖ sg(prior))``, summed over the latents, ``(...)``
        """

    def entropy(self, params: th.Tensor) -> th.Tensor:
        """
        :param params: ``(..., P)``
        :return: entropy summed over the latents, in nats, ``(...)``
        """


class CategoricalLatents:
    """
    ``S`` one-hot variables of ``K`` classes. Every probability is mixed with a share of the uniform distribution, in
    sampling, KL and entropy alike; gradients pass samples straight through to those probabilities (DreamerV3).

    :param groups: S
    :param classes: K
    :param unimix: share of the uniform distribution
    """

    def __init__(self, groups: int, classes: int, unimix: float = 0.01) -> None:
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.param_size = self.size = groups * classes

    def _probs(self, params: th.Tensor) -> th.Tensor:
        logits = params.float().unflatten(-1, (self.groups, self.classes))  # (..., S, K)
        probs = th.softmax(logits, dim=-1)
        return probs * (1 - self.unimix) + self.unimix / self.classes

    def noise(self, shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        return random_like("exponential", (*shape, self.groups, self.classes), like, generator)

    def sample(self, params: th.Tensor, noise: th.Tensor) -> th.Tensor:
        probs = self._probs(params)
        # argmax of p / Exponential(1) is a draw from p (the exponential race, equal to the Gumbel-max trick)
        hard = hard_one_hot(probs.detach() / noise)
        if probs.requires_grad:
            hard = hard + (probs - probs.detach())
        return hard.flatten(-2)

    def mode(self, params: th.Tensor) -> th.Tensor:
        probs = self._probs(params)
        return hard_one_hot(probs).flatten(-2)

    def kl(self, posterior: th.Tensor, prior: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        post, pri = self._probs(posterior), self._probs(prior)
        log_post, log_pri = safe_log(post), safe_log(pri)
        dynamics = (post.detach() * (log_post.detach() - log_pri)).sum((-2, -1))
        representation = (post * (log_post - log_pri.detach())).sum((-2, -1))
        return dynamics, representation

    def entropy(self, params: th.Tensor) -> th.Tensor:
        probs = self._probs(params)
        return -(probs * safe_log(probs)).sum((-2, -1))


class GaussianLatents:
    """
    Independent normal variables, ``std = softplus(raw) + min_std`` (PlaNet, Hafner et al. 2019,
    https://arxiv.org/abs/1811.04551).

    :param size: Z
    :param min_std: lower bound of the standard deviation
    """

    def __init__(self, size: int, min_std: float = 0.1) -> None:
        self.size, self.param_size, self.min_std = size, 2 * size, min_std

    def mean_std(self, params: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param params: ``(..., P)``
        :return: means and standard deviations, ``(..., Z)``
        """
        mean, raw = params.float().chunk(2, dim=-1)
        return mean, F.softplus(raw) + self.min_std

    def noise(self, shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        return random_like("normal", (*shape, self.size), like, generator)

    def sample(self, params: th.Tensor, noise: th.Tensor) -> th.Tensor:
        mean, std = self.mean_std(params)
        return th.addcmul(mean, std, noise)

    def mode(self, params: th.Tensor) -> th.Tensor:
        return params[..., : self.size].float()

    def kl_to_standard_normal(self, params: th.Tensor) -> th.Tensor:
        """
        :param params: ``(..., P)``
        :return: ``KL(distribution ‖ N(0, 1))``, summed over the latents, ``(...)``
        """
        mean, std = self.mean_std(params)
        return self._kl(mean, std, th.zeros_like(mean), th.ones_like(std))

    @staticmethod
    def _kl(mean_p: th.Tensor, std_p: th.Tensor, mean_q: th.Tensor, std_q: th.Tensor) -> th.Tensor:
        ratio = std_p / std_q
        distance = (mean_p - mean_q) / std_q
        return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)

    def kl(self, posterior: th.Tensor, prior: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        mean_post, std_post = self.mean_std(posterior)
        mean_pri, std_pri = self.mean_std(prior)
        dynamics = self._kl(mean_post.detach(), std_post.detach(), mean_pri, std_pri)
        representation = self._kl(mean_post, std_post, mean_pri.detach(), std_pri.detach())
        return dynamics, representation

    def entropy(self, params: th.Tensor) -> th.Tensor:
        _, std = self.mean_std(params)
        return (std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
