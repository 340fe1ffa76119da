"""What does the model expect? Compare its dream with what really happens under the same actions."""

import argparse
import pathlib

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sb3_dreamer import Dreamer
from sb3_dreamer.common.callbacks import OpenLoopErrorCallback, plot_open_loop_error

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=1500)
parser.add_argument("--out", default="runs/imagine")
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

model = Dreamer("MlpPolicy", "envs:ContinuousPendulum-v0", seed=0)
errors = OpenLoopErrorCallback(every=args.total_timesteps // 2, horizon=15, figure=False)
model.learn(args.total_timesteps, callback=errors)
plot_open_loop_error(errors.errors).savefig(out / "open_loop_error.png", dpi=120)

# Let it see 20 real steps, then dream 40 while the real pendulum takes the same actions
env = gym.make("envs:ContinuousPendulum-v0")
obs, _ = env.reset(seed=3)
state, seen = None, [obs]
for _ in range(20):
    action, state = model.predict(obs, state, deterministic=True)
    obs, *_ = env.step(action)
    seen.append(obs)
dream = model.imagine(obs, horizon=40, state=state)
real = [obs, *(env.step(action)[0] for action in dream.actions)]

figure, axes = plt.subplots(3, 1, sharex=True, figsize=(6, 6), layout="constrained")
for i, name in enumerate(("cos θ", "sin θ", "angular velocity")):
    axes[i].plot(np.arange(21), np.array(seen)[:, i], color="black")
    axes[i].plot(np.arange(20, 61), np.array(real)[:, i], color="black", label="real")
    axes[i].plot(np.arange(20, 61), dream.observations[:, i], "--", color="tab:red", label="dreamt")
    axes[i].axvline(20, color="grey", linewidth=0.8)
    axes[i].set_ylabel(name)
axes[0].legend()
axes[2].set_xlabel("step")
figure.savefig(out / "dream.png", dpi=120)
print(f"Wrote {out / 'dream.png'} and {out / 'open_loop_error.png'}")
