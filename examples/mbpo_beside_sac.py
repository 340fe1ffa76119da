"""The same agent, once with nothing but real steps and once with dreams between them."""

import argparse
import pathlib

from sb3_dreamer.compare import compare

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=1500)
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--out", default="runs/mbpo_beside_sac")
args = parser.parse_args()

result = compare(
    "ContinuousPendulum-v0",
    algos=["mbpo", "sac"],
    seeds=args.seeds,
    total_timesteps=args.total_timesteps,
    eval_every=max(1, args.total_timesteps // 6),
    n_eval_episodes=5,
    out=pathlib.Path(args.out),
)
print(result.table())
