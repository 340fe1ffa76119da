"""Dreamer, SAC and PPO side by side on the pendulum: returns, steps to a solution, CPU time, learning curves.

Run from a shell, the same is
``python -m sb3_dreamer.compare run --env ContinuousPendulum-v0 --algos dreamer sac ppo --seeds 3 --out runs/pendulum``.
Interrupt it whenever you like: started again, it goes on with what is missing.
"""

import argparse

from sb3_dreamer.compare import compare

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--total-timesteps", type=int, default=5000, help="environment steps of each run")
parser.add_argument("--seeds", type=int, default=3, help="runs of each algorithm")
parser.add_argument("--jobs", type=int, default=1, help="runs at once")
parser.add_argument("--out", default="runs/pendulum", help="folder of the results")

if __name__ == "__main__":
    arguments = parser.parse_args()
    result = compare(
        "envs:ContinuousPendulum-v0",
        algos=("dreamer", "sac", "ppo"),
        seeds=arguments.seeds,
        total_timesteps=arguments.total_timesteps,
        jobs=arguments.jobs,
        out=arguments.out,
    )
    print(result.table())
    print(f"Curves: {result.curves_path}, every evaluation: {result.results_path}")
    # The numbers behind the table, for a script of one's own:
    for algo, entry in result.summary["algorithms"].items():
        print(f"{algo} first reaches {result.summary['threshold']:g} after {entry['steps_to_threshold']['median']} steps")
