"""Single transitions as tensors, for models that learn from nothing longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch as th


@dataclass(frozen=True)
class Transitions:
    """What happened in n single steps, in the environment's units."""

    x: th.Tensor
    """Observations as one vector, ``(n, Z)``."""
    action: th.Tensor
    """In the model's action space, within the bounds, ``(n, A)``."""
    reward: th.Tensor
    """That the step gave, ``(n,)``."""
    next_x: th.Tensor
    """Observations it led to, ``(n, Z)``."""
    terminal: th.Tensor
    """1 where the episode terminated there (truncation does not count), ``(n,)``."""

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def outcome(self) -> th.Tensor:
        """What is learnt: the reward, and how the observation changed, ``(n, 1 + Z)``."""
        return th.cat([self.reward.unsqueeze(-1), self.next_x - self.x], dim=-1)

    def __getitem__(self, rows: th.Tensor) -> Transitions:
        """
        :param rows: numbers of rows
        :return: those
        """
        return self.map(lambda column: column[rows])

    @staticmethod
    def names() -> tuple[str, ...]:
        """:return: of the columns"""
        return tuple(column.name for column in fields(Transitions))

    def map(self, function: Callable[[th.Tensor], th.Tensor]) -> Transitions:
        """
        :param function: of a column
        :return: the columns it gives
        """
        return Transitions(*(function(getattr(self, name)) for name in self.names()))

    @staticmethod
    def join(parts: Sequence[Transitions]) -> Transitions:
        """
        :param parts: of equal sizes Z and A
        :return: all of them
        """
        return Transitions(*(th.cat([getattr(part, name) for part in parts]) for name in Transitions.names()))

    def split(self, fraction: float, most: int, generator: th.Generator) -> tuple[Transitions, Transitions]:
        """
        :param fraction: share of the rows, drawn at random, that is held out
        :param most: rows held out at most
        :param generator: where the randomness comes from
        :return: the others, and those held out
        """
        held_out = min(most, int(fraction * len(self)))
        order = th.randperm(len(self), generator=generator).to(self.reward.device)
        return self[order[held_out:]], self[order[:held_out]]


def from_rows(
    x: th.Tensor, action: th.Tensor, reward: th.Tensor, is_first: th.Tensor, is_last: th.Tensor, is_terminal: th.Tensor
) -> Transitions:
    """
    :param x: rows as :mod:`sb3_dreamer.common.types` aligns them, ``(N, Z)``
    :param action: chosen at each row, ``(N, A)``
    :param reward: that arrived with each, ``(N,)``
    :param is_first: ``(N,)``
    :param is_last: ``(N,)``
    :param is_terminal: ``(N,)``
    :return: every step from a row to the next of the same episode
    """
    start = th.nonzero((is_last[:-1] == 0) & (is_first[1:] == 0)).squeeze(-1)
    return Transitions(x[start], action[start], reward[start + 1], x[start + 1], is_terminal[start + 1].float())
