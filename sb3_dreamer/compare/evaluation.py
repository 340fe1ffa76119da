"""Evaluation on a fixed grid of steps and with fixed starts, which leaves the training as if it had not happened."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
    sync_envs_normalization,
)

from sb3_dreamer.compare.environments import build_vec_env
from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.records import Episode, Row, RunSpec

# Episode i of every evaluation of every run is reset with seed EVAL_SEED + i.
EVAL_SEED = 10_000
# Steps after which an evaluation's episode counts as endless: Atari's limit, in frames.
MAX_EPISODE_STEPS = 108_000


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give the global random generators back as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(th.cuda.device_count()) if th.cuda.is_initialized() else []
    try:
        with th.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def preserved_mode(policy: BasePolicy) -> Iterator[None]:
    """
    Give the policy back in the mode it was in.

    :param policy: in training or not
    """
    was_training = policy.training
    try:
        yield
    finally:
        policy.set_training_mode(was_training)


def build_eval_env(spec: RunSpec, model: BaseAlgorithm) -> VecEnv:
    """
    :param spec: the run
    :param model: the algorithm in training, whose environment's wrappers the copies need
    :return: one environment for each episode of an evaluation
    """
    training_env = model.get_env()
    assert training_env is not None
    normalize = is_vecenv_wrapped(training_env, VecNormalize)
    with preserved_random_state():  # an environment may draw random numbers when it is made
        env = build_vec_env(spec.env_id, spec.env_kwargs, spec.n_eval_episodes, EVAL_SEED, normalize)
    if isinstance(env, VecNormalize):
        env.training = False
        env.norm_reward = False
    return VecTransposeImage(env) if is_vecenv_wrapped(training_env, VecTransposeImage) else env


def evaluate(model: BaseAlgorithm, env: VecEnv) -> np.ndarray:
    """
    Play one deterministic episode in each environment, all of them at once. Where episodes come in trials, each of an unknown
    task (:class:`envs.TrialWrapper`), play a trial, of which the last episode counts: what was learnt of the task until then,
    by those who remember it. ``episode_start`` tells of every episode, at which SB3's recurrent policies forget.

    :param model: anything with SB3's ``predict`` and ``policy``
    :param env: environments as from :func:`build_eval_env`
    :return: undiscounted returns, shape ``(env.num_envs,)``
    :raises ComparisonError: an episode that does not end
    """
    episodes = int(env.get_attr("trial_episodes")[0]) if env.has_attr("trial_episodes") else 1
    with preserved_random_state(), preserved_mode(model.policy):
        # A policy may draw random numbers even when its actions are deterministic (a latent state, say).
        set_random_seed(EVAL_SEED)
        env.seed(EVAL_SEED)
        observations, state = env.reset(), None
        episode_starts = np.ones(env.num_envs, dtype=bool)
        returns, left, lengths = np.zeros(env.num_envs), np.full(env.num_envs, episodes), np.zeros(env.num_envs)
        while (left > 0).any():
            actions, state = model.predict(
                observations,  # type: ignore[arg-type]
                state=state,
                episode_start=episode_starts,
                deterministic=True,
            )
            observations, rewards, dones, _ = env.step(actions)
            # Environments restart by themselves; what comes after the last episode asked for does not count.
            returns[left == 1] += rewards[left == 1]
            left -= dones
            lengths = np.where(dones, 0, lengths + 1)
            if (lengths[left > 0] >= MAX_EPISODE_STEPS).any():
                raise ComparisonError(
                    f"An episode of an evaluation has not ended after {MAX_EPISODE_STEPS:,} steps: give the environment a "
                    "time limit, for example env_kwargs={'max_episode_steps': 1000}."
                )
            episode_starts = dones
    return returns


def action_latency(spec: RunSpec, model: BaseAlgorithm, max_calls: int = 100, max_seconds: float = 2.0) -> float:
    """
    How long the trained policy takes to act, one environment at a time.

    :param spec: the run
    :param model: its algorithm
    :param max_calls: calls to measure
    :param max_seconds: stop after so many, at least one call
    :return: milliseconds of a call of ``predict``, the median
    """
    env = build_eval_env(replace(spec, n_eval_episodes=1), model)
    seconds: list[float] = []
    with preserved_random_state():
        set_random_seed(EVAL_SEED)
        env.seed(EVAL_SEED)
        observations, state, episode_starts = env.reset(), None, np.ones(1, dtype=bool)
        while len(seconds) < max_calls + 1 and sum(seconds[1:]) < max_seconds:
            start = time.perf_counter()
            actions, state = model.predict(
                observations,  # type: ignore[arg-type]
                state=state,
                episode_start=episode_starts,
                deterministic=True,
            )
            seconds.append(time.perf_counter() - start)
            observations, _, episode_starts, _ = env.step(actions)
    env.close()
    return 1000 * statistics.median(seconds[1:])  # the first call of all makes caches


class TrainingClock:
    """Wall and CPU seconds of this process, stopped while it does something else than train."""

    def __init__(self) -> None:
        self._wall_start, self._cpu_start = time.perf_counter(), time.process_time()
        self.stopped_wall_seconds, self.stopped_cpu_seconds = 0.0, 0.0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.stopped_wall_seconds += time.perf_counter() - wall
            self.stopped_cpu_seconds += time.process_time() - cpu

    def read(self) -> tuple[float, float]:
        """:return: wall seconds and CPU seconds (all threads) since the start"""
        wall, cpu = time.perf_counter() - self._wall_start, time.process_time() - self._cpu_start
        return wall - self.stopped_wall_seconds, cpu - self.stopped_cpu_seconds

    def timings(self) -> dict[str, float]:
        """:return: seconds so far, of training and of evaluation, as ``meta.json`` has them"""
        wall, cpu = self.read()
        return {
            "wall_seconds": round(wall, 3),
            "cpu_seconds": round(cpu, 3),
            "evaluation_wall_seconds": round(self.stopped_wall_seconds, 3),
            "evaluation_cpu_seconds": round(self.stopped_cpu_seconds, 3),
        }


class GridEvaluation(BaseCallback):
    """
    Evaluate at fixed steps, each time with everything learned from the steps until there.

    SB3 calls ``on_step`` before it trains on that step, so an evaluation waits for the next rollout or the next step,
    whichever comes first. With several environments the grid point is passed by less than ``n_envs`` steps. Training
    ends at the last grid point, also in the middle of a rollout: an algorithm with long rollouts gets no extra steps.

    The episodes of the training are collected on the way, in ``episodes``, as the environments' ``Monitor`` reports them.

    :param spec: the run
    :param on_row: called with each finished evaluation
    :param on_timesteps: called with the number of steps so far, after every step
    """

    def __init__(self, spec: RunSpec, on_row: Callable[[Row], None], on_timesteps: Callable[[int], None]) -> None:
        super().__init__()
        self.spec, self.on_row, self.on_timesteps = spec, on_row, on_timesteps
        self.due = spec.grid
        self.episodes: list[Episode] = []
        self.env: VecEnv | None = None

    def _on_training_start(self) -> None:
        self.env = build_eval_env(self.spec, self.model)
        self.clock = TrainingClock()

    def _on_rollout_start(self) -> None:
        self.evaluate_until(self.model.num_timesteps)

    def _on_step(self) -> bool:
        before = self.num_timesteps - self.training_env.num_envs
        self.evaluate_until(before)
        self.on_timesteps(self.num_timesteps)
        if before >= self.spec.total_timesteps:
            return False
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self.episodes += [Episode(self.num_timesteps, float(episode["r"]), int(episode["l"])) for episode in ended]
        return True

    def _on_training_end(self) -> None:
        self.evaluate_until(self.model.num_timesteps)
        if self.env is not None:
            self.env.close()

    def evaluate_until(self, timesteps: int) -> None:
        """:param timesteps: environment steps that the policy has been trained on"""
        reached = [step for step in self.due if step <= timesteps]
        if not reached:
            return
        assert self.env is not None
        self.due = self.due[len(reached) :]
        wall_seconds, cpu_seconds = self.clock.read()
        with self.clock.stopped():
            sync_envs_normalization(self.training_env, self.env)
            returns = evaluate(self.model, self.env)
            for step in reached:
                self.on_row(
                    Row(
                        env=self.spec.env,
                        algo=self.spec.algo,
                        seed=self.spec.seed,
                        timesteps=step,
                        eval_return_mean=float(returns.mean()),
                        eval_return_std=float(returns.std()),
                        wall_seconds=round(wall_seconds, 3),
                        cpu_seconds=round(cpu_seconds, 3),
                    )
                )
