"""How well a world model predicts episodes it has not seen: by output, by horizon, and beside two naive predictions."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch as th

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models.dataset import EpisodeDataset
from sb3_dreamer.world_models.likelihood import LikelihoodJudge, LogLikelihood
from sb3_dreamer.world_models.rows import Rows, check_dataset, filter_episodes, looking
from sb3_dreamer.world_models.standalone import StandaloneWorldModel
from sb3_dreamer.world_models.trajectories import check_horizon, continue_probability

REWARD, CONTINUE = "reward", "continue"


@dataclass(frozen=True)
class Score:
    """How one output is predicted at one horizon. NaN where a number makes no sense."""

    output: str
    """Observation key, with ``[i]`` for one of several numbers; ``reward``; ``continue``."""
    horizon: int
    n: int
    """Predictions compared."""
    rmse: float
    """In the output's own units; of choices and bits, of their one-hots; of images, of pixel values."""
    nrmse: float
    """Over the standard deviation of what is predicted: 1 is a model that knows the mean alone."""
    r2: float
    """``1 - nrmse²``: the share of the variance explained."""
    no_change_nrmse: float
    """Of the prediction that all stays as it is."""
    mean_nrmse: float
    """Of the prediction of the mean: about 1."""
    accuracy: float
    """Share of choices, bits and continue flags whose most probable value is right."""
    base_accuracy: float
    """Of the prediction of the most frequent value."""


@dataclass(frozen=True)
class ModelEvaluation:
    """What :func:`evaluate_model` found."""

    scores: tuple[Score, ...]
    log_likelihood: dict[int, LogLikelihood]
    """By horizon; see :class:`~sb3_dreamer.world_models.likelihood.LikelihoodJudge`. Empty without numbers that vary."""
    skipped_horizons: tuple[int, ...]
    """For which no episode is long enough after its first rows."""

    def get(self, output: str, horizon: int) -> Score:
        """
        :param output: as in :class:`Score`
        :param horizon: one of those evaluated
        :return: its score
        :raises KeyError: there is none
        """
        for score in self.scores:
            if (score.output, score.horizon) == (output, horizon):
                return score
        raise KeyError(f"no score of {output!r} at horizon {horizon}: there are {sorted({s.output for s in self.scores})}")

    def mean(self, field: str, horizon: int) -> float:
        """
        :param field: of :class:`Score`
        :param horizon: one of those evaluated
        :return: root mean square (of ``rmse`` and ``nrmse``), or mean, over those of the observation's outputs that have the
            number, NaN if none has
        :raises KeyError: the horizon was not evaluated
        """
        found = [s for s in self.scores if s.horizon == horizon and s.output not in (REWARD, CONTINUE)]
        if not found:
            raise KeyError(f"no score at horizon {horizon}: there are {sorted({s.horizon for s in self.scores})}")
        values = np.array([value for score in found if not math.isnan(value := getattr(score, field))])
        if len(values) == 0:
            return math.nan
        return float(np.sqrt(np.mean(values**2)) if "rmse" in field else np.mean(values))

    def table(self) -> str:
        """:return: Markdown, a line an output and horizon"""
        names = [field.name for field in fields(Score)]
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        for score in self.scores:
            lines.append("| " + " | ".join(_show(getattr(score, name)) for name in names) + " |")
        for horizon, value in self.log_likelihood.items():
            lines.append(
                f"\nLog-likelihood of an observation {horizon} steps ahead: {value.model:.2f} nats (no change: "
                f"{value.no_change:.2f}, mean: {value.mean:.2f})."
            )
        if self.skipped_horizons:
            lines.append(f"\nNo episode is long enough for horizons {', '.join(map(str, self.skipped_horizons))}.")
        return "\n".join(lines)

    def save_csv(self, path: str | pathlib.Path) -> None:
        """
        A line an output and horizon, and one a horizon for the log-likelihood.

        :param path: file to write, ``.csv``
        """
        nats = ("nats", "no_change_nats", "mean_nats")

        def write(temporary: pathlib.Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [*(field.name for field in fields(Score)), *nats])
                writer.writeheader()
                writer.writerows(asdict(score) for score in self.scores)
                for horizon, found in self.log_likelihood.items():
                    values = dict(zip(nats, (found.model, found.no_change, found.mean), strict=True))
                    writer.writerow({"output": "log_likelihood", "horizon": horizon, **values})

        write_atomically(path, write, ".csv")


