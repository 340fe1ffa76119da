"""Curves, costs, normalisation and notes of a comparison against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recorded import META, curve, settings

from sb3_dreamer.compare import curves
from sb3_dreamer.compare.judging import costs, fairness, tables
from sb3_dreamer.compare.judging.analysis import TaskResult, analyse
from sb3_dreamer.compare.judging.readers import RecordedRun, TaskRecords, UnfinishedRun
from sb3_dreamer.compare.judging.scores import scale


def run(
    returns: list[float] | np.ndarray,
    label: str = "a",
    seed: int = 0,
    every: int = 100,
    cpu: float = 2.0,
    env: str = "Task-v0",
    **meta: object,
) -> RecordedRun:
    """Evaluated every ``every`` steps, which take ``cpu`` CPU seconds."""
    index = np.arange(len(returns), dtype=np.float64)
    spec = settings(env, label, seed, every * (len(returns) - 1), every)
    arrays = (every * index, np.asarray(returns, dtype=np.float64), 1.5 * cpu * index, cpu * index)
    return RecordedRun(env, label, seed, Path("x"), *arrays, {"settings": spec, **META, **meta})


def crossed(steps: list[float], seconds: list[float], reached: list[bool] | None = None) -> curves.Crossing:
    known = np.array([True] * len(steps) if reached is None else reached)
    return curves.Crossing(known, np.array(steps), np.array(seconds), np.array(seconds))


def task(*runs: RecordedRun, threshold: float | None = None, **records: object) -> TaskResult:
    return analyse([TaskRecords("Task-v0", runs, **records)], threshold).tasks[0]  # type: ignore[arg-type]


def test_values_are_carried_forward_but_never_beyond_either_end() -> None:
    x, y = np.array([10.0, 20.0, 40.0]), np.array([1.0, 2.0, 4.0])
    found = curves.carried_forward(np.array([5.0, 10.0, 19.9, 20.0, 39.0, 40.0, 40.1]), x, y)
    assert found == pytest.approx([np.nan, 1, 1, 2, 2, 4, np.nan], nan_ok=True)


def test_area_between() -> None:
    one = run([0.0, 10.0, 20.0, 100.0])
    assert curves.area_between(one, 0, 300) == pytest.approx((5 + 15 + 60) / 3)
    assert curves.area_between(one, 0, 200) == 10.0  # nothing of what comes later
    assert curves.area_between(one, 0, 150) == pytest.approx((100 * 5 + 50 * 10) / 150)
    assert curves.area_between(one, 300, 300) == 100.0


def test_common_axis_of_runs_of_different_lengths_and_grids() -> None:
    runs = [run([0.0, 1.0, 2.0]), run([5.0, 6.0, 7.0, 8.0], every=60)]
    x, values = curves.on_common_axis(runs) or ((), ())
    assert list(x) == [0, 60, 100, 120, 180]
    assert values[0] == pytest.approx([0, 0, 1, 1, 1]) and values[1] == pytest.approx([5, 6, 6, 7, 8])
    assert len((curves.on_common_axis(runs, points=3) or ((), ()))[0]) == 3
    unknown = RecordedRun("Task-v0", "a", 0, Path(), *(np.array([np.nan]),) * 4)
    assert curves.on_common_axis([unknown], "cpu_seconds") is None


def test_crossing_and_censoring() -> None:
    found = curves.crossing([run([0.0, 5.0, 12.0, 4.0]), run([0.0, 9.9])], 10.0)
    assert found.reached.tolist() == [True, False]
    assert found.timesteps.tolist() == [200, 100] and found.cpu_seconds.tolist() == [4, 2]
    assert curves.crossing([run([10.0])], 10.0).timesteps.tolist() == [0]


def test_scores_at_the_common_length_and_at_the_own_end() -> None:
    short, long = run([0.0, 4.0, 6.0]), run([0.0, 1.0, 2.0, 50.0], label="b", every=90)
    result = task(short, long)
    assert (result.start, result.end, result.shortest) == (0, 200, "a seed 0")
    a, b = result.algorithms
    assert (a.label, a.at_common.value, a.at_own.value, a.length) == ("a", 6.0, 6.0, (200, 200))
    assert (b.label, b.at_common.value, b.at_own.value, b.length) == ("b", 2.0, 50.0, (270, 270))
    assert result.threshold is None and a.solving is None and not result.break_even
    assert a.area.value == pytest.approx(3.5)
    assert b.seconds_at_common == pytest.approx(2 * 200 / 90)  # the clock runs between evaluations, too


def test_runs_without_a_step_in_common() -> None:
    late = run([5.0, 6.0], "late")
    late = RecordedRun("Task-v0", "late", 0, Path(), late.timesteps + 500, late.returns, late.wall_seconds, late.cpu_seconds)
    result = task(run([0.0, 4.0]), late)
    assert {one.label: one.at_common.value for one in result.algorithms} == {"late": 5.0, "a": 4.0}
    assert all(np.isnan(one.area.value) for one in result.algorithms)
    assert any("no step in common" in note for note in result.notes)


def test_returns_at_equal_seconds() -> None:
    cheap, dear = run([0.0, 1.0, 2.0, 3.0], cpu=1.0), run([0.0, 10.0, 20.0], label="b", cpu=4.0)
    result = task(cheap, dear)
    assert result.axis == "cpu_seconds" and result.seconds == 3.0
    by_label = {one.label: one for one in result.algorithms}
    assert by_label["a"].at_seconds is not None and by_label["a"].at_seconds.value == 3.0
    assert by_label["b"].at_seconds is not None and by_label["b"].at_seconds.value == 0.0


def test_where_a_gpu_works_the_clock_counts() -> None:
    """1.5 times the CPU seconds here; whose runs on a GPU would else seem to cost next to nothing."""
    plain, gpu = run([0.0, 1.0, 2.0]), run([0.0, 1.0, 2.0], label="b", machine={"gpu": "a card"})
    assert task(plain).axis == "cpu_seconds"
    result = task(plain, gpu, threshold=1.0)
    assert (result.axis, result.seconds) == ("wall_seconds", 6.0)
    for one in result.algorithms:
        assert one.solving is not None and one.solving.median_seconds is not None
        assert one.solving.median_seconds.value == 3.0
    table = tables.solving(result)
    assert table is not None and "wall s, median" in table.columns
    assert not any("are old" in note for note in result.notes)
    late = run([0.0, 1.0], label="b", cpu=5.0, machine={"gpu": "a card"})
    assert any(
        "At 6 wall s the last evaluation by then counts, and some of these are old: b at 0" in n
        for n in task(plain, late).notes
    )
    no_clock = RecordedRun(
        "Task-v0", "b", 0, Path(), gpu.timesteps, gpu.returns, np.full(3, np.nan), gpu.cpu_seconds, gpu.meta
    )
    assert task(plain, no_clock).axis == "cpu_seconds"


def test_wall_seconds_stand_in_for_unknown_cpu_seconds() -> None:
    one = run([0.0, 1.0])
    other = RecordedRun("Task-v0", "b", 0, Path(), one.timesteps, one.returns, one.wall_seconds, np.full(2, np.nan))
    assert task(one, other).axis == "wall_seconds"
    neither = RecordedRun("Task-v0", "c", 0, Path(), one.timesteps, one.returns, np.full(2, np.nan), np.full(2, np.nan))
    result = task(one, neither)
    assert result.axis == "" and all(found.at_seconds is None for found in result.algorithms) and not result.break_even


def test_solving_with_runs_that_never_do() -> None:
    runs = [run([0.0, 10.0, 0.0]), run([0.0, 0.0, 10.0], seed=1), run([0.0, 0.0, 0.0, 9.0], seed=2)]
    solving = task(*runs, threshold=10.0).algorithms[0].solving
    assert solving is not None and solving.reached == 2
    assert solving.median_steps.value == 200 and solving.median_steps.high == np.inf
    assert solving.restricted_steps.value == pytest.approx((100 + 200 + 200) / 3)  # the third up to the common length
    assert solving.share[0] < 2 / 3 < solving.share[1]


def test_costs_are_medians_of_what_is_known() -> None:
    runs = [run([0.0, 1.0, 2.0]), run([0.0, 1.0, 2.0], seed=1, cpu=4.0, peak_memory_mb=None, n_parameters=None)]
    found = costs.costs(runs)
    assert found["environment steps"] == 200 and found["CPU s"] == 6.0 and found["wall s"] == 9.0
    assert found["CPU s per 1000 steps"] == 30.0 and found["updates per CPU s"] == pytest.approx((500 / 4 + 500 / 8) / 2)
    assert found["peak memory MB"] == 321.5 and found["parameters"] == 1234 and found["ms per action"] == 0.25
    assert found["CPU s of evaluations"] == 1.0
    unknown = costs.costs([RecordedRun("Task-v0", "a", 0, Path(), np.array([0.0]), *(np.array([0.0]),) * 3)])
    assert np.isnan(unknown["gradient updates"]) and np.isnan(unknown["CPU s per 1000 steps"])


def test_break_even_price() -> None:
    dear, cheap = crossed([100, 100], [50, 70]), crossed([1000, 1200], [10, 10])
    found = costs.break_even(dear, cheap)
    assert found.kind == "above" and found.price == pytest.approx((60 - 10) / (1100 - 100)) and not found.bound
    assert (found.low, found.high) == pytest.approx((40 / 1100, 60 / 900))
    back = costs.break_even(cheap, dear)
    assert back.kind == "below" and back.price == pytest.approx(found.price)
    assert (back.low, back.high) == pytest.approx((found.low, found.high), rel=0.05)
    single = costs.break_even(crossed([100], [60]), crossed([1100], [10]))
    assert single.price == pytest.approx(0.05) and np.isnan(single.low)


def test_break_even_at_the_price_costs_the_same() -> None:
    a, b = crossed([100, 300], [50, 70]), crossed([1000, 1400, 900], [10, 30, 5])
    price = costs.break_even(a, b).price
    assert (a.cpu_seconds + price * a.timesteps).mean() == pytest.approx((b.cpu_seconds + price * b.timesteps).mean())


def test_break_even_without_a_price() -> None:
    good, bad = crossed([100, 100], [5, 5]), crossed([200, 300], [50, 50])
    assert costs.break_even(good, bad).kind == "always" and costs.break_even(bad, good).kind == "never"
    censored = crossed([200, 300], [50, 50], [True, False])
    assert costs.break_even(good, censored).kind == "always"  # it would have cost even more
    assert costs.break_even(censored, good).kind == "unknown" and "1 of 2" in costs.break_even(censored, good).reason
    assert costs.break_even(crossed([400, 400], [60, 60]), censored).kind == "unknown"
    bound = costs.break_even(crossed([100, 100], [80, 80]), censored)
    assert bound.kind == "above" and bound.bound
    assert costs.break_even(good, crossed([200, 200], [np.nan, 1])).kind == "unknown"


def test_break_even_says_nothing_of_runs_that_do_not_agree() -> None:
    """Of two samples of the same, a price from one to the other is chance."""
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(40):
        first, second = (crossed(list(rng.normal(1000, 200, 5)), list(rng.normal(50, 10, 5))) for _ in range(2))
        kinds.append(costs.break_even(first, second).kind)
    assert kinds.count("unknown") > 25
    a, b = crossed([900, 1100, 1000], [40, 60, 50]), crossed([950, 1150, 900], [45, 55, 52])
    assert "do not tell" in costs.break_even(a, b).reason


def test_pareto_front() -> None:
    cost, score = np.array([1.0, 2.0, 3.0, 3.0]), np.array([5.0, 4.0, 9.0, 9.0])
    assert costs.pareto_front(cost, score).tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("env", "low", "high"),
    [
        ("Pendulum-v1", -1200, -150),
        ("Zoo/Pendulum-v1", -1200, -150),
        ("DMC/walker_walk", 0, 1000),
        ("Own-v0", -3, 7),
        ("Given-v0", 1, 2),
    ],
)
def test_normalisation(env: str, low: float, high: float) -> None:
    found = scale(env, [run([-3.0, 2.0]), run([0.0, 7.0])], {"Given-v0": (1, 2)})
    assert (found.low, found.high) == (low, high)
    assert found(np.array([low, high])) == pytest.approx([0, 1])


def test_normalisation_of_a_task_on_which_nothing_moves() -> None:
    assert scale("Own-v0", [run([3.0, 3.0])])(np.array([3.0])) == 0.0


@pytest.mark.parametrize(
    ("given", "recorded", "env", "expected"),
    [
        (5.0, 3.0, "Pendulum-v1", 5.0),
        ({"Pendulum-v1": 6.0}, 3.0, "Pendulum-v1", 6.0),
        ({"Other-v1": 6.0}, 3.0, "Pendulum-v1", 3.0),
        (None, None, "Zoo/Pendulum-v1", -200.0),
        (None, None, "Acrobot-v1", -100.0),  # Gymnasium's own
        (None, None, "Own-v0", None),
        (0.0, None, "Own-v0", 0.0),
    ],
)
def test_where_the_threshold_comes_from(given: object, recorded: float | None, env: str, expected: float | None) -> None:
    records = TaskRecords(env, (run([0.0, 1.0], env=env),), threshold=recorded)
    assert analyse([records], given).tasks[0].threshold == expected  # type: ignore[arg-type]


def test_aggregates_take_only_algorithms_that_ran_on_all_tasks() -> None:
    def several(env: str, *labels: str) -> TaskRecords:
        runs = [run(curve(seed, 0, 10, 0.5), label, seed, env=env) for label in labels for seed in range(3)]
        return TaskRecords(env, tuple(runs))

    overall = analyse([several("A-v0", "x", "y", "z"), several("B-v0", "x", "y")]).overall
    assert overall is not None and set(overall.labels) == {"x", "y"} and overall.left_out == ("z",)
    assert set(overall.aggregates["x"]) == {"IQM", "mean", "median", "optimality gap"}
    assert overall.improvement["x", "z"].tasks == 1 and overall.improvement["x", "y"].tasks == 2
    assert overall.improvement["x", "y"].probability.value == 0.5  # the same curves
    forth, back = overall.improvement["x", "z"].probability, overall.improvement["z", "x"].probability
    assert (back.value, back.low, back.high) == (1 - forth.value, 1 - forth.high, 1 - forth.low)


def test_nothing_finished() -> None:
    empty = TaskRecords("Task-v0", (), (UnfinishedRun("a", 0, Path(), "not finished", False),))
    found = analyse([empty])
    assert not found.tasks and found.overall is None and found.empty == (empty,) and found.labels == ("a",)


def test_too_few_runs_are_named() -> None:
    runs = [run([0.0, 1.0], "few", seed) for seed in range(4)] + [run([0.0, 1.0], "enough", seed) for seed in range(5)]
    assert task(*runs).few == ("few (n = 4)",)


def test_equal_runs_call_for_no_note() -> None:
    assert fairness.notes(TaskRecords("Task-v0", (run([0.0, 1.0]), run([0.0, 1.0], "b"), run([0.0, 1.0], seed=1)))) == []


@pytest.mark.parametrize(
    ("other", "note"),
    [
        (run([0.0, 1.0, 2.0], "b"), "lengths: a: 100; b: 200"),
        (run([0.0, 1.0, 1.0], "b", every=50), "steps between evaluations: a: 100; b: 50"),
        (run([0.0, 1.0], "b", threads=4), "torch threads: a: 1; b: 4"),
        (run([0.0, 1.0], "b", cpu_model="other"), "processor"),
        (run([0.0, 1.0], "b", versions={"torch": "3"}), "versions of packages"),
        (run([0.0, 1.0], "b", every=1000), "some of these are old: b at 0"),
    ],
)
def test_differences_are_noted(other: RecordedRun, note: str) -> None:
    assert any(note in found for found in fairness.notes(TaskRecords("Task-v0", (run([0.0, 1.0]), other))))


def test_arguments_of_the_environment_may_change_what_is_good() -> None:
    heavy = {"settings": {**settings("Task-v0", "a", 0, 100, 100), "env_kwargs": {"mass": 2.0}}}
    (note,) = fairness.notes(TaskRecords("Task-v0", (run([0.0, 1.0], **heavy), run([0.0, 1.0], seed=1, **heavy))))
    assert "was given mass" in note


def test_failures_other_sources_and_unknown_seconds_are_noted() -> None:
    x = np.array([0.0, 100.0])
    foreign = RecordedRun("Task-v0", "b", 0, Path(), x, x, x, np.full(2, np.nan), source="training episodes")
    unfinished = (UnfinishedRun("a", 1, Path(), "ValueError", True), UnfinishedRun("a", 2, Path(), "not finished", False))
    notes = " ".join(fairness.notes(TaskRecords("Task-v0", (run([0.0, 1.0]), foreign), unfinished)))
    assert "FAILED" in notes and "a seed 1" in notes and "Not finished" in notes and "a seed 2" in notes
    assert "not of the same kind" in notes and "CPU seconds are unknown of b" in notes
    hyper = {"settings": {**settings("Task-v0", "a", 1, 100, 100), "hyperparameters": {"gamma": 0.9}}}
    varied = fairness.notes(TaskRecords("Task-v0", (run([0.0, 1.0]), run([0.0, 1.0], seed=1, **hyper))))
    assert varied == ["The runs of a do not share their hyperparameters."]
