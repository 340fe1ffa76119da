"""Every figure draws what it says: what is drawn is compared with numbers that are computed here by other ways."""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

import envs  # noqa: F401
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models import (
    RSSM,
    EpisodeDataset,
    FitHistory,
    MLPWorldModel,
    ModelEvaluation,
    StandaloneWorldModel,
    VAEWorldModel,
    collect,
)
from sb3_dreamer.world_models.evaluation import Score
from sb3_dreamer.world_models.figures import (
    plot_evaluation,
    plot_hidden_states,
    plot_latent_space,
    plot_losses,
    plot_open_loop,
    plot_parameters,
    plot_reconstruction,
)
from sb3_dreamer.world_models.likelihood import LogLikelihood

LENGTHS = (12, 9, 15)
"""Rows of the episodes."""
ALL = [RSSM, VAEWorldModel, MLPWorldModel]
SPACES: dict[str, spaces.Space] = {
    "vector": spaces.Box(-np.inf, np.inf, (3,)),
    "image": spaces.Box(0, 255, (16, 16, 3), np.uint8),
    "choices": spaces.Dict(
        door=spaces.Discrete(3, start=1), bits=spaces.MultiBinary(2), speed=spaces.Box(-9, 9, (1,)), dice=spaces.Discrete(6)
    ),
    "mixed": spaces.Dict(
        cam=spaces.Box(0, 255, (16, 16), np.uint8), pos=spaces.Box(-1, 1, (2,)), buttons=spaces.MultiDiscrete([2, 4])
    ),
}


def make_data(kind: str = "vector", discrete_actions: bool = False) -> EpisodeDataset:
    """Random episodes."""
    space, action_space = SPACES[kind], spaces.Discrete(2) if discrete_actions else spaces.Box(-2.0, 2.0, (1,))
    n = sum(LENGTHS)
    for part in (space, action_space):
        part.seed(0)
    draws = [space.sample() for _ in range(n)]
    rows = {name: np.stack([draw[name] for draw in draws]) for name in space} if isinstance(space, spaces.Dict) else draws
    last = np.isin(np.arange(n), np.cumsum(LENGTHS) - 1)
    first = np.roll(last, 1)
    reward = np.where(first, 0, np.random.default_rng(1).normal(size=n)).astype(np.float32)
    actions = np.stack([action_space.sample() for _ in range(n)])
    observations = rows if isinstance(rows, dict) else {"obs": np.stack(rows)}
    return EpisodeDataset(space, action_space, observations, actions, reward, first, last, np.zeros(n, dtype=bool))


def make_model(kind: type[StandaloneWorldModel], data: EpisodeDataset, certain: bool = True) -> Any:
    """A tiny model whose outputs all vary; certain: its samples are modes, so that other ways of filtering find the same."""
    model: Any = kind.from_spaces(data.observation_space, data.action_space, size="debug", seed=0)
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * th.randn(parameter.shape, generator=generator))
    if certain and hasattr(model, "latents"):
        model.latents.sample = lambda params, noise: model.latents.mode(params)
    return model


def rows_of(data: EpisodeDataset, episode: int) -> slice:
    return slice(*data.bounds()[episode])


def observation(data: EpisodeDataset, row: int) -> Any:
    parts = {name: part[row] for name, part in data.observations.items()}
    return parts if isinstance(data.observation_space, spaces.Dict) else parts["obs"]


def filter_by_steps(model: StandaloneWorldModel, data: EpisodeDataset, episode: int) -> list[LatentState]:
    """An episode's states one after the other, as a user finds them."""
    first, end = data.bounds()[episode]
    states = [model.encode(observation(data, first))]
    for row in range(first + 1, end):
        states.append(model.encode(observation(data, row), states[-1], data.actions[row - 1]))
    return states


@th.no_grad()
def dream_by_steps(model: StandaloneWorldModel, data: EpisodeDataset, row: int, start: LatentState, steps: int) -> Any:
    """The start and so many states after it, by modes, under the actions of the data set from a row on."""
    states = [start]
    for i in range(steps):
        action = th.as_tensor(model.action_codec.from_env(data.actions[row + i][None]))
        states.append(model.unroll(action[None], states[-1], 1, True).states.map(lambda part: part[:, 1]))
    return states


