"""The engines by their names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.jobs import Engine, LocalEngine
from sb3_dreamer.compare.machine import available_cpus

ENGINES = ("local", "ray", "slurm")


def make_engine(name: str, jobs: int | None, gpus_per_run: float, slurm: Mapping[str, Any] | None, out: Path) -> Engine:
    """
    :param name: one of ``ENGINES``
    :param jobs: runs at once, None for as many as there is room for
    :param gpus_per_run: GPUs that each run asks for
    :param slurm: parameters of Slurm's jobs
    :param out: folder of the results
    :return: the engine, ready to start runs
    :raises ComparisonError: there is none of this name, or the request is not for it
    :raises ImportError: it needs a package that is not installed
    """
    if name not in ENGINES:
        raise ComparisonError(f"Unknown engine {name!r}. There are: {', '.join(ENGINES)}.")
    if slurm and name != "slurm":
        raise ComparisonError(f"slurm={dict(slurm)} is for engine='slurm', not {name!r}.")
    if name == "local":
        if gpus_per_run:
            raise ComparisonError(
                f"gpus_per_run={gpus_per_run} is for the engines ray and slurm, which hand GPUs out; processes here "
                "share the one that device names."
            )
        return LocalEngine(available_cpus() if jobs is None else jobs)
    if name == "ray":
        from sb3_dreamer.compare.ray_engine import RayEngine

        return RayEngine(jobs, gpus_per_run)
    from sb3_dreamer.compare.slurm_engine import SlurmEngine

    return SlurmEngine(out, jobs, gpus_per_run, slurm)
