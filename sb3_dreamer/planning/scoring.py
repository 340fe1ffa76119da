"""Returns of action sequences that a world model imagines."""

from __future__ import annotations

from collections.abc import Callable

import torch as th

from sb3_dreamer.common.types import LatentState
from sb3_dreamer.common.world_model import WorldModel
from sb3_dreamer.planning.planners import Score

Value = Callable[[th.Tensor], th.Tensor]
"""Features ``(N, F)`` to values ``(N,)``."""


def imagined_score(
    model: WorldModel,
    state: LatentState,
    value: Value | None = None,
    particles: int = 1,
    deterministic: bool = True,
    generator: th.Generator | None = None,
) -> Score:
    """
    The return that a model expects of a sequence: ``Σ_k (Π_{j<k} d_j) r_k``, where ``r_k`` arrives with the k-th state and
    ``d_j`` is the model's discount after the j-th: its own, so that what comes after a termination counts little.

    :param model: the world model
    :param state: where to start, ``(B, ...)``
    :param value: of what comes after the last state; None for nothing
    :param particles: samples of each candidate's future, whose mean counts (1 with modes is all there is)
    :param deterministic: modes of the prior, no samples
    :param generator: where the samples' randomness comes from, torch's own by default
    :return: the score, candidates ``(B, N, H, A)`` to ``(B, N)``
    :raises ValueError: particles is less than 1
    """
    if particles < 1:
        raise ValueError(f"particles must be at least 1, got {particles}.")

    def score(candidates: th.Tensor) -> th.Tensor:
        batch, n, horizon, _ = candidates.shape
        copies = n * particles
        start = state.map(lambda part: part.repeat_interleave(copies, dim=0))
        actions = candidates.repeat_interleave(particles, dim=1).flatten(0, 1)
        states = model.imagine(actions, start, horizon, deterministic, generator).states
        future = states.map(lambda part: part[:, 1:])
        reward, discount = model.predict_reward(future), model.predict_discount(future)
        weight = th.cat([th.ones_like(discount[:, :1]), discount[:, :-1]], dim=1).cumprod(1)
        total = (weight * reward).sum(1)
        if value is not None:
            total = total + weight[:, -1] * discount[:, -1] * value(future.feat[:, -1])
        return total.view(batch, n, particles).mean(-1)

    return score
