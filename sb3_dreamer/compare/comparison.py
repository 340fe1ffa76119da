"""The comparison as a function: check the request, run what is missing, report."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_dreamer.compare import settings
from sb3_dreamer.compare.environments import check_env, env_name
from sb3_dreamer.compare.errors import ComparisonError, require
from sb3_dreamer.compare.jobs import FailedRun, available_cpus, run_jobs
from sb3_dreamer.compare.plots import plot_curves
from sb3_dreamer.compare.progress import make_progress
from sb3_dreamer.compare.records import FinishedRun, Row, RunSpec, discard, read_finished, write_json, write_rows
from sb3_dreamer.compare.report import format_table, summarize

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison found, in memory and in ``out``."""

    env: str
    out: Path
    rows: tuple[Row, ...]  # every evaluation of every finished run
    summary: Mapping[str, Any]  # the content of summary.json
    failed: tuple[FailedRun, ...]

    @property
    def results_path(self) -> Path:
        return self.out / "results.csv"

    @property
    def summary_path(self) -> Path:
        return self.out / "summary.json"

    @property
    def curves_path(self) -> Path:
        return self.out / "curves.png"

    @property
    def complete(self) -> bool:
        """Whether every run has reached its end."""
        return not self.summary["partial"]

    def table(self) -> str:
        """:return: the algorithms side by side, to print"""
        return format_table(self.summary)

    def dataframe(self) -> "pandas.DataFrame":
        """:return: ``rows`` for pandas"""
        require("pandas")
        import pandas

        return pandas.DataFrame(self.rows)


def compare(
    env_id: str,
    algos: Sequence[str] = ("dreamer", "sac", "ppo"),
    seeds: int | Sequence[int] = 3,
    total_timesteps: int = 5000,
    out: str | Path = "runs/comparison",
    eval_every: int | None = None,
    n_eval_episodes: int = 20,
    jobs: int | None = 1,
    threshold: float | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    hyperparams: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: bool = True,
) -> ComparisonResult:
    """
    Train several algorithms on one task, each with several seeds, and put the results side by side.

    Each run is a process of its own with one torch thread. Its policy is evaluated before training, every
    ``eval_every`` steps and at the end, deterministically and always from the same starts; evaluation neither changes
    the training nor counts in its time. ``out`` gets ``results.csv``, ``summary.json`` and ``curves.png``; ``out/runs``
    the single runs, with the episodes of their training, and ``out/logs`` what they print. Called again after an
    interruption, it carries out only what is missing.

    :param env_id: Gymnasium id; a task that another package registers is ``"package:Name-v0"``
    :param algos: names of the algorithms, see :func:`~sb3_dreamer.compare.algorithm_names`
    :param seeds: number of seeds (0, 1, …), or the seeds themselves
    :param total_timesteps: environment steps of each run
    :param out: folder of the results
    :param eval_every: environment steps between two evaluations, by default a twentieth of the run
    :param n_eval_episodes: episodes of each evaluation
    :param jobs: processes at once, None for one a processor core
    :param threshold: evaluation return at which the task counts as solved, by default the task's own
    :param env_kwargs: keyword arguments for ``gymnasium.make``
    :param hyperparams: settings by algorithm that win over the tuned ones, ``{"sac": {"batch_size": 64}}``
    :param device: torch device of the runs
    :param overwrite: forget what earlier runs of these algorithms and seeds left in ``out``
    :param progress: show live progress
    :return: the evaluations, their summary, and the runs that failed
    """
    require("matplotlib", *(("rich",) if progress else ()))
    if isinstance(algos, str) or not algos or len(set(algos)) < len(algos):
        raise ComparisonError(f"algos must be a list of different algorithms, not {algos!r}.")
    _check_numbers(total_timesteps, eval_every, n_eval_episodes, jobs)
    action_space, default_threshold = check_env(env_id, env_kwargs)
    threshold = default_threshold if threshold is None else threshold
    for algo in algos:
        settings.load_algorithm(algo)
        settings.check_action_space(algo, action_space, env_name(env_id))
    overrides = hyperparams or {}
    unused = [algo for algo in overrides if algo not in algos]
    if unused:
        raise ComparisonError(f"hyperparams for {', '.join(unused)}, but the algorithms are {', '.join(algos)}.")
    specs = [
        RunSpec(
            env_id=env_id,
            env_kwargs=dict(env_kwargs or {}),
            algo=algo,
            seed=seed,
            total_timesteps=total_timesteps,
            eval_every=max(1, round(total_timesteps / 20)) if eval_every is None else eval_every,
            n_eval_episodes=n_eval_episodes,
            hyperparameters=settings.hyperparameters(algo, env_name(env_id), total_timesteps, overrides.get(algo)),
            device=device,
            out=Path(out),
        )
        # All algorithms with the first seed come first: interrupted early, there is already something to compare.
        for seed in _checked_seeds(seeds)
        for algo in algos
    ]
    if overwrite:
        for spec in specs:
            discard(spec)
    return _run(specs, threshold, available_cpus() if jobs is None else jobs, progress)


