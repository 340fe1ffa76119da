"""
How much of a task is seen, and who finds a reward that is hard to find: Dreamer and Director, curious or not, and chance.

``python benchmarks/exploration.py [--tasks TASK ...] [--methods METHOD ...] [--seeds N ...]`` runs what is missing, records it
in ``benchmarks/results/exploration/<task>.csv``, prints tables and draws ``<task>.png``. A state is a cell of 20 x 20, in
angle or position and velocity, or in both coordinates of the maze; what training has visited counts. ``plan2explore`` collects
data without reward, which only the actor that is evaluated knows; ``plan2explore, task`` is curious beside it. Evaluations are
of 10 episodes (50 in the maze), deterministic. One torch thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure
from shared import number, read_csv, record_machine
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import Director, Dreamer
from sb3_dreamer.compare.evaluation import EVAL_SEED, preserved_random_state
from sb3_dreamer.compare.records import write_atomically, write_csv

RESULTS = Path(__file__).parent / "results" / "exploration"
CELLS = 20
Line = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Where to explore."""

    env_id: str
    state: Callable[[np.ndarray], np.ndarray]  # (n, ...) observations -> (n, 2), in [0, 1]
    steps: int
    every: int
    threshold: float  # evaluation return at which it counts as solved
    methods: tuple[str, ...] = ("random", "dreamer", "plan2explore", "plan2explore, task", "state entropy, task")
    episodes: int = 10  # an evaluation
    settings: Mapping[str, Any] = field(default_factory=dict)  # of all methods


def _pendulum(obs: np.ndarray) -> np.ndarray:
    return np.stack([np.arctan2(obs[:, 1], obs[:, 0]) / (2 * np.pi) + 0.5, obs[:, 2] / 16 + 0.5], axis=1)


def _car(obs: np.ndarray) -> np.ndarray:
    return np.stack([(obs[:, 0] + 1.2) / 1.8, obs[:, 1] / 0.14 + 0.5], axis=1)


def _maze(obs: np.ndarray) -> np.ndarray:
    return (obs + 1) / 2


# The maze is what a hierarchy is for: its novelty without it, and it without its novelty, stand beside it.
MAZE = (
    "random",
    "dreamer",
    "reconstruction, task",
    "plan2explore, task",
    "state entropy, task",
    "director",
    "director, state entropy",
    "director, an actor explores",
)
# What a reward that is met once in ten thousand steps asks for: to be replayed, to be wanted, and not to outweigh, in the
# model's loss, all else that it learns; and larger batches for the model, fewer of them a step (chosen on seed 101).
RARE_REWARD: dict[str, Any] = dict(
    prioritized_replay=0.5,
    extrinsic_coef=3.0,
    policy_kwargs=dict(world_model_kwargs=dict(reward_scale=0.1)),
    batch_size=128,
    batch_length=8,
    train_ratio=512,
)
TASKS = {
    "MountainCarContinuous": Task("MountainCarContinuous-v0", _car, 5000, 1000, 90.0),
    "ContinuousPendulumSparse": Task("envs:ContinuousPendulumSparse-v0", _pendulum, 20_000, 1000, 100.0),
    "FourRooms": Task("envs:FourRooms-v0", _maze, 60_000, 2500, 0.8, MAZE, 50, RARE_REWARD),
}
# Chosen on other seeds: more weight on novelty, goals that differ less, and a worker that goes beyond them.
DIRECTOR: dict[str, Any] = dict(intrinsic_coef=1.0, manager_entropy=0.25, actor_learning_rate=2e-3, worker_intrinsic_coef=0.5)
METHODS: dict[str, tuple[type[Dreamer] | type[Director], dict[str, Any]] | None] = {
    "random": None,
    "dreamer": (Dreamer, {}),
    "plan2explore": (Dreamer, dict(exploration="plan2explore", extrinsic_coef=0.0)),
    "plan2explore, task": (Dreamer, dict(exploration="plan2explore")),
    "state entropy, task": (Dreamer, dict(exploration="state_entropy")),
    "reconstruction, task": (Dreamer, dict(exploration="reconstruction")),
    "director": (Director, {}),
    "director, state entropy": (Director, dict(exploration="state_entropy", **DIRECTOR)),
    "director, an actor explores": (Director, dict(exploration="state_entropy", intrinsic_coef=1.0, explorer_share=0.5)),
}


