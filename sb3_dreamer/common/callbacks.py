"""Callbacks that look into a world model while it learns and put what they see into SB3's logger."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure

from sb3_dreamer.common.bookkeeping import where_not_to_print
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.common.world_model import WorldModel

SMALLEST_DEVIATION = 1e-6
"""What varies less than this counts as constant: its errors are in its own units."""


def combine_batches(function: Callable[[list[th.Tensor]], th.Tensor], *batches: SequenceBatch) -> SequenceBatch:
    """
    :param function: makes one tensor of the batches' tensors of the same name, e.g. ``th.cat``
    :param batches: with the same observation keys
    :return: a batch of what it made
    """

    def merged(read: Callable[[SequenceBatch], th.Tensor]) -> th.Tensor:
        return function([read(batch) for batch in batches])

    return SequenceBatch(
        obs={name: merged(lambda batch, name=name: batch.obs[name]) for name in batches[0].obs},  # type: ignore[misc]
        prev_action=merged(lambda batch: batch.prev_action),
        reward=merged(lambda batch: batch.reward),
        is_first=merged(lambda batch: batch.is_first),
        is_last=merged(lambda batch: batch.is_last),
        is_terminal=merged(lambda batch: batch.is_terminal),
        initial=LatentState(merged(lambda batch: batch.initial.deter), merged(lambda batch: batch.initial.stoch)),
    )


def draw_windows(model: Any, windows: int, length: int) -> SequenceBatch:
    """
    :param model: an algorithm with a sequence replay
    :param windows: B
    :param length: T
    :return: replayed windows as the policy sees observations, drawn uniformly
    """
    batch, _ = model.sample_replay(batch_size=windows, batch_length=length, uniform=True)
    return batch


@contextmanager
def looking(model: Any) -> Iterator[None]:
    """
    Inside, windows may be drawn and dreamt from without changing what training draws.

    :param model: an algorithm with a world model
    """
    sampling, was_training = model.replay_buffer.rng_state(), model.policy.training
    model.policy.set_training_mode(False)
    try:
        with th.no_grad(), th.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            yield
    finally:
        model.policy.set_training_mode(was_training)
        model.replay_buffer.set_rng_state(sampling)


@th.no_grad()
def open_loop_states(model: WorldModel, batch: SequenceBatch, context: int) -> tuple[LatentState, LatentState]:
    """
    Observe the first rows of windows and imagine the others with the actions that were taken.

    :param model: the world model
    :param batch: B windows of T rows
    :param context: rows to observe, at least 1 and less than T
    :return: posterior states of the observed rows ``(B, context, ...)``, and imagined ones of the others
        ``(B, T - context, ...)``
    """
    length = batch.reward.shape[1]
    if not 1 <= context < length:
        raise ValueError(f"context must lie in [1, {length - 1}] for windows of {length} rows, got {context}.")
    head = combine_batches(lambda tensors: tensors[0][:, :context], batch)
    observed = model.observe(dataclasses.replace(head, initial=batch.initial))
    start, actions = observed.map(lambda x: x[:, -1]), batch.prev_action[:, context:]
    states = model.imagine(actions, start, length - context, deterministic=True).states
    return observed, states.map(lambda x: x[:, 1:])


@th.no_grad()
def open_loop_error(model: WorldModel, batch: SequenceBatch, context: int) -> dict[str, np.ndarray]:
    """
    Observe the first rows of replayed windows, imagine the others with the actions that were taken, and compare.
    Rows from the first episode border on are left out, as a dream does not know of resets.

    All errors are in units of a standard deviation in the batch, so that 1 is a model that knows the mean alone: vectors and
    the reward of each dimension's own deviation, images of the deviation of all their pixels together. Choices and bits
    (numbers that are all 0 or 1) have their predicted probabilities compared with the one-hots, in units of the root mean
    variance of all of them, so that a choice that is never or seldom made does not outweigh the others; 1 is a model that
    knows the frequencies alone. A deviation below 1e-6 counts as 1.

    :param model: the world model
    :param batch: B windows of T rows
    :param context: rows to observe, at least 1 and less than T
    :return: root mean squared error by horizon, ``(T - context,)`` a key of the observations and ``"reward"``; NaN where no
        window reaches so far
    """
    _, future = open_loop_states(model, batch, context)
    predictions = {**model.decode(future), "reward": model.predict_reward(future).unsqueeze(-1)}
    truths = {**batch.obs, "reward": batch.reward.unsqueeze(-1)}
    same_episode = batch.is_first[:, context:].cumsum(1) == 0  # (B, T - context)
    count = same_episode.sum(0).cpu().numpy()
    errors = {}
    for name, prediction in predictions.items():
        truth = truths[name].float()
        spread = _spread(truth)
        square = ((prediction.float() - truth[:, context:]) / spread).square().flatten(2).mean(-1)
        total = square.masked_fill(~same_episode, 0.0).sum(0).cpu().numpy()
        errors[name] = np.where(count > 0, np.sqrt(total / np.maximum(count, 1)), np.nan)
    return errors


def _spread(truth: th.Tensor) -> th.Tensor:
    """:return: the deviation that measures the errors of ``(B, T, size)`` or ``(B, T, C, H, W)``, see above"""
    if truth.dim() > 3:
        spread = truth.std()
    elif ((truth == 0) | (truth == 1)).all():
        spread = truth.flatten(0, 1).var(0).mean().sqrt()
    else:
        spread = truth.flatten(0, 1).std(0)
    return th.where(spread < SMALLEST_DEVIATION, 1.0, spread)


class OpenLoopCallback(BaseCallback):
    """
    Base of callbacks that look now and then at dreams which start in replayed windows; looking changes nothing in training.

    :param every: environment steps between two looks
    :param horizon: steps to imagine
    :param context: rows to observe first
    :param windows: replayed windows to look at
    :param verbose: as in SB3
    """

    def __init__(self, every: int, horizon: int, context: int, windows: int, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in dict(every=every, horizon=horizon, context=context, windows=windows).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.every, self.horizon, self.context, self.windows = every, horizon, context, windows
        self._next = every

    def _on_training_start(self) -> None:
        if not hasattr(self.model, "world_model"):
            raise ValueError(f"{type(self).__name__} looks into a world model: {type(self.model).__name__} has none.")
        self._next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        if not self.model.replay_buffer.can_sample(self.context + self.horizon):  # type: ignore[attr-defined]
            return True
        while self._next <= self.num_timesteps:
            self._next += self.every
        with looking(self.model):
            self._look()
        return True

    @abstractmethod
    def _look(self) -> None:
        """Draw windows, dream, and log what is seen."""


class OpenLoopErrorCallback(OpenLoopCallback):
    """
    Logs how the model's predictions go wrong with the horizon: numbers under ``open_loop/``, and a figure for TensorBoard.

    :param every: environment steps between two looks
    :param horizon: steps to imagine
    :param context: rows to observe first
    :param windows: replayed windows to average over
    :param figure: draw the figure (needs matplotlib)
    :param verbose: as in SB3
    """

    def __init__(
        self,
        every: int = 1000,
        horizon: int = 15,
        context: int = 5,
        windows: int = 64,
        figure: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, horizon, context, windows, verbose)
        if figure:
            figure_class()
        self.figure = figure
        self.errors: dict[str, np.ndarray] = {}
        """The newest errors by horizon."""

    def _look(self) -> None:
        batch = draw_windows(self.model, self.windows, self.context + self.horizon)
        self.errors = open_loop_error(self.model.world_model, batch, self.context)  # type: ignore[attr-defined]
        for name, error in self.errors.items():
            for steps in sorted({1, self.horizon // 2, self.horizon} - {0}):
                self.logger.record(f"open_loop/{name}_{steps}", float(error[steps - 1]), exclude=where_not_to_print(name))
        if self.figure:
            drawing = plot_open_loop_error(self.errors)
            self.logger.record("open_loop/error", Figure(drawing, close=True), exclude=("stdout", "log", "json", "csv"))


def plot_open_loop_error(errors: dict[str, np.ndarray]) -> Any:
    """
    :param errors: from :func:`open_loop_error`
    :return: a matplotlib figure of the error against the horizon
    """
    figure = figure_class()(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, error in errors.items():
        axes.plot(np.arange(1, len(error) + 1), error, label=name)
    axes.set(xlabel="steps imagined", ylabel="error / standard deviation", title="Open-loop prediction", ylim=(0, None))
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    axes.legend()
    return figure


def figure_class() -> Any:
    try:
        from matplotlib.figure import Figure as MatplotlibFigure
    except ImportError as missing:
        raise ImportError('Figures need matplotlib: pip install "sb3-dreamer[compare]", or pass figure=False.') from missing
    return MatplotlibFigure
