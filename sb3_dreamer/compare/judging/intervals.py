"""
How sure a number is: percentile bootstrap, with the runs resampled within each task.

Every function is given its seed, so that the same results always give the same page. A single run has no interval: its
limits are NaN.
"""

from dataclasses import dataclass

import numpy as np

from sb3_dreamer.compare.judging.statistics import Scores, Statistic, interquartile_mean, performance_profile, wins
from sb3_dreamer.compare.judging.statistics import probability_of_improvement as point_probability

AGGREGATE_REPETITIONS = 20_000
CURVE_REPETITIONS = 2_000
CONFIDENCE = 0.95
# Numbers that one block of resamples may hold, so that memory stays bounded.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval."""

    value: float
    low: float  # NaN where there is no interval
    high: float
    n: int  # runs of the task that has the fewest

    def overlaps(self, other: "Estimate") -> bool:
        """
        :param other: another algorithm's
        :return: whether the two cannot be told apart; a number without interval can be told apart from nothing
        """
        return not (self.low > other.high or other.low > self.high)


def _limits(samples: np.ndarray, confidence: float) -> np.ndarray:
    """:return: lower and upper limits along the first axis of ``(repetitions, ...)``, ``(2, ...)``"""
    tail = 50 * (1 - confidence)
    return np.percentile(samples, [tail, 100 - tail], axis=0)


def _fewest(*scores: Scores) -> int:
    return min(task.shape[-1] for each in scores for task in each)


def _counts(n: int, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    """:return: how often each of ``n`` runs is drawn in each resample, ``(repetitions, n)``, a share of ``n``"""
    # One bin for each run of each resample: much quicker than a multinomial's draws.
    drawn = rng.integers(n, size=(repetitions, n)) + n * np.arange(repetitions)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * repetitions).reshape(repetitions, n) / n


