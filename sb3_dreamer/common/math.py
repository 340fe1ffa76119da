"""The formulas of the algorithms as pure functions on tensors: no modules, no state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch as th


def symlog(x: th.Tensor) -> th.Tensor:
    """
    ``sign(x) ln(1 + |x|)``: compresses large values, leaves small ones (DreamerV3, eq. 9).

    :param x: any shape
    :return: same shape
    """
    return th.sign(x) * th.log1p(th.abs(x))


def symexp(x: th.Tensor) -> th.Tensor:
    """
    ``sign(x) (exp(|x|) - 1)``, the inverse of :func:`symlog`.

    :param x: any shape
    :return: same shape
    """
    return th.sign(x) * th.expm1(th.abs(x))


def safe_log(probs: th.Tensor) -> th.Tensor:
    """
    Logarithm of probabilities that stays finite at 0, which they may be where no uniform share is mixed in.

    :param probs: any shape
    :return: same shape
    """
    return probs.clamp_min(1e-30).log()


def random_like(
    kind: Literal["normal", "exponential"], shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None
) -> th.Tensor:
    """
    :param kind: standard normal, or Exponential(1)
    :param shape: shape
    :param like: a tensor on the device wanted
    :param generator: where the randomness comes from, torch's own by default
    :return: random numbers
    """
    noise = th.empty(shape, device=like.device if generator is None else generator.device)
    if kind == "normal":
        noise.normal_(generator=generator)
    else:  # never 0, maybe infinite; on a CPU, exponential_() takes several times as long
        noise.uniform_(generator=generator).log_().neg_()
    return noise.to(like.device)


class SharedGenerator(th.Generator):
    """A source of random numbers that the equal parts of a batch are to have in common, one after the other in it."""

    groups: int = 1
    """How many parts there are."""

    @classmethod
    def seeded(cls, seed: int, groups: int) -> SharedGenerator:
        """
        :param seed: seed
        :param groups: how many parts a batch has
        :return: a new one, of the CPU
        """
        generator = cls()
        generator.manual_seed(seed)
        generator.groups = groups
        return generator


def hard_one_hot(score: th.Tensor) -> th.Tensor:
    """
    :param score: ``(..., K)``
    :return: one-hot of the greatest, same shape; without a gradient
    """
    return th.zeros_like(score).scatter_(-1, score.argmax(-1, keepdim=True), 1.0)


def symexp_bins(count: int, limit: float = 20.0) -> th.Tensor:
    """
    Bin centres of the symexp two-hot distribution: exponentially spaced, exactly symmetric about 0.

    :param count: number of bins, odd so that one of them is 0
    :param limit: the outermost centres are ``±symexp(limit)``
    :return: increasing centres, ``(count,)``, float32
    """
    if count < 3 or count % 2 == 0:
        raise ValueError(f"The number of bins must be odd and at least 3, got bins={count}.")
    negative = symexp(th.linspace(-limit, 0, count // 2 + 1, dtype=th.float64))
    return th.cat([negative, -negative[:-1].flip(0)]).float()


def two_hot(value: th.Tensor, bins: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Spread a value over its two neighbouring bins so that the expectation over the bins is the value itself.
    Values beyond the outermost bins are clipped to them.

    :param value: values in raw space, any shape
    :param bins: increasing bin centres, ``(K,)``
    :return: lower index, upper index and the weight of the upper one, each shaped like ``value``
    """
    value = value.clamp(bins[0], bins[-1])
    upper = th.searchsorted(bins, value.contiguous(), right=True).clamp(1, len(bins) - 1)
    lower = upper - 1
    low, high = bins[lower], bins[upper]
    weight = (value - low) / (high - low)
    return lower, upper, weight


def two_hot_cross_entropy(log_probs: th.Tensor, value: th.Tensor, bins: th.Tensor) -> th.Tensor:
    """
    Cross-entropy between the two-hot target of ``value`` and predicted probabilities.

    :param log_probs: of the bins, ``(..., K)``
    :param value: targets in raw space, ``(...)``
    :param bins: bin centres, ``(K,)``
    :return: loss, ``(...)``
    """
    lower, upper, weight = two_hot(value, bins)
    picked = log_probs.gather(-1, th.stack([lower, upper], dim=-1))  # (..., 2)
    return -((1 - weight) * picked[..., 0] + weight * picked[..., 1])


def two_hot_mean(probs: th.Tensor, bins: th.Tensor) -> th.Tensor:
    """
    Expectation over the bins, summed in symmetric pairs so that equal probabilities give exactly 0
    (a plain sum of terms near ±5e8 would leave a rounding error far larger than any reward).

    :param probs: of the bins, ``(..., K)``
    :param bins: symmetric bin centres, ``(K,)``
    :return: mean, ``(...)``
    """
    half = len(bins) // 2
    positive = probs[..., half + 1 :] - probs[..., :half].flip(-1)
    return (positive * bins[half + 1 :]).sum(-1)  # a matrix product might run in bfloat16


def lambda_return(
    reward: th.Tensor, discount: th.Tensor, value: th.Tensor, lambda_: float | th.Tensor, bootstrap: th.Tensor
) -> th.Tensor:
    """
    λ-returns, ``R_t = r_{t+1} + d_{t+1} ((1 - λ_{t+1}) v_{t+1} + λ_{t+1} R_{t+1})``, with ``R_H = bootstrap``.

    :param reward: ``r_1 .. r_H``: rewards that arrive with the states after the first, ``(N, H)``
    :param discount: ``d_1 .. d_H``: probability to continue times discount factor, ``(N, H)``
    :param value: ``v_1 .. v_H``, ``(N, H)``
    :param lambda_: λ, a number or ``(N, H)``
    :param bootstrap: value of the last state, ``(N,)``
    :return: ``R_0 .. R_{H-1}``, ``(N, H)``
    """
    inputs = reward + discount * (1 - lambda_) * value
    carry = discount * lambda_
    returns = []
    last = bootstrap
    for step_input, step_carry in zip(reversed(inputs.unbind(1)), reversed(carry.unbind(1)), strict=True):
        last = th.addcmul(step_input, step_carry, last)
        returns.append(last)
    returns.reverse()
    return th.stack(returns, dim=1)


def percentile_range(value: th.Tensor, low: float = 0.05, high: float = 0.95) -> tuple[th.Tensor, th.Tensor]:
    """
    Two percentiles of all elements, linearly interpolated. Uses a sort, as ``torch.quantile`` refuses more than
    2^24 elements.

    :param value: any shape
    :param low: lower fraction
    :param high: upper fraction
    :return: the two percentiles, scalars, float32
    """
    ordered = value.detach().float().flatten().sort().values

    def at(fraction: float) -> th.Tensor:
        position = fraction * (len(ordered) - 1)
        below = int(position)
        above = min(below + 1, len(ordered) - 1)
        return th.lerp(ordered[below], ordered[above], position - below)

    return at(low), at(high)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """
    :param device_type: as ``tensor.device.type``
    :return: within it, operations there are in the numbers that they are given, whatever autocast is around
    """
    if th.amp.autocast_mode.is_autocast_available(device_type):
        return th.autocast(device_type, enabled=False)
    return nullcontext()
