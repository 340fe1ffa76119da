"""An encoder of one's own: any SB3 features extractor becomes the world model's encoder, learnt from all of its losses."""

import argparse

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_dreamer import Dreamer

BEAMS = 24


class Lidar(gym.Env):
    """Keep away from the walls of a round room: distances in a ring of directions, in which a shift is a rotation."""

    observation_space = gym.spaces.Box(0.0, 2.0, (BEAMS,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        angle, radius = self.np_random.uniform(0, 2 * np.pi), self.np_random.uniform(0.4, 0.8)
        self.position = radius * np.array([np.cos(angle), np.sin(angle)])
        return self._distances(), {}

    def step(self, action):
        self.position = np.clip(self.position + 0.1 * np.clip(action, -1, 1), -0.69, 0.69)
        return self._distances(), -float(np.linalg.norm(self.position)), False, False, {}

    def _distances(self):
        angle = 2 * np.pi * np.arange(BEAMS) / BEAMS
        along = self.position[0] * np.cos(angle) + self.position[1] * np.sin(angle)
        return (np.sqrt(along**2 + 1 - self.position @ self.position) - along).astype(np.float32)


class RingConvolution(BaseFeaturesExtractor):
    def __init__(self, observation_space, channels=8):
        super().__init__(observation_space, features_dim=channels * BEAMS // 4)
        self.net = th.nn.Sequential(
            th.nn.Conv1d(1, channels, 5, stride=2, padding=2, padding_mode="circular"),
            th.nn.SiLU(),
            th.nn.Conv1d(channels, channels, 5, stride=2, padding=2, padding_mode="circular"),
            th.nn.SiLU(),
            th.nn.Flatten(),
        )

    def forward(self, observations):
        return self.net(observations.unsqueeze(1))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=800)
args = parser.parse_args()
gym.register("Lidar-v0", entry_point=Lidar, max_episode_steps=30)
policy_kwargs = dict(features_extractor_class=RingConvolution, features_extractor_kwargs=dict(channels=8))
model = Dreamer("MlpPolicy", "Lidar-v0", policy_kwargs=policy_kwargs, seed=0).learn(args.total_timesteps)
mean, _ = evaluate_policy(model, gym.make("Lidar-v0"), n_eval_episodes=10, warn=False)
print(f"Return after {args.total_timesteps} steps {mean:.1f} (standing still: about -18)")
