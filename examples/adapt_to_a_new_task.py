"""Learn to learn: one of four buttons pays; what is found out in a trial's first episode is known in its second."""

import argparse
import pathlib

import numpy as np
from stable_baselines3.common.env_util import make_vec_env

from sb3_dreamer import Dreamer
from sb3_dreamer.world_models import ContextRSSM

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=2500)
parser.add_argument("--out", default="runs/adapt_to_a_new_task")
args = parser.parse_args()

TRIALS = "envs:MetaButtonsTrial-v0"  # two episodes with the same button, which is never told; then another one

model = Dreamer(
    "MultiInputPolicy",  # the observation is a dictionary that tells of trials
    make_vec_env(TRIALS, n_envs=4, seed=0),
    policy_kwargs=dict(world_model_class=ContextRSSM),
    batch_length=32,  # windows that cross from one episode into the next
    batch_size=16,
    train_ratio=256,
    seed=0,
    device="cpu",
)
model.learn(args.total_timesteps, progress_bar=True)
model.save(pathlib.Path(args.out) / "meta_buttons.zip")

# A hundred trials of buttons that it is not told: no weight changes
n, length = 100, 6
env, state, returns = make_vec_env(TRIALS, n, seed=10_000), None, np.zeros(2)
obs, starts = env.reset(), np.ones(n, dtype=bool)
for step in range(2 * length):
    action, state = model.predict(obs, state, starts, deterministic=True)  # the context is a part of the state
    obs, reward, starts, _ = env.step(action)
    returns[step // length] += reward.mean()
print(f"Mean return in the first episode {returns[0]:.1f}, in the second {returns[1]:.1f}")
print("Who presses none twice in vain gets 4.5 in the first; who remembers, 6 in the second.")
