"""The comparison as an object: environments, algorithms and seeds, checked; then carried out, wherever that is."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from sb3_dreamer.compare import settings
from sb3_dreamer.compare.choices import Algos, choose
from sb3_dreamer.compare.engines import make_engine
from sb3_dreamer.compare.environments import check_env, env_name
from sb3_dreamer.compare.errors import ComparisonError, require
from sb3_dreamer.compare.estimates import Plan, make_plan
from sb3_dreamer.compare.jobs import FailedRun, run_jobs
from sb3_dreamer.compare.machine import available_cpus
from sb3_dreamer.compare.progress import make_progress
from sb3_dreamer.compare.records import RunSpec, discard, read_finished, read_runs
from sb3_dreamer.compare.results import BenchmarkResult, ComparisonResult, write_results
from sb3_dreamer.compare.slurm_engine import cancel_job


@dataclass(frozen=True)
class Task:
    """An environment of a :class:`Benchmark`, where it differs from the others in more than its id."""

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)  # beside the benchmark's
    total_timesteps: int | None = None
    eval_every: int | None = None
    threshold: float | None = None


class Benchmark:
    """
    Several algorithms in several environments, each with several seeds, side by side.

    Each run is a process of its own with one torch thread. Its policy is evaluated before training, every ``eval_every``
    steps and at the end, deterministically and always from the same starts; evaluation neither changes the training nor
    counts in its time. A run leaves its folder, ``out/runs/<algorithm>-seed<seed>``: evaluations, episodes of training,
    the final model, a log, and last of all ``meta.json``. ``out`` gets ``results.csv``, ``summary.json`` and
    ``curves.png``. With several environments, all of this is in ``out/<environment>``.

    :param envs: Gymnasium ids (a task that another package registers is ``"package:Name-v0"``), or :class:`Task`
    :param algos: names of algorithms, see :func:`~sb3_dreamer.compare.algorithm_names`; any other algorithm of SB3's kind
        is ``"package.module:Class"`` or the class; ``"label=..."``, or a mapping from labels, names it otherwise
    :param seeds: number of seeds (0, 1, …), or the seeds themselves
    :param total_timesteps: environment steps of each run
    :param out: folder of the results
    :param eval_every: environment steps between two evaluations, by default a twentieth of the run
    :param n_eval_episodes: episodes of each evaluation
    :param threshold: evaluation return at which a task counts as solved, by default the task's own
    :param env_kwargs: keyword arguments for ``gymnasium.make``, in all environments
    :param hyperparams: settings by label that win over the tuned ones, ``{"sac": {"batch_size": 64}}``
    :param device: torch device of the runs
    :raises ComparisonError: something in the request cannot work
    """

    def __init__(
        self,
        envs: str | Task | Sequence[str | Task],
        algos: Algos = ("dreamer", "sac", "ppo"),
        seeds: int | Sequence[int] = 3,
        total_timesteps: int = 5000,
        out: str | Path = "runs/comparison",
        eval_every: int | None = None,
        n_eval_episodes: int = 20,
        threshold: float | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        hyperparams: Mapping[str, Mapping[str, Any]] | None = None,
        device: str = "cpu",
    ) -> None:
        self.out = Path(out)
        choices = choose(algos)
        overrides = hyperparams or {}
        unused = [label for label in overrides if label not in [choice.label for choice in choices]]
        if unused:
            there = ", ".join(choice.label for choice in choices)
            raise ComparisonError(f"hyperparams for {', '.join(unused)}, but the algorithms are {there}.")
        _check_number("n_eval_episodes", n_eval_episodes)
        tasks, seeds = _checked_tasks(envs), _checked_seeds(seeds)
        names = [env_name(task.env_id) for task in tasks]
        self.thresholds: dict[str, float | None] = {}
        self._specs: dict[str, list[RunSpec]] = {}
        for name, task, folder in zip(names, tasks, _folders(self.out, names), strict=True):
            kwargs = {**(env_kwargs or {}), **task.env_kwargs}
            steps = total_timesteps if task.total_timesteps is None else task.total_timesteps
            every = eval_every if task.eval_every is None else task.eval_every
            _check_number("total_timesteps", steps)
            if every is not None and not 1 <= every <= steps:
                raise ComparisonError(f"eval_every must be from 1 to total_timesteps ({steps}), not {every}.")
            action_space, own_threshold = check_env(task.env_id, kwargs)
            asked = threshold if task.threshold is None else task.threshold
            self.thresholds[name] = own_threshold if asked is None else asked
            for choice in choices:
                settings.check_action_space(choice.algorithm, action_space, name)
            hyperparameters = {
                choice.label: settings.hyperparameters(choice.algorithm, name, steps, overrides.get(choice.label))
                for choice in choices
            }
            self._specs[name] = [
                RunSpec(
                    env_id=task.env_id,
                    env_kwargs=kwargs,
                    algo=choice.label,
                    seed=seed,
                    total_timesteps=steps,
                    eval_every=max(1, round(steps / 20)) if every is None else every,
                    n_eval_episodes=n_eval_episodes,
                    hyperparameters=hyperparameters[choice.label],
                    device=device,
                    out=folder,
                    algorithm=choice.algorithm,
                )
                # All algorithms with the first seed come first: interrupted early, there is already something to compare.
                for seed in seeds
                for choice in choices
            ]

    @property
    def specs(self) -> list[RunSpec]:
        """All runs, in their order."""
        return [spec for specs in self._specs.values() for spec in specs]

    def plan(self, jobs: int | None = 1, overwrite: bool = False) -> Plan:
        """
        What there is to do, without doing it.

        :param jobs: runs at once, None for one a processor core
        :param overwrite: run all of them anew
        :return: the matrix of runs with an estimate of their time
        :raises ComparisonError: ``out`` holds runs with other settings
        """
        _check_jobs(jobs)
        return make_plan(self.specs, available_cpus() if jobs is None else jobs, overwrite)

    def run(
        self,
        jobs: int | None = 1,
        engine: str = "local",
        gpus_per_run: float = 0,
        retries: int = 2,
        slurm: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> BenchmarkResult:
        """
        Carry out the runs that have not finished. Called again after an interruption, or after having been killed, it goes
        on with what is missing; a run that was cut off starts again from its first step and ends as it would have ended. A
        run that fails is named in the result and leaves ``error.txt``; the others go on.

        :param jobs: runs at once; None for one a processor core with the engine ``local``, for as many as there is room
            for with the others
        :param engine: ``local``, processes on this machine; ``ray``, a Ray of this machine's own, or the cluster that
            ``RAY_ADDRESS`` names; ``slurm``, jobs through submitit, ``out`` being on a disk that all nodes share
        :param gpus_per_run: GPUs to ask Ray (also a part of one) or Slurm for
        :param retries: how often a run is started again whose process or machine was lost; errors are not repeated
        :param slurm: parameters of submitit's ``AutoExecutor``, ``{"timeout_min": 600, "slurm_partition": "cpu"}``
        :param overwrite: forget what earlier runs of these algorithms and seeds left in ``out``
        :param progress: show live progress
        :return: the evaluations, their summaries, and the runs that failed
        """
        require("matplotlib", *(("rich",) if progress else ()))
        _check_jobs(jobs)
        _check_number("retries", retries, 0)
        for_gpu = not self.specs[0].device.startswith("cpu")
        if gpus_per_run and not for_gpu:
            raise ComparisonError(f"gpus_per_run={gpus_per_run}, but device='cpu' would not use them: choose device='cuda'.")
        with ExitStack() as held:
            for specs in self._specs.values():
                held.enter_context(_alone_in(specs[0].out))
                _check_folder(specs[0])
            for spec in self.specs if overwrite else ():
                cancel_job(spec)
                discard(spec)
            missing = [spec for spec in self.specs if read_finished(spec) is None]  # before anything starts: it may refuse
            failed: list[FailedRun] = []
            try:
                with make_progress(progress, self.specs) as shown:
                    for spec in self.specs:
                        if spec not in missing:
                            shown.skipped(spec)
                    if missing:
                        there = make_engine(engine, jobs, gpus_per_run, slurm, self.out)
                        failed = run_jobs(missing, there, shown, self._write, retries)
            finally:
                results = {env: self._write(specs[0], failed, plot=True) for env, specs in self._specs.items()}
        if failed:
            files = ", ".join(str(run.error) for run in failed)
            warnings.warn(f"{len(failed)} of {len(self.specs)} runs failed, see {files}", stacklevel=2)
        return BenchmarkResult(results)

    def _write(self, spec: RunSpec, failed: Sequence[FailedRun] = (), plot: bool = False) -> ComparisonResult:
        """The files of its environment grow with each run, so that they are there even if this process is killed."""
        own = [run for run in failed if run.env == spec.env]
        return write_results(self._specs[spec.env], self.thresholds[spec.env], own, plot)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Two comparisons at once in one folder would carry out the same runs twice, into the same files."""
    path = out / "runs" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)  # the system gives it back when this process ends, however it ends
    except filelock.Timeout:
        raise ComparisonError(f"Another comparison is at work in {out}: wait for its end, or choose another folder.") from None
    except NotImplementedError:
        pass  # some shared disks have no locks: then it is up to the user
    try:
        yield
    finally:
        lock.release()


