"""One run as a process of its own on this machine: what every engine does in the end, wherever it does it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import cloudpickle

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.records import RunSpec

# Before numpy and torch are imported, this is the only way to hold their thread pools back.
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
_TAIL = 60
"""Lines of a log that ``error.txt`` repeats."""


def import_path() -> list[str]:
    """:return: where this process finds its modules, as another one can use it"""
    return [entry or os.getcwd() for entry in sys.path]


def extend_import_path(path: Sequence[str]) -> None:
    """
    :param path: where another process finds its modules; searched after what this one knows
    """
    known = import_path()
    sys.path.extend(entry for entry in path if entry not in known)


class RunProcess:
    """
    A run in its own process, which ends with this one.

    :param spec: the run
    :param attempt: how often it has been started
    """

    def __init__(self, spec: RunSpec, attempt: int) -> None:
        self.spec, self._ended_here = replace(spec, out=spec.out.resolve()), False
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        # The run can import what this process could import, wherever that came from.
        with self.spec.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "sb3_dreamer.compare.runner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(import_path())},
            )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(cloudpickle.dumps((self.spec, attempt)))
            self._process.stdin.flush()  # and stays open: its end tells the run that this process has gone
        except BrokenPipeError:
            pass  # it died at once; its exit code and its log say why

    def messages(self) -> Iterator[dict[str, Any]]:
        """
        What the run says until it ends: ``timesteps``, and after an evaluation ``return`` and ``cpu_seconds``.

        :return: one message at a time
        """
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # something printed while it was being imported
                if isinstance(message, dict):
                    yield message

    def wait(self) -> int:
        """
        Wait for the end; a run that failed leaves ``error.txt``.

        :return: the exit code: 0 if the run has finished, below 0 if a signal killed it
        """
        exit_code = self._process.wait()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        if exit_code != 0 and not self._ended_here:
            lines = self.spec.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            how = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
            write_error(self.spec, "\n".join([f"{self.spec.label}: {how}; the end of its log:", "", *lines[-_TAIL:]]))
        return exit_code

    def end(self) -> None:
        """End the run's process if it still runs; that is no failure of the run."""
        self._ended_here = True
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def write_error(spec: RunSpec, text: str) -> None:
    """
    :param spec: a run that failed
    :param text: why, for its ``error.txt``
    """
    write_atomically(spec.error_path, lambda temporary: temporary.write_text(text.rstrip() + "\n", encoding="utf-8"))
