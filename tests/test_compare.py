"""The comparison as its users meet it: the function, the command line, resuming, failing, being interrupted."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from filelock import FileLock
from stable_baselines3 import SAC

from sb3_dreamer.compare import ComparisonError, ComparisonResult, compare, processes
from sb3_dreamer.compare.__main__ import main
from sb3_dreamer.compare.progress import PlainProgress, RichProgress, make_progress
from sb3_dreamer.compare.records import RunSpec

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = dict(
    env_id="Pendulum-v1",
    algos=("sac", "ppo"),
    seeds=1,
    total_timesteps=96,
    eval_every=40,
    n_eval_episodes=3,
    hyperparams={"sac": {"learning_starts": 50, "batch_size": 8}, "ppo": {"n_steps": 8, "batch_size": 16}},
    jobs=2,
)


def files(out: Path) -> dict[str, int]:
    """When each run's result was written."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in (out / "runs").glob("*/*.*")}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> ComparisonResult:
    return compare(**TINY, out=tmp_path_factory.mktemp("first"), progress=False)


def test_results(first: ComparisonResult) -> None:
    with first.results_path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        *("env", "algo", "seed", "timesteps", "eval_return_mean", "eval_return_std", "wall_seconds", "cpu_seconds")
    ]
    expected = [("Pendulum-v1", algo, "0", step) for algo in ("sac", "ppo") for step in ("0", "40", "80", "96")]
    assert [(line["env"], line["algo"], line["seed"], line["timesteps"]) for line in lines] == expected
    assert all(float(line["eval_return_mean"]) < 0 < float(line["eval_return_std"]) for line in lines)
    assert first.complete and not first.failed
    assert first.dataframe()["eval_return_mean"].tolist() == [float(line["eval_return_mean"]) for line in lines]


def test_summary_and_table(first: ComparisonResult) -> None:
    summary = json.loads(first.summary_path.read_text())
    assert summary == first.summary
    assert summary["env"] == "Pendulum-v1" and summary["threshold"] == -200 and not summary["partial"]
    assert list(summary["algorithms"]) == ["sac", "ppo"]
    sac = summary["algorithms"]["sac"]
    assert sac["seeds"] == [0] and sac["steps_to_threshold"]["worst"] is None
    assert sac["settings"]["hyperparameters"]["learning_rate"] == 1e-3  # tuned
    assert sac["settings"]["hyperparameters"]["batch_size"] == 8  # as asked for
    assert {"python", "torch", "gymnasium", "stable_baselines3", "sb3_dreamer"} <= set(sac["versions"])
    assert sac["cpu_models"] and sac["n_parameters"] > 1000
    table = first.table()
    assert "sac" in table and "ppo" in table and "never" in table and "PARTIAL" not in table


def test_curves_are_drawn(first: ComparisonResult) -> None:
    assert first.curves_path.read_bytes().startswith(b"\x89PNG")
    pixels = matplotlib.image.imread(first.curves_path)[..., :3]
    assert min(pixels.shape[:2]) > 300
    for color in ((31, 119, 180), (255, 127, 14)):  # the first two of matplotlib's cycle: a line for each algorithm
        matches = np.abs(pixels * 255 - np.array(color)).max(axis=-1) < 3
        half = matches.shape[1] // 2
        assert matches[:, :half].sum() > 100 and matches[:, half:].sum() > 100


