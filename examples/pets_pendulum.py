"""PETS: no policy at all, only a model and a planner. It swings the pendulum up after three episodes."""

import argparse
import pathlib

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import PETS

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=600)
parser.add_argument("--episodes", type=int, default=3)
parser.add_argument("--out", default="runs/pets_pendulum")
args = parser.parse_args()
out = pathlib.Path(args.out)

model = PETS("MlpPolicy", "envs:ContinuousPendulum-v0", seed=0, device="cpu")
model.learn(args.total_timesteps, progress_bar=True)
model.save(out / "pets_pendulum.zip")
print("Returns while it learnt:", *(round(info["r"]) for info in model.ep_info_buffer or []))

mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=args.episodes)
print(f"{args.episodes} episodes after {model.num_timesteps} steps: {mean:.0f} ± {deviation:.0f} (perfect: about -134)")
