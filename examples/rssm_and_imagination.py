"""What a recurrent state is for: the velocity is hidden, the RSSM finds it. Then look inside, and dream."""

import argparse
import pathlib

import numpy as np

from sb3_dreamer.world_models import RSSM, VAEWorldModel, collect
from sb3_dreamer.world_models.figures import plot_hidden_states, plot_latent_space, plot_open_loop

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=4000)
parser.add_argument("--updates", type=int, default=1000)
parser.add_argument("--out", default="runs/rssm")
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

# The pendulum shows cos θ and sin θ, but not how fast it turns: one observation does not tell what comes next.
episodes = collect("envs:ContinuousPendulumNoVelocity-v0", policy=None, n_steps=args.steps, seed=0)
train, test = episodes.split(0.2)
models = {}
for kind in (VAEWorldModel, RSSM):
    model = kind.from_spaces(train.observation_space, train.action_space, size="toy", seed=0)
    model.fit(train, updates=args.updates)
    found = model.evaluate(test, horizons=(1, 10), context=10, likelihood_samples=0)
    print(f"{kind.__name__:14} error 1 step ahead {found.mean('nrmse', 1):.3f}, 10 steps ahead {found.mean('nrmse', 10):.3f} "
          "standard deviations")  # fmt: skip
    models[kind] = model
model = models[RSSM]


# Can the velocity be read from its state, although it was never shown? It colours the states.
def velocity(data):
    angles = (np.unwrap(np.arctan2(episode.observations["obs"][:, 1], episode.observations["obs"][:, 0])) for episode in data)
    return np.concatenate([np.gradient(angle) / 0.05 for angle in angles])


plot_latent_space(model, test, color_by=velocity).savefig(out / "latent_space.png", dpi=120)
plot_hidden_states(model, test, episode=0).savefig(out / "hidden_states.png", dpi=120)

# See 20 steps, then dream on with the actions that were taken; five samples show how sure the model is.
plot_open_loop(model, test, episode=0, context=20, horizon=60, samples=5).savefig(out / "open_loop.png", dpi=120)
print(f"Wrote latent_space.png, hidden_states.png and open_loop.png to {out}")
