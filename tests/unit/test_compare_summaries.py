"""The statistics of a comparison against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sb3_dreamer.compare.plots import draw_curves
from sb3_dreamer.compare.records import FinishedRun, Row, RunSpec
from sb3_dreamer.compare.summaries import format_table, run_statistics, summarize


def rows(returns: list[float], seed: int = 0) -> tuple[Row, ...]:
    """Evaluations every 100 steps, each 100 steps taking 2 CPU seconds."""
    return tuple(Row("Task-v0", "algo", seed, 100 * i, r, 0.0, 3.0 * i, 2.0 * i) for i, r in enumerate(returns))


def finished(returns: list[float], seed: int = 0, algo: str = "algo") -> FinishedRun:
    spec = RunSpec("Task-v0", {}, algo, seed, 100 * (len(returns) - 1), 100, 20, {}, "cpu", Path("out"))
    return FinishedRun(spec, rows(returns, seed), 1234, {"torch": "2"}, "a processor")


def test_what_runs_have_in_common_is_said_once() -> None:
    details = [dict(threads=1, gradient_updates=updates, versions={"torch": "2"}) for updates in (10, 20)]
    details[1]["attempts"] = 2
    runs = [replace(finished([0.0, 1.0], seed), details=own) for seed, own in zip((3, 5), details, strict=True)]
    entry = summarize("Task-v0", ["algo"], None, runs, [])["algorithms"]["algo"]
    assert entry["details"] == dict(threads=1, versions={"torch": "2"})
    assert entry["runs"] == {"3": dict(gradient_updates=10), "5": dict(gradient_updates=20, attempts=2)}
    without = summarize("Task-v0", ["algo"], None, [finished([0.0])], [])["algorithms"]["algo"]
    assert "details" not in without and "runs" not in without


def test_run_reaches_the_threshold_and_falls_back() -> None:
    statistics = run_statistics(rows([0.0, 5.0, 12.0, 4.0, 11.0]), threshold=10.0)
    assert statistics.steps_to_threshold == 200
    assert statistics.cpu_seconds_to_threshold == 4.0
    assert statistics.worst_after == 4.0
    assert statistics.mean_after == 7.5  # of 4 and 11: the evaluation that reached it is not "after"
    assert statistics.final_return == 11.0
    assert (statistics.cpu_seconds, statistics.wall_seconds) == (8.0, 12.0)


def test_exactly_at_the_threshold_counts() -> None:
    assert run_statistics(rows([0.0, 10.0]), threshold=10.0).steps_to_threshold == 100


def test_reached_at_the_last_evaluation_has_no_after() -> None:
    statistics = run_statistics(rows([0.0, 10.0]), threshold=10.0)
    assert statistics.worst_after is None and statistics.mean_after is None


@pytest.mark.parametrize("threshold", [100.0, None])
def test_never_reached_or_no_threshold(threshold: float | None) -> None:
    statistics = run_statistics(rows([0.0, 5.0]), threshold)
    assert statistics.steps_to_threshold is None
    assert statistics.cpu_seconds_to_threshold is None
    assert statistics.worst_after is None and statistics.mean_after is None
    assert statistics.final_return == 5.0


def test_area_under_the_curve_is_a_mean_over_steps() -> None:
    assert run_statistics(rows([0.0, 10.0, 20.0]), None).area_under_curve == 10.0
    # The last interval of a grid may be shorter: 100 steps at 5 on average, 50 at 11.
    uneven = (*rows([0.0, 10.0]), Row("Task-v0", "algo", 0, 150, 12.0, 0.0, 9.0, 9.0))
    assert run_statistics(uneven, None).area_under_curve == pytest.approx((100 * 5 + 50 * 11) / 150)
    assert run_statistics(rows([3.0]), None).area_under_curve == 3.0


def test_summary_over_seeds() -> None:
    runs = [
        finished([0.0, 10.0, 8.0, 20.0], seed=0),  # at 100, afterwards 8 and 20
        finished([0.0, 0.0, 10.0, 15.0], seed=1),  # at 200, afterwards 15
        finished([0.0, 0.0, 0.0, 1.0], seed=2),  # never
    ]
    entry = summarize("Task-v0", ["algo"], 10.0, runs, [])["algorithms"]["algo"]
    assert entry["seeds"] == [0, 1, 2]
    assert entry["final_return"] == {"median": 15.0, "min": 1.0, "max": 20.0}
    areas = [28 / 3, 17.5 / 3, 0.5 / 3]
    assert entry["area_under_curve"] == pytest.approx({"median": areas[1], "min": areas[2], "max": areas[0]})
    assert entry["seeds_reaching_threshold"] == 2
    assert entry["steps_to_threshold"] == {"median": 200, "worst": None}
    assert entry["cpu_seconds_to_threshold"] == {"median": 4.0, "worst": None}
    assert entry["after_threshold"] == {"worst": 8.0, "mean": (14.0 + 15.0) / 2}
    assert entry["cpu_seconds"] == {"median": 6.0, "total": 18.0}
    assert entry["n_parameters"] == 1234
    assert "seed" not in entry["settings"] and entry["settings"]["total_timesteps"] == 300


def test_median_of_two_with_one_never_is_never() -> None:
    runs = [finished([0.0, 10.0], seed=0), finished([0.0, 0.0], seed=1)]
    entry = summarize("Task-v0", ["algo"], 10.0, runs, [])["algorithms"]["algo"]
    assert entry["steps_to_threshold"] == {"median": None, "worst": None}


def test_all_reaching_gives_median_and_worst() -> None:
    runs = [finished([0.0, 10.0, 10.0], seed=0), finished([0.0, 0.0, 10.0], seed=1)]
    entry = summarize("Task-v0", ["algo"], 10.0, runs, [])["algorithms"]["algo"]
    assert entry["steps_to_threshold"] == {"median": 150, "worst": 200}


def test_table_shows_the_numbers_in_the_order_asked_for() -> None:
    runs = [finished([0.0, 10.0, 12.5], algo="first"), finished([0.0, 0.0, 3.0], algo="second")]
    table = format_table(summarize("Task-v0", ["second", "first"], 10.0, runs, []))
    lines = table.splitlines()
    assert "Task-v0" in lines[0] and "threshold 10" in lines[0]
    assert lines[3].split() == ["second", "1", "3.00", "[3.00,", "3.00]", "never", "[never]", "4.0", "1,234"]
    assert lines[4].split() == ["first", "1", "12.50", "[12.50,", "12.50]", "100", "[100]", "4.0", "1,234"]
    assert "PARTIAL" not in table


def test_table_of_a_partial_comparison_says_so() -> None:
    summary = summarize("Task-v0", ["algo", "other"], None, [finished([0.0, 1.0])], ["other seed 0"])
    assert summary["partial"] and summary["missing"] == ["other seed 0"]
    assert list(summary["algorithms"]) == ["algo"]
    table = format_table(summary)
    assert "PARTIAL: no result yet from other seed 0" in table
    assert "no threshold" in table


@pytest.mark.parametrize(("longer", "scale", "first"), [(8, "linear", 0), (9, "log", 100)])
def test_axes_of_very_different_lengths_are_logarithmic(longer: int, scale: str, first: int) -> None:
    runs = [finished([0.0, 1.0]), finished([0.0] * (longer + 1), algo="other"), finished([1.0] * (longer + 1), 1, "other")]
    by_steps, by_cpu = draw_curves(runs, "Task-v0", None).axes
    assert by_steps.get_xscale() == by_cpu.get_xscale() == scale
    assert [line.get_xdata()[0] for line in by_steps.lines] == [first, first]
    assert by_steps.lines[1].get_xdata()[-1] == 100 * longer and by_steps.lines[1].get_ydata()[-1] == 0.5
