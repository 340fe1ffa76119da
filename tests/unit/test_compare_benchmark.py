"""A request for a comparison, from Python, a file or the shell: what it becomes, and what is said about a wrong one."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import A2C, SAC

from sb3_dreamer import MBPO
from sb3_dreamer.compare import Benchmark, ComparisonError, Task, settings
from sb3_dreamer.compare.__main__ import main
from sb3_dreamer.compare.choices import Choice, choose
from sb3_dreamer.compare.config import read_config
from sb3_dreamer.compare.engines import make_engine
from sb3_dreamer.compare.estimates import CPU_SECONDS_PER_STEP, Plan, PlannedRun, duration
from sb3_dreamer.compare.machine import describe_machine, git_commit, peak_memory_mb
from sb3_dreamer.compare.records import Row, RunSpec, finish, read_finished


class Own(A2C):
    """An algorithm of somebody's own."""


def test_names_labels_and_classes() -> None:
    own = f"{Own.__module__}:Own"
    assert choose(["sac", "fast=dreamer", "stable_baselines3:SAC", Own][:2]) == [
        Choice("sac", "sac"),
        Choice("fast", "dreamer"),
    ]
    assert choose([own, "other=" + own]) == [Choice("own", own), Choice("other", own)]
    assert choose([Own]) == [Choice("own", own)]
    assert choose({"a": "sac", "b": Own}) == [Choice("a", "sac"), Choice("b", own)]


