"""Many runs, some at once: an engine starts them, this hears what becomes of them and starts again what was lost."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sb3_dreamer.compare.processes import RunProcess
from sb3_dreamer.compare.progress import Progress
from sb3_dreamer.compare.records import RunSpec, begin_attempt


@dataclass(frozen=True)
class FailedRun:
    """A run that ended with an error, and the log that holds its traceback."""

    algo: str
    seed: int
    exit_code: int
    log: Path
    env: str = ""

    @property
    def error(self) -> Path:
        """The file with the end of the log."""
        return self.log.with_name("error.txt")


@dataclass(frozen=True)
class Ended:
    """The last that an engine says of a run."""

    exit_code: int
    lost: bool = False  # something from outside ended it (a signal, a machine that went): worth another attempt


Inbox = queue.Queue[tuple[RunSpec, "dict[str, Any] | Ended"]]
"""What the engine puts in: the messages of ``RunProcess`` as they come, and :class:`Ended` once for each run."""


class Engine(Protocol):
    """Where runs are carried out."""

    slots: int | None
    """How many runs may be started before one has ended, None for any number."""

    def start(self, spec: RunSpec, inbox: Inbox) -> None:
        """
        Start a run and return at once.

        :param spec: the run
        :param inbox: for its messages and its end
        """

    def close(self) -> None:
        """End what still runs, and the engine itself."""


class LocalEngine:
    """
    Processes on this machine.

    :param slots: how many at once
    """

    def __init__(self, slots: int) -> None:
        self.slots: int | None = slots
        self._running: dict[Path, RunProcess] = {}

    def start(self, spec: RunSpec, inbox: Inbox) -> None:
        """
        :param spec: the run
        :param inbox: for its messages and its end
        """
        process = RunProcess(spec, begin_attempt(spec))
        self._running[spec.folder] = process
        threading.Thread(target=self._follow, args=(spec, process, inbox), daemon=True).start()

    def _follow(self, spec: RunSpec, process: RunProcess, inbox: Inbox) -> None:
        exit_code = 1
        try:
            for message in process.messages():
                inbox.put((spec, message))
            exit_code = process.wait()
        finally:  # whatever happens, somebody waits for this
            self._running.pop(spec.folder, None)
            inbox.put((spec, Ended(exit_code, lost=exit_code < 0)))

    def close(self) -> None:
        """End the processes that still run."""
        for process in list(self._running.values()):
            process.end()


def run_jobs(
    specs: Sequence[RunSpec],
    engine: Engine,
    progress: Progress,
    on_finished: Callable[[RunSpec], object] = lambda spec: None,
    retries: int = 2,
) -> list[FailedRun]:
    """
    Carry out the runs in their order. If anything interrupts this, those that have been started are ended.

    :param specs: the runs
    :param engine: where; closed at the end
    :param progress: is told what happens
    :param on_finished: called after each run that has reached its end
    :param retries: how often a run is started again that something from outside has ended; one whose algorithm raises an
        error would only raise it again
    :return: the runs that failed
    """
    waiting, n_running = deque(specs), 0
    failures: list[FailedRun] = []
    lost: dict[Path, int] = {}
    inbox: Inbox = queue.Queue()
    try:
        while waiting or n_running:
            while waiting and (engine.slots is None or n_running < engine.slots):
                spec = waiting.popleft()
                progress.started(spec)
                engine.start(spec, inbox)
                n_running += 1
            try:
                spec, message = inbox.get(timeout=1.0)  # not for ever: on Windows, Ctrl-C would wait as well
            except queue.Empty:
                continue
            if not isinstance(message, Ended):
                _tell(progress, spec, message)
                continue
            n_running -= 1
            if message.exit_code == 0:
                progress.finished(spec)
                on_finished(spec)
            elif message.lost and lost.get(spec.folder, 0) < retries:
                lost[spec.folder] = lost.get(spec.folder, 0) + 1
                progress.lost(spec)
                waiting.appendleft(spec)
            else:
                failures.append(FailedRun(spec.algo, spec.seed, message.exit_code, spec.log_path, spec.env))
                progress.failed(spec)
    finally:
        engine.close()
    return failures


def _tell(progress: Progress, spec: RunSpec, message: dict[str, Any]) -> None:
    progress.stepped(spec, message["timesteps"])
    if "return" in message:
        progress.evaluated(spec, message["timesteps"], message["return"], message["cpu_seconds"])
