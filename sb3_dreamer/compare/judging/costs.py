"""What the return cost: seconds, memory, updates; return for equal seconds; and when a dearer algorithm is the cheaper one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_dreamer.compare.curves import Crossing, carried_forward
from sb3_dreamer.compare.judging.intervals import AGGREGATE_REPETITIONS, CONFIDENCE, Estimate, bootstrap
from sb3_dreamer.compare.judging.readers import RecordedRun


def _from_meta(*keys: str) -> Callable[[RecordedRun], float]:
    def read(run: RecordedRun) -> float:
        value = run.known(*keys)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan

    return read


_updates = _from_meta("gradient_updates")

# What a run cost, by the heading of its column.
COSTS: Mapping[str, Callable[[RecordedRun], float]] = {
    "environment steps": lambda run: run.timesteps[-1],
    "CPU s": lambda run: run.cpu_seconds[-1],
    "wall s": lambda run: run.wall_seconds[-1],
    "CPU s per 1000 steps": lambda run: 1000 * run.cpu_seconds[-1] / run.timesteps[-1] if run.timesteps[-1] else np.nan,
    "CPU s of evaluations": _from_meta("timings", "evaluation_cpu_seconds"),
    "gradient updates": _updates,
    "updates per CPU s": lambda run: _updates(run) / run.cpu_seconds[-1] if run.cpu_seconds[-1] > 0 else np.nan,
    "peak memory MB": _from_meta("peak_memory_mb"),
    "parameters": _from_meta("n_parameters"),
    "ms per action": _from_meta("action_latency_ms"),
}


def costs(runs: Sequence[RecordedRun]) -> dict[str, float]:
    """
    :param runs: of one algorithm
    :return: by the names of ``COSTS``, the median over the runs of which it is known, NaN if there is none
    """
    found = {}
    for name, read in COSTS.items():
        values = np.array([read(run) for run in runs], dtype=np.float64)
        known = values[np.isfinite(values)]
        found[name] = float(np.median(known)) if len(known) else np.nan
    return found


def common_seconds(runs: Sequence[RecordedRun], axis: str = "cpu_seconds") -> float:
    """
    :param runs: of all algorithms
    :param axis: ``"cpu_seconds"`` or ``"wall_seconds"``
    :return: the seconds that every run took at least, NaN if some run's are unknown
    """
    return min((float(getattr(run, axis)[-1]) for run in runs), default=np.nan) if _known(runs, axis) else np.nan


def returns_at_seconds(runs: Sequence[RecordedRun], seconds: float, axis: str = "cpu_seconds") -> np.ndarray:
    """
    :param runs: of one algorithm
    :param seconds: of training
    :param axis: ``"cpu_seconds"`` or ``"wall_seconds"``
    :return: what the last evaluation by then had said, ``(runs,)``; NaN for a run that ended before, or had none yet
    """
    at = np.array([seconds])
    return np.array([carried_forward(at, getattr(run, axis), run.returns)[0] for run in runs])


def at_equal_seconds(runs: Sequence[RecordedRun], seconds: float, axis: str = "cpu_seconds") -> Estimate | None:
    """
    :param runs: of one algorithm
    :param seconds: as from :func:`common_seconds`
    :param axis: ``"cpu_seconds"`` or ``"wall_seconds"``
    :return: interquartile mean of the returns then, None if a run has none
    """
    returns = returns_at_seconds(runs, seconds, axis) if np.isfinite(seconds) else np.array([np.nan])
    return bootstrap([returns]) if np.isfinite(returns).all() else None


@dataclass(frozen=True)
class BreakEven:
    """
    The price of an environment step, in seconds, from which on one algorithm is cheaper than another.

    A run costs ``seconds + price * steps`` until it reaches the threshold, on average over the runs. With fewer steps and
    more seconds, A is cheaper than B above ``(seconds_A - seconds_B) / (steps_B - steps_A)``.
    """

    # "above" the price A is cheaper, or "below" it (more steps, fewer seconds); "always", "never", or "unknown".
    kind: str
    price: float = np.nan  # seconds a step, on top of what the step took here
    low: float = np.nan
    high: float = np.nan
    bound: bool = False  # whether the price is a bound: A may be cheaper at others, too
    reason: str = ""  # why it is unknown


def break_even(a: Crossing, b: Crossing, axis: str = "cpu_seconds", seed: int = 0) -> BreakEven:
    """
    :param a: when the runs of the algorithm in question reached the threshold
    :param b: the same of the other
    :param axis: ``"cpu_seconds"`` or ``"wall_seconds"``
    :param seed: of the resampling
    :return: the price at which ``a`` becomes cheaper. If runs of ``b`` never got there, they would have cost more than was
        counted, and the price is a bound; if runs of ``a`` did not, nothing can be said.
    """
    if not a.reached.all():
        return BreakEven("unknown", reason=f"{(~a.reached).sum()} of {len(a.reached)} runs never reached the threshold")
    seconds_a, seconds_b = getattr(a, axis), getattr(b, axis)
    if not (np.isfinite(seconds_a).all() and np.isfinite(seconds_b).all()):
        return BreakEven("unknown", reason="the seconds of some runs are unknown")
    bound = not b.reached.all()
    extra, saved = seconds_a.mean() - seconds_b.mean(), b.timesteps.mean() - a.timesteps.mean()
    kind = _kind(extra, saved)
    if kind == "never" and bound:
        reason = "the other has runs that never reached the threshold, at a cost that nobody knows"
        return BreakEven("unknown", reason=reason)
    low, high = np.nan, np.nan
    if min(len(seconds_a), len(seconds_b)) > 1:
        rng = np.random.default_rng(seed)
        draw_a, draw_b = (rng.integers(len(own), size=(AGGREGATE_REPETITIONS, len(own))) for own in (seconds_a, seconds_b))
        extras = seconds_a[draw_a].mean(axis=1) - seconds_b[draw_b].mean(axis=1)
        savings = b.timesteps[draw_b].mean(axis=1) - a.timesteps[draw_a].mean(axis=1)
        # What cannot be told of a price may still be certain of its direction.
        same = {"always": (extras <= 0) & (savings >= 0), "never": (extras >= 0) & (savings <= 0)}
        agreed = same.get(kind, np.sign(savings) == np.sign(saved)).mean()
        if agreed < (1 + CONFIDENCE) / 2:
            return BreakEven("unknown", reason="the runs do not tell which of the two is cheaper at what price")
        low, high = _price_interval(extras, savings, 1 if saved > 0 else -1)
    if kind in ("always", "never"):
        return BreakEven(kind)
    return BreakEven(kind, float(extra / saved), low, high, bound)


def _kind(extra: float, saved: float) -> str:
    """:return: at which prices what costs so many seconds more, and saves so many steps, is cheaper"""
    if extra <= 0 and saved >= 0:
        return "always"
    if extra >= 0 and saved <= 0:
        return "never"
    return "above" if saved > 0 else "below"  # of two algorithms, one saves steps and the other seconds


def _price_interval(extra: np.ndarray, saved: np.ndarray, sign: int) -> tuple[float, float]:
    """:return: limits of the price, of as many resamples as there are numbers"""
    extra, saved = sign * extra, sign * saved
    # Where a resample saves no steps, no price is high enough; where it saves both, none is too low.
    prices = np.sort(np.where(saved > 0, np.maximum(extra, 0) / np.where(saved > 0, saved, 1), np.inf))
    tail = int((1 - CONFIDENCE) / 2 * len(prices))
    return float(prices[tail]), float(prices[-tail - 1])


def pareto_front(cost: np.ndarray, score: np.ndarray) -> np.ndarray:
    """
    :param cost: less is better, ``(n,)``
    :param score: more is better, ``(n,)``
    :return: which are not dominated: nothing else costs no more and scores no less, with one of them better, ``(n,)``
    """
    no_worse = (cost[None] <= cost[:, None]) & (score[None] >= score[:, None])
    better = (cost[None] < cost[:, None]) | (score[None] > score[:, None])
    return np.asarray(~(no_worse & better).any(axis=1))


def _known(runs: Sequence[RecordedRun], axis: str) -> bool:
    return all(np.isfinite(getattr(run, axis)).all() for run in runs)
