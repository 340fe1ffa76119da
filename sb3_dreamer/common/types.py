"""
The values that cross files, and the one statement of how time is aligned.

Axes: ``B`` batch (sequences), ``T`` time inside a sequence, ``N`` imagination starts, ``H`` imagination horizon,
``A`` action, ``S`` groups of categorical latents, ``K`` classes a group, ``D`` deterministic state, ``Z`` stochastic
state (``S * K`` for categorical latents), ``F = D + Z`` features. Sequences are ``(B, T, ...)``, imagined
trajectories ``(N, H, ...)``.

Time::

    row             t            t+1          t+2 (episode ends)    t+3 (next episode)
    observation     o_t          o_t+1        o_t+2                 o_t+3   (a reset observation)
    reward          r_t          r_t+1        r_t+2                 0       (reward_t ARRIVES WITH o_t)
    action          a_t          a_t+1        0                     a_t+3   (action_t is chosen AT o_t)
    is_first        0            0            0                     1
    is_last         0            0            1                     0
    is_terminal     0            0            1 if terminated,      0
                                              0 if truncated

An episode of ``n`` environment steps therefore takes ``n + 1`` rows. The latent state of row ``t`` is computed from
the state of row ``t-1``, the action ``a_{t-1}`` and the observation ``o_t``; on an ``is_first`` row both the previous
state and the previous action are zero. (DreamerV3, Hafner et al. 2025, https://www.nature.com/articles/s41586-025-08744-2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th


@dataclass(frozen=True)
class LatentState:
    """What a recurrent world model remembers after an observation."""

    deter: th.Tensor
    """Deterministic state, ``(..., D)``."""
    stoch: th.Tensor
    """Stochastic state (a sample, or the mode), flat: ``(..., Z)``."""

    joined: th.Tensor | None = None
    """:attr:`feat`, where it has been computed before."""

    @property
    def feat(self) -> th.Tensor:
        """Features that every head reads, ``(..., D + Z)``."""
        return th.cat([self.deter, self.stoch], dim=-1) if self.joined is None else self.joined

    def join(self) -> LatentState:
        """:return: the same state, its features computed once for all who read them"""
        return LatentState(self.deter, self.stoch, self.feat)

    def map(self, function: Callable[[th.Tensor], th.Tensor]) -> LatentState:
        """
        Apply a function to both parts.

        :param function: e.g. ``lambda x: x.flatten(0, 1)``
        :return: a new state
        """
        return LatentState(function(self.deter), function(self.stoch))

    def detach(self) -> LatentState:
        """:return: the same state, cut from the graph"""
        return self.map(th.Tensor.detach)

    @staticmethod
    def stack(states: Iterable[LatentState], dim: int) -> LatentState:
        """
        :param states: states of equal shapes
        :param dim: the new axis
        :return: one state with that axis
        """
        listed = list(states)
        return LatentState(th.stack([state.deter for state in listed], dim), th.stack([state.stoch for state in listed], dim))

    @staticmethod
    def stack_joined(states: Sequence[LatentState], dim: int) -> LatentState:
        """
        As :meth:`stack`, for states that have been joined: both parts are views of the stacked features.

        :param states: states of equal shapes
        :param dim: the new axis
        :return: one joined state with that axis
        """
        feat = th.stack([state.feat for state in states], dim)
        deter, stoch = feat.split([states[0].deter.shape[-1], states[0].stoch.shape[-1]], dim=-1)
        return LatentState(deter, stoch, feat)


@dataclass(frozen=True)
class SequenceBatch:
    """A batch of replayed windows, aligned as the module's docstring says."""

    obs: dict[str, th.Tensor]
    """Preprocessed observations by key, each ``(B, T, ...)``."""
    prev_action: th.Tensor
    """The action of the row before, in the model's action space, ``(B, T, A)``."""
    reward: th.Tensor
    """The reward that arrived with the observation, ``(B, T)``."""
    is_first: th.Tensor
    """1 where an episode starts, ``(B, T)``."""
    is_last: th.Tensor
    """1 where an episode ends, terminated or truncated, ``(B, T)``."""
    is_terminal: th.Tensor
    """1 where an episode ends because it terminated, ``(B, T)``."""
    initial: LatentState
    """The stored latent state of the row before the window, ``(B, D)`` and ``(B, Z)``."""
    n_uniform: int | None = None
    """The first windows, so many, show rows as often as they occur, the others what was predicted badly; None for all."""


@dataclass(frozen=True)
class RowIndex:
    """Where the rows of a sampled batch lie in the replay, to write fresh latents back."""

    stream: np.ndarray
    """Which environment's stream, ``(B,)``."""
    row: np.ndarray
    """Running number of each row in its stream (never reused, unlike a slot of the ring), ``(B, T)``."""


@dataclass(frozen=True)
class ImaginedRollout:
    """A trajectory the model dreamt: state ``t`` and action ``t`` lead to state ``t + 1``."""

    states: LatentState
    """``H + 1`` states, the start included, ``(N, H + 1, ...)``."""
    actions: th.Tensor
    """``H`` actions, in the model's action space, ``(N, H, A)``."""