@th.no_grad()
def decode(model: StandaloneWorldModel, states: list[LatentState], key: str = "obs") -> np.ndarray:
    """In the environment's units, ``(T, ...)``."""
    decoded = model.observation_codec.from_tensors(model.decode(LatentState.stack(states, 1).map(lambda part: part[0])))
    return decoded[key] if isinstance(decoded, dict) else decoded


@th.no_grad()
def decode_image(model: StandaloneWorldModel, states: list[LatentState], key: str = "obs") -> np.ndarray:
    """Decoded images from 0 to 1, not rounded, ``(T, H, W, C)``."""
    return np.stack([model.decode(state)[key][0].movedim(0, -1).numpy() / 255 for state in states]).clip(0, 1)


def panel(figure: Figure, name: str) -> Axes:
    (found,) = [axes for axes in figure.axes if axes.get_ylabel() == name or axes.get_title() == name]
    return found


def lines(axes: Axes, label: str) -> list[tuple[np.ndarray, np.ndarray]]:
    found = [line for line in axes.lines if line.get_label() == label]
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in found]


def pictures(figure: Figure) -> np.ndarray:
    """All images drawn, ``(n, H, W, C)``."""
    return np.stack([np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images])


# ---- losses


def make_history(validation: bool = True) -> FitHistory:
    history = FitHistory()
    for i in range(1, 5):
        losses = {"reward": 1 / i, "kl": 2.5 - i, "total": 3.0 + 1 / i}
        history.add(10 * i, losses, {name: 2 * value for name, value in losses.items()} if validation else {})
    history.best_update = 30 if validation else None
    return history


def test_losses() -> None:
    history = make_history()
    figure = plot_losses(history)
    assert [axes.get_title() for axes in figure.axes] == ["total (weighted)", "reward", "kl"]
    for name, axes in zip(("total", "reward", "kl"), figure.axes, strict=True):
        for label, losses in (("train", history.train), ("validation", history.validation)):
            ((x, y),) = lines(axes, label)
            assert x.tolist() == [10, 20, 30, 40] and y.tolist() == losses[name]
        ((x, _),) = lines(axes, "best update")
        assert list(x) == [30, 30]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log", "linear"]  # the last has negative ones
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "validation", "best update"]


def test_losses_without_validation() -> None:
    figure = plot_losses(make_history(validation=False))
    assert all(not lines(axes, "validation") and not lines(axes, "best update") for axes in figure.axes)
    assert len(figure.axes[0].lines) == 1


def test_losses_of_a_fit() -> None:
    data = make_data()
    history = RSSM.from_spaces(data.observation_space, data.action_space, size="debug", seed=0).fit(
        data, 2, batch_size=2, batch_length=4, eval_every=1
    )
    figure = plot_losses(history)
    assert len(figure.axes) == len(history.train) == 6
    figure.savefig(io.BytesIO())


# ---- evaluation


