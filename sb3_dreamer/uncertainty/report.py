"""All measures of a model's uncertainty at once, by output."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.uncertainty.inputs import Values, read_rows, read_variance
from sb3_dreamer.uncertainty.metrics import (
    area_under_sparsification_error,
    auroc,
    coverage,
    crps,
    expected_calibration_error,
    negative_log_likelihood,
    sharpness,
    spearman,
)


@dataclass(frozen=True)
class UncertaintyScore:
    """How good the uncertainty of one output is. NaN where a number makes no sense."""

    output: str
    n: int
    """Predictions compared."""
    nll: float
    """Negative log-likelihood, in nats."""
    constant_nll: float
    """Of the same means with one standard deviation for all rows, the best there is: an uncertainty should be below it."""
    crps: float
    """Continuous ranked probability score, in the output's own units."""
    ece: float
    """Expected calibration error."""
    coverage_50: float
    """Share of the rows inside the central interval of 50 %."""
    coverage_90: float
    coverage_95: float
    sharpness: float
    """In the output's own units; comparable between models that are as well calibrated."""
    spearman_epistemic: float
    """
    Rank correlation of the epistemic standard deviation with the absolute error. Noise that differs from row to row raises it
    where both follow the noise, so look at data without noise as well.
    """
    spearman_total: float
    """Of the total standard deviation."""
    ause: float
    """Area under the sparsification error of the total standard deviation, by RMSE."""
    auroc: float
    """Of the epistemic variance as a detector of the rows from outside."""


@dataclass(frozen=True)
class UncertaintyReport:
    """What :func:`judge_uncertainty` found."""

    scores: tuple[UncertaintyScore, ...]

    @property
    def mean(self) -> UncertaintyScore:
        """Plain means over the outputs that have the number. Beware of those in units where the outputs' units differ."""
        names = [field.name for field in fields(UncertaintyScore)][2:]
        found = {name: [value for score in self.scores if not math.isnan(value := getattr(score, name))] for name in names}
        means = {name: float(np.mean(values)) if values else math.nan for name, values in found.items()}
        return UncertaintyScore("mean", self.scores[0].n, **means)

    def get(self, output: str) -> UncertaintyScore:
        """
        :param output: name of one of them
        :return: its score
        :raises KeyError: there is none
        """
        for score in self.scores:
            if score.output == output:
                return score
        raise KeyError(f"no score of {output!r}: there are {[score.output for score in self.scores]}")

    def table(self) -> str:
        """:return: Markdown, a line an output, and one of the means where there are several"""
        names = [field.name for field in fields(UncertaintyScore)]
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        for score in [*self.scores, self.mean] if len(self.scores) > 1 else self.scores:
            lines.append("| " + " | ".join(_show(getattr(score, name)) for name in names) + " |")
        return "\n".join(lines)

    def save_csv(self, path: str | pathlib.Path) -> None:
        """
        A line an output.

        :param path: file to write, ``.csv``
        """

        def write(temporary: pathlib.Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(UncertaintyScore)])
                writer.writeheader()
                writer.writerows(asdict(score) for score in self.scores)

        write_atomically(path, write, ".csv")


def _show(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def judge_uncertainty(
    mean: Values,
    aleatoric: Values,
    epistemic: Values,
    truth: Values,
    outputs: Sequence[str] | None = None,
    epistemic_outside: Values | None = None,
) -> UncertaintyReport:
    """
    Judge predictions, as in :class:`~sb3_dreamer.common.predictions.GaussianPrediction`, by what came. The rows must be of
    episodes that the model has not learnt from. Good numbers one step ahead do not carry over to several steps.

    :param mean: of the predictions, ``(n,)`` or ``(n, outputs)``
    :param aleatoric: variance of the noise, same shape, at least 0
    :param epistemic: variance from not knowing the function, same shape, at least 0; 0 throughout for a single network
    :param truth: what came, same shape
    :param outputs: their names; ``output[0]``, ``output[1]`` ... by default
    :param epistemic_outside: epistemic variances in a region where the model has had no data, ``(m,)`` or ``(m, outputs)``
    :return: the measures
    :raises ValueError: shapes differ, empty, not finite, a negative variance, a sum of both that is 0, or another number of
        names than outputs
    """
    mean, aleatoric, epistemic, truth = read_rows(mean=mean, aleatoric=aleatoric, epistemic=epistemic, truth=truth)
    total = read_variance("aleatoric", aleatoric) + read_variance("epistemic", epistemic)
    if not (total > 0).all():
        raise ValueError(
            f"aleatoric + epistemic must be positive, got 0 in {np.sum(total == 0)} of {total.size} places: give the "
            "aleatoric variance a least value."
        )
    shape = mean.shape[1:]
    outside = None if epistemic_outside is None else read_variance("epistemic_outside", epistemic_outside)
    if outside is not None and (outside.ndim != mean.ndim or outside.shape[1:] != shape):
        wanted = f"(m, {shape[0]})" if shape else "(m,)"
        raise ValueError(
            f"epistemic_outside must have the shape {wanted}, got {outside.shape}: it has the outputs of epistemic."
        )
    n_outputs = shape[0] if shape else 1
    if outputs is None:
        outputs = [f"output[{i}]" for i in range(n_outputs)] if shape else ["output"]
    if len(outputs) != n_outputs:
        raise ValueError(f"outputs must have {n_outputs} names, one for each output, got {len(outputs)}: {list(outputs)}.")
    columns = [array.reshape(len(array), -1).T for array in (mean, np.sqrt(total), truth, epistemic)]
    outsides = [None] * n_outputs if outside is None else outside.reshape(len(outside), -1).T
    return UncertaintyReport(tuple(_score(*of_one) for of_one in zip(outputs, *columns, outsides, strict=True)))


def _score(
    output: str, mean: np.ndarray, std: np.ndarray, truth: np.ndarray, epistemic: np.ndarray, outside: np.ndarray | None
) -> UncertaintyScore:
    """Of one output: all ``(n,)``, and ``(m,)``."""
    error = np.abs(mean - truth)
    no_errors = not error.any()
    return UncertaintyScore(
        output=output,
        n=len(mean),
        nll=float(negative_log_likelihood(mean, std, truth)),
        constant_nll=math.nan if no_errors else 0.5 * math.log(2 * math.pi * math.e * float(np.mean(error**2))),
        crps=float(crps(mean, std, truth)),
        ece=float(expected_calibration_error(mean, std, truth)),
        coverage_50=float(coverage(mean, std, truth, 0.5)),
        coverage_90=float(coverage(mean, std, truth, 0.9)),
        coverage_95=float(coverage(mean, std, truth, 0.95)),
        sharpness=float(sharpness(std)),
        spearman_epistemic=_spearman(epistemic, error),
        spearman_total=_spearman(std, error),
        ause=math.nan if no_errors else float(area_under_sparsification_error(std, error)),
        auroc=math.nan if outside is None else _detection(epistemic, outside),
    )


def _spearman(uncertainty: np.ndarray, error: np.ndarray) -> float:
    constant = np.ptp(uncertainty) == 0 or np.ptp(error) == 0
    return math.nan if constant else float(spearman(uncertainty, error))


def _detection(inside: np.ndarray, outside: np.ndarray) -> float:
    return auroc(np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)]))
