"""A stand-in for a world model whose predictions are given, and batches for it."""

from __future__ import annotations

import torch as th

from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch


def make_batch(obs: dict[str, th.Tensor], is_first: th.Tensor | None = None) -> SequenceBatch:
    """Windows with these observations ``(B, T, ...)``; rewards and actions are random."""
    shape = next(iter(obs.values())).shape[:2]
    generator, zeros = th.Generator().manual_seed(0), th.zeros(shape)
    return SequenceBatch(
        obs=obs,
        prev_action=th.randn(*shape, 1, generator=generator),
        reward=th.randn(shape, generator=generator),
        is_first=zeros if is_first is None else is_first,
        is_last=zeros,
        is_terminal=zeros,
        initial=LatentState(th.full((shape[0], 1), 7.0), th.zeros(shape[0], 1)),
    )


class Oracle:
    """
    Predicts what it is told, row by row; its latent state is the number of the row. Sees to it that rows of the context are
    observed, all others imagined with the actions that were taken.

    :param batch: the windows that it will be asked about
    :param predictions: what it decodes for every row, ``(B, T, ...)`` a key
    :param context: rows that it may observe
    """

    def __init__(self, batch: SequenceBatch, predictions: dict[str, th.Tensor], context: int) -> None:
        self.batch, self.predictions, self.context = batch, predictions, context

    def _states(self, start: int, stop: int) -> LatentState:
        rows = th.arange(start, stop).float().expand(len(self.batch.reward), -1).unsqueeze(-1)
        return LatentState(rows, th.zeros_like(rows))

    def observe(self, batch: SequenceBatch) -> LatentState:
        assert batch.reward.shape[1] == self.context and batch.initial.deter[0, 0] == 7
        assert all(th.equal(value, self.batch.obs[name][:, : self.context]) for name, value in batch.obs.items())
        return self._states(0, self.context)

    def imagine(self, actions: th.Tensor, start: LatentState, horizon: int, deterministic: bool) -> ImaginedRollout:
        assert deterministic and (start.deter == self.context - 1).all()
        assert th.equal(actions, self.batch.prev_action[:, self.context :]) and horizon == actions.shape[1]
        return ImaginedRollout(self._states(self.context - 1, self.context + horizon), actions)

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        rows = state.deter[0, :, 0].long()
        return {name: value[:, rows] for name, value in self.predictions.items()}

    def predict_reward(self, state: LatentState) -> th.Tensor:
        return self.batch.reward[:, state.deter[0, :, 0].long()]