def _run(specs: Sequence[RunSpec], threshold: float | None, jobs: int, show: bool) -> ComparisonResult:
    """Carry out the runs that have not finished; report, whatever happens on the way."""
    missing = [spec for spec in specs if read_finished(spec) is None]  # before anything starts: it may refuse
    failed: list[FailedRun] = []
    try:
        with make_progress(show, len(specs), specs[0].total_timesteps) as progress:
            for spec in specs:
                if spec not in missing:
                    progress.skipped(spec)
            # The files grow with each run, so that they are there even if this process is killed.
            failed = run_jobs(missing, jobs, progress, on_finished=lambda: _report(specs, threshold))
    finally:
        result = _report(specs, threshold, failed, plot=True)
    if failed:
        logs = ", ".join(str(run.log) for run in failed)
        warnings.warn(f"{len(failed)} of {len(specs)} runs failed, see {logs}", stacklevel=3)
    return result


def _report(
    specs: Sequence[RunSpec], threshold: float | None, failed: Sequence[FailedRun] = (), plot: bool = False
) -> ComparisonResult:
    """Write the results of the runs that have finished."""
    finished: list[FinishedRun] = []
    algos = list(dict.fromkeys(spec.algo for spec in specs))
    for spec in sorted(specs, key=lambda spec: algos.index(spec.algo)):
        run = read_finished(spec)
        if run is not None:
            finished.append(run)
    done = {run.spec.label for run in finished}
    env, out = env_name(specs[0].env_id), specs[0].out
    missing = [spec.label for spec in specs if spec.label not in done]
    summary = summarize(env, algos, threshold, finished, missing)
    rows = tuple(row for run in finished for row in run.rows)
    result = ComparisonResult(env, out, rows, summary, tuple(failed))
    write_rows(result.results_path, rows)
    write_json(result.summary_path, summary)
    if plot and finished:
        title = f"{env} (partial: {len(finished)} of {len(specs)} runs)" if missing else env
        plot_curves(result.curves_path, finished, title, threshold)
    return result


def _check_numbers(total_timesteps: int, eval_every: int | None, n_eval_episodes: int, jobs: int | None) -> None:
    for name, value in (("total_timesteps", total_timesteps), ("n_eval_episodes", n_eval_episodes)):
        if value < 1:
            raise ComparisonError(f"{name} must be at least 1, not {value}.")
    if eval_every is not None and not 1 <= eval_every <= total_timesteps:
        raise ComparisonError(f"eval_every must be from 1 to total_timesteps ({total_timesteps}), not {eval_every}.")
    if jobs is not None and jobs < 1:
        raise ComparisonError(f"jobs must be at least 1 (or None for one a processor core), not {jobs}.")


def _checked_seeds(seeds: int | Sequence[int]) -> list[int]:
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise ComparisonError(f"seeds must name at least one seed, not {seeds!r}.")
    if any(not isinstance(seed, int) or seed < 0 for seed in chosen) or len(set(chosen)) < len(chosen):
        raise ComparisonError(f"seeds must be different whole numbers from 0 on, not {seeds!r}.")
    return chosen