def test_each_run_has_a_folder_of_its_own(first: ComparisonResult) -> None:
    folder = first.out / "runs" / "sac-seed0"
    names = {"evaluations.csv", "episodes.csv", "model.zip", "meta.json", "log.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in (first.out / "runs").iterdir()} - {".lock"} == {"sac-seed0", "ppo-seed0"}
    assert "total_timesteps" in (folder.with_name("ppo-seed0") / "log.txt").read_text()  # SB3's own tables
    assert not list(first.out.rglob("*.tmp"))
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["settings"] == {**first.summary["algorithms"]["sac"]["settings"], "algo": "sac", "seed": 0}
    assert meta["threads"] == 1 and meta["attempts"] == 1 and meta["gradient_updates"] == 96 - 50
    assert meta["machine"]["cores"] >= 1 and meta["machine"]["gpu"] is None and meta["started"] < meta["ended"]
    assert all(seconds > 0 for seconds in meta["timings"].values())
    assert meta["timings"]["cpu_seconds"] >= first.rows[3].cpu_seconds > 0
    assert 50 < meta["peak_memory_mb"] < 5000 and 0 < meta["action_latency_ms"] < 1000
    assert SAC.load(folder / "model.zip").num_timesteps == 96


def test_resumes_with_what_is_missing(first: ComparisonResult, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(first.out)
    (first.out / "runs" / "ppo-seed0" / "meta.json").unlink()  # as if it had been interrupted near its end
    (first.out / "runs" / "ppo-seed0" / "attempts.txt").write_text("4")
    second = compare(**TINY, out=first.out)
    after = files(first.out)
    assert before.keys() == after.keys()
    assert {name for name in after if after[name] != before[name]} == {name for name in after if "ppo" in name}
    assert json.loads((first.out / "runs" / "ppo-seed0" / "meta.json").read_text())["attempts"] == 5
    printed = capsys.readouterr().out
    assert "sac seed 0: already there" in printed and "ppo seed 0: finished" in printed
    # The run that was repeated gives the same returns.
    assert [(row.algo, row.timesteps, row.eval_return_mean) for row in second.rows] == [
        (row.algo, row.timesteps, row.eval_return_mean) for row in first.rows
    ]


def test_changed_settings_are_refused_before_anything_runs(first: ComparisonResult) -> None:
    before = files(first.out)
    with pytest.raises(ComparisonError, match=r"(?s)total_timesteps: 96 there, 100 now.*--overwrite"):
        compare(**{**TINY, "total_timesteps": 100}, out=first.out, progress=False)
    assert files(first.out) == before


def test_threshold_may_change_without_running_again(first: ComparisonResult, tmp_path: Path) -> None:
    before = files(first.out)
    result = compare(**TINY, out=first.out, progress=False, threshold=-5000.0)
    assert files(first.out) == before
    assert result.summary["algorithms"]["sac"]["steps_to_threshold"] == {"median": 0, "worst": 0}


def test_failed_run_is_reported_and_the_rest_goes_on(first: ComparisonResult) -> None:
    hyperparams = {"sac": TINY["hyperparams"]["sac"], "td3": {"learning_rate": -1.0}}
    request = {**TINY, "algos": ("td3", "sac"), "hyperparams": hyperparams}
    with pytest.warns(UserWarning, match=r"1 of 2 runs failed, see .*td3-seed0.error\.txt"):
        result = compare(**request, out=first.out, progress=False)
    (failed,) = result.failed
    assert (failed.algo, failed.seed, failed.exit_code) == ("td3", 0, 1)
    assert "Invalid learning rate" in failed.log.read_text()
    assert failed.error.read_text().startswith("td3 seed 0: exit code 1") and "Traceback" in failed.error.read_text()
    assert not result.complete and result.summary["missing"] == ["td3 seed 0"]
    assert {row.algo for row in result.rows} == {"sac"}
    assert "PARTIAL" in result.table()


def test_interruption_ends_the_processes_and_keeps_what_is_finished(
    first: ComparisonResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **kwargs))
        return started[-1]

    def press_control_c(self: PlainProgress, spec: RunSpec, *args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes.subprocess, "Popen", remember)
    monkeypatch.setattr(PlainProgress, "evaluated", press_control_c)
    with pytest.raises(KeyboardInterrupt):
        compare(**{**TINY, "seeds": [0, 7]}, out=first.out)
    assert len(started) == 2 and all(process.poll() is not None for process in started)  # seed 0 was there already
    summary = json.loads(first.summary_path.read_text())
    assert summary["partial"] and summary["missing"] == ["sac seed 7", "ppo seed 7"]
    assert summary["algorithms"]["sac"]["seeds"] == [0]
    assert not (first.out / "runs" / "sac-seed7" / "error.txt").exists()  # nothing was wrong with it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_id": "Pendulm-v1"}, "Close names: Pendulum-v1"),
        ({"algos": ("sac", "saac")}, "Unknown algorithm 'saac'"),
        ({"algos": "sac"}, "a list of different algorithms"),
        ({"algos": ("sac", "sac")}, "a list of different algorithms"),
        ({"env_id": "CartPole-v1", "algos": ("ppo", "sac")}, "sac needs a Box action space"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": [-1]}, "different whole numbers"),
        ({"total_timesteps": 0}, "total_timesteps must be at least 1"),
        ({"eval_every": 0}, "eval_every must be from 1"),
        ({"eval_every": 97}, "eval_every must be from 1"),
        ({"n_eval_episodes": 0}, "n_eval_episodes must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"hyperparams": {"td3": {}}}, "hyperparams for td3"),
        ({"hyperparams": {"sac": {"nonsense": 1}}}, "sac has no hyperparameter 'nonsense'"),
    ],
)
def test_wrong_requests(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        compare(**{**TINY, **change}, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_missing_plotting_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    with pytest.raises(ImportError, match=r'matplotlib: pip install "sb3-dreamer\[compare\]"'):
        compare(**TINY, out=tmp_path)


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # whether the package is installed or not
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *"run --env envs:ContinuousPendulum-v0 --algos ppo dreamer --seeds 1 --total-timesteps 24 --eval-every 12".split(),
        *"--n-eval-episodes 2 --jobs 2 --hyperparams ppo:n_steps=8 ppo:learning_rate=-1 --out".split(),
        str(tmp_path),
    ]
    done = command_line("-m", "sb3_dreamer.compare", *arguments)
    assert done.returncode == 1, done.stderr
    assert "dreamer seed 0: 24/24 steps" in done.stdout  # plain lines, as this is no terminal
    assert "PARTIAL: no result yet from ppo seed 0" in done.stdout
    error = tmp_path / "runs" / "ppo-seed0" / "error.txt"
    assert f"ppo seed 0 failed (exit code 1), see {error}" in done.stderr
    assert "Traceback" not in done.stderr and "Traceback" in error.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "summary.json", "curves.png", "runs"}
    # Repaired, the same folder goes on with the missing run.
    arguments = [argument.replace("=-1", "=0.001") for argument in arguments]
    assert main([*arguments, "--no-progress"]) == 0
    assert capsys.readouterr().out.startswith("ContinuousPendulum-v0, threshold -200")
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 2 * 3
    assert not error.exists()
    assert json.loads(error.with_name("meta.json").read_text())["attempts"] == 2


def test_command_line_mistake_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--env", "Pendulum-v1", "--algos", "ppo", "saac", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: Unknown algorithm 'saac'. Did you mean 'sac'?")
    assert printed.out == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[], ["--env", "Pendulum-v1"], ["train"]])
