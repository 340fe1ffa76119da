"""Copies of networks that follow them slowly: targets to learn from, and averages to act with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch as th
import torch.nn as nn

from sb3_dreamer.common.recurrent_policy import RecurrentModelPolicy
from sb3_dreamer.common.world_model import WorldModel

FIRST_RATE = 24.0
"""An average takes at least this over the number of updates, so that it keeps up at first."""


def frozen_copy(module: Any) -> Any:
    """
    :param module: a network
    :return: one that starts equal, and that no optimizer changes
    """
    return copy.deepcopy(module).requires_grad_(False)


class Followers:
    """
    Copies of networks, and what they follow. The tensors are listed once, as going through all modules takes as long as the
    arithmetic, and anew by :meth:`relist` where they are others: a module that goes to another device gets new buffers.

    :param pairs: copies, each with its original
    """

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        self.pairs = list(pairs)
        self.relist()

    def relist(self) -> None:
        """List the tensors that the modules have now."""
        copied, original = (nn.ModuleList(modules) for modules in zip(*self.pairs, strict=True))
        self._copies: list[th.Tensor] = list(copied.parameters())
        self._originals: list[th.Tensor] = list(original.parameters())
        self._buffer_copies, self._buffers = list(copied.buffers()), list(original.buffers())

    @th.no_grad()
    def follow(self, rate: float) -> None:
        """
        Take a share of the originals' weights, and their buffers as they are.

        :param rate: the share
        """
        th._foreach_lerp_(self._copies, self._originals, rate)
        if self._buffers:
            th._foreach_copy_(self._buffer_copies, self._buffers)


class AveragedModelPolicy(RecurrentModelPolicy):
    """
    Base of policies whose :meth:`predict` acts with a Polyak average of the networks. Their weights swing while they are
    trained, and how well they act with them; those of their average do not.
    """

    average_world_model: WorldModel
    averaged_updates: th.Tensor
    """How many are in the averages: a scalar, kept on the CPU, so that reading it does not wait for a GPU."""
    _averages: Followers

    def _keep_averages(self, *others: tuple[nn.Module, nn.Module]) -> None:
        """
        Begin to average the world model.

        :param others: copies of further networks, each with its original
        """
        self.average_world_model = frozen_copy(self.world_model)
        self._averages = Followers([(self.average_world_model, self.world_model), *others])
        self.register_buffer("averaged_updates", th.zeros((), dtype=th.int64, device="cpu"))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """What moves modules to another device, or makes them another type."""
        count = self.averaged_updates
        super()._apply(fn, recurse)
        self.averaged_updates = count
        for followers in [value for value in vars(self).values() if isinstance(value, Followers)]:
            followers.relist()
        return self

    @property
    def _averaged(self) -> bool:
        return bool(self.averaged_updates > 0)

    def acting_model(self, evaluation: bool) -> WorldModel:
        return self.average_world_model if evaluation and self._averaged else self.world_model

    def update_average(self, rate: float | None) -> None:
        """
        Move the averages towards the networks in training.

        :param rate: share of the networks in training, more at first; None to act with these instead
        """
        if rate is None:
            self.averaged_updates.zero_()  # an average from before would stand still
            return
        self.averaged_updates += 1
        rate = min(1.0, max(rate, FIRST_RATE / int(self.averaged_updates)))
        self._averages.follow(rate)
