"""Planning by sampling: the cross-entropy method, its sample-efficient variant, and model predictive path integrals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch as th

from sb3_dreamer.common.arguments import check_numbers, check_ranges, check_whole
from sb3_dreamer.planning.sequences import ActionSequences

Score = Callable[[th.Tensor], th.Tensor]
"""Candidates ``(B, N, H, A)`` to returns ``(B, N)``: what is to be maximised."""
Method = Literal["cem", "icem", "mppi"]


@dataclass(frozen=True)
class Plan:
    """What a planner found."""

    actions: th.Tensor
    """The sequences to take, ``(B, H, A)``."""
    sequences: ActionSequences
    """The final distribution, from which the next plan may start: ``plan.sequences.shift()``."""
    score: th.Tensor
    """The best return seen, ``(B,)``."""


@dataclass(frozen=True)
class Planner:
    """
    ``method="cem"``: candidates are drawn, the distribution is refitted to the best, and so on (PlaNet, Hafner et al. 2019,
    https://arxiv.org/abs/1811.04551). ``"icem"``: the same with noise that is coloured over time, fewer candidates in every
    iteration, and a share of the best kept for the next (Pinneri et al. 2020, https://arxiv.org/abs/2008.06389). ``"mppi"``:
    the best are weighted by the exponential of their returns (Williams et al. 2017; as TD-MPC2 has it,
    https://arxiv.org/abs/2310.16828).

    :param method: which
    :param horizon: H, steps planned
    :param n_samples: candidates an iteration
    :param n_iterations: refits
    :param n_elites: the best candidates that count
    :param momentum: share of the distribution that a refit leaves
    :param temperature: of MPPI's weights, in standard deviations of the elites' returns
    :param colour: exponent of iCEM's noise
    :param keep: share of iCEM's elites that stay candidates
    :param decay: by which iCEM's candidates become fewer in every iteration
    :param init_std: standard deviation of numbers before the first refit, in units of half the action space
    :param min_std: least one that a refit finds
    :raises ValueError: numbers that cannot work
    """

    method: Method = "cem"
    horizon: int = 12
    n_samples: int = 200
    n_iterations: int = 5
    n_elites: int = 20
    momentum: float = 0.0
    temperature: float = 0.5
    colour: float = 2.0
    keep: float = 0.3
    decay: float = 1.3
    init_std: float = 1.0
    min_std: float = 0.05

    def __post_init__(self) -> None:
        if self.method not in ("cem", "icem", "mppi"):
            raise ValueError(f"method must be 'cem', 'icem' or 'mppi', got {self.method!r}.")
        whole = ("horizon", "n_samples", "n_iterations", "n_elites")
        check_whole(**{name: getattr(self, name) for name in whole})
        for name in whole:
            object.__setattr__(self, name, int(getattr(self, name)))
        check_numbers(self, real=("momentum", "temperature", "colour", "keep", "decay"), minimum=-math.inf)
        if self.n_elites > self.n_samples:
            raise ValueError(f"n_elites={self.n_elites} cannot be more than n_samples={self.n_samples}.")
        for name, high in (("momentum", 1.0), ("keep", 1.0)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [0, {high:g}], got {getattr(self, name)!r}.")
        check_ranges(positive=dict(init_std=self.init_std, min_std=self.min_std))
        if self.temperature <= 0 or self.decay < 1 or self.colour < 0:
            raise ValueError(
                "temperature must be positive, decay at least 1 and colour at least 0, got "
                f"{self.temperature}, {self.decay} and {self.colour}."
            )

    @th.no_grad()
    def plan(
        self,
        score: Score,
        start: ActionSequences,
        proposals: th.Tensor | None = None,
        generator: th.Generator | None = None,
    ) -> Plan:
        """
        :param score: returns of candidates; those that are not finite count as the worst
        :param start: what to draw from at first, for B plans of H steps
        :param proposals: further candidates, e.g. of a policy, ``(B, P, H, A)``
        :param generator: where the randomness comes from, torch's own by default
        :return: the plan: the mode of the final distribution
        """
        sequences, kept = start, proposals
        best: th.Tensor | None = None
        colour = self.colour if self.method == "icem" else 0.0
        for iteration in range(self.n_iterations):
            n = self.n_samples
            if self.method == "icem":
                n = max(2 * self.n_elites, int(n * self.decay**-iteration))
            candidates = sequences.sample(n, colour, generator)
            if kept is not None:
                candidates = th.cat([candidates, kept], dim=1)
            if self.method == "icem" and iteration == self.n_iterations - 1:  # the mean is a candidate in the end
                candidates = th.cat([candidates, sequences.mode.unsqueeze(1)], dim=1)
            returns = score(candidates)
            returns = th.where(th.isfinite(returns), returns, th.finfo(returns.dtype).min)
            elite_returns, index = returns.topk(self.n_elites, dim=1)
            elites = candidates.gather(1, index[..., None, None].expand(-1, -1, *candidates.shape[2:]))
            sequences = sequences.refit(elites, self._weights(elite_returns), self.momentum)
            best = elite_returns[:, 0] if best is None else th.maximum(best, elite_returns[:, 0])
            kept = proposals
            if self.method == "icem":
                again = elites[:, : max(1, int(self.keep * self.n_elites))]
                kept = again if proposals is None else th.cat([again, proposals], dim=1)
        assert best is not None
        return Plan(sequences.mode, sequences, best)

    def _weights(self, returns: th.Tensor) -> th.Tensor:
        """:return: of the elites, they sum to 1, ``(B, E)``; 0 for what was not finite, where anything was"""
        finite = returns > th.finfo(returns.dtype).min
        finite = finite | ~finite.any(1, keepdim=True)
        share = finite.to(returns.dtype) / finite.sum(1, keepdim=True)
        if self.method != "mppi":
            return share
        behind = (returns - returns[:, :1]).masked_fill(~finite, 0.0)  # the best comes first
        mean = (share * behind).sum(1, keepdim=True)
        spread = (share * (behind - mean).square()).sum(1, keepdim=True).sqrt().clamp_min(1e-6)
        return th.softmax((behind / (self.temperature * spread)).masked_fill(~finite, -th.inf), dim=1)
