"""
What the world models learn from data alone, without an agent: errors on held-out episodes, what noise, a hidden velocity, a
memory and pictures ask of them, and what an agent is worth that was trained in the dream alone.

``python benchmarks/world_models.py [--parts PART ...] [--seeds N]`` runs what is missing, records a line a model and seed in
``benchmarks/results/world_models/<part>.csv``; then it prints tables. One torch thread.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from shared import number, read_csv, record_machine
from stable_baselines3 import SAC

from envs.pendulum import EPISODE_STEPS, MAX_VELOCITY, ContinuousPendulumEnv
from sb3_dreamer.compare.evaluation import GridEvaluation
from sb3_dreamer.compare.records import Row, RunSpec, write_csv
from sb3_dreamer.compare.runner import build_model
from sb3_dreamer.world_models import (
    RSSM,
    EpisodeDataset,
    MLPWorldModel,
    ModelEvaluation,
    StandaloneWorldModel,
    VAEWorldModel,
    collect,
)

RESULTS = Path(__file__).parent / "results" / "world_models"
TEST_SEED = 10_000
"""Added to a run's seed for the episodes it is judged by."""
UPDATES = 2000
Line = dict[str, Any]
Make = Callable[..., StandaloneWorldModel]

MODELS: dict[str, Make] = {
    "MLP": MLPWorldModel.from_spaces,
    "VAE": VAEWorldModel.from_spaces,
    "VAE, deterministic": partial(VAEWorldModel.from_spaces, dynamics="deterministic"),
    "VAE, frozen latents": partial(VAEWorldModel.from_spaces, joint=False),
    "RSSM, Gaussian": RSSM.from_spaces,
    "RSSM, categorical": partial(RSSM.from_spaces, latent="categorical"),
}


class NoisyPendulum(ContinuousPendulumEnv):
    """
    Noise in the process: after every step, the velocity is not quite what it should be.

    :param scale: standard deviation of what is added to it, in rad/s
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def step(self, action: Any) -> Any:
        """:return: as Gymnasium's"""
        _, *rest = super().step(action)
        assert self._state is not None
        self._state[1] = np.clip(self._state[1] + self.scale * self.np_random.standard_normal(), -MAX_VELOCITY, MAX_VELOCITY)
        return self.task.observe(self._state), *rest


def data(env: gym.Env | str, steps: int, seed: int) -> tuple[EpisodeDataset, EpisodeDataset]:
    """:return: random episodes to learn from, and others to judge by"""
    return collect(env, None, steps, seed), collect(env, None, 2000, seed + TEST_SEED)


def fitted(
    name: str, train: EpisodeDataset, seed: int, model_kwargs: dict[str, Any] | None = None, **kwargs: Any
) -> tuple[StandaloneWorldModel, float]:
    """:return: the model, and CPU seconds of fitting it"""
    model = MODELS[name](train.observation_space, train.action_space, seed=seed, **(model_kwargs or {}))
    start = time.process_time()
    model.fit(train, **{"updates": UPDATES, "seed": seed, **kwargs})
    return model, time.process_time() - start


def errors(found: ModelEvaluation, horizons: Sequence[int]) -> Line:
    """:return: means over the observation's numbers, of the reward, and likelihoods"""
    line: Line = {"r2_1": found.mean("r2", 1), "reward_r2_1": found.get("reward", 1).r2}
    line.update({f"nrmse_{horizon}": found.mean("nrmse", horizon) for horizon in horizons})
    line.update({f"nats_{horizon}": found.log_likelihood[horizon].model for horizon in horizons})
    return line


def transitions(seed: int) -> list[Line]:
    """5,000 random transitions of the pendulum."""
    train, test = data("ContinuousPendulum-v0", 5000, seed)
    lines = []
    for name in MODELS:
        model, seconds = fitted(name, train, seed)
        horizons = (1, 5, 10, 20, 50)
        found = model.evaluate(test, horizons=horizons)
        lines.append(dict(model=name, cpu_seconds=seconds, **errors(found, horizons)))
    for name, field in (("no change", "no_change_nrmse"), ("mean", "mean_nrmse")):
        lines.append(dict(model=name, **{f"nrmse_{h}": found.mean(field, h) for h in (1, 5, 10, 20, 50)}))
    return lines


def noise(seed: int) -> list[Line]:
    """Deterministic and Gaussian dynamics with and without noise in the velocity."""
    lines = []
    for scale in (0.0, 0.3):
        train, test = data(gym.wrappers.TimeLimit(NoisyPendulum(scale), EPISODE_STEPS), 5000, seed)
        for name in ("VAE, deterministic", "VAE"):
            model, seconds = fitted(name, train, seed)
            found = model.evaluate(test, horizons=(1, 5, 10, 20))
            lines.append(dict(model=name, noise=scale, cpu_seconds=seconds, **errors(found, (1, 5, 10, 20))))
    return lines


