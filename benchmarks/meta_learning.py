"""
Does what was lived through in one episode help in the next? Pendulums of unknown mass and length, two episodes each.

``python benchmarks/meta_learning.py [--parts prediction control] [--seeds N ...]`` prints and records
``benchmarks/results/meta_learning/<part>.csv``, a line a seed, method and held-out task: 20 pendulums drawn from the ranges of
training (``inside``), and 20 heavier and longer than any of these (``outside``). ``prediction``: errors of one step, learnt
from trials of random actions. ``control``: returns of agents. One torch thread; ``--scale 0.01`` shows that all of it runs.
"""

import argparse
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium.wrappers import TimeLimit
from shared import record_machine
from stable_baselines3.common.env_util import make_vec_env

from envs import MetaPendulumEnv, TrialWrapper
from sb3_dreamer import Dreamer
from sb3_dreamer.compare.records import write_csv
from sb3_dreamer.world_models import RSSM, ContextRSSM, EpisodeDataset, MLPWorldModel, StandaloneWorldModel, collect
from sb3_dreamer.world_models.rows import Rows

RESULTS = Path(__file__).parent / "results" / "meta_learning"
INSIDE: dict[str, Any] = dict(mass=(0.5, 2.0), length=(0.5, 1.5))
OUTSIDE: dict[str, Any] = dict(mass=(2.0, 3.0), length=(1.5, 2.0))
HELD_OUT = 10_000
"""Added to a seed for the tasks to judge by."""
Line = dict[str, Any]


