"""What the figures of a world model are made of: outputs over time as lines, steps or pictures, and how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_dreamer.common.arguments import check_whole
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models.dataset import SINGLE, EpisodeDataset
from sb3_dreamer.world_models.evaluation import REWARD
from sb3_dreamer.world_models.rows import Rows, check_dataset, filter_episodes
from sb3_dreamer.world_models.standalone import StandaloneWorldModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

TRUTH, SEEN, DREAMT = "0.7", "tab:blue", "tab:orange"
"""Colours of what happened, of what the model decodes of rows it has seen, and of what it dreams."""


# ---- what is drawn


@dataclass(frozen=True)
class Output:
    """A number, choice or bit over time."""

    name: str
    """As in an evaluation, with ``[i]`` for one of several choices or bits as well."""
    whole: bool
    """A choice or a bit: between its values lines mean nothing."""
    values: np.ndarray
    """In the environment's units, ``(T,)``."""


@dataclass(frozen=True)
class Trace:
    """What happened, or what the model decodes from some states."""

    label: str
    color: str
    first: int
    """Row of the episode where it begins."""
    obs: dict[str, th.Tensor]
    """``(T, ...)``, of which images are drawn."""
    outputs: list[Output]
    """The rest of the observation, and the reward last."""
    linewidth: float = 1.4
    alpha: float = 1.0


def outputs_of(model: StandaloneWorldModel, obs: Any, reward: np.ndarray) -> list[Output]:
    """:return: of an observation in the environment's units, images channels first, ``(T, ...)``, and of the reward"""
    found = []
    for key in model.observation_codec.keys:
        if key.kind != "image":
            part = obs[key.name] if isinstance(obs, dict) else obs
            columns = part.reshape(len(part), -1).T
            for i, column in enumerate(columns):
                name = key.name if len(columns) == 1 else f"{key.name}[{i}]"
                found.append(Output(name, key.kind != "vector", column[: len(reward)]))
    return [*found, Output(REWARD, False, reward)]


def true_outputs(model: StandaloneWorldModel, dataset: EpisodeDataset, count: int | None = None) -> list[Output]:
    codec, parts = model.observation_codec, dataset.observations
    return outputs_of(model, codec.transpose(parts if codec.is_dict else parts[SINGLE]), dataset.rewards[:count])


def true_trace(model: StandaloneWorldModel, dataset: EpisodeDataset, rows: Rows, count: int) -> Trace:
    return Trace("truth", TRUTH, 0, rows.obs, true_outputs(model, dataset, count), linewidth=3.0)


def decoded_trace(
    model: StandaloneWorldModel, states: LatentState, label: str, color: str, first: int, *style: float
) -> Trace:
    """:return: of states ``(T, ...)``; style: width of the lines and alpha"""
    decoded, reward = model.decode(states), model.predict_reward(states).cpu().numpy()
    obs = model.observation_codec.from_tensors(decoded)
    return Trace(label, color, first, decoded, outputs_of(model, obs, reward), *style)


def values_by(model: StandaloneWorldModel, dataset: EpisodeDataset, color_by: Any) -> tuple[str, np.ndarray]:
    """:return: what the colours mean, and a number a row"""
    if callable(color_by):
        values = np.asarray(color_by(dataset))
        if values.shape != (len(dataset),):
            raise ValueError(f"color_by gave the shape {values.shape}: it must give a number a row, ({len(dataset)},).")
        return getattr(color_by, "__name__", "").strip("<>") or "color_by", values
    known = {output.name: output.values for output in true_outputs(model, dataset)}
    name = next(iter(known)) if color_by is None else color_by
    if name not in known:
        raise ValueError(f"Unknown color_by={name!r:.80}: use one of {', '.join(known):.300}, or a function of the data set.")
    return name, known[name]


def pick_episode(model: StandaloneWorldModel, dataset: EpisodeDataset, episode: int, **counts: int) -> EpisodeDataset:
    """:return: that one; it and the other arguments are checked"""
    check_whole(**counts)
    check_dataset(model, dataset)
    n = dataset.n_episodes
    if episode != int(episode) or not 0 <= episode < n:
        raise ValueError(f"episode must be a whole number from 0 to {n - 1}: the data set has {n}; got {episode!r}.")
    return dataset.episodes([episode])


def filtered(model: StandaloneWorldModel, dataset: EpisodeDataset) -> tuple[Rows, LatentState]:
    rows = Rows(dataset, model)
    return rows, filter_episodes(rows, model)


def spread(first: int, last: int, count: int) -> np.ndarray:
    """:return: so many whole numbers evenly from first to last, both included; fewer where there are not as many"""
    return np.unique(np.rint(np.linspace(first, last, count)).astype(int))


# ---- how it is drawn


