"""
One run in one process: build the environment and the model, train, evaluate on the grid, leave the files.

``processes.py`` starts this file as ``python -m sb3_dreamer.compare.runner``, on whatever machine: the run's description
comes in on standard input, lines of JSON with its progress go out on standard output, and all that the run itself prints
goes to its log.

A run that is killed starts again from its first step. SB3's algorithms save neither their environments nor their random
numbers, so a run that went on from a checkpoint would be another one than it would have been; a repeated one is the same.
"""

import copy
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import LinearSchedule
from torch.optim.optimizer import register_optimizer_step_post_hook

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.compare.environments import build_vec_env
from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.evaluation import GridEvaluation, action_latency
from sb3_dreamer.compare.machine import describe_machine, git_commit, peak_memory_mb
from sb3_dreamer.compare.records import Row, RunSpec, finish, write_rows
from sb3_dreamer.compare.settings import load_algorithm


def policy_name(algorithm: type[BaseAlgorithm], observation_space: spaces.Space) -> str:
    """
    :param algorithm: its class
    :param observation_space: the environment's
    :return: the policy that fits the observations, by SB3's names
    """
    kind = "Mlp"
    if isinstance(observation_space, spaces.Dict):
        kind = "MultiInput"
    elif is_image_space(observation_space):
        kind = "Cnn"
    names = (f"{kind}Policy", f"{kind}LstmPolicy")
    found = [name for name in names if name in algorithm.policy_aliases] or list(algorithm.policy_aliases)
    if not found:
        raise ComparisonError(
            f"{algorithm.__name__} names no policies (policy_aliases): pass its policy as a setting, 'policy'."
        )
    return found[0]


def _schedules(settings: dict[str, Any]) -> dict[str, Any]:
    """:return: the settings with each ``"lin_<number>"`` turned into a schedule"""
    for key in ("learning_rate", "clip_range"):
        value = settings.get(key)
        if isinstance(value, str) and value.startswith("lin_"):
            settings[key] = LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    return settings


def build_model(spec: RunSpec) -> BaseAlgorithm:
    """
    :param spec: the run
    :return: its algorithm, seeded and with its training environments
    """
    algorithm = load_algorithm(spec.implementation)
    # A copy, as SB3's classes write into the policy_kwargs that they are given.
    settings = _schedules(copy.deepcopy(dict(spec.hyperparameters)))
    n_envs, normalize = settings.pop("n_envs", 1), settings.pop("normalize", False)
    noise_std, policy = settings.pop("noise_std", None), settings.pop("policy", None)
    env = build_vec_env(spec.env_id, spec.env_kwargs, n_envs, spec.seed, normalize, settings.get("gamma", 0.99))
    if noise_std is not None:
        shape = env.action_space.shape
        assert shape is not None
        settings["action_noise"] = NormalActionNoise(np.zeros(shape), noise_std * np.ones(shape))
    arguments: dict[str, Any] = {"seed": spec.seed, "device": spec.device, "verbose": 1, **settings}
    # The classes differ in their arguments; the base class's signature is not theirs.
    make: Callable[..., BaseAlgorithm] = algorithm
    return make(policy or policy_name(algorithm, env.observation_space), env, **arguments)


def count_parameters(model: BaseAlgorithm) -> int:
    """
    :param model: the algorithm
    :return: number of trained parameters; target networks are copies and do not count
    """
    parts = [model.policy, getattr(model, "world_model", None)]  # which may be the policy's own
    named = [pair for part in parts if isinstance(part, th.nn.Module) for pair in part.named_parameters()]
    trained = {id(p): p.numel() for name, p in named if p.requires_grad and "target" not in name}
    return sum(trained.values())


@contextmanager
def counted_updates() -> Iterator[Counter[int]]:
    """
    What an algorithm itself calls an update differs: to SB3's PPO it is an epoch.

    :return: gradient steps taken within, by optimizer; the greatest is how often the networks learnt
    """
    steps: Counter[int] = Counter()
    handle = register_optimizer_step_post_hook(lambda optimizer, args, kwargs: steps.update([id(optimizer)]))
    try:
        yield steps
    finally:
        handle.remove()


def execute(
    spec: RunSpec,
    on_row: Callable[[Row], None] = lambda row: None,
    on_timesteps: Callable[[int], None] = lambda timesteps: None,
    attempt: int = 1,
) -> list[Row]:
    """
    Train and evaluate, writing the rows after each evaluation, the model and the proof of completion at the end.

    :param spec: the run
    :param on_row: called with each evaluation
    :param on_timesteps: called with the number of environment steps so far
    :param attempt: how often the run has been started
    :return: all evaluations
    """
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        write_rows(spec.rows_path, rows)
        if not math.isfinite(row.eval_return_mean):
            raise FloatingPointError(
                f"{spec.label}: the evaluation after {row.timesteps} steps returned {row.eval_return_mean}: rewards or "
                "actions are no finite numbers any more."
            )
        on_row(row)

    started = _now()
    model = build_model(spec)
    callback = GridEvaluation(spec, keep, on_timesteps)
    with counted_updates() as updates:
        model.learn(spec.total_timesteps, callback=callback)
    timings = callback.clock.timings()
    if [row.timesteps for row in rows] != spec.grid:
        raise RuntimeError(f"{spec.label} stopped early: evaluated at {[row.timesteps for row in rows]} of {spec.grid}")
    details = {
        "machine": describe_machine(str(model.device)),
        "threads": th.get_num_threads(),
        "git_commit": git_commit(),
        "started": started,
        "ended": _now(),
        "timings": timings,
        "gradient_updates": max(updates.values(), default=0),
        "peak_memory_mb": peak_memory_mb(),
        "action_latency_ms": round(action_latency(spec, model), 4),
        "attempts": attempt,
    }
    _save(model, spec)
    finish(spec, rows, count_parameters(model), callback.episodes, details)
    env = model.get_env()
    if env is not None:
        env.close()
    return rows


def _save(model: BaseAlgorithm, spec: RunSpec) -> None:
    """Leave the final model, and what its observations were normalised with, which SB3 does not save in it."""
    write_atomically(spec.model_path, model.save)
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        write_atomically(spec.normalization_path, lambda temporary: normalization.save(str(temporary)))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class _Messages:
    """Progress for the parent process, a few lines a second at most."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        self._last = 0.0

    def timesteps(self, timesteps: int) -> None:
        if time.monotonic() - self._last > 0.2:
            self._send({"timesteps": timesteps})

    def row(self, row: Row) -> None:
        self._send({"timesteps": row.timesteps, "return": row.eval_return_mean, "cpu_seconds": row.cpu_seconds})

    def _send(self, message: dict[str, Any]) -> None:
        # If the parent has gone, this raises BrokenPipeError, which ends the run: nobody is waiting for it any more.
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()
        self._last = time.monotonic()


def _end_with_the_parent() -> None:
    """
    End this process as soon as the one that started it has gone, however that went: standard input stays open as long as
    the other end lives. Nobody would wait for the run any more, and a second attempt may start at any time.
    """

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """:return: the process's exit code"""
    # Ctrl-C reaches the whole terminal; only the parent should answer it, and it then ends the runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    messages = _Messages(os.dup(1))
    os.dup2(2, 1)  # standard error is the log
    th.set_num_threads(1)
    try:
        spec, attempt = cloudpickle.load(sys.stdin.buffer)
        _end_with_the_parent()
        execute(spec, messages.row, messages.timesteps, attempt)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
