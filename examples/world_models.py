"""World models without an agent: collect random episodes, fit three kinds of model, see which understood the pendulum."""

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sb3_dreamer.world_models import RSSM, MLPWorldModel, VAEWorldModel, collect

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=4000)
parser.add_argument("--updates", type=int, default=800)
parser.add_argument("--out", default="runs/world_models")
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

# 1. Data: what happens if one does anything at all. Whole episodes are kept apart to judge by.
episodes = collect("envs:ContinuousPendulum-v0", policy=None, n_steps=args.steps, seed=0)
train, test = episodes.split(0.2)
train.save(out / "train.npz")
print(f"{train.n_steps} transitions to learn from, {test.n_steps} to judge by")

# 2. Three ideas of what a model is:
#    MLP:  the observation is the state, learn how it changes;
#    VAE:  compress the observation into a latent state, learn how that changes;
#    RSSM: a recurrent state that also remembers what the newest observation does not show.
horizons = (1, 5, 10, 20, 40)
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for kind in (MLPWorldModel, VAEWorldModel, RSSM):
    model = kind.from_spaces(train.observation_space, train.action_space, size="toy", seed=0)
    history = model.fit(train, updates=args.updates)

    # 3. Judge: dream from held-out episodes with the actions that were taken, and compare with what was seen.
    found = model.evaluate(test, horizons=horizons, likelihood_samples=0)
    name = kind.__name__
    reached = [horizon for horizon in horizons if horizon not in found.skipped_horizons]
    errors = [found.mean("nrmse", horizon) for horizon in reached]
    print(f"{name:14} ({history.seconds:.0f} s) one-step R² {found.mean('r2', 1):.4f}, of the reward "
          f"{found.get('reward', 1).r2:.4f}; {reached[-1]} steps ahead {errors[-1]:.2f} standard deviations off")  # fmt: skip
    axes[0].plot(reached, [found.get("reward", horizon).nrmse for horizon in reached], "o-", label=name)
    axes[1].plot(reached, errors, "o-", label=name)
    dream = model.imagine(test.observations["obs"][0], test.actions[:60])
    axes[2].plot(dream.observations[:, 0], label=name)
axes[0].set(title="Error of the reward / standard deviation", xlabel="steps ahead", ylim=(0, None))
axes[1].plot(reached, [found.mean("no_change_nrmse", horizon) for horizon in reached], "k:", label="predict no change")
axes[1].set(title="Error of the observation / standard deviation", xlabel="steps ahead", ylim=(0, None))
axes[2].plot(test.observations["obs"][:61, 0], "k--", label="truth")
axes[2].set(title="cos θ, dreamt from one observation", xlabel="step")
for panel in axes:
    panel.legend()
figure.savefig(out / "world_models.png", dpi=120)
print(f"Wrote {out / 'world_models.png'}")
