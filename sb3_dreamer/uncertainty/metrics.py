"""
How good uncertainties are, measured on predictions that are normals and on what came.

Arguments are arrays or tensors, ``(n,)``, or ``(n, outputs)`` for several outputs; a measure is then a number, or an array
``(outputs,)`` of one for each: average them as you like, but not numbers in different units. Rows must be ones that the model
has not learnt from, of whole episodes: the neighbours of a row give it away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch as th

from sb3_dreamer.uncertainty.inputs import Values, check_level, read_array, read_gaussian, read_rows, read_std

LEVELS = tuple(i / 20 for i in range(1, 20))
"""Probabilities at which calibration is looked at: 5, 10 ... 95 %."""


# ---- scores: the lower the better, and lowest in expectation for who says what he knows


def negative_log_likelihood(mean: Values, std: Values, truth: Values) -> np.ndarray:
    """
    ``½ z² + ln σ + ½ ln 2π`` with ``z = (y - μ) / σ``, averaged over the rows. Errors that were held impossible weigh heavily.

    :param mean: μ, ``(n,)`` or ``(n, outputs)``
    :param std: σ, positive, same shape
    :param truth: y, same shape
    :return: in nats, a number or ``(outputs,)``
    :raises ValueError: shapes differ, empty, not finite, or std is not positive
    """
    mean, std, truth = read_gaussian(mean, std, truth)
    return np.mean(0.5 * ((truth - mean) / std) ** 2 + np.log(std) + 0.5 * math.log(2 * math.pi), axis=0)


def crps(mean: Values, std: Values, truth: Values) -> np.ndarray:
    """
    Continuous ranked probability score of normals, ``σ (z (2 Φ(z) - 1) + 2 φ(z) - 1/√π)``, averaged over the rows (Gneiting
    and Raftery 2007, https://doi.org/10.1198/016214506000001437, eq. 21). As σ goes to 0 it becomes the absolute error.

    :param mean: μ, ``(n,)`` or ``(n, outputs)``
    :param std: σ, positive, same shape
    :param truth: y, same shape
    :return: in the output's own units, a number or ``(outputs,)``
    :raises ValueError: shapes differ, empty, not finite, or std is not positive
    """
    mean, std, truth = read_gaussian(mean, std, truth)
    z = (truth - mean) / std
    two_sided = th.special.erf(th.as_tensor(z / math.sqrt(2))).numpy()  # 2 Φ(z) - 1
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.mean(std * (z * two_sided + 2 * density - 1 / math.sqrt(math.pi)), axis=0)


# ---- calibration: whether what is said to come in 90 % of the cases does


class ReliabilityCurve(NamedTuple):
    """How often what was predicted with some probability came."""

    expected: np.ndarray
    """Probabilities, ``(levels,)``."""
    observed: np.ndarray
    """Shares of the rows, ``(levels,)`` or ``(levels, outputs)``."""


def reliability_curve(mean: Values, std: Values, truth: Values, levels: Sequence[float] = LEVELS) -> ReliabilityCurve:
    """
    The share of rows with ``Φ(z) ≤ p``, that is, below the predicted quantile of p, which is p where the predictions are
    calibrated (Kuleshov et al. 2018, https://arxiv.org/abs/1807.00263, section 3). A curve that is too flat is of a model
    that is too sure.

    :param mean: μ, ``(n,)`` or ``(n, outputs)``
    :param std: σ, positive, same shape
    :param truth: y, same shape
    :param levels: the probabilities p, between 0 and 1
    :return: expected and observed shares
    :raises ValueError: shapes differ, empty, not finite, std is not positive, or a level is not between 0 and 1
    """
    mean, std, truth = read_gaussian(mean, std, truth)
    expected = read_array("levels", [check_level("levels", level) for level in levels])
    z = (truth - mean) / std
    return ReliabilityCurve(expected, np.stack([np.mean(z <= quantile, axis=0) for quantile in normal_quantile(expected)]))


def expected_calibration_error(mean: Values, std: Values, truth: Values, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """
    The mean of ``|observed - expected|`` over a reliability curve: 0 is calibrated, at most 0.5. By chance, predictions that
    are calibrated have about ``0.3 / √n``.

    :param mean: μ, ``(n,)`` or ``(n, outputs)``
    :param std: σ, positive, same shape
    :param truth: y, same shape
    :param levels: of the curve
    :return: a number or ``(outputs,)``
    :raises ValueError: as :func:`reliability_curve`
    """
    expected, observed = reliability_curve(mean, std, truth, levels)
    return np.mean(np.abs(observed.T - expected), axis=-1)


def coverage(mean: Values, std: Values, truth: Values, level: float = 0.9) -> np.ndarray:
    """
    The share of rows inside the central interval of a probability, ``|z| ≤ Φ⁻¹((1 + level) / 2)``.

    :param mean: μ, ``(n,)`` or ``(n, outputs)``
    :param std: σ, positive, same shape
    :param truth: y, same shape
    :param level: probability of the interval, between 0 and 1: where the predictions are calibrated, the share is the same
    :return: a number or ``(outputs,)``
    :raises ValueError: shapes differ, empty, not finite, std is not positive, or level is not between 0 and 1
    """
    mean, std, truth = read_gaussian(mean, std, truth)
    half_width = normal_quantile(np.array((1 + check_level("level", level)) / 2))
    return np.mean(np.abs(truth - mean) <= half_width * std, axis=0)


def sharpness(std: Values) -> np.ndarray:
    """
    ``√(mean σ²)``: of two models that are as well calibrated, the one with the lower number says more. It says nothing of a
    model that is not calibrated.

    :param std: σ, ``(n,)`` or ``(n, outputs)``
    :return: in the output's own units, a number or ``(outputs,)``
    :raises ValueError: std is empty, not finite, or not positive
    """
    return np.sqrt(np.mean(read_std(std) ** 2, axis=0))


def normal_quantile(probability: np.ndarray) -> np.ndarray:
    """
    :param probability: between 0 and 1, any shape
    :return: ``Φ⁻¹`` of it, same shape
    """
    return th.special.ndtri(th.as_tensor(probability)).numpy()


# ---- order: whether the rows of large uncertainty are those of large errors


def spearman(a: Values, b: Values) -> np.ndarray:
    """
    Rank correlation: of an uncertainty with absolute errors, 1 if it orders the rows as they do. Ties share their mean rank.

    :param a: ``(n,)`` or ``(n, outputs)``
    :param b: same shape
    :return: from -1 to 1, a number or ``(outputs,)``
    :raises ValueError: shapes differ, empty, not finite, or one is constant
    """
    a, b = read_rows(a=a, b=b)
    for name, values in (("a", a), ("b", b)):
        constant = np.atleast_1d(np.ptp(values, axis=0) == 0)
        if constant.any():
            where = f" in output {constant.argmax()}" if values.ndim == 2 else ""
            raise ValueError(
                f"{name} is {values.reshape(len(values), -1)[0, constant.argmax()]:g} in all {len(values)} rows{where}: a "
                "rank correlation needs values that differ, so leave it out."
            )
    return _by_output(_rank_correlation, a, b)


class Sparsification(NamedTuple):
    """The error of the rows that are left when the most uncertain ones are dropped, over that of all."""

    dropped: np.ndarray
    """Share of the rows that are dropped: ``0, 1/n ... (n - 1)/n``."""
    error: np.ndarray
    """By the uncertainty, ``(n,)`` or ``(n, outputs)``; the first is 1."""
    oracle: np.ndarray
    """By the errors themselves, same shape: no uncertainty can be better."""


def sparsification_curve(uncertainty: Values, error: Values, measure: Literal["rmse", "mae"] = "rmse") -> Sparsification:
    """
    Drop the most uncertain rows one after the other, and measure the error of the rest (Ilg et al. 2018,
    https://arxiv.org/abs/1802.07095, section 4). Rows that are as uncertain as one another are dropped as if in a random
    order: each counts with their mean.

    :param uncertainty: standard deviations or variances, ``(n,)`` or ``(n, outputs)``
    :param error: prediction minus truth, same shape; the sign does not matter
    :param measure: root of the mean squared, or mean absolute error
    :return: the curve and that of the perfect order
    :raises ValueError: shapes differ, empty, not finite, no errors, or an unknown measure
    """
    uncertainty, error = read_rows(uncertainty=uncertainty, error=error)
    if measure not in ("rmse", "mae"):
        raise ValueError(f"measure must be 'rmse' or 'mae', got {measure!r}.")
    power = 2 if measure == "rmse" else 1
    loss = np.abs(error) ** power
    if not (loss.max(axis=0) > 0).all():
        raise ValueError(f"error is 0 in all {len(error)} rows of an output: there is nothing to order, so leave it out.")
    curves = [_by_output(_mean_of_the_rest, order, loss) for order in (uncertainty, loss)]
    by_uncertainty, oracle = ((curve / curve[0]) ** (1 / power) for curve in curves)
    return Sparsification(np.arange(len(error)) / len(error), by_uncertainty, oracle)


def area_under_sparsification_error(
    uncertainty: Values, error: Values, measure: Literal["rmse", "mae"] = "rmse"
) -> np.ndarray:
    """
    AUSE: the area between a sparsification curve and that of the perfect order; 0 if the uncertainty orders the rows as their
    errors do.

    :param uncertainty: standard deviations or variances, ``(n,)`` or ``(n, outputs)``
    :param error: prediction minus truth, same shape
    :param measure: root of the mean squared, or mean absolute error
    :return: as a share of the error of all rows, a number or ``(outputs,)``
    :raises ValueError: as :func:`sparsification_curve`
    """
    curve = sparsification_curve(uncertainty, error, measure)
    return np.mean(curve.error - curve.oracle, axis=0)


def auroc(scores: Values, labels: Values) -> float:
    """
    Area under the receiver operating characteristic: the probability that a row with label 1 has a higher score than one with
    label 0, ties counting half. With epistemic uncertainties as scores, and rows from outside of the training data's region
    labelled 1, it says how well they are detected; 0.5 is chance.

    :param scores: ``(n,)``
    :param labels: 1 or True for what is to be detected, 0 or False for the rest, ``(n,)``
    :return: from 0 to 1
    :raises ValueError: shapes differ, empty, not finite, labels other than 0 and 1, or only one of them
    """
    scores, labels = read_rows(scores=scores, labels=labels)
    if scores.ndim != 1:
        raise ValueError(f"scores must have the shape (n,), got {scores.shape}: give one output's, or a sum over them.")
    strange = labels[(labels != 0) & (labels != 1)]
    if len(strange):
        raise ValueError(f"labels must be 0 or 1, got {strange[0]:g}: 1 stands for what is to be detected.")
    n_positive = int(labels.sum())
    n_negative = len(labels) - n_positive
    if n_positive == 0 or n_negative == 0:
        raise ValueError(
            f"labels must have both 0 and 1, got {n_negative} times 0 and {n_positive} times 1: give rows of both."
        )
    wins = _ranks(scores)[labels == 1].sum() - n_positive * (n_positive + 1) / 2
    return float(wins / (n_positive * n_negative))


def _by_output(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Of every column; the outputs are the last axis of the result."""
    if arrays[0].ndim == 1:
        return function(*arrays)
    return np.stack([function(*columns) for columns in zip(*(array.T for array in arrays), strict=True)], axis=-1)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (_ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    return np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1 to n, ``(n,)``; equal values share the mean of theirs."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2)[group]


def _mean_of_the_rest(order: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Mean loss without the 0, 1 ... n - 1 rows highest in the order, ``(n,)``."""
    _, group, size = np.unique(order, return_inverse=True, return_counts=True)
    rising = np.repeat(np.bincount(group, loss) / size, size)
    return (np.cumsum(rising) / np.arange(1, len(loss) + 1))[::-1]