def held_out_tasks(n: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """:return: n tasks from inside the ranges of training and n from outside, as arguments that fix mass and length"""
    rng, found = np.random.default_rng(HELD_OUT + seed), []
    for where, ranges in (("inside", INSIDE), ("outside", OUTSIDE)):
        for _ in range(n):
            fixed = {name: float(rng.uniform(*limits)) for name, limits in ranges.items()}
            found.append((where, {name: (value, value) for name, value in fixed.items()}))
    return found


def trial_env(steps: int = 200, show_action: bool = False, **task: Any) -> TrialWrapper:
    """:return: two episodes of a task"""
    return TrialWrapper(TimeLimit(MetaPendulumEnv(**task), steps), episodes=2, show_action=show_action)


# ---- prediction

EPISODE = 100
"""Steps of an episode of random actions."""


def without_trials(data: EpisodeDataset) -> EpisodeDataset:
    """:return: the same episodes as one sees them who is told nothing of trials"""
    space: Any = data.observation_space
    return dataclasses.replace(data, observation_space=space["obs"], observations={"obs": data.observations["obs"]})


@th.no_grad()
def step_errors(model: StandaloneWorldModel, trial: EpisodeDataset, scale: np.ndarray) -> Line:
    """
    :param model: filters both episodes, and predicts the next observation at each row
    :param trial: two episodes
    :param scale: deviation of each number of an observation
    :return: root mean squares of the errors in units of the scale, means over the numbers of an observation; and velocities'
    """
    model.eval()
    rows = Rows(trial, model)
    batch = rows.batch(th.arange(len(rows))[None], model.initial_state(1))
    states = model.observe(batch, deterministic=True).map(lambda part: part[0, :-1])
    ahead = model.imagine(batch.prev_action[0, 1:, None], states, 1, deterministic=True).states.map(lambda part: part[:, 1])
    error = ((model.decode(ahead)["obs"] - batch.obs["obs"][0, 1:]).numpy() / scale) ** 2
    border = int(np.flatnonzero(trial.is_first)[1])  # the row before is not followed by the one after
    first, second = error[: border - 1], error[border:]
    parts = dict(first_episode=first, first_10_steps=first[:10], second_episode=second, second_10_steps=second[:10])
    found = {name: float(np.sqrt(part.mean(0)).mean()) for name, part in parts.items()}
    return {**found, "second_velocity": float(np.sqrt(second[:, 2].mean()))}


def tune(model: StandaloneWorldModel, data: EpisodeDataset, updates: int, learning_rate: float = 1e-3) -> StandaloneWorldModel:
    """:return: the model itself, after so many steps of Adam on windows of the data"""
    rows, optimizer = Rows(data, model), th.optim.Adam(model.parameters(), learning_rate)
    model.train()
    for _ in range(updates):
        batch, numbers = rows.windows(th.randint(len(rows) - 16 + 1, (16,)), 16)
        states, losses, _ = model.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        model.total_loss(losses).backward()
        th.nn.utils.clip_grad_norm_([part for part in model.parameters() if part.grad is not None], 100.0)
        optimizer.step()
        rows.keep_latents(numbers, states)
    return model


def reptile(model: StandaloneWorldModel, data: EpisodeDataset, tasks: int, inner_updates: int = 10) -> StandaloneWorldModel:
    """Go towards weights tuned to one task after another (Nichol et al. 2018, https://arxiv.org/abs/1803.02999)."""
    rng = np.random.default_rng(0)
    for i in range(tasks):
        trial = 2 * int(rng.integers(data.n_episodes // 2))
        tuned = tune(copy.deepcopy(model), data.episodes([trial, trial + 1]), inner_updates)
        with th.no_grad():
            for weight, target in zip(model.parameters(), tuned.parameters(), strict=True):
                weight.lerp_(target, 0.5 * (1 - i / tasks))
    return model


def prediction(seed: int, scale: float) -> list[Line]:
    """Errors of one step in the second episode, where the first one is all that is known of the task."""
    th.manual_seed(seed)
    n_tasks, updates, tuning, n_test = (max(1, round(scale * n)) for n in (300, 3000, 100, 20))
    train = collect(trial_env(EPISODE, **INSIDE), None, n_tasks * 2 * EPISODE, seed=seed)
    plain = without_trials(train)
    deviation = plain.observations["obs"].std(0)
    fitting: dict[str, Any] = dict(
        updates=updates, validation=None, batch_size=16, batch_length=48, learning_rate=2e-3, seed=seed
    )

    def make(kind: type[StandaloneWorldModel], data: EpisodeDataset) -> StandaloneWorldModel:
        return kind.from_spaces(data.observation_space, data.action_space, size="toy", seed=seed)

    context, recurrent, average = make(ContextRSSM, train), make(RSSM, plain), make(MLPWorldModel, plain)
    for model, data in ((context, train), (recurrent, plain), (average, plain)):
        model.fit(data, **fitting)
    start = make(MLPWorldModel, plain)
    start.load_state_dict(average.state_dict())  # Reptile begins where the average is
    start = reptile(start, plain, max(1, updates // 10))

    def scratch(kind: type[StandaloneWorldModel], episode: EpisodeDataset) -> StandaloneWorldModel:
        fresh = make(kind, episode)
        rows = Rows(episode, fresh)
        fresh.update_statistics(rows.obs, rows.reward)
        return tune(fresh, episode, 4 * tuning)

    methods: dict[str, Callable[[EpisodeDataset], StandaloneWorldModel]] = {
        "context": lambda episode: context,
        "recurrent, no context": lambda episode: recurrent,
        "average": lambda episode: average,
        "average, fine-tuned": lambda episode: tune(copy.deepcopy(average), episode, tuning),
        "recurrent, fine-tuned": lambda episode: tune(copy.deepcopy(recurrent), episode, tuning),
        "Reptile, fine-tuned": lambda episode: tune(copy.deepcopy(start), episode, tuning),
        "average, from scratch": lambda episode: scratch(MLPWorldModel, episode),
    }
    lines = []
    for number, (where, task) in enumerate(held_out_tasks(n_test, seed)):
        trial = collect(trial_env(EPISODE, **task), None, 2 * EPISODE, seed=HELD_OUT + number)
        for name, adapted in methods.items():
            seen = trial if name == "context" else without_trials(trial)
            found = step_errors(adapted(seen.episodes([0])), seen, deviation)
            lines.append(dict(method=name, tasks=where, task=number, **found))
    return lines


# ---- control

AGENT: dict[str, Any] = dict(batch_length=48, batch_size=16, train_ratio=192, device="cpu")


def returns_of_a_trial(model: Any, task: dict[str, Any], seed: int, show_action: bool = False) -> tuple[float, float]:
    """:return: of the first and the second episode of a task, by ``predict`` alone"""
    env, state, returns = trial_env(show_action=show_action, **task), None, []
    for episode in range(2):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        start, over, total = np.ones(1, dtype=bool), False, 0.0
        while not over:
            if show_action:  # RL²: what is remembered goes from one episode to the next, the observation tells of the border
                start = np.array([episode == 0 and bool(obs["trial"][0])])
            action, state = model.predict(obs, state, start, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            start, over, total = np.zeros(1, dtype=bool), terminated or truncated, total + float(reward)
        returns.append(total)
    return returns[0], returns[1]


def rl_squared(seed: int, steps: int) -> Any:
    """
    RL² (Duan et al. 2016, https://arxiv.org/abs/1611.02779): a trial is one episode to the learner, whose memory lasts for it.
    """
    from sb3_contrib import RecurrentPPO

    class WholeTrial(TrialWrapper):
        """Two episodes as one."""

        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = super().step(action)
            if (terminated or truncated) and self._episode == 0:
                return self.reset()[0], reward, False, False, info
            return obs, reward, terminated, truncated, info

    def make() -> WholeTrial:
        return WholeTrial(TimeLimit(MetaPendulumEnv(**INSIDE), 200), episodes=2, show_action=True)

    env = make_vec_env(make, n_envs=8, seed=seed)
    model = RecurrentPPO("MultiInputLstmPolicy", env, n_steps=400, batch_size=400, gamma=0.99, seed=seed, device="cpu")
    return model.learn(steps)


def control(seed: int, scale: float) -> list[Line]:
    """Returns in the first and the second episode; the oracles learn each task alone, as long as it takes."""
    steps, oracle_steps, tuning, n_test = (max(1, round(scale * n)) for n in (40_000, 4_000, 400, 20))
    steps, oracle_steps = max(steps, 440), max(oracle_steps, 210)
    train = make_vec_env(lambda: trial_env(**INSIDE), n_envs=4, seed=seed)
    agent: dict[str, Any] = dict(AGENT, seed=seed, pretrain_updates=max(1, round(scale * 200)))
    context = Dreamer("MultiInputPolicy", train, policy_kwargs=dict(world_model_class=ContextRSSM), **agent)
    average = Dreamer("MultiInputPolicy", train, **agent)
    agents: dict[str, Any] = {"context": context.learn(steps), "no context": average.learn(steps)}
    agents["RL², 10 times the steps"] = rl_squared(seed, 10 * steps)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        average.save(Path(folder) / "average")
        for number, (where, task) in enumerate(held_out_tasks(n_test, seed)):
            found = {
                name: returns_of_a_trial(model, task, HELD_OUT + number, show_action=name.startswith("RL"))
                for name, model in agents.items()
            }
            own = make_vec_env(lambda task=task: trial_env(**task), seed=HELD_OUT + number)
            tuned = Dreamer.load(Path(folder) / "average", own, device="cpu")
            tuned.train_ratio = 1e-9  # an episode of the task without a lesson, then as many as wanted
            tuned.learn(200, reset_num_timesteps=False)
            tuned.adapt(tuning, last_rows=201)
            oracle = Dreamer("MultiInputPolicy", own, **agent).learn(oracle_steps)
            for name, model in (("fine-tuned", tuned), ("oracle", oracle)):
                found[name] = returns_of_a_trial(model, task, HELD_OUT + number)
            for name, (first, second) in found.items():
                lines.append(dict(method=name, tasks=where, task=number, first_return=first, second_return=second))
    return lines


# ---- tables


def interval(by_seed: Sequence[np.ndarray], draws: int = 2000) -> tuple[float, float, float]:
    """
    :param by_seed: values by task, an array a seed
    :param draws: of a bootstrap over seeds, and over tasks in them
    :return: mean, and the 2.5th and 97.5th percentile of the means drawn
    """
    rng = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        seeds = rng.integers(len(by_seed), size=len(by_seed))
        means.append(np.mean([rng.choice(by_seed[i], len(by_seed[i])).mean() for i in seeds]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([values.mean() for values in by_seed])), float(low), float(high)


def table(lines: Sequence[Line]) -> str:
    """
    :param lines: of all seeds
    :return: Markdown: means and 95 % intervals
    """
    columns = [name for name in lines[0] if name not in ("seed", "method", "tasks", "task")]
    rows = ["| " + " | ".join(["tasks", "method", *columns]) + " |", "|" + "---|" * (2 + len(columns))]
    for where, method in dict.fromkeys((line["tasks"], line["method"]) for line in lines):
        group = [line for line in lines if (line["tasks"], line["method"]) == (where, method)]
        cells = []
        for column in columns:
            by_seed = [np.array([x[column] for x in group if x["seed"] == s]) for s in dict.fromkeys(x["seed"] for x in group)]
            cells.append("{:.4g} ({:.4g} to {:.4g})".format(*interval(by_seed)))
        rows.append("| " + " | ".join([where, method, *cells]) + " |")
    return "\n".join(rows)


PARTS: dict[str, Callable[[int, float], list[Line]]] = {"prediction": prediction, "control": control}


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: the arguments, by default the command line's
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps, updates and tasks")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    th.set_num_threads(1)
    for part in args.parts:
        lines = [dict(seed=seed, **line) for seed in args.seeds for line in PARTS[part](seed, args.scale)]
        write_csv(args.out / f"{part}.csv", list(lines[0]), [list(line.values()) for line in lines])
        print(f"{part}: {PARTS[part].__doc__}\n\n{table(lines)}\n", flush=True)
    record_machine(args.out)


if __name__ == "__main__":
    main()
