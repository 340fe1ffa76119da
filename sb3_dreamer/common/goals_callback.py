"""A callback that shows which goals a manager chooses, as observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, Image

from sb3_dreamer.common.callbacks import draw_windows, figure_class, looking
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.video import film_strip, to_rgb, unit_range


class GoalCallback(BaseCallback):
    """
    Logs, now and then, where replayed states are sent: under ``goals/<key>`` for TensorBoard, from left to right a state, what
    its own code decodes to, and the goal that the manager chooses there. Pictures are shown as they are; of numbers, two are
    drawn as a map, with an arrow from each state to its goal (needs matplotlib). Looking changes nothing in training.

    :param every: environment steps between two looks
    :param windows: replayed states to look at
    :param dimensions: which two numbers of an observation make the map (the same one twice where there is but one)
    :param verbose: as in SB3
    """

    def __init__(self, every: int = 5000, windows: int = 8, dimensions: tuple[int, int] = (0, 1), verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in dict(every=every, windows=windows).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.every, self.windows, self.dimensions = every, windows, dimensions
        self.goals: dict[str, dict[str, np.ndarray]] = {}
        """The newest ``"state"``, ``"reconstruction"`` and ``"goal"``, dictionaries of observations ``(windows, ...)``."""
        self._next = every

    def _on_training_start(self) -> None:
        if not hasattr(self.model, "decode_goals"):
            raise ValueError(f"GoalCallback shows the goals of a Director: {type(self.model).__name__} has none.")
        self._next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        model: Any = self.model
        if self.num_timesteps < self._next or not model.replay_buffer.can_sample(model.batch_length):
            return True
        while self._next <= self.num_timesteps:
            self._next += self.every
        with looking(model):
            self._look(model)
        return True

    def _look(self, model: Any) -> None:
        batch = draw_windows(model, self.windows, model.batch_length)
        state = model.world_model.observe(batch).map(lambda part: part[:, -1])
        codes = {
            "reconstruction": model.policy.autoencoder.encode(state.deter).mode,
            "goal": model.policy.manager(state.feat).mode,
        }
        found: dict[str, dict[str, th.Tensor]] = {"state": {name: value[:, -1] for name, value in batch.obs.items()}}
        for name, code in codes.items():
            goal = model.world_model.expected_state(model.policy.autoencoder.decode(code))
            found[name] = model.world_model.decode(goal)
        self.goals = {kind: {name: part.cpu().numpy() for name, part in parts.items()} for kind, parts in found.items()}
        for key in model.observation_codec.keys:
            shown = [found[kind][key.name] for kind in ("state", "reconstruction", "goal")]
            drawing = self._picture(shown) if key.kind == "image" else self._map(key, shown)
            self.logger.record(f"goals/{key.name}", drawing, exclude=("stdout", "log", "json", "csv"))

    @staticmethod
    def _picture(shown: list[th.Tensor]) -> Image:
        """:return: the three beside each other, ``(windows, C, H, W)`` each, the windows below each other"""
        truth = shown[0]
        frames = th.stack([unit_range(truth, truth)[0], *(unit_range(truth, other)[1] for other in shown[1:])], dim=1)
        return Image(film_strip(to_rgb(frames)), "HWC")

    def _map(self, key: ObservationKey, shown: list[th.Tensor]) -> Figure:
        """:return: a map of numbers ``(windows, size)`` each"""
        figure = figure_class()(figsize=(4, 4), layout="constrained")
        axes = figure.subplots()
        across, up = (min(dimension, key.size - 1) for dimension in self.dimensions)
        points = [part.float().flatten(1).cpu().numpy()[:, [across, up]] for part in shown]
        for place, marker, label in zip(points, ("o", "x", "*"), ("state", "its code", "goal"), strict=True):
            axes.scatter(place[:, 0], place[:, 1], marker=marker, label=label)
        start, end = points[0], points[2]
        axes.quiver(*start.T, *(end - start).T, angles="xy", scale_units="xy", scale=1, width=0.003, color="grey")
        axes.set(xlabel=f"{key.name}[{across}]", ylabel=f"{key.name}[{up}]", title="Goals of the manager")
        axes.legend()
        return Figure(figure, close=True)
