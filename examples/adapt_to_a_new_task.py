"""Learn to learn: pendulums of unknown mass and length, two episodes each; what the first one told is known in the second."""

import argparse
import pathlib

import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env

from envs import MetaPendulumEnv, TrialWrapper
from sb3_dreamer import Dreamer
from sb3_dreamer.world_models import ContextRSSM

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=40_000)
parser.add_argument("--out", default="runs/adapt_to_a_new_task")
args = parser.parse_args()


def trials(**task: tuple[float, float]) -> TrialWrapper:
    """Two episodes of a task that is drawn anew for every trial."""
    return TrialWrapper(TimeLimit(MetaPendulumEnv(**task), 200), episodes=2)


model = Dreamer(
    "MultiInputPolicy",  # the observation is a dictionary that tells of trials
    make_vec_env(trials, n_envs=4, seed=0),
    policy_kwargs=dict(world_model_class=ContextRSSM),
    batch_length=48,  # windows that cross from one episode into the next
    batch_size=16,
    seed=0,
    device="cpu",
)
model.learn(args.total_timesteps, progress_bar=True)
model.save(pathlib.Path(args.out) / "meta_pendulum.zip")

# A pendulum that it has not met: nothing is told, no weight changes
env, state, returns = trials(mass=(1.7, 1.7), length=(0.7, 0.7)), None, []
for _ in range(2):
    obs, _ = env.reset()
    start, over = np.array([True]), False
    returns.append(0.0)
    while not over:
        action, state = model.predict(obs, state, start, deterministic=True)  # the context is a part of the state
        obs, reward, terminated, truncated, _ = env.step(action)
        start, over = np.array([False]), terminated or truncated
        returns[-1] += float(reward)
print(f"Return in the first episode {returns[0]:.0f}, in the second {returns[1]:.0f}")