def _folders(out: Path, names: Sequence[str]) -> list[Path]:
    """:return: where the results of each environment go: into ``out`` itself if there is only one"""
    own = [out / name.replace("/", "-") for name in names]
    if len(names) == 1 and not (own[0] / "runs").exists():
        return [out]
    if (out / "runs").exists():
        raise ComparisonError(f"{out} holds the results of one environment; those of several need another folder.")
    return own


def _check_number(name: str, value: int, minimum: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ComparisonError(f"{name} must be at least {minimum}, a whole number, not {value!r}.")


def _check_folder(spec: RunSpec) -> None:
    """Results of two environments in one folder could not be told apart afterwards."""
    others = {run.spec.env for run in read_runs(spec.out)} - {spec.env}
    if others:
        raise ComparisonError(
            f"{spec.out} holds runs of {', '.join(sorted(others))}: choose another folder for {spec.env}, as one is for one "
            "environment."
        )


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise ComparisonError(f"jobs must be at least 1 (or None for one a processor core), not {jobs}.")


def _checked_tasks(envs: str | Task | Sequence[str | Task]) -> list[Task]:
    chosen = [envs] if isinstance(envs, str | Task) else list(envs)
    if not chosen:
        raise ComparisonError(f"envs must name at least one environment, not {envs!r}.")
    tasks = [Task(env) if isinstance(env, str) else env for env in chosen]
    names = [env_name(task.env_id).replace("/", "-") for task in tasks]
    if len(set(names)) < len(names):
        raise ComparisonError(f"envs must be different environments, not {', '.join(names)}: their results share a folder.")
    return tasks


def _checked_seeds(seeds: int | Sequence[int]) -> list[int]:
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise ComparisonError(f"seeds must name at least one seed, not {seeds!r}.")
    if any(not isinstance(seed, int) or seed < 0 for seed in chosen) or len(set(chosen)) < len(chosen):
        raise ComparisonError(f"seeds must be different whole numbers from 0 on, not {seeds!r}.")
    return chosen
