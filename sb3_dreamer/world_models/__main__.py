"""
World models from the shell.

``python -m sb3_dreamer.world_models fit --env ContinuousPendulum-v0 --out runs/world_model`` collects random episodes (or
reads ``--data``), fits a model, judges it on held-out episodes, and leaves model, data, figures and table in the folder;
``evaluate`` judges a model that is there on fresh episodes; ``dream`` trains an SB3 algorithm inside it and scores the agent
in the real environment.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.world_models import figures
from sb3_dreamer.world_models.collect import collect
from sb3_dreamer.world_models.dataset import EpisodeDataset
from sb3_dreamer.world_models.mlp import MLPWorldModel
from sb3_dreamer.world_models.rows import check_dataset
from sb3_dreamer.world_models.rssm import RSSM
from sb3_dreamer.world_models.sizes import SIZES
from sb3_dreamer.world_models.standalone import StandaloneWorldModel
from sb3_dreamer.world_models.vae import VAEWorldModel

MODELS: dict[str, tuple[type[StandaloneWorldModel], dict[str, Any]]] = {
    "rssm": (RSSM, {}),
    "rssm-categorical": (RSSM, {"latent": "categorical"}),
    "vae": (VAEWorldModel, {}),
    "vae-deterministic": (VAEWorldModel, {"dynamics": "deterministic"}),
    "mlp": (MLPWorldModel, {}),
}
AGENTS = ("sac", "ppo", "td3", "a2c", "dqn")
MODEL, TRAIN, TEST = "model.pt", "train.npz", "test.npz"


def build_parser() -> argparse.ArgumentParser:
    """:return: the command line's parser"""
    parser = argparse.ArgumentParser(prog="python -m sb3_dreamer.world_models", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> Any:
        add = commands.add_parser(name, help=text, description=text).add_argument
        add("--env", required=name != "fit", metavar="ID", help='Gymnasium id, "Name-v0" or "package:Name-v0"')
        add("--out", default=None, metavar="DIR", help="folder of the model (default: runs/world_model-<environment>)")
        add("--steps", type=int, default=5000, metavar="N", help="environment steps of random episodes (default: 5000)")
        add("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
        add("--device", default="cpu", help="torch device (default: cpu)")
        return add

    add = command("fit", "collect episodes, fit a model, and judge it")
    add("--model", default="rssm", choices=list(MODELS), help="default: rssm")
    add("--size", default="small", choices=list(SIZES), help="widths and depths (default: small)")
    add("--data", default=None, metavar="NPZ", help="learn from these episodes instead of random ones")
    add("--updates", type=int, default=3000, metavar="N", help="gradient steps (default: 3000)")
    command("evaluate", "judge a fitted model on fresh random episodes")
    add = command("dream", "train an algorithm of SB3's in the dream, score it in the real environment")
    add("--agent", default=None, choices=AGENTS, help="default: sac, or ppo where actions are discrete")
    add("--agent-steps", type=int, default=20_000, metavar="N", help="steps in the dream (default: 20000)")
    add("--dreams", type=int, default=8, metavar="N", help="dreams side by side (default: 8)")
    add("--dream-steps", type=int, default=50, metavar="N", help="length of a dream (default: 50)")
    return parser


def fit(args: argparse.Namespace, out: Path) -> None:
    """
    :param args: of the command line
    :param out: folder to write to
    """
    if args.data is not None:
        train, test = EpisodeDataset.load(args.data).split(0.2, args.seed)
    else:
        train = collect(args.env, None, args.steps, args.seed, progress_bar=True)
        test = collect(args.env, None, max(1, args.steps // 4), args.seed + 10_000)
    cls, arguments = MODELS[args.model]
    model = cls.from_spaces(
        train.observation_space, train.action_space, size=args.size, seed=args.seed, device=args.device, **arguments
    )
    history = model.fit(train, args.updates, seed=args.seed, checkpoint=out / MODEL, progress_bar=True)
    model.save(out / MODEL)
    train.save(out / TRAIN)
    test.save(out / TEST)
    print(f"fitted in {history.seconds:.0f} s, {history.updates[-1]} updates: {out / MODEL}")
    save_figure(figures.plot_losses(history), out / "losses.png")
    save_figure(figures.plot_parameters(model), out / "parameters.png")
    judge(model, test, out)


def judge(model: StandaloneWorldModel, test: EpisodeDataset, out: Path) -> None:
    """
    Print the table of errors; leave it and figures in the folder.

    :param model: a fitted model
    :param test: episodes it has not learnt from
    :param out: folder to write to
    """
    found = model.evaluate(test)
    print(found.table())
    found.save_csv(out / "evaluation.csv")
    lengths = test.bounds()[:, 1] - test.bounds()[:, 0]
    longest, rows = int(lengths.argmax()), int(lengths.max())
    save_figure(figures.plot_evaluation(found), out / "evaluation.png")
    save_figure(figures.plot_reconstruction(model, test, longest), out / "reconstruction.png")
    if rows > 2:
        save_figure(figures.plot_open_loop(model, test, longest, context=min(20, rows // 2)), out / "open_loop.png")
    save_figure(figures.plot_latent_space(model, test), out / "latent_space.png")
    save_figure(figures.plot_hidden_states(model, test, longest), out / "hidden_states.png")
    print(f"figures and table: {out}")


def dream(args: argparse.Namespace, out: Path) -> None:
    """
    :param args: of the command line
    :param out: folder of the model
    """
    import stable_baselines3

    model, train = StandaloneWorldModel.load(out / MODEL, args.device), EpisodeDataset.load(out / TRAIN)
    at_random = collect(args.env, None, args.steps, args.seed + 20_000)
    check_dataset(model, at_random)  # before hours of training for another environment
    continuous = isinstance(model.action_space, gym.spaces.Box)
    name = args.agent or ("sac" if continuous else "ppo")
    if (name in ("sac", "td3") and not continuous) or (name == "dqn" and continuous):
        raise ValueError(f"--agent {name} cannot act in {model.action_space}: use ppo or a2c.")
    dreams = model.as_env(train, args.dreams, max_episode_steps=args.dream_steps, start_from="any", seed=args.seed)
    kwargs: dict[str, Any] = {}
    if name in ("sac", "td3", "dqn"):
        kwargs = dict(learning_rate=1e-3, gradient_steps=-1)
    elif name == "ppo":  # rollouts that fit in the steps there are
        kwargs = dict(n_steps=max(2, min(2048, args.agent_steps // (4 * args.dreams))))
    if any(key.kind == "image" for key in model.observation_codec.keys):
        policy = "CnnPolicy" if not model.observation_codec.is_dict else "MultiInputPolicy"
    else:
        policy = "MultiInputPolicy" if model.observation_codec.is_dict else "MlpPolicy"
    agent = getattr(stable_baselines3, name.upper())(policy, dreams, seed=args.seed, device=args.device, **kwargs)
    agent.learn(args.agent_steps, progress_bar=True)
    agent.save(out / f"{name}.zip")
    returns = collect(args.env, agent, args.steps, args.seed + 20_000, deterministic=True).episode_returns()
    print(
        f"{name} trained in the dream: {returns.mean():.1f} a real episode (worst {returns.min():.1f}, {len(returns)} "
        f"episodes); at random: {at_random.episode_returns().mean():.1f}. {out / f'{name}.zip'}"
    )


def save_figure(figure: Any, path: Path) -> None:
    """
    :param figure: of matplotlib
    :param path: ``.png``
    """
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: the arguments, by default the command line's
    :return: 0 if all went well, 2 if the request was wrong, 130 if interrupted
    """
    args = build_parser().parse_args(argv)
    if args.command == "fit" and (args.env is None) == (args.data is None):
        print("error: fit needs --env or --data, not both", file=sys.stderr)
        return 2
    name = args.env if args.env is not None else Path(args.data).stem
    out = Path(args.out or f"runs/world_model-{name.rpartition(':')[2].replace('/', '-')}")
    try:
        if args.command == "fit":
            fit(args, out)
        elif args.command == "evaluate":
            test = collect(args.env, None, args.steps, args.seed + 10_000)
            judge(StandaloneWorldModel.load(out / MODEL, args.device), test, out)
        else:
            dream(args, out)
    except (ValueError, OSError, ImportError, RuntimeError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
