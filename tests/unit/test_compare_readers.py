"""What a comparison left on disk, read back: finished, failed and interrupted runs, and recordings of earlier ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from recorded import settings, write_failure, write_run

from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.judging.readers import find_tasks
from sb3_dreamer.compare.records import DETAILS, Row, read_runs, write_json, write_rows
from sb3_dreamer.compare.summaries import summarize

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "results"


def write_recording(folder: Path, env: str, algos: list[str], threshold: float | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        Row(env, algo, seed, 100 * i, float(i), 0.0, 3.0 * i, 2.0 * i) for algo in algos for seed in (0, 1) for i in range(4)
    ]
    write_rows(folder / "results.csv", rows)
    entry = {
        "settings": {"env": env, "env_kwargs": {}},
        "n_parameters": 7,
        "versions": {"torch": "2"},
        "cpu_models": ["a", "b"],
    }
    summary = {"env": env, "threshold": threshold, "algorithms": {algo: entry for algo in algos}}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_runs_of_one_environment(tmp_path: Path) -> None:
    write_run(tmp_path, "Task-v0", "sac", 1, [1.0, 2.0, 5.0])
    write_run(tmp_path, "Task-v0", "sac-seed-7-wide", 12, [1.0, 2.0])
    (task,) = find_tasks(tmp_path)
    assert task.name == "Task-v0" and task.threshold is None and not task.unfinished
    assert [(run.label, run.seed) for run in task.runs] == [("sac-seed-7-wide", 12), ("sac", 1)]
    run = task.runs[1]
    assert run.timesteps.tolist() == [0, 100, 200] and run.returns.tolist() == [1, 2, 5]
    assert run.wall_seconds.tolist() == [0, 3, 6] and run.cpu_seconds.tolist() == [0, 2, 4]
    assert run.known("machine", "cores") == 2 and run.known("settings", "algo") == "sac"
    assert run.known("machine", "gpu") is None and run.known("nothing", "here") is None


def test_several_environments_at_any_depth(tmp_path: Path) -> None:
    write_run(tmp_path / "easy" / "A-v0", "A-v0", "sac", 0, [1.0, 2.0])
    write_run(tmp_path / "hard" / "deeper" / "B-v0", "B-v0", "sac", 0, [1.0, 2.0])
    assert [task.name for task in find_tasks(tmp_path)] == ["A-v0", "B-v0"]
    # The same environment in places that have nothing to do with each other is two tasks.
    write_run(tmp_path / "hard" / "A-v0", "A-v0", "sac", 0, [3.0, 4.0])
    assert [task.name for task in find_tasks(tmp_path)] == ["A-v0 (easy/A-v0)", "A-v0 (hard/A-v0)", "B-v0"]


def test_failed_and_interrupted_runs_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "Task-v0", "sac", 0, [1.0, 2.0])
    write_failure(tmp_path, "sac", 1, "ValueError: no good")
    (tmp_path / "runs" / "sac-seed2").mkdir()
    (tmp_path / "runs" / "sac-seed2" / "evaluations.csv").write_text("env\n")
    (tmp_path / "runs" / "sac-seed3").mkdir()
    (tmp_path / "runs" / "sac-seed3" / "error.txt").write_text("")
    retried = write_run(tmp_path, "Task-v0", "sac", 4, [1.0, 2.0])
    (retried / "error.txt").write_text("of the first attempt")
    (task,) = find_tasks(tmp_path)
    assert [run.seed for run in task.runs] == [0, 4]
    states = {run.seed: (run.failed, run.reason) for run in task.unfinished}
    assert states == {1: (True, "ValueError: no good"), 2: (False, "not finished"), 3: (True, "it left no message")}


def test_runs_that_never_began_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "Task-v0", "sac", 0, [1.0, 2.0])
    write_failure(tmp_path, "sac", 1, "ValueError: no good")
    (tmp_path / "summary.json").write_text(json.dumps({"env": "Task-v0", "missing": ["sac seed 1", "a seed 2 seed 7"]}))
    (task,) = find_tasks(tmp_path)
    states = {(run.label, run.seed): (run.failed, run.reason) for run in task.unfinished}
    assert states == {("sac", 1): (True, "ValueError: no good"), ("a seed 2", 7): (False, "not started")}


def test_a_task_on_which_everything_failed(tmp_path: Path) -> None:
    write_failure(tmp_path / "Task-v0", "sac", 0, "ValueError")
    (task,) = find_tasks(tmp_path)
    assert task.name == "Task-v0" and not task.runs and len(task.unfinished) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("env,algo\nTask-v0,sac\n", "has no column seed"),
        ("env,algo,seed,timesteps,eval_return_mean,eval_return_std,wall_seconds,cpu_seconds\n", "holds no evaluation"),
        ("", "not a table"),
        (
            "env,algo,seed,timesteps,eval_return_mean,eval_return_std,wall_seconds,cpu_seconds\nT,a,0,0,nan,0,0,0\n",
            "not finite",
        ),
        ("env,algo,seed,timesteps,eval_return_mean,eval_return_std,wall_seconds,cpu_seconds\nT,a,0,0,x,0,0,0\n", "no number"),
        (
            "env,algo,seed,timesteps,eval_return_mean,eval_return_std,wall_seconds,cpu_seconds\nT,a,0,5,1,0,0,0\nT,a,0,5,1,0,0,0\n",
            "do not rise",
        ),
        (None, "No such file"),
    ],
)
def test_a_finished_run_that_cannot_be_read_has_failed(tmp_path: Path, content: str | None, reason: str) -> None:
    write_run(tmp_path, "Task-v0", "sac", 0, [1.0, 2.0])
    broken = write_run(tmp_path, "Task-v0", "sac", 1, [1.0, 2.0])
    (broken / "evaluations.csv").unlink()
    if content is not None:
        (broken / "evaluations.csv").write_text(content)
    (task,) = find_tasks(tmp_path)
    assert [run.seed for run in task.runs] == [0]
    assert task.unfinished[0].failed and reason in task.unfinished[0].reason


def test_meta_without_most_of_its_keys(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "Task-v0", "sac", 0, [1.0, 2.0])
    (folder / "meta.json").write_text(json.dumps({"settings": settings("Task-v0", "sac", 0, 100, 100), "timings": None}))
    (task,) = find_tasks(tmp_path)
    assert task.runs[0].known("timings", "cpu_seconds") is None and task.runs[0].known("n_parameters") is None


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_meta_that_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path, "Task-v0", "sac", 0, [1.0, 2.0])
    (folder / "meta.json").write_text(content)
    with pytest.raises(ComparisonError, match=r"meta\.json"):
        find_tasks(tmp_path)


def test_runs_of_two_environments_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "A-v0", "sac", 0, [1.0, 2.0])
    write_run(tmp_path, "B-v0", "ppo", 0, [1.0, 2.0])
    with pytest.raises(ComparisonError, match="A-v0, B-v0"):
        find_tasks(tmp_path)


def test_recordings(tmp_path: Path) -> None:
    write_recording(tmp_path / "Task-v0", "Zoo/Task-v0", ["sac", "ppo"], threshold=2.5)
    (task,) = find_tasks(tmp_path)
    assert task.name == "Zoo/Task-v0" and task.threshold == 2.5
    assert [run.name for run in task.runs] == ["sac seed 0", "sac seed 1", "ppo seed 0", "ppo seed 1"]
    run = task.runs[0]
    assert run.known("n_parameters") == 7 and run.known("cpu_model") == "a, b" and run.cpu_seconds.tolist() == [0, 2, 4, 6]


def test_a_recording_keeps_of_each_run_what_it_cost(tmp_path: Path) -> None:
    """Without the single runs, the same is known as with them."""
    for seed in (0, 1):
        write_run(tmp_path, "Task-v0", "sac", seed, [1.0, 2.0], peak_memory_mb=100.0 + seed)
    (with_runs,) = find_tasks(tmp_path)
    runs = read_runs(tmp_path)
    write_rows(tmp_path / "results.csv", [row for run in runs for row in run.rows])
    write_json(tmp_path / "summary.json", summarize("Task-v0", ["sac"], 1.0, runs, []))
    shutil.rmtree(tmp_path / "runs")
    (recorded,) = find_tasks(tmp_path)
    for run, again in zip(with_runs.runs, recorded.runs, strict=True):
        for keys in (*((key,) for key in DETAILS), ("machine", "cores"), ("timings", "evaluation_cpu_seconds")):
            assert run.known(*keys) == again.known(*keys), keys
        assert again.known("peak_memory_mb") == 100.0 + again.seed and again.known("threads") is not None


def test_folders_beside_each_other_belong_together(tmp_path: Path) -> None:
    write_recording(tmp_path / "Task-v0", "Task-v0", ["dreamer"], threshold=2.0)
    write_recording(tmp_path / "Task-v0-sac", "Task-v0", ["sac"])
    write_run(tmp_path / "Task-v0-ppo", "Task-v0", "ppo", 0, [1.0, 2.0])
    write_recording(tmp_path / "Task-v0-again", "Task-v0", ["sac"])
    write_recording(tmp_path / "Task-v0-other", "Other-v0", ["sac"])
    heavy = {"settings": {**settings("Task-v0", "sac", 0, 100, 100), "env_kwargs": {"mass": 2}}}
    write_run(tmp_path / "Task-v0-heavy", "Task-v0", "sac", 0, [1.0, 2.0], **heavy)
    other, task, with_mass = find_tasks(tmp_path)
    assert (other.name, task.name) == ("Other-v0", "Task-v0 (Task-v0)") and with_mass.name == "Task-v0 (Task-v0-heavy)"
    assert task.threshold == 2.0
    assert {run.label for run in task.runs} == {"dreamer", "ppo", "sac", "sac (Task-v0-again)"}


def test_algorithms_beside_each_other_without_a_folder_of_the_bare_name(tmp_path: Path) -> None:
    for algo in ("sac", "ppo"):
        write_recording(tmp_path / f"Task-v0-{algo}", "Zoo/Task-v0", [algo])
    (task,) = find_tasks(tmp_path)
    assert {run.label for run in task.runs} == {"sac", "ppo"}


def test_the_single_runs_win_over_the_table_of_all(tmp_path: Path) -> None:
    write_recording(tmp_path / "Task-v0", "Task-v0", ["sac"], threshold=3.0)
    write_run(tmp_path / "Task-v0", "Task-v0", "ppo", 0, [1.0, 2.0])
    (task,) = find_tasks(tmp_path)
    assert [run.name for run in task.runs] == ["ppo seed 0"] and task.threshold == 3.0


def test_another_column_distinguishes_runs(tmp_path: Path) -> None:
    write_recording(tmp_path, "Task-v0", ["sac"])
    lines = (tmp_path / "results.csv").read_text().splitlines()
    text = "\n".join([f"{lines[0]}\r,lr", *(f"{line}\r,{rate}" for rate in ("1e-3", "1e-4") for line in lines[1:])])
    (tmp_path / "results.csv").write_bytes(text.encode())
    (task,) = find_tasks(tmp_path)
    assert sorted({run.label for run in task.runs}) == ["sac (lr 0.0001)", "sac (lr 0.001)"]
    assert all(len(run.returns) == 4 for run in task.runs)


def test_an_algorithm_may_be_called_none(tmp_path: Path) -> None:
    write_recording(tmp_path, "Task-v0", ["None", "nan"])
    (task,) = find_tasks(tmp_path)
    assert {run.label for run in task.runs} == {"None", "nan"}


def test_own_recordings_can_be_read() -> None:
    tasks = {task.name: task for task in find_tasks(BENCHMARKS / "toy")}
    pendulum = tasks["ContinuousPendulum-v0"]
    assert {"dreamer", "sac", "ppo"} <= {run.label for run in pendulum.runs} and pendulum.threshold == -200
    assert not any(task.unfinished for task in tasks.values())
    assert all(np.isfinite(run.cpu_seconds).all() for task in tasks.values() for run in task.runs)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="No results under"):
        find_tasks(tmp_path)
    with pytest.raises(ComparisonError, match="no directory"):
        find_tasks(tmp_path / "missing")
