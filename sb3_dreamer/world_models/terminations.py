"""Whether an episode ends, for models that predict observations as they are."""

from __future__ import annotations

import torch as th

from sb3_dreamer.common.networks import MLP
from sb3_dreamer.world_models.transitions import Transitions

MAX_UNITS = 64
"""Width at most: as every imagined step asks the head, it would cost as much as the members do."""
EDGE = 0.05
"""Standard deviations by which a number must leave the range in which episodes go on, to be wholly outside."""


class TerminationHead(MLP):
    """
    Whether an episode ends is told by the state it came to, and by the action: there are few ends to learn it from, and with
    the state before as well, more of them were learnt by heart. Most ends are thresholds, which a few ends show only roughly;
    all that goes on shows them exactly, so that the head is told which numbers have left the range of that.

    :param action_size: A
    :param state_size: Z
    :param units: width
    """

    low: th.Tensor
    high: th.Tensor
    share: th.Tensor

    def __init__(self, action_size: int, state_size: int, units: int) -> None:
        # no norm, which would blur the thresholds that ends are
        super().__init__(action_size + 2 * state_size, min(units, MAX_UNITS), 2, 1, norm=None, out_scale=0.0)
        self.register_buffer("low", th.full((state_size,), -th.inf))  # of the states after which episodes went on
        self.register_buffer("high", th.full((state_size,), th.inf))
        self.register_buffer("share", th.full((), 0.5))  # of terminations; of no effect

    def learn_statistics(self, data: Transitions) -> None:
        """
        :param data: all that is to be learnt from
        """
        going = th.cat([data.x, data.next_x[data.terminal == 0]])
        self.low.copy_(going.amin(0))
        self.high.copy_(going.amax(0))
        self.share.copy_(data.terminal.mean())

    def has_seen_one(self) -> bool:
        """:return: whether an episode has been seen to terminate; waits for the device"""
        return bool(self.share > 0)

    def logit(self, after: th.Tensor, std: th.Tensor, inputs: th.Tensor) -> th.Tensor:
        """
        :param after: states, ``(..., Z)``
        :param std: deviation of each of their numbers, ``(Z,)``
        :param inputs: the same states and the actions that led there, normalised, ``(..., Z + A)``
        :return: of a termination, ``(...)``; very low where none has been seen at all
        """
        beyond = after - after.clamp(self.low, self.high)
        outside = (beyond / (EDGE * std)).clamp(-1.0, 1.0)
        logit = self(th.cat([inputs, outside], dim=-1)).squeeze(-1).float()
        share = self.share.clamp(1e-7, 1.0 - 1e-7)  # what the head begins with: ends are rare
        return th.where(self.share > 0, logit + th.log(share / (1.0 - share)), -30.0)
