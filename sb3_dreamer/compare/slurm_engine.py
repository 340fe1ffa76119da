"""Runs as Slurm jobs through submitit; the results' folder is on a disk that all nodes share."""

import contextlib
import pickle
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.errors import ComparisonError, require
from sb3_dreamer.compare.jobs import Ended, Inbox
from sb3_dreamer.compare.processes import RunProcess, extend_import_path, import_path, write_error
from sb3_dreamer.compare.records import JOB_FILE, RunSpec, begin_attempt, read_rows


def carry_out(pickled_spec: bytes, attempt: int, path: Sequence[str]) -> int:
    """
    The job: one run, on a node.

    :param pickled_spec: the run
    :param attempt: how often it has been started
    :param path: where the process that asked for it finds its modules
    :return: its exit code
    """
    extend_import_path(path)
    process = RunProcess(cloudpickle.loads(pickled_spec), attempt)
    try:
        for _ in process.messages():
            pass  # who waits for the run reads its evaluations from the disk
        return process.wait()
    finally:
        process.end()


class SlurmEngine:
    """
    A job for each run, with one CPU. If the process that waits for them is killed, the jobs go on, and the same command
    finds them again instead of starting the runs twice; Ctrl-C cancels them.

    :param out: folder of the results; submitit's own files go to ``out/slurm``
    :param slots: jobs at once, waiting ones included; None for all
    :param gpus_per_run: whole GPUs that each job asks for
    :param parameters: others of submitit's ``AutoExecutor``: ``timeout_min``, ``mem_gb``, ``slurm_partition`` …
    :param cluster: submitit's name of it; ``local`` tries the same without Slurm
    :param poll_seconds: how often to look for evaluations and ends
    :raises ComparisonError: a parameter that does not exist, or a part of a GPU
    """

    def __init__(
        self,
        out: Path,
        slots: int | None = None,
        gpus_per_run: float = 0,
        parameters: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
        poll_seconds: float = 5.0,
    ) -> None:
        require("submitit", extra="slurm")
        import submitit

        self.slots, self.poll_seconds = slots, poll_seconds
        self._jobs: dict[Path, Any] = {}
        self._closed = threading.Event()
        if gpus_per_run != int(gpus_per_run):
            raise ComparisonError(f"gpus_per_run must be a whole number with Slurm, not {gpus_per_run}.")
        try:
            self._executor = submitit.AutoExecutor(folder=out.resolve() / "slurm", cluster=cluster)
            gpus = {"gpus_per_node": int(gpus_per_run)} if gpus_per_run else {}
            self._executor.update_parameters(**{"name": "sb3_dreamer", "cpus_per_task": 1, **gpus, **(parameters or {})})
        except (NameError, AssertionError, RuntimeError, ValueError) as error:
            raise ComparisonError(f"Slurm's jobs cannot be set up: {error}") from error

    def start(self, spec: RunSpec, inbox: Inbox) -> None:
        """
        :param spec: the run
        :param inbox: for its messages and its end
        """
        path = spec.job_path
        job = _job_still_there(path, spec)
        if job is None:
            shared = replace(spec, out=spec.out.resolve())
            job = self._executor.submit(carry_out, cloudpickle.dumps(shared), begin_attempt(spec), import_path())
            write_atomically(path, lambda temporary: temporary.write_bytes(pickle.dumps((spec.settings(), job))))
        self._jobs[spec.folder] = job
        threading.Thread(target=self._follow, args=(spec, job, path, inbox), daemon=True).start()

    def _follow(self, spec: RunSpec, job: Any, path: Path, inbox: Inbox) -> None:
        ended = Ended(exit_code=1)
        try:
            self._tell_evaluations(spec, job, inbox)
            if not self._closed.is_set():
                ended = self._end_of(spec, job)
                path.unlink(missing_ok=True)
        finally:  # whatever happens, somebody waits for this
            self._jobs.pop(spec.folder, None)
            inbox.put((spec, ended))

    def _tell_evaluations(self, spec: RunSpec, job: Any, inbox: Inbox) -> None:
        """Pass on what the run writes, until its job has ended or nobody wants to know any more."""
        n_seen, done = 0, False
        while not done:
            done = job.done()  # before looking for evaluations, so that none is missed
            rows = read_rows(spec.rows_path) if spec.rows_path.exists() else []
            for row in rows[n_seen:]:
                message = {"timesteps": row.timesteps, "return": row.eval_return_mean, "cpu_seconds": row.cpu_seconds}
                inbox.put((spec, message))
            n_seen = len(rows)
            if not done and self._closed.wait(self.poll_seconds):
                return

    def _end_of(self, spec: RunSpec, job: Any) -> Ended:
        import submitit

        try:
            exit_code = job.result()
            return Ended(exit_code, lost=exit_code < 0)
        except submitit.core.utils.FailedJobError as error:  # an error before the run's own process
            write_error(spec, f"{spec.label} could not be started on its node:\n{error}")
            return Ended(exit_code=1)
        except Exception as error:  # no result at all: killed, out of time or memory, or its node has gone
            write_error(spec, f"{spec.label} was lost with its job {job.job_id}:\n{error}")
            return Ended(exit_code=1, lost=True)

    def close(self) -> None:
        """Cancel the jobs that still run or wait."""
        jobs = list(self._jobs.items())
        self._closed.set()
        for folder, job in jobs:
            with contextlib.suppress(Exception):  # it may have ended by itself
                job.cancel(check=False)
            (folder / JOB_FILE).unlink(missing_ok=True)


def cancel_job(spec: RunSpec) -> None:
    """
    A run is to be forgotten: so is the job that an earlier process may have left running or waiting for it.

    :param spec: the run
    """
    with contextlib.suppress(Exception):  # no file, or one that no longer means anything
        _, job = pickle.loads(spec.job_path.read_bytes())
        if not job.done():
            job.cancel(check=False)


def _job_still_there(path: Path, spec: RunSpec) -> Any:
    """:return: the job of this run that an earlier process left running or waiting, None if there is none"""
    try:
        settings, job = pickle.loads(path.read_bytes())
        if job.done():
            return None
        if settings == spec.settings():
            return job
        job.cancel(check=False)  # somebody has thought better of it
    except Exception:  # no file, or one that no longer means anything
        path.unlink(missing_ok=True)
    return None
