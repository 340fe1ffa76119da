"""Runs as Ray tasks, on this machine or on a cluster; their files come back through Ray, so that no disk need be shared."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.errors import ComparisonError, require
from sb3_dreamer.compare.jobs import Ended, Inbox
from sb3_dreamer.compare.machine import available_cpus
from sb3_dreamer.compare.processes import RunProcess, extend_import_path, import_path, write_error
from sb3_dreamer.compare.records import RunSpec, begin_attempt

_SECONDS_BETWEEN_MESSAGES = 1.0


def carry_out(pickled_spec: bytes, attempt: int, path: Sequence[str]) -> Iterator[dict[str, Any]]:
    """
    The task: one run, in a folder of the worker's own.

    :param pickled_spec: the run
    :param attempt: how often it has been started
    :param path: where the process that asked for it finds its modules
    :return: the run's messages, fewer than it sends; last of all its ``exit_code`` and its ``files`` by their names
    """
    extend_import_path(path)
    with tempfile.TemporaryDirectory(prefix="sb3_dreamer-") as folder:
        process = RunProcess(replace(cloudpickle.loads(pickled_spec), out=Path(folder)), attempt)
        try:
            last = 0.0
            for message in process.messages():
                if "return" in message or time.monotonic() - last > _SECONDS_BETWEEN_MESSAGES:
                    yield message
                    last = time.monotonic()
            exit_code = process.wait()
        finally:
            process.end()
        yield {"exit_code": exit_code, "files": {path.name: path.read_bytes() for path in process.spec.folder.iterdir()}}


class RayEngine:
    """
    A Ray that exists (one that was initialised before, or the cluster that ``RAY_ADDRESS`` names), or else one of this
    machine's cores, which ends with the comparison. Each run asks for one CPU.

    :param slots: runs at once, None for as many as Ray has room for
    :param gpus_per_run: GPUs that each run asks for, also a part of one
    :raises ComparisonError: Ray has not so many GPUs
    """

    def __init__(self, slots: int | None, gpus_per_run: float = 0) -> None:
        require("ray", extra="ray")
        import ray

        self.slots = slots
        self._tasks: dict[Path, Any] = {}
        self._own = not ray.is_initialized()
        if self._own:
            address = os.environ.get("RAY_ADDRESS") or "local"
            here = dict(num_cpus=available_cpus(), include_dashboard=False) if address == "local" else {}
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **here)  # type: ignore[arg-type]
        there = ray.cluster_resources().get("GPU", 0)
        if gpus_per_run > there:
            self.close()
            raise ComparisonError(f"gpus_per_run={gpus_per_run}, but this Ray has {there:g} GPUs.")
        # Retries are ours to make, as attempts are counted and only some failures are worth another one.
        options: dict[str, Any] = dict(num_cpus=1, num_gpus=gpus_per_run, max_retries=0, num_returns="streaming")
        self._task: Any = ray.remote(**options)(carry_out)

    def start(self, spec: RunSpec, inbox: Inbox) -> None:
        """
        :param spec: the run
        :param inbox: for its messages and its end
        """
        stream = self._task.remote(cloudpickle.dumps(spec), begin_attempt(spec), import_path())
        self._tasks[spec.folder] = stream
        threading.Thread(target=self._follow, args=(spec, stream, inbox), daemon=True).start()

    def _follow(self, spec: RunSpec, stream: Any, inbox: Inbox) -> None:
        import ray

        ended = Ended(exit_code=1, lost=True)
        try:
            for reference in stream:
                message = ray.get(reference)
                if "files" in message:
                    _keep(spec, message["files"])
                    ended = Ended(message["exit_code"], lost=message["exit_code"] < 0)
                else:
                    inbox.put((spec, message))
        except ray.exceptions.TaskCancelledError:
            pass  # by close(): nobody listens any more
        except ray.exceptions.RayTaskError as error:
            write_error(spec, f"{spec.label} could not be started on its machine:\n{error}")
            ended = Ended(exit_code=1)
        except ray.exceptions.RayError as error:
            write_error(spec, f"{spec.label} was lost with its worker:\n{error}")
        except Exception:  # its files cannot be written, say
            ended = Ended(exit_code=1)
            raise
        finally:  # whatever happens, somebody waits for this
            self._tasks.pop(spec.folder, None)
            inbox.put((spec, ended))

    def close(self) -> None:
        """End the runs that still run, and Ray if it was started here."""
        import ray

        for stream in list(self._tasks.values()):
            ray.cancel(stream, force=True)
        if self._own:
            ray.shutdown()


def _keep(spec: RunSpec, files: dict[str, bytes]) -> None:
    """Write what a run left elsewhere; the file that says it is complete comes last."""
    if spec.done_path.name in files:
        spec.error_path.unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == spec.done_path.name):
        content = files[name]
        write_atomically(spec.folder / name, lambda temporary, content=content: temporary.write_bytes(content))  # type: ignore[misc]
    if spec.done_path.name in files:
        spec.attempts_path.unlink(missing_ok=True)