class Coverage(BaseCallback):
    """
    Count the cells that training visits, and evaluate on a grid of steps.

    :param task: where
    :param on_mark: called with the steps, and what was found
    """

    def __init__(self, task: Task, on_mark: Callable[[Line], None]) -> None:
        super().__init__()
        self.task, self.on_mark = task, on_mark
        self.visited = np.zeros((CELLS, CELLS), dtype=bool)
        self.rewarded: int | None = None
        self.spent = 0.0

    def _on_training_start(self) -> None:
        self.start = time.process_time()

    def _on_step(self) -> bool:
        see(self.visited, self.task, self.locals["new_obs"])
        if self.rewarded is None and (self.locals["rewards"] > 0).any():
            self.rewarded = self.num_timesteps
        if self.num_timesteps % self.task.every == 0:
            spent = time.process_time()
            with preserved_random_state():
                env = make_vec_env(self.task.env_id, 10, seed=EVAL_SEED)
                returns, _ = evaluate_policy(self.model, env, self.task.episodes)
                env.close()
            mean = float(np.mean(returns))
            self.start += time.process_time() - spent
            self.on_mark(
                dict(
                    timesteps=self.num_timesteps,
                    cells=int(self.visited.sum()),
                    first_reward=self.rewarded or "",
                    eval_return=mean,
                    cpu_seconds=time.process_time() - self.start,
                )
            )
        return True


def see(visited: np.ndarray, task: Task, obs: np.ndarray) -> None:
    """
    :param visited: cells, to be marked
    :param task: where
    :param obs: ``(n, ...)``
    """
    cells = np.clip((task.state(np.asarray(obs)) * CELLS).astype(int), 0, CELLS - 1)
    visited[cells[:, 0], cells[:, 1]] = True


def chance(task: Task, seed: int, on_mark: Callable[[Line], None]) -> None:
    """Actions drawn at random at every step."""
    env = gym.make(task.env_id)
    env.action_space.seed(seed)
    visited, rewarded = np.zeros((CELLS, CELLS), dtype=bool), None
    env.reset(seed=seed)
    for step in range(1, task.steps + 1):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        see(visited, task, obs[None])
        if rewarded is None and float(reward) > 0:
            rewarded = step
        if terminated or truncated:
            env.reset()
        if step % task.every == 0:
            on_mark(
                dict(timesteps=step, cells=int(visited.sum()), first_reward=rewarded or "", eval_return="", cpu_seconds=0.0)
            )


def run(name: str, methods: Sequence[str], seeds: Sequence[int], steps: int | None, out: Path) -> None:
    """
    :param name: of a task
    :param methods: who explores
    :param seeds: of the runs
    :param steps: other than the task's
    :param out: folder of the results
    """
    task, path = TASKS[name], out / f"{name}.csv"
    if steps is not None:
        task = replace(task, steps=steps)
    there: list[Line] = list(read_csv(path))
    for seed in seeds:
        for method in (method for method in methods if method in task.methods):
            if any((line["method"], int(line["seed"])) == (method, seed) for line in there):
                continue
            print(f"{name}, {method}, seed {seed}", flush=True)
            lines: list[Line] = []

            def on_mark(
                line: Line, lines: list[Line] = lines, method: str = method, seed: int = seed
            ) -> None:  # bound now, as the loop goes on
                lines.append(dict(method=method, seed=seed, **line))
                print(line, flush=True)

            settings = METHODS[method]
            if settings is None:
                chance(task, seed, on_mark)
            else:
                kind, arguments = settings
                model = kind("MlpPolicy", task.env_id, seed=seed, device="cpu", **{**task.settings, **arguments})
                model.learn(task.steps, callback=Coverage(task, on_mark))
            there = [*read_csv(path), *lines]  # another process may have left its own meanwhile
            write_csv(path, list(there[0]), [list(line.values()) for line in there])
    record_machine(out)