def bootstrap(
    scores: Scores,
    statistic: Statistic = interquartile_mean,
    repetitions: int = AGGREGATE_REPETITIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """
    :param scores: one array a task, each ``(runs,)``
    :param statistic: maps such scores, with repetitions in front, to one number a repetition
    :param repetitions: number of resamples
    :param confidence: of the interval
    :param seed: of the resampling
    :return: the statistic and its interval
    """
    scores = [np.asarray(task, dtype=np.float64) for task in scores]
    value, n = float(statistic(scores)), _fewest(scores)
    if n < 2:
        return Estimate(value, np.nan, np.nan, n)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // sum(len(task) for task in scores))
    samples = []
    for start in range(0, repetitions, block):
        size = min(block, repetitions - start)
        samples.append(statistic([task[rng.integers(len(task), size=(size, len(task)))] for task in scores]))
    low, high = _limits(np.concatenate(samples), confidence)
    return Estimate(value, float(low), float(high), n)


def bootstrap_curve(
    values: np.ndarray, repetitions: int = CURVE_REPETITIONS, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Interquartile mean over the runs at each point of a curve. The same runs are drawn for all points of a resample.

    :param values: ``(runs, points)``
    :param repetitions: number of resamples
    :param confidence: of the pointwise interval
    :param seed: of the resampling
    :return: the mean and its lower and upper limits, each ``(points,)``; NaN limits if there is one run
    """
    runs, points = values.shape
    center = interquartile_mean([values.T])
    if runs < 2:
        return center, np.full(points, np.nan), np.full(points, np.nan)
    drawn = np.random.default_rng(seed).integers(runs, size=(repetitions, runs))
    block = max(1, _BLOCK // drawn.size)
    limits = [
        _limits(interquartile_mean([np.moveaxis(values[:, start : start + block][drawn], 1, -1)]), confidence)
        for start in range(0, points, block)
    ]
    low, high = np.concatenate(limits, axis=1)
    return center, low, high


def probability_of_improvement(
    x: Scores, y: Scores, repetitions: int = AGGREGATE_REPETITIONS, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """
    P(X > Y) with an interval; both algorithms' runs are resampled.

    :param x: scores of the first algorithm, one array a task, each ``(n,)``
    :param y: scores of the other on the same tasks, each ``(m,)``
    :param repetitions: number of resamples
    :param confidence: of the interval
    :param seed: of the resampling
    :return: the probability and its interval
    """
    value, n = point_probability(x, y), _fewest(x, y)
    if n < 2:
        return Estimate(value, np.nan, np.nan, n)
    rng = np.random.default_rng(seed)
    samples = np.zeros(repetitions)
    for first, second in zip(x, y, strict=True):
        won = wins(np.asarray(first), np.asarray(second))
        samples += ((_counts(len(first), repetitions, rng) @ won) * _counts(len(second), repetitions, rng)).sum(axis=1)
    low, high = _limits(samples / len(x), confidence)
    return Estimate(value, float(low), float(high), n)


def profile_band(
    scores: Scores,
    thresholds: np.ndarray,
    repetitions: int = CURVE_REPETITIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    A performance profile with its pointwise interval.

    :param scores: one array a task, each ``(runs,)``
    :param thresholds: scores to pass, ``(K,)``
    :param repetitions: number of resamples
    :param confidence: of the interval
    :param seed: of the resampling
    :return: the profile and its lower and upper limits, each ``(K,)``; NaN limits if a task has one run
    """
    profile = performance_profile(scores, thresholds)
    if _fewest(scores) < 2:
        return profile, np.full(len(thresholds), np.nan), np.full(len(thresholds), np.nan)
    rng = np.random.default_rng(seed)
    passed = [_counts(len(task), repetitions, rng) @ (task[:, None] > thresholds).astype(np.float64) for task in scores]
    low, high = _limits(np.mean(passed, axis=0), confidence)
    return profile, low, high


def survival_curve(times: np.ndarray, reached: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Kaplan and Meier's estimate of the share of runs that have not got there yet, which uses runs that ended before they did
    (1958, https://doi.org/10.1080/01621459.1958.10501452): the product of ``1 - reached / still running``.

    :param times: when each run got there or, if it did not, ended, ``(n,)``
    :param reached: whether it got there, ``(n,)``
    :param weights: how often each run counts, ``(..., n)``; once by default
    :return: the times at which runs got there, ``(K,)``, and the share just after each, ``(..., K)``
    """
    weights = np.ones(len(times)) if weights is None else weights
    events = np.unique(times[reached])
    arrived = weights @ ((times[:, None] == events) & reached[:, None]).astype(np.float64)
    running = weights @ (times[:, None] >= events).astype(np.float64)
    share = np.divide(running - arrived, running, out=np.ones_like(running), where=running > 0)
    return events, np.cumprod(share, axis=-1)


def median_time(times: np.ndarray, reached: np.ndarray, repetitions: int = CURVE_REPETITIONS, seed: int = 0) -> Estimate:
    """
    The time at which half of the runs have got there. Where exactly half have for a while, it is the middle of that while,
    which without censoring is the ordinary median.

    :param times: when each run got there or, if it did not, ended, ``(n,)``
    :param reached: whether it got there, ``(n,)``
    :param repetitions: number of resamples
    :param seed: of the resampling
    :return: the median and its interval; infinite where fewer than half of the runs got there
    """
    n = len(times)
    if not reached.any():
        return Estimate(np.inf, np.inf if n > 1 else np.nan, np.inf if n > 1 else np.nan, n)
    value = float(_half_life(*survival_curve(times, reached)))
    if n < 2:
        return Estimate(value, np.nan, np.nan, n)
    counts = _counts(n, repetitions, np.random.default_rng(seed))
    samples = np.sort(_half_life(*survival_curve(times, reached, counts)))
    # An interpolated percentile next to infinity would be no number.
    tail = (1 - CONFIDENCE) / 2
    low, high = samples[int(tail * repetitions)], samples[int(np.ceil((1 - tail) * repetitions)) - 1]
    return Estimate(value, float(low), float(high), n)


def _half_life(events: np.ndarray, share: np.ndarray) -> np.ndarray:
    """:return: ``(...)``, from event times ``(K,)`` and shares after them ``(..., K)``"""
    padded = np.append(events, np.inf)
    tolerance = 1e-9
    first = (share > 0.5 + tolerance).sum(axis=-1)  # the shares fall
    beyond = (share > 0.5 - tolerance).sum(axis=-1)
    return np.where(first == beyond, padded[first], (padded[first] + padded[beyond]) / 2)


def share_interval(successes: int, n: int) -> tuple[float, float]:
    """
    :param successes: runs that got there
    :param n: all runs
    :return: limits of Wilson's 95 % interval for their share
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
