"""Many runs, each a process of its own, a fixed number of them at once."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle

from sb3_dreamer.compare.progress import Progress
from sb3_dreamer.compare.records import RunSpec

# Before numpy and torch are imported, this is the only way to hold their thread pools back.
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

# What a run's reader thread puts into the queue: its message, None after the last one.
_Inbox = queue.Queue[tuple[RunSpec, dict[str, Any] | None]]


@dataclass(frozen=True)
class FailedRun:
    """A run that ended with an error, and the log that holds its traceback."""

    algo: str
    seed: int
    exit_code: int
    log: Path


def available_cpus() -> int:
    """:return: number of cores this process may use"""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    specs: Sequence[RunSpec], jobs: int, progress: Progress, on_finished: Callable[[], object] = lambda: None
) -> list[FailedRun]:
    """
    Carry out the runs in their order. If anything interrupts this, the processes it has started are ended.

    :param specs: the runs
    :param jobs: how many processes at once
    :param progress: is told what happens
    :param on_finished: called after each run that has reached its end
    :return: the runs that failed
    """
    waiting = deque(specs)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    failures: list[FailedRun] = []
    inbox: _Inbox = queue.Queue()
    try:
        while waiting or processes:
            while waiting and len(processes) < jobs:
                spec = waiting.popleft()
                progress.started(spec)
                processes[spec.label] = _start(spec, inbox)
            try:
                spec, message = inbox.get(timeout=1.0)  # not for ever: on Windows, Ctrl-C would wait as well
            except queue.Empty:
                continue
            if message is not None:
                _tell(progress, spec, message)
                continue
            exit_code = processes.pop(spec.label).wait()
            if exit_code == 0:
                progress.finished(spec)
                on_finished()
            else:
                failures.append(FailedRun(spec.algo, spec.seed, exit_code, spec.log_path))
                progress.failed(spec)
    finally:
        _end(list(processes.values()))
    return failures


def _start(spec: RunSpec, inbox: _Inbox) -> subprocess.Popen[bytes]:
    """Start one run; a thread passes on what it says."""
    spec.log_path.parent.mkdir(parents=True, exist_ok=True)
    # The run can import what this process could import, wherever that came from.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with spec.log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "sb3_dreamer.compare.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
        )
    assert process.stdin is not None
    try:
        process.stdin.write(cloudpickle.dumps(replace(spec, out=spec.out.resolve())))
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; its exit code and its log say why
    threading.Thread(target=_read, args=(spec, process, inbox), daemon=True).start()
    return process


def _read(spec: RunSpec, process: subprocess.Popen[bytes], inbox: _Inbox) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # something printed while it was being imported
            if isinstance(message, dict):
                inbox.put((spec, message))
    inbox.put((spec, None))


def _tell(progress: Progress, spec: RunSpec, message: dict[str, Any]) -> None:
    progress.stepped(spec, message["timesteps"])
    if "return" in message:
        progress.evaluated(spec, message["timesteps"], message["return"], message["cpu_seconds"])


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
