"""The comparison of one environment as a function."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_dreamer.compare.benchmark import Benchmark
from sb3_dreamer.compare.results import ComparisonResult


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
    Train several algorithms on one task, each with several seeds, on this machine: a :class:`Benchmark` of one environment.

    :param env_id: Gymnasium id; a task that another package registers is ``"package:Name-v0"``
    :param algos: names of the algorithms, see :class:`Benchmark`
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
    benchmark = Benchmark(
        env_id,
        algos=algos,
        seeds=seeds,
        total_timesteps=total_timesteps,
        out=out,
        eval_every=eval_every,
        n_eval_episodes=n_eval_episodes,
        threshold=threshold,
        env_kwargs=env_kwargs,
        hyperparams=hyperparams,
        device=device,
    )
    (result,) = benchmark.run(jobs=jobs, overwrite=overwrite, progress=progress).results.values()
    return result
