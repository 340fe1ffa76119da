"""
Director: a manager sets goals, a worker walks there. What are the goals, and are they reached? Another actor, which follows no
goals, looks for the reward; manager and worker then learn from its episodes and their own. Half an hour of a core.
"""

import argparse
import pathlib

import numpy as np

from sb3_dreamer import Director
from sb3_dreamer.common.goals_callback import GoalCallback

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=30_000)
parser.add_argument("--out", default="runs/goals_in_four_rooms")
args = parser.parse_args()

model = Director(
    "MlpPolicy",
    "envs:FourRooms-v0",
    exploration="state_entropy",  # to go where it has hardly been
    explorer_share=0.5,  # of the episodes, and all before there has been a reward
    intrinsic_coef=1.0,
    extrinsic_coef=3.0,
    prioritized_replay=0.5,  # of the few rows with a reward
    policy_kwargs=dict(world_model_kwargs=dict(reward_scale=0.1)),  # which are not to outweigh all else there is to learn
    batch_size=128,
    batch_length=8,
    train_ratio=512,
    seed=0,
    device="cpu",
)
callback = GoalCallback(every=200)
model.learn(args.total_timesteps, callback=callback, progress_bar=True)
model.save(pathlib.Path(args.out) / "director.zip")
for state, goal in zip(callback.goals["state"]["obs"], callback.goals["goal"]["obs"], strict=True):
    print(f"While it learnt: at {np.round(state, 2)} the manager asked for {np.round(goal, 2)}")

# One episode: a line for every goal, when it is given up for the next
env = model.get_env()
assert env is not None
obs, state, done = env.reset(), None, False
while not done:
    action, state = model.predict(obs, state)
    goal, steps_left = model.decode_goals(state)["obs"][0], state[3][0, 0]
    obs, reward, dones, infos = env.step(action)
    done = bool(dones[0])
    seen = infos[0]["terminal_observation"] if done else obs[0]
    if done or steps_left == 0:
        print(f"wanted {np.round(goal, 2)}, came to {np.round(seen, 2)}", "and to the goal" if reward[0] > 0 else "")
