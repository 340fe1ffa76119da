"""The replayed batches of several updates, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch as th

from sb3_dreamer.common.sequence_buffer import RowIndex
from sb3_dreamer.common.types import SequenceBatch


def works_beside(device: th.device) -> bool:
    """
    :param device: of the networks
    :return: whether it works while the processor goes on
    """
    return device.type != "cpu"


class ReplayedBatches:
    """
    One batch an update, drawn when it is asked for; or ahead, while a GPU works on the update before, where several are due
    at once. Then what that update writes to the replay (latent states, from which windows begin, and priorities) comes too
    late for it: such a batch may be another one than on a CPU.

    :param draw: gives a batch, and where its rows lie
    :param count: how many updates are due
    :param ahead: whether there is a time in which to draw ahead
    """

    def __init__(self, draw: Callable[[], tuple[SequenceBatch, RowIndex]], count: int, ahead: bool) -> None:
        self._draw, self._left, self._ahead = draw, count, ahead
        self._drawn: tuple[SequenceBatch, RowIndex] | None = None

    def __iter__(self) -> Iterator[tuple[SequenceBatch, RowIndex]]:
        while self._left > 0:
            self._left -= 1
            batch, self._drawn = self._drawn or self._draw(), None
            yield batch

    def draw_ahead(self) -> None:
        """The processor has time for the next batch, if there is to be one."""
        if self._ahead and self._left > 0 and self._drawn is None:
            self._drawn = self._draw()
