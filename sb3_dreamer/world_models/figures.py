"""
Figures of a world model: how it learnt, what it decodes and dreams, its states, its size. Each function returns a matplotlib
``Figure``, which is neither shown nor saved: ``figure.savefig("losses.png")``. Posterior states are modes; what is sampled is
drawn with a fixed seed. Looking leaves the model and torch's random numbers as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch as th

from sb3_dreamer.common.arguments import check_whole
from sb3_dreamer.world_models.dataset import EpisodeDataset
from sb3_dreamer.world_models.drawing import (
    DREAMT,
    SEEN,
    Trace,
    decoded_trace,
    draw,
    filtered,
    grid,
    legend,
    log_scale,
    new_figure,
    pick_episode,
    spread,
    true_trace,
    values_by,
)
from sb3_dreamer.world_models.evaluation import CONTINUE, REWARD, ModelEvaluation
from sb3_dreamer.world_models.fitting import FitHistory
from sb3_dreamer.world_models.observations import ObservationModel
from sb3_dreamer.world_models.rows import check_dataset, looking
from sb3_dreamer.world_models.rssm import RSSM
from sb3_dreamer.world_models.standalone import StandaloneWorldModel
from sb3_dreamer.world_models.trajectories import check_horizon

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_losses(history: FitHistory) -> Figure:
    """
    The losses along a fit, a panel each, the weighted sum first; logarithmic where all values are positive.

    :param history: from ``fit``
    :return: the figure
    :raises ValueError: the history is empty
    """
    if not history.updates:
        raise ValueError("The history has no entries: give the one that model.fit returns.")
    names = sorted({**history.train, **history.validation}, key=lambda name: name != "total")  # the others stay as they are
    columns = min(3, len(names))
    figure = new_figure(3.4 * columns + 0.4, 2.2 * -(-len(names) // columns) + 0.6)
    for axes, name in zip(grid(figure, len(names), columns, "updates"), names, strict=True):
        for label, losses, color in (("train", history.train, SEEN), ("validation", history.validation, DREAMT)):
            if name in losses:
                axes.plot(history.updates, losses[name], color=color, marker=".", linewidth=1.2, label=label)
        values = [*history.train.get(name, []), *history.validation.get(name, [])]
        if min(values) > 0:
            log_scale(axes, max(values) / min(values))
        if history.best_update is not None:
            axes.axvline(history.best_update, color="0.4", linestyle="--", linewidth=1, label="best update")
        axes.set_title("total (weighted)" if name == "total" else name, fontsize="medium")
    legend(figure)
    return figure


def plot_evaluation(evaluation: ModelEvaluation, max_outputs: int = 8) -> Figure:
    """
    How errors grow with the horizon, beside those of the prediction that nothing changes (dotted). An error of 1 is that of
    the prediction of the mean. Outputs that are constant in the data have no error in these units, and are left out. Further
    panels show the likelihood of numbers, and the accuracy of choices, bits and the continue flag beside that of the most
    frequent value (dotted), where there are any.

    :param evaluation: from ``evaluate``
    :param max_outputs: numbers, choices and bits to show, the first ones; reward and continue flag come after them
    :return: the figure
    :raises ValueError: max_outputs is less than 1
    """
    check_whole(max_outputs=max_outputs)
    names = [name for name in dict.fromkeys(score.output for score in evaluation.scores) if name not in (REWARD, CONTINUE)]
    accurate = [score for score in evaluation.scores if np.isfinite(score.accuracy)]
    panels = 1 + bool(evaluation.log_likelihood) + bool(accurate)
    figure = new_figure(7, 1 + 3 * panels)
    axes, *others = figure.subplots(panels, 1, squeeze=False)[:, 0]
    if evaluation.log_likelihood:
        below, *others = others
        found = list(evaluation.log_likelihood.values())
        for label, style in (("model", "-"), ("no_change", ":"), ("mean", "--")):
            values = [getattr(likelihood, label) for likelihood in found]
            below.plot(list(evaluation.log_likelihood), values, style, marker=".", label=label.replace("_", " "))
        # models may be as wrong as they like: what is worse than the naive predictions need not be seen in full
        floor = min(min(likelihood.no_change, likelihood.mean) for likelihood in found)
        ceiling = max(max(likelihood.model, likelihood.no_change, likelihood.mean) for likelihood in found)
        below.set(ylabel="log-likelihood, nats", ylim=(floor - max(1.0, ceiling - floor), ceiling + 1.0))
    if accurate:
        for name in dict.fromkeys(score.output for score in accurate):
            scores = [score for score in accurate if score.output == name]
            horizons = [score.horizon for score in scores]
            (line,) = others[0].plot(horizons, [score.accuracy for score in scores], marker=".", label=name)
            others[0].plot(horizons, [score.base_accuracy for score in scores], ":", color=line.get_color(), linewidth=1)
        others[0].set(ylabel="accuracy", ylim=(-0.05, 1.05))
    for name in [*names[:max_outputs], REWARD, CONTINUE]:
        scores = [score for score in evaluation.scores if score.output == name and np.isfinite(score.nrmse)]
        if scores:
            horizons = [score.horizon for score in scores]
            (line,) = axes.plot(horizons, [score.nrmse for score in scores], marker=".", label=name)
            axes.plot(horizons, [score.no_change_nrmse for score in scores], ":", color=line.get_color(), linewidth=1)
    axes.axhline(1.0, color="0.4", linestyle="--", linewidth=1, label="mean")
    axes.plot([], [], ":", color="0.4", linewidth=1, label="no change")
    axes.set(ylabel="error / standard deviation", ylim=(0, None), title="Open-loop prediction")
    for panel in figure.axes:
        panel.locator_params(axis="x", integer=True)
        panel.set(xlabel="steps imagined")
        panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
        panel.grid(alpha=0.3)
    return figure


def plot_reconstruction(
    model: StandaloneWorldModel, dataset: EpisodeDataset, episode: int = 0, max_outputs: int = 8, n_pictures: int = 8
) -> Figure:
    """
    What happened in an episode, and what the model decodes from its posterior states, filtered from the episode's start:
    numbers over time, images one above the other, of choices and bits the most probable values.

    :param model: a fitted model
    :param dataset: episodes
    :param episode: which of them
    :param max_outputs: numbers, choices and bits to show, the first ones
    :param n_pictures: times at which to show an image
    :return: the figure
    :raises ValueError: wrong arguments, or other spaces than the model's
    """
    one = pick_episode(model, dataset, episode, max_outputs=max_outputs, n_pictures=n_pictures)
    with looking(model):
        rows, states = filtered(model, one)
        traces = [true_trace(model, one, rows, len(one)), decoded_trace(model, states, "reconstruction", SEEN, 0)]
    times = spread(0, len(one) - 1, n_pictures)
    return draw(model, f"Reconstruction, episode {episode}", traces, times, max_outputs, None)


def plot_open_loop(
    model: StandaloneWorldModel,
    dataset: EpisodeDataset,
    episode: int = 0,
    context: int = 20,
    horizon: int | None = None,
    samples: int = 0,
    max_outputs: int = 8,
    n_pictures: int = 8,
) -> Figure:
    """
    The model observes an episode's first rows and dreams on with the actions that were taken: what happened, what it decodes
    of the rows it has seen (shaded), and what it dreams, by modes. Images are shown at the last row seen and at times after
    it, with the difference, grey where the dream is right.

    :param model: a fitted model
    :param dataset: episodes
    :param episode: which of them
    :param context: rows to observe first, at least 1
    :param horizon: steps to dream; None to the episode's end
    :param samples: dreams to draw as well whose states are sampled (numbers and reward, not images)
    :param max_outputs: numbers, choices and bits to show, the first ones; the reward comes after them
    :param n_pictures: times at which to show an image
    :return: the figure
    :raises ValueError: wrong arguments, an episode that is too short, or other spaces than the model's
    """
    one = pick_episode(model, dataset, episode, context=context, max_outputs=max_outputs, n_pictures=n_pictures)
    if samples < 0 or samples != int(samples):
        raise ValueError(f"samples must be a whole number of at least 0, got {samples!r}.")
    left = len(one) - context
    steps = max(left, 1) if horizon is None else check_horizon(horizon)
    if steps > left:
        raise ValueError(
            f"context={context} rows and {steps} steps to dream (horizon={horizon}) do not fit into episode {episode}, which "
            f"has {len(one)} rows: lower them, or choose a longer episode."
        )
    last, end = context - 1, context + steps
    with looking(model):
        rows, states = filtered(model, one)
        start, actions = states.map(lambda part: part[last:context]), rows.prev_action[None, context:end]

        def dream(label: str, deterministic: bool, *style: float) -> Trace:
            rollout = model.unroll(actions, start, steps, deterministic).states
            return decoded_trace(model, rollout.map(lambda part: part[0]), label, DREAMT, last, *style)

        seen = decoded_trace(model, states.map(lambda part: part[:context]), "reconstruction", SEEN, 0)
        drawn = [dream("dreams, sampled", False, 0.7, 0.4) for _ in range(samples)]
        traces = [true_trace(model, one, rows, end), *drawn, seen, dream("dream", True)]
    title = f"Open loop, episode {episode}: {context} rows seen, {steps} dreamt"
    return draw(model, title, traces, spread(last, end - 1, n_pictures), max_outputs, last)


def plot_latent_space(
    model: StandaloneWorldModel,
    dataset: EpisodeDataset,
    color_by: str | Callable[[EpisodeDataset], np.ndarray] | None = None,
    max_points: int = 2000,
) -> Figure:
    """
    The posterior features of all rows, projected onto the two directions in which they vary most (principal components).

    :param model: a fitted model
    :param dataset: episodes
    :param color_by: ``"reward"``, an observation key, with ``[i]`` for one of several numbers (``"obs[0]"``), or a function of
        the data set that gives a number a row, ``(N,)``; by default the first number, the reward where there are only images
    :param max_points: rows to draw, at random; the directions are those of all rows
    :return: the figure
    :raises ValueError: wrong arguments, or other spaces than the model's
    """
    check_dataset(model, dataset)
    check_whole(max_points=max_points)
    name, colors = values_by(model, dataset, color_by)
    with looking(model):
        features = filtered(model, dataset)[1].feat.double().cpu().numpy()
    centered = features - features.mean(0)
    _, scales, directions = np.linalg.svd(centered, full_matrices=False)
    shares = scales**2 / max(float(np.sum(scales**2)), 1e-12)
    chosen = np.random.default_rng(0).permutation(len(features))[:max_points]
    figure = new_figure(6.4, 5)
    axes = figure.subplots()
    x, y = directions[:2] @ centered[chosen].T
    dots = axes.scatter(x, y, c=colors[chosen], s=9, alpha=0.8, linewidths=0)
    values = np.unique(colors[chosen])
    figure.colorbar(dots, ax=axes, label=name, ticks=values if len(values) <= 10 else None)
    labels = [f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares[:2])]
    axes.set(xlabel=labels[0], ylabel=labels[1], title=f"Latent space, {len(chosen):,} of {len(features):,} rows")
    return figure


def plot_hidden_states(model: StandaloneWorldModel, dataset: EpisodeDataset, episode: int = 0, max_units: int = 8) -> Figure:
    """
    The state that the model carries through an episode: the deterministic one of an RSSM, the latent one of the others. Above
    the units that vary most, below all of them, from the one that varies most downwards.

    :param model: a fitted model
    :param dataset: episodes
    :param episode: which of them
    :param max_units: units to draw as lines
    :return: the figure
    :raises ValueError: wrong arguments, or other spaces than the model's
    """
    one = pick_episode(model, dataset, episode, max_units=max_units)
    with looking(model):
        states = filtered(model, one)[1]
    symbol, part = ("h", states.deter) if isinstance(model, RSSM) else ("z", states.stoch)
    units = part.cpu().numpy()  # (T, units)
    order = np.argsort(-units.var(0), kind="stable")
    figure = new_figure(9, 6)
    above, below = figure.subplots(2, 1, sharex=True)
    for unit in order[:max_units]:
        above.plot(units[:, unit], linewidth=1.2, label=f"{symbol}[{unit}]")
    above.set_ylabel("activation")
    above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=8, fontsize="small", frameon=False)
    above.grid(alpha=0.3)
    most = max(float(np.abs(units).max()), 1e-6)
    # the ends of the colours are as far apart on both sides, so that 0 is white
    image = below.imshow(units[:, order].T, "RdBu_r", aspect="auto", interpolation="nearest", vmin=-most, vmax=most)
    below.set(xlabel="step", ylabel="unit, by variance")
    figure.colorbar(image, ax=below, label="activation", pad=0.01)
    figure.suptitle(f"Hidden states, episode {episode}: the {len(order[:max_units])} that vary most, and all {len(order)}")
    return figure


def plot_parameters(model: StandaloneWorldModel) -> Figure:
    """
    How many numbers each part of the model has learnt, or is to learn.

    :param model: any
    :return: the figure
    """
    parts: list[tuple[str, th.nn.Module]] = []
    for name, child in model.named_children():
        if isinstance(child, ObservationModel):  # encoder and decoder are of interest each
            parts += [(f"{name}.{inner}", grandchild) for inner, grandchild in child.named_children()]
        parts.append((name, child))  # or what is left of it
    counted: dict[int, int] = {}
    sizes: dict[str, int] = {}
    for name, part in [*parts, (type(model).__name__, model)]:
        own = {id(parameter): parameter.numel() for parameter in part.parameters() if id(parameter) not in counted}
        counted.update(own)
        sizes.update({name: sum(own.values())} if own else {})
    names, total = sorted(sizes, key=lambda name: sizes[name]), sum(sizes.values())
    figure = new_figure(7, 0.36 * len(names) + 1.2)
    axes = figure.subplots()
    bars = axes.barh(names, [sizes[name] for name in names], color=SEEN)
    axes.bar_label(bars, [f"{sizes[name]:,} ({sizes[name] / total:.1%})" for name in names], padding=4, fontsize="small")
    axes.margins(x=0.22)
    axes.set(title=f"{type(model).__name__}: {total:,} parameters", xlabel="parameters")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