def test_command_line_without_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: say what to do: run, report, record")
    assert ("Did you mean: python -m sb3_dreamer.compare run --env Pendulum-v1" in printed) == ("--env" in words)


def test_two_comparisons_in_one_folder_are_refused(first: ComparisonResult) -> None:
    with FileLock(first.out / "runs" / ".lock"), pytest.raises(ComparisonError, match="Another comparison is at work"):
        compare(**TINY, out=first.out, progress=False)


def test_bars_follow_the_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [RunSpec("Task-v0", {}, "sac", seed, 100, 50, 20, {}, "cpu", Path("out")) for seed in range(4)]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = make_progress(True, runs)
    assert isinstance(progress, RichProgress)
    with progress:
        progress.skipped(runs[0])
        for run in runs[1:]:
            progress.started(run)
        assert progress._bars.tasks[0].fields["note"] == "1/4, 3 starting"
        progress.stepped(runs[1], 50)
        progress.evaluated(runs[1], 50, -12.5, 1.0)
        progress.finished(runs[2])
        progress.failed(runs[3])
        overall, running = progress._bars.tasks
    assert (overall.completed, overall.total, overall.fields["note"]) == (350, 400, "3/4")
    assert (running.description, running.completed) == ("sac seed 1", 50)
    assert running.fields["note"] == "return -12.50"
    assert "FAILED, see out/runs/sac-seed3/error.txt" in capsys.readouterr().out


def test_lines_name_the_environment_if_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [RunSpec(f"Task-v{version}", {}, "sac", 0, 100, 50, 20, {}, "cpu", Path("out")) for version in (0, 1)]
    progress = PlainProgress(runs)
    progress.evaluated(runs[1], 50, -12.5, 1.0)
    progress.lost(runs[1])
    progress.finished(runs[1])
    PlainProgress(runs[:1]).skipped(runs[0])
    assert capsys.readouterr().out.splitlines() == [
        "[0/2] Task-v1 sac seed 0: 50/100 steps, return -12.50, 1.0 CPU seconds",
        "[0/2] Task-v1 sac seed 0: lost, it starts again",
        "[1/2] Task-v1 sac seed 0: finished",
        "[1/1] sac seed 0: already there",
    ]
