"""Which of several opinions each of many dreams has, and the noise that it draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch as th

from sb3_dreamer.common.math import SharedGenerator, random_like

Propagation = Literal["ts1", "tsinf", "expectation"]


@dataclass(frozen=True)
class Deal:
    """Rows dealt to k opinions, about as many to each; what is over is filled up with rows that are dealt twice."""

    elites: th.Tensor
    """The opinions, ``(k,)``."""
    rows: th.Tensor
    """What each of them gets, ``(k, blocks)``."""
    noise: th.Tensor
    """Standard normal, ``(k, blocks, Z)``."""
    order: th.Tensor
    """Where the rows were taken from, one opinion after the other, group by group, ``(groups, rows of a group)``."""

    def collect(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: of the rows as they were dealt, ``(k, blocks, O)``
        :return: in their own order, each once, ``(n, O)``
        """
        groups, n = self.order.shape
        once = outcome.transpose(0, 1).reshape(groups, -1, outcome.shape[-1])[:, :n].flatten(0, 1)
        return th.empty_like(once).index_copy(0, self.order.flatten(), once)


def deal(
    n: int, elites: th.Tensor, size: int, propagation: Propagation, generator: th.Generator | None, like: th.Tensor
) -> Deal:
    """
    Trajectory sampling (Chua et al. 2018, https://arxiv.org/abs/1805.12114): with ``"tsinf"``, the i-th row gets the i-th
    opinion, modulo their number; with ``"ts1"`` they are dealt at random.

    :param n: rows
    :param elites: the opinions to deal to, ``(k,)``
    :param size: Z, numbers that each row draws
    :param propagation: ``"ts1"`` or ``"tsinf"``
    :param generator: where the randomness comes from, torch's own by default; the groups of a
        :class:`~sb3_dreamer.common.math.SharedGenerator` are dealt alike, and each as if it were alone
    :param like: a tensor on the device wanted
    :return: who gets what
    :raises ValueError: the groups cannot be equal
    """
    groups = generator.groups if isinstance(generator, SharedGenerator) else 1
    if n % groups:
        raise ValueError(f"{n} rows are not {groups} equal groups.")
    n, k = n // groups, len(elites)
    blocks = -(-n // k)
    order = th.arange(n, device=like.device)
    if propagation == "ts1":
        source = like.device if generator is None else generator.device
        order, mixed = (th.randperm(count, generator=generator, device=source).to(like.device) for count in (n, k))
        elites = elites[mixed]  # else the first ones would always have the rows that are over
    rows = th.cat([order, order[: blocks * k - n]]) if blocks * k - n <= n else order.repeat(k)[: blocks * k]
    noise = random_like("normal", (k, blocks, size), like, generator).repeat(1, groups, 1)
    first = th.arange(groups, device=like.device).unsqueeze(-1) * n
    return Deal(elites, (first + rows).view(groups * blocks, k).t(), noise, first + order)
