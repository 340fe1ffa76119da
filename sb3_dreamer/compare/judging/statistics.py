"""
What scores of several runs on several tasks come down to: the aggregates of the field.

Scores are a list with one array a task, the runs along its last axis; axes before it are repetitions (a bootstrap's
resamples) and stay. Tasks may have different numbers of runs. The definitions are those of Agarwal et al., "Deep
Reinforcement Learning at the Edge of the Statistical Precipice" (2021, https://arxiv.org/abs/2108.13264).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Scores = Sequence[np.ndarray]
Statistic = Callable[[Scores], np.ndarray]

# Fewer runs than this are a smoke test: the percentile bootstrap is too narrow, and no rank test can reach 5 %.
ENOUGH_RUNS = 5


def interquartile_mean(scores: Scores) -> np.ndarray:
    """
    Mean of the middle half of all runs of all tasks: ``floor(N / 4)`` of the ``N`` scores are dropped at either end. Three
    scores drop none, five keep three.

    :param scores: one array a task, each ``(..., runs)``
    :return: ``(...)``
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1))


def mean(scores: Scores) -> np.ndarray:
    """
    :param scores: one array a task, each ``(..., runs)``
    :return: mean of the tasks' means, ``(...)``
    """
    return _task_means(scores).mean(axis=0)


def median(scores: Scores) -> np.ndarray:
    """
    :param scores: one array a task, each ``(..., runs)``
    :return: median of the tasks' means, ``(...)``
    """
    return np.median(_task_means(scores), axis=0)


def optimality_gap(scores: Scores, gamma: float = 1.0) -> np.ndarray:
    """
    How far the runs fall short of ``gamma``: ``gamma - mean(min(score, gamma))``. Less is better.

    :param scores: one array a task, each ``(..., runs)``, normalised
    :param gamma: the score that counts as optimal
    :return: ``(...)``
    """
    return gamma - mean([np.minimum(task, gamma) for task in scores])


AGGREGATES: Mapping[str, Statistic] = {
    "IQM": interquartile_mean,
    "mean": mean,
    "median": median,
    "optimality gap": optimality_gap,
}


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """
    :param scores: one array a task, each ``(runs,)``
    :param thresholds: scores to pass, ``(K,)``
    :return: share of runs above each threshold, strictly, averaged over the tasks, ``(K,)``
    """
    return np.mean([(task[:, None] > thresholds).mean(axis=0) for task in scores], axis=0)


def wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """
    :param x: scores of one algorithm on a task, ``(n,)``
    :param y: scores of the other, ``(m,)``
    :return: 1 where a run of ``x`` beats one of ``y``, 1/2 at a tie, else 0, ``(n, m)``
    """
    return (x[:, None] > y) + 0.5 * (x[:, None] == y)


def probability_of_improvement(x: Scores, y: Scores) -> float:
    """
    P(X > Y): how likely a run of one algorithm is to beat a run of the other on a task, ties counted half; the mean over
    the tasks. It equals Mann and Whitney's ``U / (n m)``.

    :param x: scores of the first algorithm, one array a task, each ``(n,)``
    :param y: scores of the other on the same tasks, each ``(m,)``
    :return: a number from 0 to 1
    """
    from scipy.stats import mannwhitneyu

    # The statistic is the same with any method; this one is quick.
    per_task = [
        mannwhitneyu(first, second, method="asymptotic").statistic / (len(first) * len(second))
        for first, second in zip(x, y, strict=True)
    ]
    return float(np.mean(per_task))


def mann_whitney_p_value(x: np.ndarray, y: np.ndarray) -> float:
    """
    :param x: scores of one algorithm on a task, ``(n,)``
    :param y: scores of the other, ``(m,)``
    :return: two-sided p-value of Mann and Whitney's test, exact for small samples without ties
    """
    from scipy.stats import mannwhitneyu

    if np.ptp(np.concatenate([x, y])) == 0:
        return 1.0  # nothing but ties: the test's own formula would divide by zero
    return float(mannwhitneyu(x, y).pvalue)


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """
    Adjust p-values for their number, so that the chance that any of the differences called significant is none stays what
    it is called (Holm 1979, Scandinavian Journal of Statistics 6).

    :param p_values: by what they are of
    :return: the adjusted ones: at most 1, in the same order, that of the smallest its product with their number
    """
    adjusted, least = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        least = max(least, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = least
    return adjusted


def _task_means(scores: Scores) -> np.ndarray:
    """:return: ``(tasks, ...)``"""
    return np.stack([task.mean(axis=-1) for task in scores])
