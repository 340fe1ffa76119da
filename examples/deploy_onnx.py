"""Write a trained agent to one ONNX file, and act from that file: without torch, and several times faster."""

import argparse
import pathlib
import time
from typing import Any

import gymnasium as gym
import torch

from sb3_dreamer import Dreamer
from sb3_dreamer.export import OnnxPolicy, export_onnx

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=1500)
parser.add_argument("--out", default="runs/deploy")
args = parser.parse_args()
torch.set_num_threads(1)
path = pathlib.Path(args.out) / "dreamer_pendulum.onnx"

model = Dreamer("MlpPolicy", "envs:ContinuousPendulum-v0", seed=0)
model.learn(args.total_timesteps)
export_onnx(model, path)  # compares the file with the model as well

# Elsewhere, with numpy and onnxruntime alone, this class is in the file sb3_dreamer/onnx_policy.py, to be copied
policy = OnnxPolicy(path)
print({name: value for name, value in policy.metadata.items() if name.endswith(("algorithm", "version", "space"))})


def run_episode(agent: Any) -> tuple[float, float]:
    """Return of one episode, and milliseconds an action."""
    env = gym.make("envs:ContinuousPendulum-v0")
    obs, _ = env.reset(seed=1)
    state, total, seconds, steps, over = None, 0.0, 0.0, 0, False
    while not over:
        begun = time.perf_counter()
        action, state = agent.predict(obs, state, deterministic=True)
        seconds += time.perf_counter() - begun
        obs, reward, terminated, truncated, _ = env.step(action)
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    return total, 1000 * seconds / steps


for name, agent in (("model", model), ("file", policy)):
    total, milliseconds = run_episode(agent)
    print(f"{name}: return {total:.2f}, {milliseconds:.2f} ms an action")
