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
from sb3_dreamer.world_models.fitting import check_dataset
from sb3_dreamer.world_models.rows import Rows, filter_episodes, looking
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
    """Of the prediction of the mean: 1, but where the spread is 0."""
    accuracy: float
    """Share of choices, bits and continue flags whose most probable value is right."""
    base_accuracy: float
    """Of the prediction of the most frequent value."""


@dataclass(frozen=True)
class ModelEvaluation:
    """What :func:`evaluate_model` found."""

    scores: tuple[Score, ...]
    log_likelihood: dict[int, float]
    """Mean log-density of the numbers observed, in nats an observation, by horizon; see :class:`Likelihood`."""
    skipped_horizons: tuple[int, ...]
    """Longer than any episode."""

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
            lines.append(f"\nLog-likelihood of an observation {horizon} steps ahead: {value:.2f} nats.")
        if self.skipped_horizons:
            lines.append(f"\nNo episode is long enough for horizons {', '.join(map(str, self.skipped_horizons))}.")
        return "\n".join(lines)

    def save_csv(self, path: str | pathlib.Path) -> None:
        """
        :param path: file to write, ``.csv``
        """

        def write(temporary: pathlib.Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(Score)])
                writer.writeheader()
                writer.writerows(asdict(score) for score in self.scores)

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
    rows = Rows(dataset, model, model.observation_codec, model.action_codec)
    scores: list[Score] = []
    likelihood: dict[int, float] = {}
    skipped: list[int] = []
    with looking(model, seed):
        states = filter_episodes(rows, model)
        density = Likelihood(likelihood_samples)
        for horizon in horizons:
            starts = _starts(rows, horizon, context, max_starts)
            if len(starts) == 0:
                skipped.append(horizon)
                continue
            start = states.map(lambda part, starts=starts: part[starts])  # type: ignore[misc]
            actions = rows.prev_action[starts[:, None] + th.arange(1, horizon + 1, device=starts.device)]
            final = model.unroll(actions, start, horizon, deterministic=True).states.map(lambda part: part[:, -1])
            scores.extend(_scores(model, rows, final, starts, horizon))
            if likelihood_samples and any(key.kind == "vector" for key in model.observation_codec.keys):
                likelihood[horizon] = density(model, rows, start, actions, final, starts + horizon)
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


def _scores(model: StandaloneWorldModel, rows: Rows, final: LatentState, starts: th.Tensor, horizon: int) -> list[Score]:
    ends = starts + horizon
    decoded = model.decode(final)
    scores = []
    for key in model.observation_codec.keys:
        whole = rows.obs[key.name].float()
        prediction, truth, before = decoded[key.name].float(), whole[ends], whole[starts]
        if key.kind == "vector":
            for i in range(key.size):
                name = key.name if key.size == 1 else f"{key.name}[{i}]"
                scores.append(_score(name, horizon, prediction[:, i], truth[:, i], before[:, i], whole[:, i]))
        else:
            accuracy = (math.nan, math.nan) if key.kind == "image" else _accuracies(key, prediction, truth, whole)
            scores.append(_score(key.name, horizon, prediction, truth, before, whole, accuracy))
    reward, follows = rows.reward, rows.is_first == 0  # first rows have no reward, and never end an episode
    scores.append(_score(REWARD, horizon, model.predict_reward(final), reward[ends], reward[starts], reward[follows]))
    goes_on = 1.0 - rows.is_terminal
    probability = continue_probability(model, model.predict_discount(final))
    accuracy = _binary_accuracies(probability, goes_on[ends], goes_on[follows])
    scores.append(_score(CONTINUE, horizon, probability, goes_on[ends], goes_on[starts], goes_on[follows], accuracy))
    return scores


def _score(
    output: str,
    horizon: int,
    prediction: th.Tensor,
    truth: th.Tensor,
    before: th.Tensor,
    whole: th.Tensor,
    accuracy: tuple[float, float] = (math.nan, math.nan),
) -> Score:
    """Errors over all axes; the spread is that of each number in the whole data set, averaged."""

    def rms(error: th.Tensor) -> float:
        return float(error.square().mean().sqrt())

    spread = float(whole.var(0, correction=0).mean().sqrt())
    error = rms(prediction - truth)
    if spread <= 1e-6 * rms(whole):  # constant: nothing to explain
        nan = math.nan
        return Score(output, horizon, len(truth), error, nan, nan, nan, nan, *accuracy)
    of_mean, of_no_change = rms(truth - whole.mean(0)) / spread, rms(before - truth) / spread
    share = error / spread
    return Score(output, horizon, len(truth), error, share, 1 - share**2, of_no_change, of_mean, *accuracy)