@pytest.mark.parametrize(
    ("algos", "message"),
    [
        (["sac", "stable_baselines3:SAC"], r"different algorithms.*'other_sac=\.\.\.'"),
        (["no_such_module:Class"], "Cannot load the algorithm 'no_such_module:Class': No module"),
        (["stable_baselines3:Nothing"], "Cannot load the algorithm"),
        (["stable_baselines3:__version__"], "not a subclass of Stable-Baselines3's BaseAlgorithm"),
        (["stable_baselines3.SAC"], "any other is 'package.module:Class'"),
        (["a/b=sac"], "'a/b' cannot be part of a file's name"),
        (["=sac"], "no name before the equals sign"),
        ([3], "not 3"),
        ([type("Local", (A2C,), {"__module__": "__main__"})], "is defined in the script itself"),
    ],
)
def test_wrong_algorithms(algos: Any, message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        choose(algos)


def test_settings_of_an_algorithm_that_is_not_ours() -> None:
    path = "stable_baselines3:SAC"
    assert settings.hyperparameters(path, "Pendulum-v1", 5000, {"batch_size": 8}) == {"buffer_size": 5000, "batch_size": 8}
    assert settings.default_settings(path)["tau"] == 0.005
    settings.check_action_space(path, None, "Task-v0")  # type: ignore[arg-type]  # nobody knows: it says so itself
    with pytest.raises(ComparisonError, match="has no hyperparameter 'batchsize'"):
        settings.hyperparameters(path, "Pendulum-v1", 5000, {"batchsize": 8})


def test_a_buffer_smaller_by_default_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(SAC):
        def __init__(self, *args: Any, buffer_size: int = 300, **kwargs: Any) -> None:
            super().__init__(*args, buffer_size=buffer_size, **kwargs)

    monkeypatch.setattr(sys.modules[__name__], "Small", Small, raising=False)
    assert settings.hyperparameters(f"{__name__}:Small", "Pendulum-v1", 5000) == {"buffer_size": 300}
    assert settings.load_algorithm("mbpo") is MBPO and settings.hyperparameters("mbpo", "Elsewhere-v0", 100)


def test_matrix_of_several_environments(tmp_path: Path) -> None:
    benchmark = Benchmark(
        ["Pendulum-v1", Task("gymnasium:MountainCarContinuous-v0", {"goal_velocity": 0.1}, total_timesteps=50, threshold=7)],
        {"slow": "sac", "fast": "sac"},
        seeds=[3, 1],
        total_timesteps=100,
        out=tmp_path,
        hyperparams={"fast": {"learning_rate": 0.01}},
    )
    assert [(spec.env, spec.algo, spec.seed) for spec in benchmark.specs] == [
        (env, algo, seed)
        for env in ("Pendulum-v1", "MountainCarContinuous-v0")
        for seed in (3, 1)
        for algo in ("slow", "fast")
    ]
    assert benchmark.thresholds == {"Pendulum-v1": -200, "MountainCarContinuous-v0": 7}
    slow, fast, *_, last = benchmark.specs
    assert (slow.algorithm, slow.total_timesteps, slow.eval_every) == ("sac", 100, 5)
    assert slow.hyperparameters["learning_rate"] == 1e-3 and fast.hyperparameters["learning_rate"] == 0.01
    assert slow.folder == tmp_path / "Pendulum-v1" / "runs" / "slow-seed3"
    assert (last.total_timesteps, last.eval_every, last.env_kwargs) == (50, 2, {"goal_velocity": 0.1})
    assert slow.settings()["algorithm"] == "sac" and slow.settings()["algo"] == "slow"
    assert not list(tmp_path.iterdir())  # nothing has been done


def test_where_results_go(tmp_path: Path) -> None:
    request: dict[str, Any] = dict(algos=["ppo"], seeds=1, out=tmp_path)
    one, two = Benchmark("Pendulum-v1", **request), Benchmark(["Pendulum-v1", "CartPole-v1"], **request)
    assert one.specs[0].out == tmp_path and two.specs[0].out == tmp_path / "Pendulum-v1"
    (tmp_path / "Pendulum-v1" / "runs").mkdir(parents=True)
    assert Benchmark("Pendulum-v1", **request).specs[0].out == tmp_path / "Pendulum-v1"  # one of several, again
    (tmp_path / "runs").mkdir()
    with pytest.raises(ComparisonError, match="holds the results of one environment"):
        Benchmark(["Pendulum-v1", "CartPole-v1"], **request)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"envs": []}, "at least one environment"),
        ({"envs": ["Pendulum-v1", "gymnasium:Pendulum-v1"]}, "different environments"),
        ({"envs": [Task("Pendulum-v1", total_timesteps=0)]}, "total_timesteps must be at least 1"),
        ({"total_timesteps": 1.5}, "a whole number, not 1.5"),
        ({"hyperparams": {"sac": {}}}, "hyperparams for sac, but the algorithms are quick"),
    ],
)
def test_wrong_requests_for_a_benchmark(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match=message):
        Benchmark(**{"envs": "Pendulum-v1", "algos": ["quick=sac"], "out": tmp_path, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "cloud"}, "There are: local, ray, slurm"),
        ({"engine": "local", "slurm": {"mem_gb": 1}}, "is for engine='slurm'"),
        ({"gpus_per_run": 1}, "choose device='cuda'"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_wrong_ways_to_run(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match=message):
        Benchmark("Pendulum-v1", ["ppo"], seeds=1, out=tmp_path).run(progress=False, **options)


def test_gpus_are_for_engines_that_hand_them_out(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="is for the engines ray and slurm"):
        make_engine("local", 1, 1, None, tmp_path)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_missing_engine_is_named(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == package else find_spec(asked))
    with pytest.raises(ImportError, match=rf'{package}: pip install "sb3-dreamer\[{name}\]"'):
        make_engine(name, None, 0, None, tmp_path)


YAML = """
envs: [Pendulum-v1, {env_id: MountainCarContinuous-v0, total_timesteps: 60}]
algos: {sac: sac, quick: ppo}
seeds: 2
total_timesteps: 40
hyperparams: {quick: {n_steps: 8, gamma: 0.9}}
env_kwargs: {}
jobs: 3
"""


def test_command_line_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "request.yaml").write_text(YAML)
    asked: dict[str, Any] = {}

    def run(self: Benchmark, **options: Any) -> Any:
        asked.update(options, specs=self.specs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Benchmark, "run", run)
    words = f"run --config {tmp_path / 'request.yaml'} --seeds 1 --first-seed 5 --hyperparams quick:gamma=0.8 --no-progress"
    assert main([*words.split(), "--out", str(tmp_path / "out")]) == 130
    assert (asked["jobs"], asked["progress"]) == (3, False)
    assert [(s.env, s.algo, s.seed, s.total_timesteps) for s in asked["specs"]] == [
        *[("Pendulum-v1", algo, 5, 40) for algo in ("sac", "quick")],
        *[("MountainCarContinuous-v0", algo, 5, 60) for algo in ("sac", "quick")],
    ]
    assert {"n_steps": 8, "gamma": 0.8}.items() <= asked["specs"][1].hyperparameters.items()
    assert str(asked["specs"][0].out) == str(tmp_path / "out" / "Pendulum-v1")


def test_config_in_python(tmp_path: Path) -> None:
    path = tmp_path / "request.py"
    path.write_text("steps = 10\nconfig = dict(envs='Pendulum-v1', total_timesteps=4 * steps)")
    assert read_config(path) == {"envs": "Pendulum-v1", "total_timesteps": 40}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "env: Pendulum-v1", "has no use for env. It can hold: envs, algos.*engine"),
        ("a.yaml", "- Pendulum-v1", "settings by their names, not list"),
        ("a.yaml", "{", "is no YAML"),
        ("a.yaml", "envs: [{id: A-v0}]", "needs env_id"),
        ("a.py", "envs = ['A-v0']", "a dictionary called config"),
        ("a.toml", "", "must end with"),
        ("", "", "no such file"),
    ],
)
def test_wrong_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / (name or "missing.yaml")
    if name:
        path.write_text(content)
    with pytest.raises(ComparisonError, match=message):
        read_config(path)


def test_run_needs_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--algos", "sac"]) == 2
    assert "--env is missing" in capsys.readouterr().err


def spec(algo: str = "sac", seed: int = 0, out: Path = Path("out"), **changes: Any) -> RunSpec:
    return dataclasses.replace(RunSpec("Pendulum-v1", {}, algo, seed, 1000, 500, 20, {}, "cpu", out), **changes)


