"""SAC that never touches the pendulum: it is trained inside a model learnt from random episodes, then tried for real."""

import argparse
import pathlib

from stable_baselines3 import SAC

from sb3_dreamer.world_models import MLPWorldModel, collect

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=5000)
parser.add_argument("--updates", type=int, default=2000)
parser.add_argument("--dream-steps", type=int, default=20_000)
parser.add_argument("--out", default="runs/train_in_a_dream")
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

train = collect("envs:ContinuousPendulum-v0", policy=None, n_steps=args.steps, seed=0)
model = MLPWorldModel.from_spaces(train.observation_space, train.action_space, seed=0)
model.fit(train, updates=args.updates, progress_bar=True)
model.save(out / "model.pt")

# Eight dreams side by side, each of 50 steps from a state that was really seen: short ones stay true
dreams = model.as_env(train, n_envs=8, max_episode_steps=50, start_from="any", seed=0)
agent = SAC("MlpPolicy", dreams, learning_rate=1e-3, gradient_steps=4, seed=0)
agent.learn(args.dream_steps, progress_bar=True)
agent.save(out / "sac.zip")

real = collect("envs:ContinuousPendulum-v0", agent, n_steps=4000, seed=1, deterministic=True).episode_returns()
print(f"Random: {train.episode_returns().mean():.0f} an episode. After the dream, for real: {real.mean():.0f} "
      f"(worst of {len(real)}: {real.min():.0f})")  # fmt: skip
