"""What a model does not know: an ensemble that has seen half of the pendulum's states, and how sure it is everywhere."""

import argparse
import pathlib

import numpy as np

from sb3_dreamer.uncertainty import Temperature, judge_uncertainty, plot_uncertainty_map
from sb3_dreamer.world_models import EnsembleWorldModel, collect

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=4000)
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--out", default="runs/uncertainty_map")
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)


def torque(obs: np.ndarray) -> np.ndarray:
    """Push against the motion, with noise: the pendulum hangs about, and is never seen upright."""
    return np.clip(rng.normal(0.0, 1.0, 1) - 0.5 * obs[2], -2.0, 2.0)


rng = np.random.default_rng(0)
train, test = collect("envs:ContinuousPendulum-v0", torque, args.steps, seed=0).split(0.2)
model = EnsembleWorldModel.from_spaces(train.observation_space, train.action_space, seed=0)
model.fit(train, epochs=args.epochs, progress_bar=True)

# How good its uncertainty is where it has been, before and after one factor an output puts it right
found, truth = model.predict_dataset(test)
print(judge_uncertainty(found.mean, found.aleatoric, found.epistemic, truth, model.outputs).table())
print("Temperatures:", Temperature.fit(found.mean, found.std, truth).factors.round(2))

angles, velocities = np.linspace(-np.pi, np.pi, 61), np.linspace(-8, 8, 41)
angle, velocity = np.meshgrid(angles, velocities)
obs = np.stack([np.cos(angle), np.sin(angle), velocity], axis=-1).reshape(-1, 3).astype(np.float32)
unknown = np.sqrt(model.predict(obs, np.zeros((len(obs), 1), dtype=np.float32)).epistemic[:, -1]).reshape(angle.shape)
seen = train.observations["obs"]
seen = np.stack([np.arctan2(seen[:, 1], seen[:, 0]), seen[:, 2]], axis=-1)
labels = ("angle (0: upright)", "velocity", "epistemic deviation of the next velocity")
plot_uncertainty_map(angles, velocities, unknown, seen, labels).savefig(out / "uncertainty_map.png")
print(f"The map is in {out / 'uncertainty_map.png'}")
