"""Runs that are killed, lost or crash, here, on Ray and through submitit: the rest goes on, results stay the same."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import stable_baselines3

from sb3_dreamer.compare import Benchmark, BenchmarkResult, ComparisonError
from sb3_dreamer.compare.jobs import Ended, Inbox, run_jobs
from sb3_dreamer.compare.progress import Progress
from sb3_dreamer.compare.records import Row, read_finished
from sb3_dreamer.compare.slurm_engine import SlurmEngine

ROOT = Path(__file__).parents[1]
PPO = {"n_steps": 8, "batch_size": 16}
STRANGERS = '''
import os, pathlib, signal, time
from stable_baselines3 import A2C

class Fragile(A2C):
    """Always fails, in the middle."""
    def train(self):
        if self.num_timesteps > 20:
            raise RuntimeError("it cannot go on")
        super().train()

class Unlucky(A2C):
    """What started it is killed the first time."""
    def train(self):
        mark = pathlib.Path(os.environ["MARK"])
        if not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        super().train()
'''


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else's, which runs must find."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "strangers.py").write_text(STRANGERS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    return "strangers"


def returns_of(rows: tuple[Row, ...]) -> list[tuple[Any, ...]]:
    return [(row.env, row.algo, row.seed, row.timesteps, row.eval_return_mean, row.eval_return_std) for row in rows]


def attempts(result: BenchmarkResult) -> dict[str, int]:
    return {
        path.parent.name: json.loads(path.read_text())["attempts"]
        for found in result.results.values()
        for path in (found.out / "runs").glob("*/meta.json")
    }


def small(out: Path, algos: Any, **changes: Any) -> Benchmark:
    request: dict[str, Any] = dict(seeds=1, total_timesteps=48, eval_every=24, n_eval_episodes=2, out=out)
    hyperparams = {"ppo": PPO} if "ppo" in algos else {}
    return Benchmark("Pendulum-v1", algos, hyperparams=hyperparams, **{**request, **changes})


@pytest.mark.slow
def test_an_algorithm_of_ones_own_that_crashes_stops_nobody(strangers: str, tmp_path: Path) -> None:
    benchmark = small(tmp_path / "out", [f"{strangers}:Fragile", "calm=stable_baselines3:A2C"])
    with pytest.warns(UserWarning, match="1 of 2 runs failed"):
        result = benchmark.run(jobs=2, progress=False)
    (failed,) = result.failed
    assert (failed.algo, failed.exit_code) == ("fragile", 1) and not result.complete
    assert failed.error.read_text().rstrip().endswith("RuntimeError: it cannot go on")
    assert {row.algo for row in result.rows} == {"calm"} and "PARTIAL: no result yet from fragile seed 0" in result.table()


def command(out: Path) -> list[str]:
    request = "run --env Pendulum-v1 --algos ppo a2c --seeds 3 --total-timesteps 600 --eval-every 100 --n-eval-episodes 10"
    settings = "--jobs 2 --hyperparams ppo:n_steps=8 ppo:batch_size=16 --out"
    return [sys.executable, "-m", "sb3_dreamer.compare", *request.split(), *settings.split(), str(out)]


def start(out: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command(out), env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def in_the_middle(out: Path) -> list[Path]:
    """Folders of runs that have been evaluated and have not finished."""
    folders = {path.parent for path in out.glob("runs/*/evaluations.csv") if len(path.read_text().splitlines()) > 2}
    return [folder for folder in folders if not (folder / "meta.json").exists()]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_killed_five_times_it_ends_with_the_same_results(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    for time_number in range(5):
        process = start(killed)
        deadline = time.monotonic() + 300
        while not (finished := len(list(killed.glob("runs/*/meta.json"))) >= time_number and in_the_middle(killed)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        assert finished
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(killed).wait() == 0
    assert (killed / "results.csv").read_text().count("\n") == 1 + 6 * 7

    def deterministic(out: Path) -> list[list[str]]:
        return [line.split(",")[:6] for line in (out / "results.csv").read_text().splitlines()]  # times left out

    assert deterministic(killed) == deterministic(whole)
    for path in whole.glob("runs/*/model.zip"):
        algorithm = stable_baselines3.PPO if path.parent.name.startswith("ppo") else stable_baselines3.A2C
        first, second = (algorithm.load(out / path.relative_to(whole)).get_parameters()["policy"] for out in (whole, killed))
        assert all((first[name] == second[name]).all() for name in first)
    counts = [json.loads(path.read_text())["attempts"] for path in killed.glob("runs/*/meta.json")]
    assert len(counts) == 6 and sum(counts) >= 6 + 5
    assert not list(killed.rglob("*.tmp")) and not list(killed.rglob("error.txt")) and not list(killed.rglob("attempts.txt"))


@pytest.mark.slow
def test_runs_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out)
    while not in_the_middle(out):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()  # alone: nobody tells the runs
    process.wait()
    time.sleep(1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.csv")}
    time.sleep(2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.csv")} == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkResult:
    """What the other engines must give as well."""
    return small(tmp_path_factory.mktemp("whole"), ["ppo", "a2c"]).run(progress=False)


@pytest.mark.slow
def test_ray_brings_the_same_results_back(
    whole: BenchmarkResult, strangers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    algos = {"ppo": "ppo", "a2c": "a2c", "fragile": f"{strangers}:Fragile", "unlucky": f"{strangers}:Unlucky"}
    benchmark = small(tmp_path / "out", algos)
    with pytest.warns(UserWarning, match="1 of 4 runs failed"):
        result = benchmark.run(jobs=None, engine="ray")
    (failed,) = result.failed
    assert (failed.algo, failed.exit_code) == ("fragile", 1) and "it cannot go on" in failed.error.read_text()
    assert returns_of(tuple(row for row in result.rows if row.algo != "unlucky")) == returns_of(whole.rows)
    # Its worker was killed: lost and repeated, unlike the run that raised an error.
    assert attempts(result) == {"ppo-seed0": 1, "a2c-seed0": 1, "unlucky-seed0": 2}
    assert (failed.error.parent / "attempts.txt").read_text() == "1"
    names = {"evaluations.csv", "episodes.csv", "model.zip", "meta.json", "log.txt"}
    folder = tmp_path / "out" / "runs" / "unlucky-seed0"
    assert {path.name for path in folder.iterdir()} == names
    printed = capsys.readouterr().out
    assert "unlucky seed 0: lost, it starts again" in printed and "ppo seed 0: 24/48 steps, return" in printed
    import ray

    assert not ray.is_initialized()  # it was ours


@pytest.mark.slow
def test_ray_that_exists_is_used_and_stays(tmp_path: Path) -> None:
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        result = small(tmp_path, ["a2c"]).run(engine="ray", jobs=1, progress=False)
        assert result.complete and ray.is_initialized()
        with pytest.raises(ComparisonError, match=r"gpus_per_run=2, but this Ray has 0 GPUs"):
            small(tmp_path, ["ppo"], device="cuda").run(engine="ray", gpus_per_run=2, progress=False)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_submitit_gives_the_same_results(whole: BenchmarkResult, strangers: str, tmp_path: Path) -> None:
    benchmark = small(tmp_path / "out", {"ppo": "ppo", "fragile": f"{strangers}:Fragile", "unlucky": f"{strangers}:Unlucky"})
    engine = SlurmEngine(tmp_path / "out", cluster="local", poll_seconds=0.1)
    failed = run_jobs(benchmark.specs, engine, Progress())
    assert [(run.algo, run.exit_code) for run in failed] == [("fragile", 1)]
    assert "it cannot go on" in failed[0].error.read_text()
    ppo, fragile, unlucky = (read_finished(spec) for spec in benchmark.specs)
    assert ppo is not None and fragile is None and unlucky is not None
    assert returns_of(ppo.rows) == [line for line in returns_of(whole.rows) if line[1] == "ppo"]
    assert json.loads(unlucky.spec.done_path.read_text())["attempts"] == 2
    assert not list((tmp_path / "out" / "runs").glob("*/job.pkl"))


@pytest.mark.slow
def test_a_job_that_goes_on_is_found_again(tmp_path: Path) -> None:
    (spec,) = small(tmp_path, ["a2c"]).specs
    nobody: Inbox = queue.Queue()
    abandoned = SlurmEngine(tmp_path, cluster="local", poll_seconds=0.1)
    abandoned.start(spec, nobody)
    job = abandoned._jobs[spec.folder]
    abandoned._closed.set()  # as if this process had been killed: the job knows nothing of it
    inbox: Inbox = queue.Queue()
    again = SlurmEngine(tmp_path, cluster="local", poll_seconds=0.1)
    again.start(spec, inbox)
    assert again._jobs[spec.folder].job_id == job.job_id
    heard = []
    while not heard or not isinstance(heard[-1], Ended):
        heard.append(inbox.get(timeout=120)[1])
    assert heard[-1] == Ended(0)
    assert [message["timesteps"] for message in heard[:-1] if isinstance(message, dict)] == [0, 24, 48]
    assert json.loads(spec.done_path.read_text())["attempts"] == 1
    again.close()


class WaitingJob:
    """Stands in for one of Slurm's that waits in its queue."""

    def __init__(self, cancelled: Path, over: bool = False) -> None:
        self.cancelled, self.over = cancelled, over

    def done(self) -> bool:
        return self.over

    def cancel(self, check: bool) -> None:
        self.cancelled.touch()


