"""The learning benchmark: its suites, its tables by hand, and one very short run."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sb3_dreamer import Dreamer
from sb3_dreamer.compare.environments import check_env
from sb3_dreamer.compare.records import Episode, FinishedRun, Row, RunSpec, read_episodes, write_csv, write_json, write_rows
from sb3_dreamer.compare.settings import ALGORITHMS, check_action_space, hyperparameters
from sb3_dreamer.compare.summaries import summarize

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def learning() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))  # it imports its neighbours, as a script does
        yield importlib.import_module("learning")


@pytest.fixture(scope="module")
def kept(learning: ModuleType) -> ModuleType:
    return importlib.import_module("kept_results")


def write_results(out: Path, runs: list[FinishedRun]) -> None:
    """Leave the files that ``compare`` leaves beside those of the single runs."""
    write_rows(out / "results.csv", (row for run in runs for row in run.rows))
    write_json(out / "summary.json", summarize("Task-v0", [runs[0].spec.algo], None, runs, []))


def finished(algo: str, seed: int, returns: list[float], env_id: str = "Task-v0", every: int = 100) -> FinishedRun:
    """A run whose evaluations are 2 CPU seconds apart."""
    spec = RunSpec(env_id, {}, algo, seed, every * (len(returns) - 1), every, 20, {}, "cpu", Path())
    rows = tuple(Row("Task-v0", algo, seed, every * i, r, 0.0, 3.0 * i, 2.0 * i) for i, r in enumerate(returns))
    return FinishedRun(spec, rows, 10, {}, "a processor")


def test_tasks_are_well_formed(learning: ModuleType) -> None:
    assert set(learning.SUITES) == {"toy", "precision", "classic", "dmc", "memory", "pixels", "mujoco"}
    for suite, tasks in learning.SUITES.items():
        folders = [learning.folder(Path(suite), name, algo) for name, task in tasks.items() for algo in task.algos]
        assert len(set(folders)) == len(folders)
        for name, task in tasks.items():
            assert set(task.packages) <= set(learning.INSTALL) and "dreamer" in task.algos, name
            for algo, training in task.algos.items():
                assert algo in ALGORITHMS and training.seeds >= 1, (name, algo)
                assert training.total_timesteps % training.eval_every == 0, (name, algo)


@pytest.mark.parametrize("suite", ["toy", "classic", "dmc", "memory", "pixels", "mujoco"])
def test_algorithms_fit_their_tasks(learning: ModuleType, suite: str) -> None:
    for name, task in learning.SUITES[suite].items():
        if learning.missing_packages({name: task}, []) is not None:
            continue
        action_space, _ = check_env(task.env_id, task.env_kwargs)
        for algo, training in task.algos.items():
            check_action_space(algo, action_space, name)
            if learning.missing_packages({name: task}, [algo]) is None:
                hyperparameters(algo, name, training.total_timesteps, training.hyperparams)


def test_missing_package_is_one_line(
    learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "Box2D" else object())
    assert learning.main(["--suite", "classic"], tmp_path) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: not installed: Box2D (for LunarLander-v3).") and '"gymnasium[box2d]"' in line
    assert printed.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("chosen", "known"), [("--tasks Pong", "ContinuousPendulum-v0"), ("--algos sarsa", "crossq")])
def test_unknown_choice_names_what_there_is(
    learning: ModuleType, chosen: str, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        learning.parse_arguments(["--suite", "toy", *chosen.split()])
    assert re.search(rf"toy has no (Pong|sarsa); .*{known}", capsys.readouterr().err)


def test_table_by_hand(learning: ModuleType, tmp_path: Path) -> None:
    name = "ContinuousPendulum-v0"
    runs = [finished("dreamer", 0, [-500.0, -150.0, -250.0, -100.0]), finished("dreamer", 1, [-500.0, -500.0, -150.0, -130.0])]
    write_results(tmp_path / name, runs)
    write_results(tmp_path / f"{name}-sac", [finished("sac", 0, [-500.0, -300.0])])
    tasks = {name: learning.SUITES["toy"][name]}
    assert learning.table(tmp_path, tasks, ["dreamer", "sac"]).splitlines()[2:] == [
        # Thresholds at 100 and 200 steps, 2 and 4 seconds; then -175 and -130. Areas: -700 / 3 and -965 / 3.
        "| ContinuousPendulum-v0 (≥ -200) | dreamer | 2 x 300 | 150 (200) | 3 (4) | -152.5 / -250 | -115 (-130) | -277.5 |",
        "| ContinuousPendulum-v0 (≥ -200) | sac | 1 x 100 | never (never) | never (never) | - / - | -300 (-300) | -400 |",
    ]
    assert len(learning.table(tmp_path, tasks, ["sac"]).splitlines()) == 3
    learning.draw(tmp_path, name, tasks[name])
    assert (tmp_path / name / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_results_kept_with_the_source_are_read(learning: ModuleType) -> None:
    found = {}
    for suite, tasks in learning.SUITES.items():
        for name, task in tasks.items():
            found[name] = learning.read_task(learning.RESULTS / suite, name, task).get("dreamer", [])
            assert all([row.timesteps for row in run.rows] == run.spec.grid for run in found[name])
    assert sum(map(bool, found.values())) > 15 and len(found["ContinuousPendulum-v0"]) == 5
    published = learning.read_csv(learning.RESULTS / "dmc" / "published.csv")
    means = {line["task"]: float(line["mean"]) for line in published if line["step"] == "50000"}  # DreamerV3's alone
    assert {f"dmc_{name}": task.threshold for name, task in learning.SUITES["dmc"].items()} == {
        name: round(mean) for name, mean in means.items()
    }


def test_training_returns_by_hand(learning: ModuleType, kept: ModuleType, tmp_path: Path) -> None:
    # A step is two frames: 20,000 steps are too early by a frame, 25,001 too late.
    ends = {20_000: 1.0, 20_001: 200.0, 24_500: 300.0, 25_000: 400.0, 25_001: 10_000.0}
    episodes = [Episode(timesteps, total, 500) for timesteps, total in ends.items()]
    assert kept.training_return(episodes, 50_000) == 300.0
    assert kept.training_return(episodes, 40_000) == 1.0
    assert kept.training_return(episodes, 30_000) is None

    runs = [finished("dreamer", seed, [0.0, 0.0], "tasks:DMC/cartpole_swingup", 25_000) for seed in (0, 1)]
    out = tmp_path / "cartpole_swingup"
    for run in runs:
        path = out / run.spec.episodes_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"timesteps,return,length\n24500,{100 + 100 * run.spec.seed},500\n")
    write_results(out, runs)
    learning.record_training(out)
    (tmp_path / "published.csv").write_text(
        "task,method,step,mean,std,n\ndmc_cartpole_swingup,dreamerv3,50000,321.56,1,5\ndmc_cartpole_swingup,sac,50000,9.6,,3\n"
    )
    tasks = {"cartpole_swingup": learning.SUITES["dmc"]["cartpole_swingup"]}
    assert learning.training_table(tmp_path, tasks, ["dreamer", "sac"]).splitlines()[2:] == [
        "| cartpole_swingup | 50,000 | dreamer | 2 | 150 (100, 200) | 322 | 10 | - |"
    ]


def test_very_short_run_leaves_its_files(learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny: dict[str, Any] = dict(
        learning_starts=40, batch_size=4, batch_length=8, train_ratio=4, pretrain_updates=1, policy_kwargs=dict(size="debug")
    )
    training = dataclasses.replace(learning.SUITES["toy"]["ContinuousPendulum-v0"].algos["dreamer"], seeds=1, hyperparams=tiny)
    training = dataclasses.replace(training, total_timesteps=60, eval_every=30)
    task = learning.Task("ContinuousPendulum-v0", -200, {"dreamer": training}, n_eval_episodes=2)
    monkeypatch.setitem(learning.SUITES, "toy", {"Tiny": task})
    assert learning.main(["--suite", "toy", "--jobs", "1"], tmp_path) == 0
    out = tmp_path / "toy" / "Tiny"
    assert {path.name for path in out.iterdir()} == {"results.csv", "summary.json", "curves.png", "runs"}
    (found,) = learning.read_results(out)
    assert [row.timesteps for row in found.rows] == [0, 30, 60]
    assert read_episodes(found.spec.episodes_path) == []  # an episode has 200 steps
    written = found.spec.done_path.stat().st_mtime_ns
    assert learning.main(["--suite", "toy"], tmp_path) == 0
    assert found.spec.done_path.stat().st_mtime_ns == written  # nothing was missing


@pytest.fixture
def quick(learning: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A task learnt by SAC in 20 steps, whose results go into a folder: ``quick(folder, --option, ...)``."""
    training = importlib.import_module("suites").Training(2, 20, 10, dict(learning_starts=100))
    task = learning.Task("ContinuousPendulum-v0", -200, {"sac": training}, n_eval_episodes=1)

    def run(out: Path, *options: str, **changes: Any) -> list[FinishedRun]:
        other = dataclasses.replace(training, **changes)
        monkeypatch.setitem(learning.SUITES, "toy", {"Quick": dataclasses.replace(task, algos={"sac": other})})
        assert learning.main(["--suite", "toy", "--jobs", "1", *options], out) == 0
        return learning.read_results(out / "toy" / "Quick-sac")

    return run


