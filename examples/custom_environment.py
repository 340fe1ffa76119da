"""Dreamer on an environment of one's own: steer a boat to a buoy against a current that cannot be seen."""

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import Dreamer


class Boat(gym.Env):
    """Observation: the way to the buoy (2 numbers). Action: thrust (2 numbers). Each episode has its own current."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, 2)
        self.current = self.np_random.uniform(-0.5, 0.5, 2)
        return self._way(), {}

    def step(self, action):
        self.position = np.clip(self.position + 0.2 * (np.clip(action, -1, 1) + self.current), -10, 10)
        distance = float(np.linalg.norm(self.position))
        return self._way(), -distance, False, False, {}

    def _way(self):
        return -self.position.astype(np.float32)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=1500)
args = parser.parse_args()

gym.register("Boat-v0", entry_point=Boat, max_episode_steps=50)  # the time limit is a truncation, not an end
model = Dreamer("MlpPolicy", "Boat-v0", seed=0)
before, _ = evaluate_policy(model, gym.make("Boat-v0"), n_eval_episodes=10, warn=False)
model.learn(args.total_timesteps)
after, _ = evaluate_policy(model, gym.make("Boat-v0"), n_eval_episodes=10, warn=False)
print(f"Return before learning {before:.1f}, after {args.total_timesteps} steps {after:.1f}")