def test_to_overwrite_is_to_cancel_the_job_left_behind(tmp_path: Path) -> None:
    for over in (False, True):
        benchmark = small(tmp_path / str(over), ["a2c"], total_timesteps=48)
        (spec,), cancelled = benchmark.specs, tmp_path / f"cancelled {over}"
        spec.folder.mkdir(parents=True)
        spec.job_path.write_bytes(cloudpickle.dumps((spec.settings(), WaitingJob(cancelled, over))))
        benchmark.run(overwrite=True, progress=False)
        assert cancelled.exists() is not over and spec.done_path.exists() and not spec.job_path.exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What cancels jobs in the place of Slurm is an interrupt, which processes in the background may be told to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_job_with_other_settings_is_cancelled(tmp_path: Path, interruptible: None) -> None:
    (old,), (new,) = (small(tmp_path, ["a2c"], total_timesteps=steps).specs for steps in (10**6, 48))
    abandoned = SlurmEngine(tmp_path, cluster="local", poll_seconds=0.1)
    abandoned.start(old, queue.Queue())
    job = abandoned._jobs[old.folder]
    abandoned._closed.set()
    deadline = time.monotonic() + 120
    while not (old.log_path.exists() and old.log_path.stat().st_size):  # an interrupt before it runs may be lost
        assert time.monotonic() < deadline and not job.done()
        time.sleep(0.05)
    again = SlurmEngine(tmp_path, cluster="local", poll_seconds=0.1)
    again.start(new, queue.Queue())
    assert again._jobs[new.folder].job_id != job.job_id
    again.close()
    deadline = time.monotonic() + 60
    while not job.done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_wrong_parameters_of_slurm(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="nonsense"):
        SlurmEngine(tmp_path, parameters={"slurm_nonsense": 1}, cluster="local")
    with pytest.raises(ComparisonError, match=r"a whole number with Slurm, not 0\.5"):
        SlurmEngine(tmp_path, gpus_per_run=0.5, cluster="local")


def test_slurm_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComparisonError, match="Slurm's jobs cannot be set up"):
        SlurmEngine(tmp_path / "out")