def _show(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def evaluate_model(
    model: StandaloneWorldModel,
    dataset: EpisodeDataset,
    horizons: Sequence[int] = (1, 5, 10, 20, 50),
    context: int = 5,
    max_starts: int = 1000,
    likelihood_samples: int = 32,
    seed: int = 0,
) -> ModelEvaluation:
    """
    Open loop: the episodes are filtered from their starts; from rows after the first few, the model imagines ahead with the
    actions that were taken, by modes, and what it decodes is compared with what was seen. Dreams that reach over an episode's
    end are left out.

    :param model: a fitted model
    :param dataset: episodes it has not learnt from
    :param horizons: steps ahead
    :param context: rows to observe first, at least 1
    :param max_starts: dreams to compare at each horizon; drawn at random where there are more rows to start from
    :param likelihood_samples: trajectories drawn from each start for the likelihood; 0 for none
    :param seed: of all drawing
    :return: the scores
    :raises ValueError: wrong arguments, other spaces, or no episode is long enough for any horizon
    """
    check_dataset(model, dataset)
    horizons = sorted({check_horizon(horizon) for horizon in horizons})
    whole = all(number % 1 == 0 for number in (context, max_starts, likelihood_samples))
    if not horizons or not whole or context < 1 or max_starts < 1 or likelihood_samples < 0:
        raise ValueError(
            "horizons must not be empty, context and max_starts at least 1, likelihood_samples at least 0, whole numbers, got "
            f"{list(horizons)}, {context}, {max_starts}, {likelihood_samples}."
        )
    rows = Rows(dataset, model)
    scores: list[Score] = []
    likelihood: dict[int, LogLikelihood] = {}
    skipped: list[int] = []
    with looking(model, seed):
        states = filter_episodes(rows, model)
        judge = LikelihoodJudge(model, rows, likelihood_samples)
        if likelihood_samples and judge.possible:
            starts = _starts(rows, 1, context, max_starts)
            if len(starts):
                judge.calibrate(starts, states.map(lambda part: part[starts]))
        known = _Known(rows)
        for horizon in horizons:
            starts = _starts(rows, horizon, context, max_starts)
            if len(starts) == 0:
                skipped.append(horizon)
                continue
            start = states.map(lambda part, starts=starts: part[starts])  # type: ignore[misc]
            actions = rows.prev_action[starts[:, None] + th.arange(1, horizon + 1, device=starts.device)]
            final = model.unroll(actions, start, horizon, deterministic=True).states.map(lambda part: part[:, -1])
            scores.extend(_scores(model, rows, known, final, starts, horizon))
            if judge.noise is not None:
                likelihood[horizon] = judge(starts, start, actions)
    if not scores:
        longest = int((rows.bounds[:, 1] - rows.bounds[:, 0]).max()) - 1
        raise ValueError(
            f"No episode is long enough: context={context} rows and the shortest horizon, {horizons[0]}, need "
            f"{context + horizons[0] - 1} steps, the longest has {longest}."
        )
    return ModelEvaluation(tuple(scores), likelihood, tuple(skipped))


def _starts(rows: Rows, horizon: int, context: int, most: int) -> th.Tensor:
    """Rows to dream from whose episodes run long enough, drawn at random where there are more than wanted."""
    places = [np.arange(first + context - 1, end - horizon) for first, end in rows.bounds]
    starts = th.as_tensor(np.concatenate(places), device=rows.reward.device)
    if len(starts) > most:
        starts = starts[th.randperm(len(starts), device=starts.device)[:most].sort().values]
    return starts


@dataclass(frozen=True)
class _Statistics:
    """Of all rows of an output."""

    mean: th.Tensor
    """Of every number."""
    variance: th.Tensor
    square: th.Tensor
    """Mean squares."""

    def column(self, i: int) -> _Statistics:
        return _Statistics(self.mean[i], self.variance[i], self.square[i])


def _statistics(values: th.Tensor) -> _Statistics:
    """In pieces: as floats, all pictures at once would fill the memory."""
    mean, square = th.zeros_like(values[0], dtype=th.float64), th.zeros_like(values[0], dtype=th.float64)
    for piece in values.split(1024):
        mean += piece.double().sum(0) / len(values)
    for piece in values.split(1024):
        square += (piece.double() - mean).square().sum(0) / len(values)
    return _Statistics(mean.float(), square.float(), (square + mean.square()).float())


class _Known:
    """What is the same at all horizons: statistics of every output of the data."""

    def __init__(self, rows: Rows) -> None:
        follows = rows.is_first == 0  # first rows have no reward, and never end an episode
        self.obs = {name: _statistics(part) for name, part in rows.obs.items()}
        self.reward = _statistics(rows.reward[follows])
        self.goes_on = _statistics(1.0 - rows.is_terminal[follows])


def _scores(
    model: StandaloneWorldModel,
    rows: Rows,
    known: _Known,
    final: LatentState,
    starts: th.Tensor,
    horizon: int,
) -> list[Score]:
    ends = starts + horizon
    decoded = model.decode(final)
    scores = []
    for key in model.observation_codec.keys:
        of_key = known.obs[key.name]
        prediction = decoded[key.name].float()
        truth, before = rows.obs[key.name][ends].float(), rows.obs[key.name][starts].float()
        if key.kind == "vector":
            for i in range(key.size):
                name = key.name if key.size == 1 else f"{key.name}[{i}]"
                scores.append(_score(name, horizon, prediction[:, i], truth[:, i], before[:, i], of_key.column(i)))
        else:
            accuracy = (math.nan, math.nan) if key.kind == "image" else _accuracies(key, prediction, truth, of_key.mean)
            scores.append(_score(key.name, horizon, prediction, truth, before, of_key, accuracy))
    reward, goes_on = rows.reward, 1.0 - rows.is_terminal
    scores.append(_score(REWARD, horizon, model.predict_reward(final), reward[ends], reward[starts], known.reward))
    probability = continue_probability(model, model.predict_discount(final))
    accuracy = _binary_accuracies(probability, goes_on[ends], known.goes_on.mean)
    scores.append(_score(CONTINUE, horizon, probability, goes_on[ends], goes_on[starts], known.goes_on, accuracy))
    return scores


def _score(
    output: str,
    horizon: int,
    prediction: th.Tensor,
    truth: th.Tensor,
    before: th.Tensor,
    known: _Statistics,
    accuracy: tuple[float, float] = (math.nan, math.nan),
) -> Score:
    """Errors over all axes; the spread is that of each number in the whole data set, averaged."""

    def rms(error: th.Tensor) -> float:
        return float(error.square().mean().sqrt())

    spread = float(known.variance.mean().sqrt())
    error = rms(prediction - truth)
    if spread <= 1e-6 * float(known.square.mean().sqrt()):  # constant: nothing to explain
        nan = math.nan
        return Score(output, horizon, len(truth), error, nan, nan, nan, nan, *accuracy)
    of_mean, of_no_change = rms(truth - known.mean) / spread, rms(before - truth) / spread
    share = error / spread
    return Score(output, horizon, len(truth), error, share, 1 - share**2, of_no_change, of_mean, *accuracy)


def _accuracies(key: ObservationKey, prediction: th.Tensor, truth: th.Tensor, frequency: th.Tensor) -> tuple[float, float]:
    """Of the most probable values, and of the most frequent ones."""
    if key.kind == "binary":
        return _binary_accuracies(prediction, truth, frequency)
    pieces = [part.split(list(key.classes), dim=-1) for part in (prediction, truth, frequency)]
    shares: list[th.Tensor] = []
    bases: list[th.Tensor] = []
    for predicted, true, seen in zip(*pieces, strict=True):
        shares.append((predicted.argmax(-1) == true.argmax(-1)).float().mean())
        bases.append((seen.argmax() == true.argmax(-1)).float().mean())
    return float(th.stack(shares).mean()), float(th.stack(bases).mean())


def _binary_accuracies(probability: th.Tensor, truth: th.Tensor, frequency: th.Tensor) -> tuple[float, float]:
    right, frequent = (probability > 0.5) == (truth > 0.5), (frequency > 0.5) == (truth > 0.5)
    return float(right.float().mean()), float(frequent.float().mean())
