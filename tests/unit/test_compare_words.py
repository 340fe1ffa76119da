"""What a report says: numbers as text, sentences that claim no more than the intervals, commands that can be run."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded import META, settings

from sb3_dreamer.compare.__main__ import build_parser
from sb3_dreamer.compare.judging import formatting, tables, words
from sb3_dreamer.compare.judging.analysis import Analysis, TaskResult, analyse
from sb3_dreamer.compare.judging.intervals import Estimate
from sb3_dreamer.compare.judging.markdown import markdown
from sb3_dreamer.compare.judging.readers import RecordedRun, TaskRecords, UnfinishedRun
from sb3_dreamer.compare.judging.reproduce import commands


def runs(label: str, finals: list[float], cpu: float = 2.0, env: str = "Task-v0", every: int = 100) -> list[RecordedRun]:
    """One run a final return; from 0 straight to it in two evaluations."""
    found = []
    for seed, final in enumerate(finals):
        x = np.arange(3.0)
        meta = {"settings": settings(env, label, seed, 2 * every, every), **META}
        arrays = (every * x, np.array([0.0, final / 2, final]), 1.5 * cpu * x, cpu * x)
        found.append(RecordedRun(env, label, seed, Path(), *arrays, meta))
    return found


def analysed(*groups: list[RecordedRun], threshold: float | None = None, unfinished: tuple = ()) -> Analysis:
    return analyse([TaskRecords("Task-v0", tuple(run for group in groups for run in group), unfinished)], threshold)


def task(*groups: list[RecordedRun], threshold: float | None = None, unfinished: tuple = ()) -> TaskResult:
    return analysed(*groups, threshold=threshold, unfinished=unfinished).tasks[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (math.nan, "unknown"),
        (math.inf, "never"),
        (0.0, "0"),
        (12345678.0, "12,345,678"),
        (-1285.57, "-1,286"),
        (99.99, "99.99"),
        (0.00666, "0.00666"),
        (0.5, "0.5"),
        (1e-12, "0"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert formatting.number(value) == text


def test_intervals() -> None:
    assert formatting.with_interval(Estimate(1.0, 0.5, 2.0, 5)) == "1 [0.5, 2]"
    assert formatting.with_interval(Estimate(1.0, math.nan, math.nan, 1)) == "1 [one run]"
    assert formatting.with_interval(None) == "unknown"


def test_ahead_if_the_intervals_are_apart_and_there_are_enough_runs() -> None:
    text = words.verdict(task(runs("good", [9.0, 9.5, 10, 10.5, 11]), runs("bad", [1.0, 1.5, 2, 2.5, 3])))[0]
    assert text.startswith("After 200 steps, the length of the shortest run, good has the highest return: 10 [")
    assert "It is ahead of bad (2 [" in text and "by 8." in text
    assert "separable" not in text and "seems" not in text


def test_not_separable_if_they_overlap() -> None:
    text = words.verdict(task(runs("good", [9.0, 9.5, 10, 10.5, 11]), runs("near", [8.0, 8.5, 10, 10.5, 11])))[0]
    assert "Not separable from it: near" in text and "ahead" not in text


def test_few_runs_only_seem_to_be_ahead() -> None:
    result = analysed(runs("good", [9.0, 10, 11]), runs("bad", [1.0, 2, 3]))
    text = words.verdict(result.tasks[0])[0]
    assert "it only seems to be ahead of bad" in text and "It is ahead" not in text
    (note,) = words.loud_notes(result)
    assert note.startswith("FEWER THAN 5 RUNS") and "good (n = 3), bad (n = 3)" in note


def test_a_single_run_is_never_separable() -> None:
    text = words.verdict(task(runs("good", [1000.0]), runs("bad", [1.0, 1, 1, 1, 1])))[0]
    assert "Not separable" in text and "ahead" not in text and "[one run]" in text


def test_cost_threshold_and_price_are_told() -> None:
    found = " ".join(words.verdict(task(runs("good", [9.0] * 5, cpu=20.0), runs("slow", [4.0] * 5), threshold=4.0)))
    assert "To get there good took 40 CPU s of training, slow 4." in found
    assert "At equal cost, 4 CPU s, slow has the highest return: 4 [4, 4]. It is ahead of good (0 [0, 0]) by 4." in found
    assert "good in 5 of 5 runs (median 100 steps) and slow in 5 of 5 runs (median 200 steps)" in found
    assert "good is a cheaper way to 4 than slow once an environment step costs more than 0.16 CPU s [0.16, 0.16]." in found


def test_censored_runs_are_shown_as_more_than() -> None:
    result = task(runs("good", [9.0] * 5), runs("slow", [1.0] * 5), threshold=4.0)
    assert "slow in 0 of 5 runs (median > 200 steps)" in " ".join(words.verdict(result))
    table = tables.solving(result)
    assert table is not None
    slow = [cell.text for cell in table.rows[1]]
    assert slow == ["slow", "0 of 5 [0%, 43%]", "> 200", "> 4", "≥ 200 [200, 200]"]
    run_rows = tables.every_run(result).rows
    assert [row[7].text for row in run_rows if row[0].text == "slow"] == ["> 200"] * 5


def test_no_threshold_no_costs_one_algorithm() -> None:
    x = np.array([0.0, 100.0])
    unknown = np.full(2, np.nan)
    foreign = [RecordedRun("Own-v0", label, 0, Path(), x, x, unknown, unknown) for label in ("a", "b")]
    found = " ".join(words.verdict(task(foreign)))
    assert "What the runs cost is not known" in found and "No threshold is known" in found
    result = task(foreign)
    assert tables.solving(result) is None and tables.break_even(result) is None
    assert [cell.text for cell in tables.cost(result).rows[0][2:4]] == ["unknown", "unknown"]
    assert commands(result) == []
    assert "Only a ran here" in words.verdict(task(foreign[:1]))[0]


def test_several_tasks_are_told_together_and_one_by_one() -> None:
    def records(env: str, *groups: list[RecordedRun]) -> TaskRecords:
        return TaskRecords(env, tuple(run for group in groups for run in group))

    good, bad = [9.0, 9.5, 10, 10.5, 11], [1.0, 1.5, 2, 2.5, 3]
    both = [records(env, runs("good", good, env=env), runs("bad", bad, env=env)) for env in ("A-v0", "B-v0")]
    first, *each = words.short_answer(analyse(both))
    assert first.startswith("Over 2 tasks, on normalised scores, good has the highest score")
    assert [text.split(":")[0] for text in each] == ["A-v0", "B-v0"] and "good leads with 10 [" in each[0]
    apart = [records("A-v0", runs("good", good, env="A-v0")), records("B-v0", runs("bad", bad, env="B-v0"))]
    assert words.short_answer(analyse(apart))[0].startswith("No two algorithms ran on all 2 tasks")


def test_failures_are_loud_and_in_the_table_of_runs() -> None:
    failed = UnfinishedRun("good", 7, Path(), "ValueError: <b>", True)
    result = analysed(runs("good", [9.0] * 5), unfinished=(failed,))
    assert any("1 RUN FAILED" in note and "good seed 7" in note for note in words.loud_notes(result))
    last = [cell.text for cell in tables.every_run(result.tasks[0]).rows[-1]]
    assert last[:3] == ["good", "7", "FAILED: ValueError: <b>"]
    nothing = analyse([TaskRecords("Task-v0", (), (failed,))])
    assert "No run has finished" in words.short_answer(nothing)[0] and "FAILED: ValueError: \\<b>" in markdown(nothing, "x")


def test_commands_can_be_run_as_they_are_written() -> None:
    tuned = {
        **settings("Task-v0", "sac", 0, 200, 100),
        "hyperparameters": {"gamma": 0.9, "policy_kwargs": {"net_arch": [8, 8]}},
    }
    tuned["env_kwargs"] = {"mass": 2.0, "name": "a b"}
    variant = {**settings("Task-v0", "bold", 0, 200, 100), "algorithm": "sac", "hyperparameters": {"gamma": 0.5}}
    sac = [RecordedRun(r.env, "sac", r.seed + 3, r.folder, r.timesteps, r.returns, *(r.cpu_seconds,) * 2, {"settings": tuned})
           for r in runs("sac", [1.0] * 2)]  # fmt: skip
    bold = [replace(run, meta={"settings": variant}) for run in runs("bold", [2.0])]
    (other, command) = commands(task(bold, sac, runs("mine", [0.0])))
    words_of = shlex.split(command)
    assert words_of[:4] == ["python", "-m", "sb3_dreamer.compare", "run"]
    parsed = build_parser().parse_args(words_of[3:])
    assert (parsed.envs, parsed.algos, parsed.seeds, parsed.first_seed) == (["Task-v0"], ["sac"], 2, 3)
    assert (parsed.total_timesteps, parsed.eval_every, parsed.n_eval_episodes) == (200, 100, 20)
    assert dict(parsed.env_kwargs) == {"mass": 2.0, "name": "a b"}
    assert ("sac", "policy_kwargs", {"net_arch": [8, 8]}) in parsed.hyperparams
    assert "--algos bold=sac mine --seeds 1 " in other and "bold:gamma=0.5" in other


def test_tuned_hyperparameters_are_not_repeated_and_seeds_may_have_gaps() -> None:
    from sb3_dreamer.compare.settings import hyperparameters

    spec = settings("Pendulum-v1", "sac", 0, 200, 100)
    spec["hyperparameters"] = hyperparameters("sac", "Pendulum-v1", 200)
    x = np.array([0.0, 200.0])
    sac = [RecordedRun("Pendulum-v1", "sac", seed, Path(), x, x, x, x, {"settings": spec}) for seed in (0, 1, 5)]
    found = commands(task(sac))
    assert len(found) == 2 and "--seeds 2" in found[0] and "--seeds 1 --first-seed 5" in found[1]
    assert not any("--hyperparams" in command for command in found)


def test_markdown_escapes_what_comes_from_outside() -> None:
    text = markdown(analysed(runs("a|b<script>_x_", [1.0] * 2), runs("[l](http://x)", [0.0] * 2)), "t*t")
    text = text.partition("```")[0]  # the command stands as it is, between fences
    assert "<script>" not in text.replace("\\<script>", "") and "a\\|b" in text and "](http" not in text
    assert text.startswith("# t\\*t\n")
