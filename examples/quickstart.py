"""Train Dreamer on the pendulum, watch it learn, save it, load it, and use it: exactly as PPO or SAC."""

import argparse

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import Dreamer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=2000)
parser.add_argument("--out", default="runs/quickstart")
args = parser.parse_args()
torch.set_num_threads(1)  # the networks are small: more threads only wait for each other

model = Dreamer("MlpPolicy", "envs:ContinuousPendulum-v0", seed=0, verbose=1)
model.learn(args.total_timesteps, progress_bar=True)
model.save(f"{args.out}/dreamer_pendulum")

model = Dreamer.load(f"{args.out}/dreamer_pendulum")
env = make_vec_env("envs:ContinuousPendulum-v0", 10, seed=1000)
mean, std = evaluate_policy(model, env, n_eval_episodes=20)
print(f"Return of 20 episodes: {mean:.1f} ± {std:.1f} (about -134 is perfect)")

# predict() carries the model's memory from step to step
obs, state, starts = env.reset(), None, None
for _ in range(200):
    action, state = model.predict(obs, state, starts, deterministic=True)
    obs, reward, starts, info = env.step(action)
