"""Aggregates and intervals against rliable's numbers (version 1.2.0), scipy's, and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sb3_dreamer.compare.judging import intervals, statistics

X = (np.arange(20.0).reshape(5, 4) ** 1.3) / 50  # (runs, tasks)
Y = 0.5 * np.sin(np.arange(24.0).reshape(6, 4)) + 0.4
GOLDEN = {
    "x": {"mean": 0.402867842, "median": 0.4015271141, "IQM": 0.3800800389, "optimality gap": 0.597132158},
    "y": {"mean": 0.420412621, "median": 0.4265689327, "IQM": 0.4322413761, "optimality gap": 0.579587379},
}


def tasks(scores: np.ndarray) -> list[np.ndarray]:
    return list(scores.T)


@pytest.mark.parametrize(("name", "scores"), [("x", X), ("y", Y)])
def test_aggregates_equal_the_golden_numbers(name: str, scores: np.ndarray) -> None:
    for metric, expected in GOLDEN[name].items():
        assert float(statistics.AGGREGATES[metric](tasks(scores))) == pytest.approx(expected, abs=1e-6), metric


def test_profiles_equal_the_golden_numbers() -> None:
    thresholds = np.array([0, 0.25, 0.5, 0.75, 1])
    assert statistics.performance_profile(tasks(X), thresholds) == pytest.approx([0.95, 0.65, 0.40, 0.15, 0])
    expected = [10 / 12, 8 / 12, 5 / 12, 0.25, 0]
    assert statistics.performance_profile(tasks(Y), thresholds) == pytest.approx(expected, abs=1e-6)


def test_probability_of_improvement_equals_the_golden_number() -> None:
    assert statistics.probability_of_improvement(tasks(X), tasks(Y)) == pytest.approx(0.4666666667, abs=1e-6)
    assert statistics.probability_of_improvement(tasks(Y), tasks(X)) == pytest.approx(1 - 0.4666666667, abs=1e-6)


def test_interval_of_the_iqm_equals_the_golden_interval() -> None:
    estimate = intervals.bootstrap(tasks(X))
    assert estimate.value == pytest.approx(0.3800800389, abs=1e-6) and estimate.n == 5
    assert (estimate.low, estimate.high) == pytest.approx((0.218, 0.564), abs=0.01)


def test_runs_are_resampled_within_their_task() -> None:
    # Two tasks far from each other: mixing them would make the mean vary by tens, within them nothing varies.
    estimate = intervals.bootstrap([np.zeros(6), np.full(6, 100.0)], statistics.mean)
    assert (estimate.value, estimate.low, estimate.high) == (50.0, 50.0, 50.0)


def test_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for repetition in range(200):
        estimate = intervals.bootstrap([rng.normal(size=30)], statistics.mean, repetitions=500, seed=repetition)
        hits += estimate.low <= 0 <= estimate.high
    assert 180 <= hits <= 198  # 95 % of 200, less the few per cent by which the percentile bootstrap is too narrow


def test_iqm_drops_a_quarter_at_either_end() -> None:
    assert statistics.interquartile_mean([np.array([9.0, 0.0, 3.0])]) == pytest.approx(4.0)  # three drop none
    assert statistics.interquartile_mean([np.array([100.0, 1.0, 2.0, 3.0, -50.0])]) == pytest.approx(2.0)
    ragged = [np.array([0.0, 1.0]), np.array([2.0, 3.0, 4.0, 50.0])]
    assert statistics.interquartile_mean(ragged) == pytest.approx((1 + 2 + 3 + 4) / 4)


def test_optimality_gap_gives_nothing_for_more_than_the_optimum() -> None:
    assert statistics.optimality_gap([np.array([0.5, 3.0])]) == pytest.approx(0.25)


def test_ties_count_half() -> None:
    x, y = [np.array([1.0, 2.0])], [np.array([1.0, 1.0, 5.0])]
    assert statistics.probability_of_improvement(x, y) == pytest.approx((0.5 + 0.5 + 0 + 1 + 1 + 0) / 6)
    assert statistics.wins(x[0], y[0]).mean() == pytest.approx(0.5)


def test_interval_of_the_probability_against_resampling_one_by_one() -> None:
    rng = np.random.default_rng(0)
    slow = [
        np.mean([statistics.wins(rng.choice(x, len(x)), rng.choice(y, len(y))).mean() for x, y in zip(X.T, Y.T, strict=True)])
        for _ in range(4000)
    ]
    estimate = intervals.probability_of_improvement(tasks(X), tasks(Y))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])), abs=0.015)


def test_p_value_is_scipys_and_ties_alone_prove_nothing() -> None:
    x, y = X[:, 0], Y[:, 0]
    assert statistics.mann_whitney_p_value(x, y) == stats.mannwhitneyu(x, y).pvalue
    assert statistics.mann_whitney_p_value(np.ones(5), np.ones(4)) == 1.0
    # Three against three, all of them better, is still no evidence.
    assert statistics.mann_whitney_p_value(np.array([4.0, 5, 6]), np.array([1.0, 2, 3])) == pytest.approx(0.1)


def test_a_single_run_has_no_interval() -> None:
    one = intervals.bootstrap([np.array([3.0])])
    assert one.value == 3.0 and np.isnan(one.low) and np.isnan(one.high) and one.n == 1
    assert one.overlaps(intervals.bootstrap([np.array([100.0, 101.0, 102.0])]))
    assert np.isnan(intervals.probability_of_improvement([np.array([3.0])], [np.array([1.0, 2.0])]).low)
    center, low, _ = intervals.bootstrap_curve(np.array([[1.0, 2.0]]))
    assert list(center) == [1.0, 2.0] and np.isnan(low).all()
    assert np.isnan(intervals.profile_band([np.array([3.0])], np.array([0.0]))[1]).all()


def test_overlap() -> None:
    low, high = intervals.Estimate(1.0, 0.0, 2.0, 5), intervals.Estimate(4.0, 3.0, 5.0, 5)
    assert not low.overlaps(high) and not high.overlaps(low)
    assert low.overlaps(intervals.Estimate(2.0, 2.0, 2.0, 5))


def test_curve_equals_the_bootstrap_of_each_point() -> None:
    values = np.random.default_rng(0).normal(size=(7, 5))
    center, low, high = intervals.bootstrap_curve(values, repetitions=20_000)
    for point in range(5):
        alone = intervals.bootstrap([values[:, point]])
        assert center[point] == pytest.approx(alone.value)
        assert (low[point], high[point]) == pytest.approx((alone.low, alone.high), abs=0.05)


def test_blocks_do_not_change_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5))
    whole = intervals.bootstrap_curve(values)
    monkeypatch.setattr(intervals, "_BLOCK", 2 * 7 * intervals.CURVE_REPETITIONS)
    for one, other in zip(whole, intervals.bootstrap_curve(values), strict=True):
        assert np.array_equal(one, other)


def test_profile_band_holds_the_profile_and_equals_resampling_one_by_one() -> None:
    thresholds = np.array([0.25, 0.5])
    profile, low, high = intervals.profile_band(tasks(X), thresholds, repetitions=20_000)
    assert (low < profile).all() and (profile < high).all()
    rng = np.random.default_rng(0)
    slow = [statistics.performance_profile([rng.choice(task, len(task)) for task in X.T], thresholds) for _ in range(4000)]
    assert low == pytest.approx(np.percentile(slow, 2.5, axis=0), abs=0.051)  # shares come in steps of a twentieth
    assert high == pytest.approx(np.percentile(slow, 97.5, axis=0), abs=0.051)


def test_survival_equals_scipys() -> None:
    times, reached = np.array([3.0, 5.0, 5.0, 8.0, 10.0, 4.0]), np.array([True, True, False, True, False, False])
    ours = intervals.survival_curve(times, reached)
    theirs = stats.ecdf(stats.CensoredData.right_censored(times, ~reached)).sf
    at_events = np.isin(theirs.quantiles, ours[0])
    assert ours[1] == pytest.approx(theirs.probabilities[at_events])
    # A run drawn twice counts as two.
    doubled = intervals.survival_curve(np.append(times, 3.0), np.append(reached, True))
    weighted = intervals.survival_curve(times, reached, np.array([[2.0, 1, 1, 1, 1, 1]]))
    assert weighted[1][0] == pytest.approx(doubled[1])


@pytest.mark.parametrize(
    ("times", "reached", "expected"),
    [
        ([1.0, 2.0, 4.0], [True] * 3, 2.0),
        ([1.0, 2.0, 4.0, 7.0], [True] * 4, 3.0),  # the ordinary median of four
        ([1.0, 9.0, 9.0], [True, False, False], np.inf),
        ([1.0, 9.0], [True, False], np.inf),  # half got there, the other half perhaps never will
        ([5.0, 5.0], [False, False], np.inf),
        ([1.0, 3.0, 8.0], [False, True, True], 5.5),  # the first ended too early to say anything
    ],
)
def test_median_time(times: list[float], reached: list[bool], expected: float) -> None:
    assert intervals.median_time(np.array(times), np.array(reached)).value == expected


def test_interval_of_the_median_time_may_have_no_end() -> None:
    estimate = intervals.median_time(np.array([10.0, 20.0, 30.0, 99.0, 99.0]), np.array([True, True, True, False, False]))
    assert estimate.value == 30.0 and estimate.low == 10.0 and estimate.high == np.inf


def test_share_interval_is_wilsons() -> None:
    low, high = intervals.share_interval(5, 5)
    z2 = stats.norm.ppf(0.975) ** 2
    assert (low, high) == pytest.approx((5 / (5 + z2), 1.0))


def test_holm_by_hand() -> None:
    found = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.8})
    assert found == {"a": pytest.approx(0.04), "c": pytest.approx(0.09), "b": pytest.approx(0.09), "d": pytest.approx(0.8)}
    assert statistics.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and statistics.holm({}) == {}
