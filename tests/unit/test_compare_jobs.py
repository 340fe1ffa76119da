"""Who starts again and who does not, how many run at once, and what a process that is killed leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sb3_dreamer.compare.jobs import Ended, Inbox, LocalEngine, run_jobs
from sb3_dreamer.compare.processes import RunProcess
from sb3_dreamer.compare.progress import Progress
from sb3_dreamer.compare.records import RunSpec


def runs(out: Path, count: int) -> list[RunSpec]:
    return [RunSpec("Pendulum-v1", {}, "ppo", seed, 10, 5, 1, {}, "cpu", out) for seed in range(count)]


class Script:
    """An engine that plays what is written: the ends of each seed's attempts; nothing ends before a slot is missing."""

    def __init__(self, ends: dict[int, list[Ended]], slots: int | None) -> None:
        self.ends, self.slots, self.closed = ends, slots, False
        self.started: list[int] = []

    def start(self, spec: RunSpec, inbox: Inbox) -> None:
        self.started.append(spec.seed)
        inbox.put((spec, {"timesteps": 5, "return": 1.0, "cpu_seconds": 0.1}))
        inbox.put((spec, self.ends[spec.seed].pop(0)))

    def close(self) -> None:
        self.closed = True


class Notes(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, int]] = []

    def evaluated(self, spec: RunSpec, timesteps: int, mean_return: float, cpu_seconds: float) -> None:
        assert (timesteps, mean_return, cpu_seconds) == (5, 1.0, 0.1)

    def lost(self, spec: RunSpec) -> None:
        self.events.append(("lost", spec.seed))

    def finished(self, spec: RunSpec) -> None:
        self.events.append(("finished", spec.seed))

    def failed(self, spec: RunSpec) -> None:
        self.events.append(("failed", spec.seed))


GOOD, ERROR, LOST = Ended(0), Ended(1), Ended(-9, lost=True)


def test_what_was_lost_starts_again_and_an_error_does_not(tmp_path: Path) -> None:
    engine = Script({0: [LOST, GOOD], 1: [ERROR], 2: [LOST, LOST, LOST], 3: [GOOD]}, slots=1)
    notes, done = Notes(), []
    failed = run_jobs(runs(tmp_path, 4), engine, notes, lambda spec: done.append(spec.seed), retries=2)
    assert engine.started == [0, 0, 1, 2, 2, 2, 3] and engine.closed
    assert notes.events == [
        *[("lost", 0), ("finished", 0), ("failed", 1)],
        *[("lost", 2), ("lost", 2), ("failed", 2), ("finished", 3)],
    ]
    assert done == [0, 3]
    assert [(run.env, run.algo, run.seed, run.exit_code) for run in failed] == [
        ("Pendulum-v1", "ppo", 1, 1),
        ("Pendulum-v1", "ppo", 2, -9),
    ]
    assert failed[0].error == tmp_path / "runs" / "ppo-seed1" / "error.txt"


def test_no_retries(tmp_path: Path) -> None:
    engine = Script({0: [LOST]}, slots=None)
    assert len(run_jobs(runs(tmp_path, 1), engine, Notes(), retries=0)) == 1 and engine.started == [0]


@pytest.mark.parametrize(("slots", "order"), [(2, [0, 1, "0", 2, "1", "2"]), (None, [0, 1, 2, "0", "1", "2"])])
def test_no_more_at_once_than_there_are_slots(slots: int | None, order: list[int | str], tmp_path: Path) -> None:
    engine = Script({seed: [GOOD] for seed in range(3)}, slots)
    happened: list[int | str] = []
    start = engine.start
    engine.start = lambda spec, inbox: (happened.append(spec.seed), start(spec, inbox))[1]  # type: ignore[method-assign]
    run_jobs(runs(tmp_path, 3), engine, Notes(), lambda spec: happened.append(str(spec.seed)))
    assert happened == order


def test_the_engine_is_closed_whatever_happens(tmp_path: Path) -> None:
    def fail(spec: RunSpec) -> None:
        raise OSError("disk full")

    engine = Script({0: [GOOD], 1: [GOOD]}, slots=1)
    with pytest.raises(OSError, match="disk full"):
        run_jobs(runs(tmp_path, 2), engine, Notes(), fail)
    assert engine.closed and engine.started == [0]


def kill_at_once(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_process_killed_from_outside_says_so(tmp_path: Path) -> None:
    (spec,) = runs(tmp_path, 1)
    process = RunProcess(spec, 1)
    kill_at_once(process._process.pid)
    assert list(process.messages()) == [] and process.wait() == -signal.SIGKILL
    assert spec.error_path.read_text().startswith("ppo seed 0: killed by signal 9")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_run_that_is_killed_again_and_again_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    make: Callable[[RunProcess, RunSpec, int], None] = RunProcess.__init__

    def killed(self: RunProcess, spec: RunSpec, attempt: int) -> None:
        make(self, spec, attempt)
        attempts.append(attempt)
        kill_at_once(self._process.pid)

    monkeypatch.setattr(RunProcess, "__init__", killed)
    (failed,) = run_jobs(runs(tmp_path, 1), LocalEngine(1), Progress(), retries=2)
    assert failed.exit_code == -9 and attempts == [1, 2, 3]
