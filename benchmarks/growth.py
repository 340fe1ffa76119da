"""
How costs grow: of an update with batch, length, horizon, imagination starts, size and number of environments; of sampling with
the length of the replay; and of memory over a long run.

``python benchmarks/growth.py [--parts updates replay memory]`` records ``benchmarks/results/growth/*.csv`` and draws
``growth.png`` of what is there. One torch thread; CPU seconds of the process.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from matplotlib.figure import Figure
from shared import read_csv, record_machine
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from throughput import FILLED, PICTURE, STEPS_TIMED, VECTOR, Silent

from sb3_dreamer import Dreamer
from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.common.sequence_buffer import SequenceBuffer
from sb3_dreamer.compare.records import write_csv

RESULTS = Path(__file__).parent / "results" / "growth"
GRID: dict[str, list[Any]] = {
    "batch_size": [8, 32, 128, 512],
    "batch_length": [8, 16, 32, 64],
    "imagination_horizon": [5, 10, 15, 30],
    "imagination_starts": [16, 64, 256],
    "size": ["toy", "small", "medium", "1m", "12m"],
    "n_envs": [1, 4, 16, 64],
}
"""What varies, the rest being as by default; ``n_envs`` changes the step, not the update."""
ROWS: dict[str, tuple[Any, str, list[int]]] = {
    "vector": (VECTOR, "MlpPolicy", [1_000, 10_000, 100_000, 1_000_000]),
    "picture": (PICTURE, "CnnPolicy", [1_000, 10_000, 100_000]),
}
STEPS = 200_000


def make(n_envs: int = 1, size: str = "toy", **kwargs: Any) -> Dreamer:
    """
    :param n_envs: environments
    :param size: of the networks
    :param kwargs: further arguments of Dreamer
    :return: a model on an environment that costs nothing
    """
    env = make_vec_env(lambda: Silent(VECTOR), n_envs)
    return Dreamer("MlpPolicy", env, seed=0, device="cpu", random_warmup=False, policy_kwargs=dict(size=size), **kwargs)


def timed(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """
    :param functions: what to time, one after the other in every round, so that what else the machine does meets all of them
    :param rounds: how many
    :return: the least CPU seconds of each
    """
    seconds = np.full((rounds + 1, len(functions)), np.inf)
    for line in seconds:  # the first round warms up
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            line[i] = time.process_time() - start
    return [float(least) for least in seconds[1:].min(axis=0)]


def updates() -> list[dict[str, Any]]:
    """:return: seconds of an update, and of a step of all environments without one, along every axis of ``GRID``"""
    found = []
    for name, values in GRID.items():
        models = [make(**{name: value}, learning_starts=10**9, pretrain_updates=0) for value in values]
        for model in models:
            model.learn(FILLED)
        update = timed([partial(model.train, 1) for model in models], 9)
        step = timed([partial(model.learn, STEPS_TIMED * model.n_envs, reset_num_timesteps=False) for model in models], 3)
        for value, seconds, of_steps in zip(values, update, step, strict=True):
            found.append(dict(axis=name, value=value, update_seconds=seconds, step_seconds=of_steps / STEPS_TIMED))
            print(found[-1], flush=True)
    return found


def replay() -> list[dict[str, Any]]:
    """:return: seconds to sample 16 windows of 64 rows from replays of more and more rows"""
    found = []
    for name, (space, policy, sizes) in ROWS.items():
        env = make_vec_env(lambda space=space: Silent(space), 1)
        for rows in sizes:
            model = Dreamer(policy, env, buffer_size=rows, device="cpu", seed=0)
            assert model.replay_buffer is not None
            fill(model.replay_buffer, rows)
            (seconds,) = timed([partial(model.sample_replay, 16, 64)], 200)
            found.append(dict(observation=name, rows=rows, sample_seconds=seconds))
            print(found[-1], flush=True)
    return found


def fill(buffer: SequenceBuffer, rows: int) -> None:
    """
    :param buffer: an empty replay of one environment
    :param rows: how many to write, in episodes of 200 steps
    """
    stream = np.zeros(1, dtype=np.int64)
    obs = {key.name: np.ones((1, *key.shape), dtype=key.dtype) for key in buffer.codec.keys}
    for row in range(rows):
        buffer.add(stream, obs, 0.0, np.zeros(1), is_first=row % 201 == 0, is_last=row % 201 == 200)


class Memory(BaseCallback):
    """Notes how much memory the process holds, every 10,000 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % 10_000 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            self.found.append(dict(step=self.num_timesteps, resident_mb=resident / 2**20))
            print(self.found[-1], flush=True)
        return True


def memory() -> list[dict[str, Any]]:
    """:return: resident memory along a run whose replay is full after a tenth of it"""
    callback = Memory()
    model = make(size="debug", buffer_size=STEPS // 10, batch_length=8, imagination_starts=8, train_ratio=8)
    model.learn(STEPS, callback=callback)
    return callback.found


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {"memory": memory, "updates": updates, "replay": replay}
"""In this order: a process keeps the memory that the others have used."""


def write(name: str, found: list[dict[str, Any]]) -> None:
    """
    :param name: of the part
    :param found: its lines
    """
    write_csv(RESULTS / f"{name}.csv", list(found[0]), [list(line.values()) for line in found])
    record_machine(RESULTS)


def draw() -> None:
    """Draw what has been recorded."""
    lines: dict[str, list[dict[str, str]]] = {}
    for name in PARTS:
        lines[name] = read_csv(RESULTS / f"{name}.csv")
    figure = Figure(figsize=(14, 7), layout="constrained")
    panels = iter(figure.subplots(2, 4).flat)
    for axis in GRID:
        panel = next(panels)
        points = [line for line in lines["updates"] if line["axis"] == axis]
        values = [line["value"] for line in points]
        x: Any = values if axis == "size" else [float(value) for value in values]
        key = "step_seconds" if axis == "n_envs" else "update_seconds"
        panel.plot(x, [1e3 * float(line[key]) for line in points], "o-")
        panel.set_xlabel(axis)
        panel.set_ylabel("CPU ms of a step of all environments" if axis == "n_envs" else "CPU ms of an update")
        if axis == "size":
            panel.set_yscale("log")
        else:
            panel.set_ylim(0, None if points else 1)
    panel = next(panels)
    for name in ROWS:
        points = [line for line in lines["replay"] if line["observation"] == name]
        panel.plot(
            [int(line["rows"]) for line in points], [1e3 * float(line["sample_seconds"]) for line in points], "o-", label=name
        )
    panel.set(xscale="log", xlabel="rows in the replay", ylabel="CPU ms to sample 16 windows of 64", ylim=(0, None))
    panel.legend()
    panel = next(panels)
    resident = [float(line["resident_mb"]) for line in lines["memory"]]
    panel.plot([int(line["step"]) for line in lines["memory"]], resident)
    panel.set(xlabel="steps of learn()", ylabel="resident memory, MB", ylim=(0, 1.2 * max(resident, default=1)))
    for panel in figure.axes:
        panel.grid(alpha=0.3)
    write_atomically(RESULTS / "growth.png", lambda path: figure.savefig(path, format="png", dpi=110))


def main() -> None:
    """Measure, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    th.set_num_threads(1)
    chosen = parser.parse_args().parts
    for name in PARTS:
        if name in chosen:
            write(name, PARTS[name]())
    draw()


if __name__ == "__main__":
    main()