def test_dry_run_shows_the_matrix_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "run --env Pendulum-v1 --algos sac quick=ppo --total-timesteps 1000 --jobs 2 --dry-run --out"
    assert main([*words.split(), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "quick = ppo" in printed and "0 1 2" in printed and "21 x 20" in printed and "0/3" in printed
    assert "6 of 6 runs to do, 2 at once" in printed and "estimate" in printed
    assert not (tmp_path / "out").exists()


def test_estimate_by_hand(tmp_path: Path) -> None:
    runs = (
        PlannedRun(spec(seed=0), True, 100.0, True),
        PlannedRun(spec(seed=1), False, 100.0, True),
        PlannedRun(spec(seed=2), False, 60.0, True),
        PlannedRun(spec(seed=3), False, 50.0, True),
        PlannedRun(spec(algo="other"), False, None, False),
    )
    plan = Plan(runs, 2)
    assert plan.cpu_seconds == 210 and plan.wall_seconds == 110  # 100 beside 60 and then 50
    assert "4 of 5 runs to do" in plan.table() and "nothing is known" in plan.table().lower()
    assert (duration(90), duration(600), duration(7200), duration(400_000)) == ("90 s", "10 min", "2 h", "4.6 days")


def test_estimates_come_from_finished_runs_first(tmp_path: Path) -> None:
    benchmark = Benchmark("Pendulum-v1", ["sac", "ppo", Own], seeds=2, total_timesteps=1000, out=tmp_path)
    done = benchmark.specs[0]
    timings = {"cpu_seconds": 6.0, "evaluation_cpu_seconds": 2.0}
    finish(done, [Row(done.env, "sac", 0, 1000, 0.0, 0.0, 9.0, 6.0)], 7, details={"timings": timings})
    runs = benchmark.plan().runs
    found = {(run.spec.algo, run.spec.seed): (run.finished, run.cpu_seconds, run.measured) for run in runs}
    assert found["sac", 0] == (True, 8.0, True) and found["sac", 1] == (False, 8.0, True)
    assert found["ppo", 0] == (False, pytest.approx(1000 * CPU_SECONDS_PER_STEP["ppo"]), False)
    assert found["own", 0] == (False, None, False)
    assert set(CPU_SECONDS_PER_STEP) == set(settings.ALGORITHMS)
    assert not any(run.finished for run in benchmark.plan(overwrite=True).runs)
    longer = Benchmark("Pendulum-v1", ["sac"], seeds=2, total_timesteps=2000, out=tmp_path)
    with pytest.raises(ComparisonError, match="other settings"):
        longer.plan()
    assert len(longer.plan(overwrite=True).runs) == 2


def test_a_folder_of_another_environment_is_refused(tmp_path: Path) -> None:
    there = Benchmark("Pendulum-v1", ["sac"], seeds=1, total_timesteps=1000, out=tmp_path).specs[0]
    finish(there, [Row(there.env, "sac", 0, 1000, 0.0, 0.0, 9.0, 6.0)], 7)
    with pytest.raises(ComparisonError, match=r"holds runs of Pendulum-v1: choose another folder for CartPole-v1"):
        Benchmark("CartPole-v1", ["ppo"], seeds=1, total_timesteps=1000, out=tmp_path).run(progress=False)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_settings_without_a_number_can_be_written(value: float, tmp_path: Path) -> None:
    hyperparams = {"ppo": {"max_grad_norm": value}}
    run = Benchmark("Pendulum-v1", ["ppo"], seeds=1, total_timesteps=1000, out=tmp_path, hyperparams=hyperparams).specs[0]
    finish(run, [Row(run.env, "ppo", 0, 1000, 0.0, 0.0, 9.0, 6.0)], 7)
    assert json.loads(run.done_path.read_text())["settings"]["hyperparameters"]["max_grad_norm"] == str(value)
    assert read_finished(run) is not None


def test_report_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @dataclasses.dataclass(frozen=True)
    class ReportPaths:
        page: Path

    asked = []

    def report(folder: str | Path, threshold: float | None = None) -> ReportPaths:
        asked.append((folder, threshold))
        return ReportPaths(Path(folder) / "index.html")

    module = types.ModuleType("sb3_dreamer.compare.judging.page")
    module.report = report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sb3_dreamer.compare.judging.page", module)
    assert main(["report", "some/folder", "--threshold", "-150"]) == 0
    assert asked == [("some/folder", -150.0)]
    assert capsys.readouterr().out == f"written: {Path('some/folder/index.html')}\n"


def test_machine_is_described_without_its_name() -> None:
    machine = describe_machine("cpu")
    assert list(machine) == ["platform", "processor", "cores", "memory_gb", "gpu"]
    assert machine["cores"] >= 1 and machine["gpu"] is None
    assert __import__("socket").gethostname() not in json.dumps(machine).replace(machine["platform"], "")
    memory = peak_memory_mb()
    assert memory is None or memory > 10


def test_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    assert git_commit(tmp_path) is None
    for name, value in (("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")):
        monkeypatch.setenv(name, value)

    def git(*words: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e@e")
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
