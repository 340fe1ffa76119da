"""
Bytes of memory per transition, beside SB3's ReplayBuffer: ``python benchmarks/replay_memory.py`` prints the table and
records it in ``benchmarks/results/replay_memory.md``. Ours counts the row of an episode's last observation, for episodes of
200 steps. The latent states of size "toy" are in ours; SB3's has none.
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_dreamer import Dreamer

EPISODE = 200
SIZE = 1000
OBSERVATIONS = {
    "vector of 3 numbers": spaces.Box(-np.inf, np.inf, (3,)),
    "image 64x64x3": spaces.Box(0, 255, (3, 64, 64), dtype=np.uint8),
}


def main() -> None:
    """Measure, print and record."""
    lines = [
        "| observation | ours: bytes per transition | SB3's ReplayBuffer | SB3's with optimize_memory_usage |",
        "|---|---|---|---|",
    ]
    for name, space in OBSERVATIONS.items():
        env = gym.Env()
        env.observation_space, env.action_space = space, spaces.Box(-1, 1, (1,))
        policy = "CnnPolicy" if len(space.shape) == 3 else "MlpPolicy"
        replay = Dreamer(policy, env, buffer_size=SIZE, device="cpu").replay_buffer
        assert replay is not None
        ours = replay.row_bytes * (EPISODE + 1) / EPISODE
        lines.append(f"| {name} | {ours:.0f} | {_sb3(space, False):.0f} | {_sb3(space, True):.0f} |")
    table = "\n".join(lines)
    print(table)
    (Path(__file__).parent / "results" / "replay_memory.md").write_text(table + "\n")


def _sb3(space: spaces.Box, compact: bool) -> float:
    buffer = ReplayBuffer(
        SIZE,
        space,
        spaces.Box(-1, 1, (1,)),
        device="cpu",
        optimize_memory_usage=compact,
        handle_timeout_termination=not compact,
    )
    arrays = [buffer.observations, buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts]
    arrays += [] if compact else [buffer.next_observations]
    return sum(array.nbytes for array in arrays) / SIZE


if __name__ == "__main__":
    main()