def test_evaluation() -> None:
    def score(output: str, horizon: int, nrmse: float) -> Score:
        return Score(output, horizon, 9, 0.0, nrmse, 0.0, 2 * nrmse, 1.0, 0.0, 0.0)

    outputs = {"obs[0]": 0.1, "obs[1]": 0.2, "constant": np.nan, "reward": 0.3, "continue": 0.4}
    scores = tuple(score(name, horizon, horizon * size) for horizon in (1, 5) for name, size in outputs.items())
    axes = plot_evaluation(ModelEvaluation(scores, {}, ())).axes[0]
    assert lines(axes, "constant") == []
    for name in ("obs[0]", "obs[1]", "reward", "continue"):
        ((x, y),) = lines(axes, name)
        assert x.tolist() == [1, 5] and y.tolist() == [outputs[name], 5 * outputs[name]]
    dotted = [line.get_ydata()[1] for line in axes.lines if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert dotted == [10 * outputs[name] for name in ("obs[0]", "obs[1]", "reward", "continue")]
    axes = plot_evaluation(ModelEvaluation(scores, {}, ()), max_outputs=1).axes[0]
    assert lines(axes, "obs[0]") and lines(axes, "continue") and not lines(axes, "obs[1]")


def test_evaluation_shows_likelihoods_and_accuracies() -> None:
    nan = float("nan")
    scores = tuple(Score("continue", h, 10, 0.1, nan, nan, nan, nan, 0.9 - h / 100, 0.7) for h in (1, 5))
    likelihood = {1: LogLikelihood(3.0, 1.0, -1.0), 5: LogLikelihood(-400.0, 0.5, -1.0)}
    _, nats, accuracies = plot_evaluation(ModelEvaluation(scores, likelihood, ())).axes
    for label, values in (("model", [3.0, -400.0]), ("no change", [1.0, 0.5]), ("mean", [-1.0, -1.0])):
        ((x, y),) = lines(nats, label)
        assert x.tolist() == [1, 5] and y.tolist() == values
    assert nats.get_ylim() == pytest.approx((-5.0, 4.0))
    ((x, y),) = lines(accuracies, "continue")
    assert y.tolist() == pytest.approx([0.89, 0.85])
    assert [line.get_ydata().tolist() for line in accuracies.lines if line.get_linestyle() == ":"] == [[0.7, 0.7]]


# ---- reconstruction


@pytest.mark.parametrize("kind", ALL)
def test_reconstruction_of_numbers(kind: type[StandaloneWorldModel]) -> None:
    data = make_data()
    model = make_model(kind, data)
    figure = plot_reconstruction(model, data, episode=1)
    expected = decode(model, filter_by_steps(model, data, 1))
    assert expected.std() > 0.01
    assert [axes.get_ylabel() for axes in figure.axes] == ["obs[0]", "obs[1]", "obs[2]"]
    for i, axes in enumerate(figure.axes):
        ((x, truth),) = lines(axes, "truth")
        assert np.array_equal(x, np.arange(LENGTHS[1]))
        assert np.array_equal(truth, data.observations["obs"][rows_of(data, 1), i])
        ((x, found),) = lines(axes, "reconstruction")
        assert np.array_equal(x, np.arange(LENGTHS[1]))
        assert np.allclose(found, expected[:, i], atol=1e-4)
    assert "outputs" not in figure.get_suptitle()


def test_only_the_first_outputs() -> None:
    data = make_data()
    model = make_model(RSSM, data)
    figure = plot_reconstruction(model, data, max_outputs=2)
    assert len(figure.axes) == 2 and "first 2 of 3" in figure.get_suptitle()
    figure = plot_open_loop(model, data, context=3, max_outputs=2)
    assert [axes.get_ylabel() for axes in figure.axes] == ["obs[0]", "obs[1]", "reward"]


@pytest.mark.parametrize("kind", [RSSM, VAEWorldModel])
def test_reconstruction_of_images(kind: type[StandaloneWorldModel]) -> None:
    data = make_data("image", discrete_actions=True)
    model = make_model(kind, data)
    figure = plot_reconstruction(model, data, episode=2, n_pictures=4)
    times = [0, 5, 9, 14]
    assert len(figure.axes) == 8
    assert [axes.get_title() for axes in figure.axes[:4]] == [f"step {time}" for time in times]
    assert figure.axes[0].get_ylabel() == "truth" and figure.axes[4].get_ylabel() == "reconstruction"
    shown = pictures(figure)
    assert np.allclose(shown[:4], data.observations["obs"][rows_of(data, 2)][times] / 255, atol=1e-6)
    expected = decode_image(model, filter_by_steps(model, data, 2))[times]
    assert np.allclose(shown[4:], expected, atol=1e-4) and expected.std() > 0.01


@pytest.mark.parametrize("kind", ALL)
def test_reconstruction_of_choices_and_bits(kind: type[StandaloneWorldModel]) -> None:
    data = make_data("choices")
    model = make_model(kind, data)
    figure = plot_reconstruction(model, data)
    assert [axes.get_ylabel() for axes in figure.axes] == ["bits[0]", "bits[1]", "dice", "door", "speed"]
    states = filter_by_steps(model, data, 0)
    for axes in figure.axes:
        name, _, number = axes.get_ylabel().partition("[")
        column = (..., int(number[:-1])) if number else (..., 0) if name == "speed" else ...
        ((_, truth),), ((_, found),) = lines(axes, "truth"), lines(axes, "reconstruction")
        assert np.array_equal(truth, data.observations[name][rows_of(data, 0)][column])
        assert np.allclose(found, decode(model, states, name)[column], atol=1e-4)
        styles = {line.get_drawstyle() for line in axes.lines}
        assert styles == {"default" if name == "speed" else "steps-mid"}
    door = lines(panel(figure, "door"), "truth")[0][1]
    assert door.min() == 1 and door.max() == 3


def test_reconstruction_of_images_and_numbers() -> None:
    data = make_data("mixed")
    model = make_model(VAEWorldModel, data)
    figure = plot_reconstruction(model, data, n_pictures=3)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == ["cam\ntruth", "cam\nreconstruction", "buttons[0]", "buttons[1]", "pos[0]", "pos[1]"]
    states = filter_by_steps(model, data, 0)
    grey = data.observations["cam"][[0, 6, 11]] / 255  # numpy rounds 5.5 to 6
    shown = pictures(figure)
    assert shown.shape == (6, 16, 16, 3) and (shown[..., 0] == shown[..., 2]).all()
    assert np.allclose(shown[:3, ..., 1], grey, atol=1e-6)
    assert np.allclose(shown[3:, ..., :1], decode_image(model, states, "cam")[[0, 6, 11]], atol=1e-4)
    ((_, truth),) = lines(panel(figure, "buttons[1]"), "truth")
    assert np.array_equal(truth, data.observations["buttons"][: LENGTHS[0], 1])


def test_of_stacked_pictures_the_newest() -> None:
    data = make_data("image")
    stacked = np.concatenate([255 - data.observations["obs"], data.observations["obs"]], axis=-1)
    data = replace(data, observation_space=spaces.Box(0, 255, (16, 16, 6), np.uint8), observations={"obs": stacked})
    shown = pictures(plot_reconstruction(make_model(RSSM, data), data, n_pictures=2))
    assert np.allclose(shown[:2], stacked[[0, 11], ..., 3:] / 255, atol=1e-6)


def test_images_that_are_seen_as_numbers() -> None:
    data = make_data("image")
    model = RSSM.from_spaces(data.observation_space, data.action_space, size="debug", convolve=False, seed=0)
    figure = plot_reconstruction(model, data, max_outputs=2)
    ((_, truth),) = lines(panel(figure, "obs[1]"), "truth")  # channels first, as the model counts
    assert np.array_equal(truth, data.observations["obs"][: LENGTHS[0], 0, 1, 0])


# ---- open loop


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("horizon", [None, 4])
def test_open_loop_of_numbers(kind: type[StandaloneWorldModel], horizon: int | None) -> None:
    data = make_data()
    model = make_model(kind, data)
    context, first = 5, LENGTHS[0]
    steps = LENGTHS[1] - context if horizon is None else horizon
    figure = plot_open_loop(model, data, episode=1, context=context, horizon=horizon)
    assert [axes.get_ylabel() for axes in figure.axes] == ["obs[0]", "obs[1]", "obs[2]", "reward"]
    states = filter_by_steps(model, data, 1)
    dreamt = dream_by_steps(model, data, first + context - 1, states[context - 1], steps)
    columns = {f"obs[{i}]": (data.observations["obs"][:, i], lambda x, i=i: decode(model, x)[:, i]) for i in range(3)}
    columns["reward"] = (data.rewards, lambda x: np.concatenate([model.predict_reward(state).detach() for state in x]))
    for axes in figure.axes:
        whole, predict = columns[axes.get_ylabel()]
        expected = {
            "truth": (0, whole[first : first + context + steps]),
            "reconstruction": (0, predict(states[:context])),
            "dream": (context - 1, predict(dreamt)),  # it begins in the last state that has seen something
        }
        for label, (start, values) in expected.items():
            ((x, y),) = lines(axes, label)
            assert np.array_equal(x, start + np.arange(len(values)))
            assert np.allclose(y, values, atol=1e-4), label
        assert np.std(expected["dream"][1]) > 1e-3
        (border,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert list(border.get_xdata()) == [context - 1, context - 1]
        (shade,) = axes.patches
        assert shade.get_x() == 0 and shade.get_width() == context - 1  # type: ignore[attr-defined]
    assert "5 rows seen" in figure.get_suptitle() and f"{steps} dreamt" in figure.get_suptitle()


@pytest.mark.parametrize("kind", [RSSM, VAEWorldModel])
def test_open_loop_samples(kind: type[StandaloneWorldModel]) -> None:
    data = make_data()
    figure = plot_open_loop(make_model(kind, data, certain=False), data, context=4, samples=5)
    for axes in figure.axes[:3]:
        drawn, ((x, dream),) = lines(axes, "dreams, sampled"), lines(axes, "dream")
        assert len(drawn) == 5 and all(np.array_equal(line[0], x) for line in drawn)
        ends = np.array([line[1] for line in drawn])
        assert np.allclose(ends[:, 0], dream[0], atol=1e-5)  # all from the same state
        assert len(set(ends[:, -1].round(6))) == 5  # each on its own way
    labels = [text.get_text() for legend in figure.subfigs[0].legends for text in legend.get_texts()]
    assert labels == ["truth", "dreams, sampled", "reconstruction", "dream"]


@pytest.mark.parametrize("kind", [RSSM, VAEWorldModel])
def test_open_loop_of_images(kind: type[StandaloneWorldModel]) -> None:
    data = make_data("image", discrete_actions=True)
    model = make_model(kind, data)
    figure = plot_open_loop(model, data, episode=0, context=3, horizon=6, n_pictures=4)
    assert len(figure.axes) == 3 * 4 + 1 and figure.axes[-1].get_ylabel() == "reward"
    assert [axes.get_title() for axes in figure.axes[:4]] == ["step 2 (seen)", "step 4", "step 6", "step 8"]
    assert [axes.get_ylabel() for axes in figure.axes[:12:4]] == ["truth", "dream", "difference"]
    truth, dream, difference = pictures(figure).reshape(3, 4, 16, 16, 3)
    assert np.allclose(truth, data.observations["obs"][[2, 4, 6, 8]] / 255, atol=1e-6)
    states = dream_by_steps(model, data, 2, filter_by_steps(model, data, 0)[2], 6)
    assert np.allclose(dream, decode_image(model, states)[[0, 2, 4, 6]], atol=1e-4)
    assert np.allclose(difference, (dream - truth + 1) / 2, atol=1e-6)
    assert difference.min() >= 0 and difference.max() <= 1


# ---- latent space


@pytest.mark.parametrize("kind", ALL)
def test_latent_space(kind: type[StandaloneWorldModel]) -> None:
    data = make_data()
    model = make_model(kind, data)
    figure = plot_latent_space(model, data)
    axes, bar = figure.axes
    (dots,) = [found for found in axes.collections if isinstance(found, PathCollection)]
    features = np.concatenate([state.feat.numpy() for i in range(3) for state in filter_by_steps(model, data, i)]).astype(
        float
    )
    values, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(0)) @ vectors[:, ::-1][:, :2]
    # the rows are drawn in another order: their colours tell which is which
    colors = np.asarray(dots.get_array())
    order = [int(np.argmin(np.abs(data.observations["obs"][:, 0] - color))) for color in colors]
    assert sorted(order) == list(range(sum(LENGTHS)))
    points = np.asarray(dots.get_offsets())
    for i in range(2):
        sign = np.sign(points[:, i] @ expected[order, i])
        assert np.allclose(points[:, i], sign * expected[order, i], atol=1e-3)
    shares = values[::-1] / values.sum()
    assert f"{shares[0]:.0%}" in axes.get_xlabel() and f"{shares[1]:.0%}" in axes.get_ylabel()
    assert bar.get_ylabel() == "obs[0]"


def test_latent_space_colors() -> None:
    data = make_data("mixed")
    model = make_model(VAEWorldModel, data)

    def distance(rows: EpisodeDataset) -> np.ndarray:
        return np.linalg.norm(rows.observations["pos"], axis=1)

    wanted: dict[Any, tuple[str, np.ndarray]] = {
        None: ("buttons[0]", data.observations["buttons"][:, 0]),
        "reward": ("reward", data.rewards),
        "pos[1]": ("pos[1]", data.observations["pos"][:, 1]),
        distance: ("distance", distance(data)),
    }
    for color_by, (name, values) in wanted.items():
        axes, bar = plot_latent_space(model, data, color_by).axes
        assert bar.get_ylabel() == name
        assert np.array_equal(np.sort(np.asarray(axes.collections[0].get_array())), np.sort(values))
    _, bar = plot_latent_space(model, data, lambda rows: rows.rewards).axes
    assert bar.get_ylabel() == "lambda"
    images = make_data("image")
    _, bar = plot_latent_space(make_model(RSSM, images), images).axes
    assert bar.get_ylabel() == "reward"  # there is no number to take


def test_latent_space_of_some_points() -> None:
    data = make_data()
    model = make_model(RSSM, data)
    every, some = (
        np.asarray(plot_latent_space(model, data, max_points=n).axes[0].collections[0].get_offsets()) for n in (99, 10)
    )
    assert every.shape == (36, 2) and some.shape == (10, 2)
    assert all(np.isclose(every, point, atol=1e-6).all(1).any() for point in some)  # the same projection


# ---- hidden states


@pytest.mark.parametrize("kind", ALL)
def test_hidden_states(kind: type[StandaloneWorldModel]) -> None:
    data = make_data()
    model = make_model(kind, data)
    figure = plot_hidden_states(model, data, episode=2, max_units=2)
    above, below = figure.axes[:2]
    states = filter_by_steps(model, data, 2)
    units = np.concatenate([(state.deter if kind is RSSM else state.stoch).detach().numpy() for state in states])
    assert units.shape[1] == (8 if kind is RSSM else 4 if kind is VAEWorldModel else 3)
    order = np.argsort(units.var(0))[::-1]
    symbol = "h" if kind is RSSM else "z"
    assert [line.get_label() for line in above.lines] == [f"{symbol}[{unit}]" for unit in order[:2]]
    for line, unit in zip(above.lines, order[:2], strict=True):
        assert np.allclose(line.get_ydata(), units[:, unit], atol=1e-4)
    assert np.allclose(np.asarray(below.images[0].get_array()), units[:, order].T, atol=1e-4)


# ---- parameters


@pytest.mark.parametrize("kind", ALL)
def test_parameters(kind: type[StandaloneWorldModel]) -> None:
    data = make_data("choices" if kind is MLPWorldModel else "mixed")
    model = make_model(kind, data)
    (axes,) = plot_parameters(model).axes
    widths = [int(bar.get_width()) for bar in axes.patches]  # type: ignore[attr-defined]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(widths) == total and f"{total:,}" in axes.get_title() and kind.__name__ in axes.get_title()
    assert widths == sorted(widths)
    sizes = dict(zip([label.get_text() for label in axes.get_yticklabels()], widths, strict=True))
    for name, size in sizes.items():
        assert size == sum(parameter.numel() for parameter in model.get_submodule(name).parameters())
    assert ("observation_model.encoder" in sizes) == (kind is not MLPWorldModel)


def test_parameters_shared_or_on_their_own_count_once() -> None:
    model = make_model(RSSM, make_data())
    model.again, model.alone = model.core, th.nn.Parameter(th.zeros(7))
    (axes,) = plot_parameters(model).axes
    widths = [int(bar.get_width()) for bar in axes.patches]  # type: ignore[attr-defined]
    sizes = dict(zip([label.get_text() for label in axes.get_yticklabels()], widths, strict=True))
    assert sum(widths) == sum(parameter.numel() for parameter in model.parameters())
    assert sizes["RSSM"] == 7 and "again" not in sizes


# ---- all of them

LOOKING = {
    "reconstruction": plot_reconstruction,
    "open_loop": lambda model, data: plot_open_loop(model, data, context=3, samples=2),
    "latent_space": plot_latent_space,
    "hidden_states": plot_hidden_states,
}


@pytest.mark.parametrize("look", LOOKING.values(), ids=LOOKING)
@pytest.mark.parametrize("kind", [RSSM, VAEWorldModel])
def test_looking_leaves_no_trace(kind: type[StandaloneWorldModel], look: Any) -> None:
    data = make_data()
    model = make_model(kind, data, certain=False).train()
    model.reward_head.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    rows = {name: part.copy() for name, part in data.observations.items()}
    th.manual_seed(5)
    before, numpy_before = th.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first = look(model, data)
    th.manual_seed(6)
    second = look(model, data)  # whatever torch's seed, the same figure
    th.manual_seed(5)
    assert th.equal(th.get_rng_state(), before)
    look(model, data)
    assert th.equal(th.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters()) and th.is_grad_enabled()
    assert all(th.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(np.array_equal(part, rows[name]) for name, part in data.observations.items())
    for ours, theirs in zip(first.axes, second.axes, strict=True):
        for line, other in zip(ours.lines, theirs.lines, strict=True):
            assert np.array_equal(line.get_ydata(), other.get_ydata())


@pytest.mark.parametrize("look", LOOKING.values(), ids=LOOKING)
def test_models_look_in_evaluation_mode(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data()
    model = make_model(RSSM, data).train()
    modes: list[bool] = []
    observe = model.observe
    monkeypatch.setattr(model, "observe", lambda batch, mode: (modes.append(model.core.training), observe(batch, mode))[1])
    look(model, data)
    assert modes == [False] and model.training


def test_a_model_is_left_as_found_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data()
    model = make_model(RSSM, data).train()
    monkeypatch.setattr(model, "decode", lambda state: 1 / 0)
    before = th.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        plot_reconstruction(model, data)
    assert model.training and th.is_grad_enabled() and th.equal(th.get_rng_state(), before)


@pytest.mark.parametrize("env", ["ContinuousPendulum-v0", "SequenceMemory-v0", "DelayedRecall-v0"])
def test_tasks(env: str) -> None:
    data = collect(env, n_steps=60, seed=0)
    model = make_model(RSSM, data, certain=False)
    longest = int(np.diff(data.bounds()).argmax())
    for figure in (plot_open_loop(model, data, longest, context=2), plot_hidden_states(model, data, longest)):
        assert figure.axes


def test_figures_can_be_saved_without_a_warning() -> None:
    data = make_data("mixed")
    model = make_model(RSSM, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (plot_open_loop(model, data, context=3, samples=1, n_pictures=3), plot_parameters(model)):
            file = io.BytesIO()
            figure.savefig(file, dpi=40)
            assert file.getvalue().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


ERRORS: dict[str, tuple[Any, str]] = {
    "no entries": (lambda m, d: plot_losses(FitHistory()), "history has no entries"),
    "episode": (lambda m, d: plot_reconstruction(m, d, episode=3), r"from 0 to 2: the data set has 3; got 3"),
    "negative": (lambda m, d: plot_hidden_states(m, d, episode=-1), r"from 0 to 2.*got -1"),
    "half": (lambda m, d: plot_open_loop(m, d, episode=0.5), r"episode must be a whole number.*got 0.5"),
    "long context": (lambda m, d: plot_open_loop(m, d, context=12), r"context=12 .*episode 0, which has 12 rows: lower"),
    "default context": (lambda m, d: plot_open_loop(m, d), r"context=20 .*\(horizon=None\).*12 rows"),
    "no context": (lambda m, d: plot_open_loop(m, d, context=0), "context must be a whole number of at least 1, got 0"),
    "horizon": (lambda m, d: plot_open_loop(m, d, context=5, horizon=8), r"context=5 .*horizon=8.*episode 0.*12 rows"),
    "no horizon": (lambda m, d: plot_open_loop(m, d, context=5, horizon=0), "horizon must be a whole number of at least 1"),
    "samples": (
        lambda m, d: plot_open_loop(m, d, context=5, samples=-1),
        "samples must be a whole number of at least 0, got -1",
    ),
    "max_outputs": (lambda m, d: plot_reconstruction(m, d, max_outputs=0), "max_outputs must be .* got 0"),
    "n_pictures": (lambda m, d: plot_reconstruction(m, d, n_pictures=0), "n_pictures must be .* got 0"),
    "max_points": (lambda m, d: plot_latent_space(m, d, max_points=0), "max_points must be .* got 0"),
    "max_units": (lambda m, d: plot_hidden_states(m, d, max_units=1.5), "max_units must be .* got 1.5"),
    "color_by": (
        lambda m, d: plot_latent_space(m, d, "speed"),
        r"Unknown color_by='speed': use one of obs\[0\], obs\[1\], obs\[2\], reward, or a function",
    ),
    "colors": (
        lambda m, d: plot_latent_space(m, d, lambda rows: rows.rewards[1:]),
        r"color_by gave the shape \(35,\): it must give a number a row, \(36,\)",
    ),
    "spaces": (lambda m, d: plot_latent_space(m, make_data("choices")), "data set's observation_space"),
    "evaluation": (lambda m, d: plot_evaluation(ModelEvaluation((), {}, ()), max_outputs=0), "max_outputs"),
}


@pytest.mark.parametrize(("wrong", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(wrong: Any, message: str) -> None:
    data = make_data()
    with pytest.raises(ValueError, match=message):
        wrong(make_model(RSSM, data), data)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "sb3-dreamer\[compare\]"'):
        plot_losses(make_history())