def new_figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure as MatplotlibFigure
    except ImportError as missing:
        raise ImportError('Figures need matplotlib: pip install "sb3-dreamer[compare]".') from missing
    return MatplotlibFigure(figsize=(width, height), layout="constrained")


def draw(
    model: StandaloneWorldModel, title: str, traces: list[Trace], times: np.ndarray, max_outputs: int, last: int | None
) -> Figure:
    """
    :param model: knows the keys
    :param title: of the figure
    :param traces: the truth first; the last one's images are shown beside it
    :param times: of images
    :param max_outputs: panels beside that of the reward
    :param last: row before a dream, which has the reward and the difference of images as well; None if there is no dream
    """
    outputs = len(traces[0].outputs) - 1
    if outputs > max_outputs:
        title += f" (the first {max_outputs} of {outputs} outputs)"
    panels = [*range(min(outputs, max_outputs)), *([] if last is None else [outputs])]
    keys = [key for key in model.observation_codec.keys if key.kind == "image"]
    columns = 1 if len(panels) <= 4 else 2
    heights = [(2 if last is None else 3) * 1.2 + 0.5 for _ in keys]
    heights += [1.35 * -(-len(panels) // columns) + 0.8] if panels else []
    figure = new_figure(max(9.0, 1.2 * len(times) + 0.6) if keys else 9.0, sum(heights) + 0.3)
    figure.suptitle(title)
    parts = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    for key, part in zip(keys, parts, strict=False):
        draw_images(part, key, traces[0], traces[-1], times, last)
    for axes, i in zip(grid(parts[-1], len(panels), columns, "step") if panels else [], panels, strict=True):
        for trace in traces:
            output = trace.outputs[i]
            x, style = trace.first + np.arange(len(output.values)), "steps-mid" if output.whole else "default"
            look: dict[str, Any] = dict(color=trace.color, linewidth=trace.linewidth, alpha=trace.alpha, label=trace.label)
            axes.plot(x, output.values, drawstyle=style, **look)
        axes.set_ylabel(traces[0].outputs[i].name)
        axes.margins(x=0.01)
        if traces[0].outputs[i].whole:
            axes.locator_params(axis="y", integer=True)
        if last is not None:
            axes.axvspan(0, last, color=SEEN, alpha=0.08, linewidth=0)
            axes.axvline(last, color="0.4", linestyle="--", linewidth=1)
    if panels:
        legend(parts[-1])
    return figure


def draw_images(
    figure: SubFigure, key: ObservationKey, truth: Trace, found: Trace, times: np.ndarray, last: int | None
) -> None:
    """A line of true pictures, one of those found, and after a dream one of the differences."""
    images = [trace.obs[key.name][times - trace.first].float() for trace in (truth, found)]  # (n, C, H, W)
    low, high = min(0.0, float(images[0].min())), max(key.scale, float(images[0].max()))
    first, second = (((image - low) / (high - low)).clamp(0, 1) for image in images)
    lines = {truth.label: first, found.label: second, "difference": (second - first + 1) / 2}
    panels = figure.subplots(2 if last is None else 3, len(times), squeeze=False)
    for row, (label, line) in zip(panels, lines.items(), strict=False):
        # of stacked pictures the newest: the last three channels, or the last one
        line = line[:, -3:] if line.shape[1] % 3 == 0 else line[:, -1:].expand(-1, 3, -1, -1)
        row[0].set_ylabel(label if key.name == SINGLE else f"{key.name}\n{label}")
        for axes, picture, time in zip(row, line.movedim(1, -1).cpu().numpy(), times, strict=True):
            color = SEEN if last is None or time <= last else DREAMT
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=color, linewidth=2)
            if label == truth.label:
                axes.set_title(f"step {time}{' (seen)' if time == last else ''}", fontsize="small", color=color)


def grid(figure: Figure | SubFigure, count: int, columns: int, xlabel: str) -> list[Axes]:
    """:return: so many panels with a common x axis"""
    panels = list(figure.subplots(-(-count // columns), columns, sharex=True, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        axes.grid(alpha=0.3)
    for i in range(count)[-columns:]:  # the lowest in each column
        panels[i].set_xlabel(xlabel)
        panels[i].tick_params(labelbottom=True)
        panels[i].xaxis.set_in_layout(i + columns >= len(panels))  # else there is room for it below
    return panels[:count]


def log_scale(axes: Axes, ratio: float) -> None:
    """With 0.2 instead of 2 × 10⁻¹, and as many numbers as there is room for, given the ratio of the extremes."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if ratio < 20 else (1, 3) if ratio < 100 else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def legend(figure: Figure | SubFigure) -> None:
    """One for all panels, each label once."""
    found = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    look: dict[str, Any] = dict(loc="outside upper right", fontsize="small", frameon=False)
    figure.legend(list(found.values()), list(found), ncols=len(found), **look)