def test_seeds_that_were_run_elsewhere_stay(quick: Any, tmp_path: Path) -> None:
    (first,) = quick(tmp_path, "--seeds", "1")
    out = tmp_path / "toy" / "Quick-sac"
    shutil.rmtree(out / "runs")  # another checkout, where the files of the runs are not
    before = (out / "results.csv").read_bytes()
    assert len(quick(tmp_path, "--seeds", "1")) == 1 and not (out / "runs").exists()
    assert (out / "results.csv").read_bytes() == before
    old, new = quick(tmp_path)
    assert (
        old.rows == first.rows
        and old.details == first.details
        and new.spec.seed == 1
        and not old.spec.folder.exists()
        and new.spec.done_path.exists()
    )
    assert [row.timesteps for row in new.rows] == [0, 10, 20]
    summary = json.loads((out / "summary.json").read_text())["algorithms"]["sac"]
    assert summary["seeds"] == [0, 1] and set(summary["runs"]) == {"0", "1"}
    assert [run.rows for run in quick(tmp_path)] == [old.rows, new.rows]  # nothing is missing


def test_what_was_run_with_other_settings_is_run_anew(quick: Any, kept: ModuleType, tmp_path: Path) -> None:
    quick(tmp_path, "--seeds", "1")
    out = tmp_path / "toy" / "Quick-sac"
    shutil.rmtree(out / "runs")
    (found,) = quick(tmp_path, "--seeds", "1", total_timesteps=30)
    assert found.rows[-1].timesteps == 30 and found.spec.done_path.exists()
    summary, spec = json.loads((out / "summary.json").read_text()), found.spec
    assert kept.same_training(out, spec, dataclasses.replace(spec, seed=5))
    assert not kept.same_training(out, spec, dataclasses.replace(spec, eval_every=5))
    summary["algorithms"]["sac"]["settings"]["defaults"]["batch_size"] = 7  # it is another by now
    write_json(out / "summary.json", summary)
    assert not kept.same_training(out, spec, spec)
    summary["algorithms"]["sac"]["settings"]["defaults"].update(batch_size=256, gone="an argument of then")
    write_json(out / "summary.json", summary)
    assert kept.same_training(out, spec, spec)
    dreamer = dataclasses.replace(spec, algo="dreamer", algorithm="dreamer", hyperparameters={})
    entry = {"settings": {"defaults": dreamer.settings()["defaults"]}}
    for change, same in ((dict(rows=512), True), (dict(rows=256), False), (None, False)):  # of what open arguments become
        usual = {**Dreamer.usual, **change} if change else None
        entry["settings"]["defaults"] = {**dreamer.settings()["defaults"], "usual": usual}
        if usual is None:
            del entry["settings"]["defaults"]["usual"]
        write_json(out / "summary.json", {"algorithms": {"dreamer": entry}})
        assert kept.same_training(out, dreamer, dreamer) == same