PRECISE: dict[str, Any] = dict(reconstruction_scale=10_000.0, kl_representation_scale=0.01)
"""What an RSSM needs to say a velocity exactly that it has to infer: latents whose exactness costs little and brings much."""


def hidden(seed: int) -> list[Line]:
    """The velocity is not shown; the MLP that sees it is the measure, with its usual updates and with as many as the RSSM."""
    shown, not_shown = "ContinuousPendulum-v0", "ContinuousPendulumNoVelocity-v0"
    lines = []
    for env, name, updates, rate, kwargs in (
        (shown, "MLP", UPDATES, 1e-3, {}),
        (shown, "MLP", 4000, 1e-3, {}),
        (not_shown, "RSSM, Gaussian", 4000, 2e-3, PRECISE),
        (not_shown, "VAE", UPDATES, 1e-3, {}),
    ):
        train, test = data(env, 5000, seed)
        model, seconds = fitted(name, train, seed, kwargs, updates=updates, learning_rate=rate)
        found = model.evaluate(test, horizons=(1, 5, 20), likelihood_samples=0)
        shared = [[found.get(f"obs[{i}]", horizon).nrmse for i in (0, 1)] for horizon in (1, 5, 20)]
        line = {f"angle_nrmse_{h}": float(np.sqrt(np.mean(np.square(e)))) for h, e in zip((1, 5, 20), shared, strict=True)}
        lines.append(dict(model=name, env=env, updates=updates, cpu_seconds=seconds, **line))
    return lines


def memory(seed: int) -> list[Line]:
    """SequenceMemory-v0, 200 random episodes: observe 5 rows, imagine 10; the error of the tenth reward."""
    train = collect("SequenceMemory-v0", None, 200 * 50, seed)
    test = collect("SequenceMemory-v0", None, 40 * 50, seed + TEST_SEED)
    lines = []
    for name in ("RSSM, Gaussian", "VAE"):
        model, seconds = fitted(name, train, seed, updates=4000, learning_rate=2e-3)
        found = model.evaluate(test, horizons=(1, 10), context=5, likelihood_samples=0)
        lines.append(
            dict(
                model=name,
                cpu_seconds=seconds,
                reward_nrmse_1=found.get("reward", 1).nrmse,
                reward_nrmse_10=found.get("reward", 10).nrmse,
            )
        )
    return lines


def angle(pictures: np.ndarray) -> np.ndarray:
    """
    :param pictures: of the pendulum, channels first, ``(..., 3, 64, 64)``
    :return: its angle in degrees, from the centre of all that is not white, ``(...)``
    """
    ink = 255.0 - pictures[..., 1, :, :].astype(np.float64)  # neither the red rod nor the blue bob has any green
    away = np.arange(64) - 31.5
    right, down = (ink * away).sum((-2, -1)), (ink * away[:, None]).sum((-2, -1))
    return np.degrees(np.arctan2(-right, -down))


def pixels(seed: int) -> list[Line]:
    """5,000 random steps of the pendulum in pictures; the angle read back from decoded frames."""
    train, test = data("ContinuousPendulumPixels-v0", 5000, seed)
    context, horizon = 5, 15
    lines = []
    for name in ("RSSM, Gaussian",):
        model, seconds = fitted(name, train, seed)
        truth, dreamt, still = [], [], []
        for episode in test:
            pictures = model.observation_codec.transpose(episode.observations["obs"])
            for start in range(0, len(episode) - context - horizon, 20):
                state = None
                for t in range(start, start + context):
                    before = None if state is None else episode.actions[t - 1]
                    state = model.encode(pictures[t], state, before)
                assert state is not None
                now = start + context - 1
                actions = model.action_codec.from_env(episode.actions[now : now + horizon])
                with th.no_grad():
                    rollout = model.imagine(th.as_tensor(actions)[None], state, horizon, True)
                    frames = model.decode(rollout.states)["obs"]
                dreamt.append(frames[0, -1].numpy())
                truth.append(pictures[now + horizon])
                still.append(pictures[now])

        def error(frames: list[np.ndarray], true: list[np.ndarray] = truth) -> float:
            difference = (angle(np.stack(frames)) - angle(np.stack(true)) + 180.0) % 360.0 - 180.0
            return float(np.median(np.abs(difference)))

        line = dict(degrees_15=error(dreamt), no_change_degrees_15=error(still), dreams=len(truth))
        lines.append(dict(model=name, cpu_seconds=seconds, **line))
    return lines


