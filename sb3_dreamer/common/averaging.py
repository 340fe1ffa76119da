"""Copies of networks that follow them slowly: targets to learn from, and averages to act with."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

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


class Followers(NamedTuple):
    """What copies of networks follow, listed once: to go through all modules takes as long as the arithmetic."""

    copies: list[th.Tensor]
    originals: list[th.Tensor]
    buffer_copies: list[th.Tensor]
    buffers: list[th.Tensor]

    @classmethod
    def of(cls, pairs: list[tuple[nn.Module, nn.Module]]) -> Followers:
        """
        :param pairs: copies, each with its original
        :return: their tensors
        """
        copied, original = (nn.ModuleList(modules) for modules in zip(*pairs, strict=True))
        return cls(list(copied.parameters()), list(original.parameters()), list(copied.buffers()), list(original.buffers()))


class AveragedModelPolicy(RecurrentModelPolicy):
    """
    Base of policies whose :meth:`predict` acts with a Polyak average of the networks. Their weights swing while they are
    trained, and how well they act with them; those of their average do not.
    """

    average_world_model: WorldModel
    averaged_updates: th.Tensor
    _averages: Followers

    def _keep_averages(self, *others: tuple[nn.Module, nn.Module]) -> None:
        """
        Begin to average the world model.

        :param others: copies of further networks, each with its original
        """
        self.average_world_model = frozen_copy(self.world_model)
        self._averages = Followers.of([(self.average_world_model, self.world_model), *others])
        self.register_buffer("averaged_updates", th.zeros((), dtype=th.int64))

    @property
    def _averaged(self) -> bool:
        return bool(self.averaged_updates > 0)

    def acting_model(self, evaluation: bool) -> WorldModel:
        return self.average_world_model if evaluation and self._averaged else self.world_model

    @th.no_grad()
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
        th._foreach_lerp_(self._averages.copies, self._averages.originals, rate)
        th._foreach_copy_(self._averages.buffer_copies, self._averages.buffers)
