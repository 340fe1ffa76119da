"""
Dreamer with the settings that ``python -m sb3_dreamer.zoo`` ships, on Gymnasium's classic control.

``python benchmarks/classic_control.py [--tasks ...] [--jobs 2]`` runs what is missing under
``benchmarks/results/classic_control`` (evaluations, statistics with settings, versions and processor, curves) and prints
the table. Every run has one torch thread. Steps are those of the agent: behind a wrapper that repeats actions, each is
several of the task's own. ``tuning.csv`` there: what was tried before, on seed 100 (and the first try of
``MountainCarContinuous-v0`` on seeds 0 and 1, which made its random phase longer).
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from rl_zoo3.utils import get_wrapper_class
from shared import number, parse_arguments

from sb3_dreamer.compare import compare
from sb3_dreamer.zoo import ALGORITHMS

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "classic_control"
# return at which the task counts as solved, steps between evaluations, and seeds
TASKS: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(threshold=475, eval_every=250, seeds=3),
    "Acrobot-v1": dict(threshold=-100, eval_every=500, seeds=3),
    "Pendulum-v1": dict(threshold=-200, eval_every=250, seeds=3),
    "MountainCarContinuous-v0": dict(threshold=90, eval_every=250, seeds=3),
    "MountainCar-v0": dict(threshold=-110, eval_every=500, seeds=3),
}
SETTINGS: dict[str, dict[str, Any]] = yaml.safe_load(ALGORITHMS["dreamer"].hyperparams.read_text())


def wrapped(env_id: str) -> Callable[..., gym.Env]:
    """
    :param env_id: a task of the shipped settings
    :return: makes it as the zoo does, in its wrapper if it has one
    """
    wrapper = get_wrapper_class(SETTINGS[env_id])

    def make(**kwargs: Any) -> gym.Env:
        env = gym.make(env_id, **kwargs)
        return env if wrapper is None else wrapper(env)

    return make


# By these ids, "classic_control:Zoo/CartPole-v1" (this module first), each run finds the task in a process of its own.
for task in TASKS:
    if f"Zoo/{task}" not in gym.registry:  # read once as the script, once by that name
        gym.register(id=f"Zoo/{task}", entry_point=wrapped(task))


def run(env_id: str, jobs: int) -> None:
    """
    :param env_id: one of ``TASKS``
    :param jobs: processes at once
    """
    settings = {key: value for key, value in SETTINGS[env_id].items() if key not in ("n_timesteps", "env_wrapper")}
    if isinstance(settings.get("policy_kwargs"), str):
        settings["policy_kwargs"] = eval(settings["policy_kwargs"])  # as the zoo reads it
    compare(
        f"classic_control:Zoo/{env_id}",
        algos=["dreamer"],
        total_timesteps=int(SETTINGS[env_id]["n_timesteps"]),
        out=RESULTS / env_id,
        jobs=jobs,
        hyperparams={"dreamer": settings},
        **TASKS[env_id],
    )


def table(names: list[str]) -> str:
    """
    :param names: keys of ``TASKS``
    :return: Markdown, from the summaries on disk
    """
    lines = ["| task | seeds | steps to threshold | CPU seconds to it | last evaluations |", "|---|---|---|---|---|"]
    for name in names:
        path = RESULTS / name / "summary.json"
        if not path.exists():
            continue
        summary = json.loads(path.read_text())
        entry = summary["algorithms"]["dreamer"]
        steps, cpu, final = entry["steps_to_threshold"], entry["cpu_seconds_to_threshold"], entry["final_return"]
        lines.append(
            f"| {name} (≥ {summary['threshold']:g}) | {len(entry['seeds'])} | {number(steps['median'])} "
            f"({number(steps['worst'])}) | {number(cpu['median'])} ({number(cpu['worst'])}) "
            f"| {final['median']:.1f} ({final['min']:.1f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    args = parse_arguments(__doc__, TASKS)
    # The runs' processes import this file by its name.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    for name in args.tasks if not args.table_only else []:
        run(name, args.jobs)
    print(table(args.tasks))


if __name__ == "__main__":
    main()