def table(name: str, out: Path) -> str:
    """
    :param name: of a task
    :param out: folder of the results
    :return: Markdown: medians over the seeds; evaluations of each
    """
    task, lines = TASKS[name], read_csv(out / f"{name}.csv")
    runs: dict[str, dict[str, list[dict[str, str]]]] = {}  # by method and seed
    for line in lines:
        runs.setdefault(line["method"], {}).setdefault(line["seed"], []).append(line)
    common = min((int(run[-1]["timesteps"]) for own in runs.values() for run in own.values()), default=0)
    rows = [
        f"| {name} | seeds | cells of {CELLS**2}, median, after {task.every:,} steps | after {common:,} | at the end (steps) "
        f"| best evaluation of each seed | steps to {task.threshold:g} | mean evaluation from there on | CPU seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in (method for method in METHODS if method in runs):
        own = list(runs[method].values())
        cells = [
            f"{statistics.median(int(line['cells']) for run in own for line in run if int(line['timesteps']) == mark):g}"
            for mark in (task.every, common)
        ]
        best, solved, since = [], [], []
        digits = 2 if task.threshold < 10 else 0
        for run in own:
            judged = [(int(line["timesteps"]), float(line["eval_return"])) for line in run if line["eval_return"]]
            there = list(dropwhile(lambda mark: mark[1] < task.threshold, judged))
            best.append(number(max(found for _, found in judged), digits) if judged else "-")
            solved.append(number(there[0][0] if there else None) if judged else "-")
            since.append(number(statistics.mean(found for _, found in there), digits) if there else "-")
        end, last, cpu = (statistics.median(float(run[-1][c]) for run in own) for c in ("timesteps", "cells", "cpu_seconds"))
        of_seeds = [", ".join(column) for column in (best, solved, since)]
        columns = [method, str(len(own)), *cells, f"{last:g} ({end:,.0f})", *of_seeds, f"{cpu:.0f}"]
        rows.append("| " + " | ".join(columns) + " |")
    return "\n".join(rows)


def draw(name: str, out: Path) -> None:
    """
    Draw what has been recorded: cells visited and evaluations along the way, a line a seed, a colour a method.

    :param name: of a task
    :param out: folder of the results
    """
    task, lines = TASKS[name], read_csv(out / f"{name}.csv")
    if not lines:
        return
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    cells, judged = figure.subplots(1, 2)
    runs: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        if line["method"] in METHODS:
            runs.setdefault((line["method"], line["seed"]), []).append(line)
    named: set[str] = set()
    for (method, _), run in runs.items():
        look: dict[str, Any] = dict(color=f"C{list(METHODS).index(method)}", label=None if method in named else method)
        named.add(method)
        steps = [int(line["timesteps"]) for line in run]
        cells.plot(steps, [int(line["cells"]) for line in run], **look)
        if run[0]["eval_return"]:
            judged.plot(steps, [float(line["eval_return"]) for line in run], **look)
    cells.set(xlabel="steps", ylabel=f"cells of {CELLS**2} visited in training", ylim=(0, None))
    judged.axhline(task.threshold, color="black", linestyle=":")
    judged.set(xlabel="steps", ylabel=f"mean return of {task.episodes} evaluation episodes")
    cells.legend()
    for panel in (cells, judged):
        panel.grid(alpha=0.3)
    write_atomically(out / f"{name}.png", lambda path: figure.savefig(path, format="png", dpi=110))


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: the arguments, by default the command line's
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--steps", type=int, metavar="N", help="environment steps of a run (default: the task's)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    th.set_num_threads(1)
    for name in args.tasks:
        if not args.table_only:
            run(name, args.methods, args.seeds, args.steps, args.out)
        print(table(name, args.out) + "\n")
        draw(name, args.out)


if __name__ == "__main__":
    main()