def test_returns_of_training_that_were_recorded_elsewhere_stay(kept: ModuleType, tmp_path: Path) -> None:
    runs = [finished("dreamer", seed, [0.0, 0.0], "tasks:DMC/cartpole_swingup", 25_000) for seed in (0, 1)]
    write_results(tmp_path, runs)
    (tmp_path / "training.csv").write_text("algo,seed,frames,training_return\ndreamer,0,50000,7.0\ndreamer,1,50000,8.0\n")
    path = tmp_path / runs[1].spec.episodes_path
    path.parent.mkdir(parents=True)
    path.write_text("timesteps,return,length\n24500,9,500\n")
    kept.record_training(tmp_path)
    assert (tmp_path / "training.csv").read_text().split() == [
        "algo,seed,frames,training_return",
        "dreamer,0,50000,7.0",
        "dreamer,1,50000,9.0",
    ]


def test_exploration_counts_cells_and_says_who_got_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    exploration = importlib.import_module("exploration")
    task, visited = exploration.TASKS["ContinuousPendulumSparse"], np.zeros((20, 20), dtype=bool)
    top, hanging = [1.0, 0.0, 0.1], [-1.0, 1e-6, 7.9]
    exploration.see(visited, task, np.array([top, top, hanging]))
    assert visited.sum() == 2 and visited[10, 10] and visited[19, 19]  # -pi..pi and -8..8 in 20 cells each
    exploration.see(visited, exploration.TASKS["MountainCarContinuous"], np.array([[-1.2, -0.07], [0.6, 0.07]]))
    assert visited[0, 0] and visited.sum() == 3

    lines = [
        [method, seed, steps, cells, "", result, 1.0]
        for method, seed, steps, cells, result in (
            ("random", 0, 1000, 50, ""),
            ("dreamer", 0, 1000, 60, 3.0),
            ("dreamer", 0, 2000, 80, 4.0),
            ("plan2explore, task", 0, 1000, 200, 30.0),
            ("plan2explore, task", 0, 2000, 300, 120.0),
            ("plan2explore, task", 0, 3000, 300, 90.0),
        )
    ]
    columns = ["method", "seed", "timesteps", "cells", "first_reward", "eval_return", "cpu_seconds"]
    write_csv(tmp_path / "ContinuousPendulumSparse.csv", columns, lines)
    rows = exploration.table("ContinuousPendulumSparse", tmp_path).splitlines()[2:]
    assert rows == [
        "| random | 1 | 50 | 50 | 50 (1,000) | - | - | - | 1 |",
        "| dreamer | 1 | 60 | 60 | 80 (2,000) | 4 | never | - | 1 |",
        "| plan2explore, task | 1 | 200 | 200 | 300 (3,000) | 120 | 2,000 | 105 | 1 |",
    ]
    drawn = []
    monkeypatch.setattr(exploration.Figure, "savefig", lambda figure, path, **kwargs: (drawn.append(figure), path.touch()))
    exploration.draw("ContinuousPendulumSparse", tmp_path)
    cells, judged = drawn[0].axes
    assert [list(line.get_ydata()) for line in cells.lines] == [[50], [60, 80], [200, 300, 300]]
    assert [list(line.get_ydata()) for line in judged.lines[:2]] == [[3.0, 4.0], [30.0, 120.0, 90.0]]  # chance is not judged
    assert judged.lines[1].get_color() == cells.lines[2].get_color() != cells.lines[1].get_color()


def test_exploration_records_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    exploration = importlib.import_module("exploration")
    given = [
        "--tasks",
        "MountainCarContinuous",
        "--methods",
        "random",
        "--seeds",
        "0",
        "--steps",
        "2000",
        "--out",
        str(tmp_path),
    ]
    exploration.main(given)
    lines = exploration.read_csv(tmp_path / "MountainCarContinuous.csv")
    assert [int(line["timesteps"]) for line in lines] == [1000, 2000]
    assert 1 < int(lines[0]["cells"]) <= int(lines[1]["cells"]) < 100  # chance stays in the valley
