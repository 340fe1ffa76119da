"""Callbacks that look into a world model while it learns and put what they see into SB3's logger."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure

from sb3_dreamer.common.types import SequenceBatch
from sb3_dreamer.common.world_model import WorldModel


@th.no_grad()
def open_loop_error(model: WorldModel, batch: SequenceBatch, context: int) -> dict[str, np.ndarray]:
    """
    Observe the first rows of replayed windows, imagine the others with the actions that were taken, and compare.
    Rows from the first episode border on are left out, as a dream does not know of resets.

    :param model: the world model
    :param batch: B windows of T rows
    :param context: rows to observe, at least 1 and less than T
    :return: root mean squared error by horizon, ``(T - context,)`` a key: each vector observation over its standard
        deviation in the batch, and ``"reward"`` likewise; NaN where no window reaches so far
    """
    length = batch.reward.shape[1]
    if not 1 <= context < length:
        raise ValueError(f"context must lie in [1, {length - 1}] for windows of {length} rows, got {context}.")
    head = SequenceBatch(
        obs={name: value[:, :context] for name, value in batch.obs.items()},
        prev_action=batch.prev_action[:, :context],
        reward=batch.reward[:, :context],
        is_first=batch.is_first[:, :context],
        is_last=batch.is_last[:, :context],
        is_terminal=batch.is_terminal[:, :context],
        initial=batch.initial,
    )
    start = model.observe(head).map(lambda x: x[:, -1])
    actions = batch.prev_action[:, context:]
    states = model.imagine(actions, start, length - context, deterministic=True).states
    future = states.map(lambda x: x[:, 1:])
    predictions = {**model.decode(future), "reward": model.predict_reward(future).unsqueeze(-1)}
    truths = {**batch.obs, "reward": batch.reward.unsqueeze(-1)}
    same_episode = (batch.is_first[:, context:].cumsum(1) == 0).unsqueeze(-1)  # (B, T - context, 1)
    count = same_episode.sum((0, 2)).cpu().numpy()
    errors = {}
    for name, prediction in predictions.items():
        truth = truths[name]
        spread = truth.flatten(0, 1).std(0).clamp_min(1e-6)
        square = ((prediction - truth[:, context:]) / spread).square() * same_episode
        mean = square.sum((0, 2)).cpu().numpy() / (np.maximum(count, 1) * truth.shape[-1])
        errors[name] = np.where(count > 0, np.sqrt(mean), np.nan)
    return errors


class OpenLoopErrorCallback(BaseCallback):
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
        super().__init__(verbose)
        for name, value in dict(every=every, horizon=horizon, context=context, windows=windows).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if figure:
            _figure_class()
        self.every, self.horizon, self.context, self.windows, self.figure = every, horizon, context, windows, figure
        self.errors: dict[str, np.ndarray] = {}
        """The newest errors by horizon."""
        self._next = every

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        buffer = self.model.replay_buffer  # type: ignore[attr-defined]
        if not buffer.can_sample(self.context + self.horizon):
            return True
        self._next += self.every
        # looking must not change what training draws
        sampling, device = buffer.rng_state(), self.model.device
        with th.random.fork_rng([device] if device.type == "cuda" else []):
            batch, _ = buffer.sample(self.windows, self.context + self.horizon, uniform=True)
            self.errors = open_loop_error(self.model.world_model, batch, self.context)  # type: ignore[attr-defined]
        buffer.set_rng_state(sampling)
        for name, error in self.errors.items():
            for steps in sorted({1, self.horizon // 2, self.horizon} - {0}):
                self.logger.record(f"open_loop/{name}_{steps}", float(error[steps - 1]))
        if self.figure:
            drawing = plot_open_loop_error(self.errors)
            self.logger.record("open_loop/error", Figure(drawing, close=True), exclude=("stdout", "log", "json", "csv"))
        return True


def plot_open_loop_error(errors: dict[str, np.ndarray]) -> Any:
    """
    :param errors: from :func:`open_loop_error`
    :return: a matplotlib figure of the error against the horizon
    """
    figure = _figure_class()(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, error in errors.items():
        axes.plot(np.arange(1, len(error) + 1), error, label=name)
    axes.set(xlabel="steps imagined", ylabel="error / standard deviation", title="Open-loop prediction", ylim=(0, None))
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    axes.legend()
    return figure


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure as MatplotlibFigure
    except ImportError as missing:
        raise ImportError('Figures need matplotlib: pip install "sb3-dreamer[compare]", or pass figure=False.') from missing
    return MatplotlibFigure