def _accuracies(key: ObservationKey, prediction: th.Tensor, truth: th.Tensor, whole: th.Tensor) -> tuple[float, float]:
    """Of the most probable values, and of the most frequent ones."""
    if key.kind == "binary":
        return _binary_accuracies(prediction, truth, whole)
    pieces = [part.split(list(key.classes), dim=-1) for part in (prediction, truth, whole)]
    shares: list[th.Tensor] = []
    bases: list[th.Tensor] = []
    for predicted, true, seen in zip(*pieces, strict=True):
        shares.append((predicted.argmax(-1) == true.argmax(-1)).float().mean())
        bases.append((seen.mean(0).argmax() == true.argmax(-1)).float().mean())
    return float(th.stack(shares).mean()), float(th.stack(bases).mean())


def _binary_accuracies(probability: th.Tensor, truth: th.Tensor, whole: th.Tensor) -> tuple[float, float]:
    right, frequent = (probability > 0.5) == (truth > 0.5), (whole.mean(0) > 0.5) == (truth > 0.5)
    return float(right.float().mean()), float(frequent.float().mean())


# ---- likelihood


class Likelihood:
    """
    The density of numbers observed some steps ahead: a mixture of normals around what trajectories drawn from the model decode
    to. Their standard deviations, the noise of a decoder that none of the models learns, are the model's errors at the first
    horizon it is called with, times the factor under which half of that horizon's observations are most probable; the others
    are what is scored there, and all of them at further horizons. So a model whose dynamics are certain must say with
    one number what it does not know, whatever the state and the horizon.

    :param samples: trajectories an observation
    """

    FACTORS = tuple(float(factor) for factor in np.geomspace(0.02, 2.0, 24))

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.noise: th.Tensor | None = None

    def __call__(
        self,
        model: StandaloneWorldModel,
        rows: Rows,
        start: LatentState,
        actions: th.Tensor,
        final: LatentState,
        ends: th.Tensor,
    ) -> float:
        """
        :param model: the model
        :param rows: the data
        :param start: states to imagine from, ``(N, ...)``
        :param actions: ``(N, H, A)``
        :param final: the most probable states H steps later
        :param ends: the rows that came then, ``(N,)``
        :return: mean log-density, in nats an observation
        """
        truth = _numbers(model, {name: part[ends] for name, part in rows.obs.items()})
        horizon = actions.shape[1]
        decoded = []
        for _ in range(self.samples):  # one by one: all of their states at once would fill the memory
            states = model.unroll(actions, start, horizon).states
            decoded.append(_numbers(model, model.decode(states.map(lambda part: part[:, -1]))))
        errors = th.stack(decoded, dim=1) - truth.unsqueeze(1)  # (N, samples, numbers)
        if self.noise is not None:
            return float(self._density(errors, self.noise).mean())
        spread = (_numbers(model, model.decode(final)) - truth).square().mean(0).sqrt().clamp_min(1e-6)
        odd = th.arange(len(ends), device=ends.device) % 2 == 1
        fits = [self._density(errors[~odd], factor * spread).mean() for factor in self.FACTORS]
        self.noise = self.FACTORS[int(th.stack(fits).argmax())] * spread
        return float(self._density(errors[odd] if odd.any() else errors, self.noise).mean())

    def _density(self, errors: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """:return: log-densities of the mixture, ``(N,)``"""
        log_prob = -(0.5 * (errors / noise).square() + noise.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        return th.logsumexp(log_prob, dim=1) - math.log(self.samples)


def _numbers(model: StandaloneWorldModel, obs: dict[str, th.Tensor]) -> th.Tensor:
    """All that are numbers, ``(..., n)``; constant ones would have infinite densities, but their errors have a floor."""
    return th.cat([obs[key.name].float() for key in model.observation_codec.keys if key.kind == "vector"], dim=-1)
