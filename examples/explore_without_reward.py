"""First the world, then the task: explore a mountain car without its reward, then learn to climb from what was seen."""

import argparse
import pathlib

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import Dreamer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=4000)
parser.add_argument("--updates", type=int, default=2000)
parser.add_argument("--out", default="runs/explore_without_reward")
args = parser.parse_args()

model = Dreamer(
    "MlpPolicy",
    "MountainCarContinuous-v0",
    exploration="plan2explore",
    extrinsic_coef=0.0,  # curiosity alone
    train_ratio=256,  # an update every other step
    seed=0,
    device="cpu",
)
model.learn(args.total_timesteps, progress_bar=True)
assert model.replay_buffer is not None
seen = np.concatenate([rows.observations["obs"] for rows in model.replay_buffer.streams()])
print(f"Without a reward it has been from {seen[:, 0].min():.2f} to {seen[:, 0].max():.2f} (the goal is at 0.45)")

# A task, given afterwards: be on top, with as little force as possible
model.adapt(args.updates, lambda obs, action, after: 100.0 * (after[:, 0] >= 0.45) - 0.1 * action[:, 0] ** 2)
model.save(pathlib.Path(args.out) / "mountain_car.zip")
print("Return with the task:", evaluate_policy(model, model.get_env(), n_eval_episodes=3))
