"""
Dreamer with its default settings on the toy tasks, beside SB3's baselines: the table in README.

``python benchmarks/toy_tasks.py [--tasks ...] [--jobs 2]`` runs what is missing under ``benchmarks/results/toy`` (evaluations,
statistics with settings, versions and processor, curves) and prints the table. Every run has one torch thread.
"""

import json
from pathlib import Path
from typing import Any

from shared import number, parse_arguments

from sb3_dreamer.compare import compare

RESULTS = Path(__file__).parent / "results" / "toy"
TASKS: dict[str, dict[str, Any]] = {
    "ContinuousPendulum-v0": dict(algos=["dreamer"], seeds=5, total_timesteps=4000),
    "ContinuousCartPole-v0": dict(algos=["dreamer"], seeds=3, total_timesteps=2750),
    "ContinuousPendulumNoVelocity-v0": dict(algos=["dreamer"], seeds=3, total_timesteps=3250),
    "SequenceMemory-v0": dict(algos=["dreamer"], seeds=3, total_timesteps=2500),
    "DelayedRecall-v0": dict(algos=["dreamer"], seeds=3, total_timesteps=8000, eval_every=250, n_eval_episodes=60),
    "ContinuousPendulumPixels-v0": dict(algos=["dreamer"], seeds=3, total_timesteps=3500, eval_every=250),
    # baselines, on folders of their own as they run longer
    "ContinuousPendulum-v0/sac": dict(algos=["sac"], seeds=5, total_timesteps=5000),
    "ContinuousPendulum-v0/ppo": dict(algos=["ppo"], seeds=3, total_timesteps=50_000, eval_every=2500),
    # the published settings with the learning rate and its warm-up scaled for a short run
    "ContinuousPendulum-v0/dreamer_v3": dict(
        algos=["dreamer_v3"],
        seeds=1,
        total_timesteps=2500,
        hyperparams={"dreamer_v3": dict(learning_rate=6e-4, warmup_updates=100, buffer_size=10_000)},
    ),
}


def main() -> None:
    """Run what is missing and print the table."""
    args = parse_arguments(__doc__, TASKS)
    for name in args.tasks if not args.table_only else []:
        settings = {"eval_every": 125, **TASKS[name]}
        compare(name.split("/")[0], out=RESULTS / name.replace("/", "-"), jobs=args.jobs, **settings)
    print(table(args.tasks))


def table(names: list[str]) -> str:
    """
    :param names: keys of ``TASKS``
    :return: Markdown, from the summaries on disk
    """
    lines = [
        "| task | algorithm | seeds | steps to threshold: median (worst) | CPU seconds to it | then: mean / worst evaluation "
        "| last evaluation: median (worst) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        path = RESULTS / name.replace("/", "-") / "summary.json"
        if not path.exists():
            continue
        summary = json.loads(path.read_text())
        for algo, entry in summary["algorithms"].items():
            steps, cpu, after = entry["steps_to_threshold"], entry["cpu_seconds_to_threshold"], entry["after_threshold"]
            final = entry["final_return"]
            cost = f"{number(cpu['median'])} ({number(cpu['worst'])})"
            lines.append(
                f"| {name.split('/')[0]} (≥ {summary['threshold']:g}) | {algo} | {len(entry['seeds'])} "
                f"| {number(steps['median'])} ({number(steps['worst'])}) | {cost} "
                f"| {number(after['mean'], 2)} / {number(after['worst'], 2)} "
                f"| {number(final['median'], 2)} ({number(final['min'], 2)}) |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