def dream(seed: int) -> list[Line]:
    """SAC trained in the dream of 5,000 random transitions alone, then scored in the real task."""
    lines = []
    for name in ("MLP", "RSSM, Gaussian"):
        train = collect("ContinuousPendulum-v0", None, 5000, seed)
        model, seconds = fitted(name, train, seed)
        dreams = model.as_env(train, n_envs=8, max_episode_steps=50, start_from="any", seed=seed)
        start = time.process_time()
        agent = SAC("MlpPolicy", dreams, learning_rate=1e-3, gradient_steps=4, batch_size=256, seed=seed, device="cpu")
        agent.learn(24_000)
        spent = time.process_time() - start
        real = collect("ContinuousPendulum-v0", agent, 20 * 200, seed + TEST_SEED, deterministic=True)
        returns = real.episode_returns()
        lines.append(
            dict(model=name, cpu_seconds=seconds, sac_cpu_seconds=spent, mean_return=returns.mean(), worst=returns.min())
        )
    return lines


def agents(seed: int) -> list[Line]:
    """Dreamer with each model on the pendulum, 2,000 steps: the first evaluations at -250 and -200, the best and the last."""
    lines = []
    for name, policy_kwargs in AGENTS.items():
        settings = dict(policy_kwargs=policy_kwargs, verbose=0)
        spec = RunSpec("ContinuousPendulum-v0", {}, "dreamer", seed, 2000, 125, 20, settings, "cpu", RESULTS)
        rows: list[Row] = []
        build_model(spec).learn(2000, callback=GridEvaluation(spec, rows.append, lambda timesteps: None))
        line: Line = dict(model=name)
        for threshold in (-250, -200):
            reached = next((row for row in rows if row.eval_return_mean >= threshold), None)
            line[f"steps_to_{-threshold}"] = reached.timesteps if reached else math.inf
            line[f"cpu_seconds_to_{-threshold}"] = reached.cpu_seconds if reached else math.inf
        returns = [row.eval_return_mean for row in rows]
        lines.append(dict(**line, best_return=max(returns), last_return=returns[-1]))
    return lines


AGENTS: dict[str, dict[str, Any]] = {
    "MLP": dict(world_model_class=MLPWorldModel),
    "VAE": dict(world_model_class=VAEWorldModel),
    "RSSM, Gaussian": dict(world_model_class=RSSM),
}
PARTS: dict[str, Callable[[int], list[Line]]] = {
    "transitions": transitions,
    "noise": noise,
    "hidden": hidden,
    "memory": memory,
    "pixels": pixels,
    "dream": dream,
    "agents": agents,
}
KEYS = ("model", "env", "noise", "updates")
"""What tells the lines of one seed apart."""


def read(part: str) -> list[Line]:
    """:return: what has been recorded"""
    return [{key: value for key, value in line.items() if value != ""} for line in read_csv(RESULTS / f"{part}.csv")]


def run(part: str, seeds: int, overwrite: bool) -> None:
    """
    :param part: of ``PARTS``
    :param seeds: 0, 1, ...; those recorded are left alone
    :param overwrite: record all anew
    """
    lines = [] if overwrite else read(part)
    for seed in range(seeds):
        if any(int(line["seed"]) == seed for line in lines):
            continue
        print(f"{part}, seed {seed}", flush=True)
        lines += [dict(seed=seed, **line) for line in PARTS[part](seed)]
        columns = list(dict.fromkeys(column for line in lines for column in line))
        rows = [[_short(line.get(column, "")) for column in columns] for line in lines]
        write_csv(RESULTS / f"{part}.csv", columns, rows)
        record_machine(RESULTS)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def table(part: str) -> str:
    """
    :param part: of ``PARTS``
    :return: Markdown: a line a model with the median over the seeds (and all of them, where they are few)
    """
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in read(part):
        groups.setdefault(tuple(line.get(key, "") for key in KEYS), []).append(line)
    columns = [c for c in dict.fromkeys(c for ls in groups.values() for line in ls for c in line) if c not in (*KEYS, "seed")]
    used = [key for i, key in enumerate(KEYS) if any(group[i] for group in groups)]
    lines = ["| " + " | ".join([*used, "seeds", *columns]) + " |", "|" + "---|" * (len(used) + 1 + len(columns))]
    for group, found in groups.items():
        names = [value for key, value in zip(KEYS, group, strict=True) if key in used]
        cells = []
        for column in columns:
            values = [float(line[column]) for line in found if column in line]
            digits = 1 if "seconds" in column or "return" in column else 4
            cells.append(number(statistics.median(values), digits) if values else "")
        lines.append("| " + " | ".join([*names, str(len(found)), *cells]) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: the arguments, by default the command line's
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--overwrite", action="store_true", help="run anew what has been recorded")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    th.set_num_threads(1)
    for part in args.parts:
        if not args.table_only:
            run(part, args.seeds, args.overwrite)
        print(f"{part}: {PARTS[part].__doc__}\n\n{table(part)}\n")


if __name__ == "__main__":
    main()
