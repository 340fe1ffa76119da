"""Collecting rows with a latent state carried along in every environment, and SB3's bookkeeping of it."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from sb3_dreamer.common.bookkeeping import MetricMeans, check_finite, where_not_to_print
from sb3_dreamer.common.preprocessing import batched
from sb3_dreamer.common.saving import SavingAlgorithm
from sb3_dreamer.common.types import RowIndex, SequenceBatch

GO_ON = "The model is whole and can be saved; to go on, make a new environment and call set_env()."


def wait_for_workers(env: VecEnv) -> None:
    """
    Wait until every worker of a SubprocVecEnv has answered. A forked worker inherits the pipes of its siblings, so that SB3
    alone would wait for ever for one that has died.

    :param env: any VecEnv, unwrapped
    :raises EOFError: a worker has died
    """
    if isinstance(env, SubprocVecEnv):
        for remote, process in zip(env.remotes, env.processes, strict=True):
            while not remote.poll(1.0):
                if not process.is_alive() and not remote.poll(0):
                    raise EOFError(f"{process.name} is dead, exit code {process.exitcode}")


class RolloutAlgorithm(SavingAlgorithm):
    """
    The part of a world-model algorithm that acts: filters observations, steps the environments, and writes rows to the replay,
    at an episode's end the row of its last observation as well.
    """

    batch_size: int
    random_warmup: bool
    _stepping: bool
    _last_rewards: np.ndarray | None
    _steps_in_all: int
    _n_updates_at_start: int
    _skipped_updates: int
    _metrics: MetricMeans

    @abstractmethod
    def _first_update_at(self) -> int:
        """Environment steps before the first update."""

    @abstractmethod
    def _owe_updates(self) -> None:
        """The step just taken asks for updates."""

    def _check_workers(self) -> None:
        """Resetting a SubprocVecEnv would wait for ever for a worker that has died."""
        workers = getattr(self.env.unwrapped, "processes", []) if self.env is not None else []
        if not all(process.is_alive() for process in workers):
            raise RuntimeError(f"A worker process of SubprocVecEnv has died. {GO_ON}")

    def _begin_rollout(self) -> None:
        """Nothing is remembered of what came before the present observation."""
        reset_obs, self._last_obs = self._last_obs, None  # None again if it is refused
        check_finite(self.observation_codec, self.num_timesteps, reset_obs)
        self._last_obs = reset_obs
        self._last_state = self.policy.initial_state(self.n_envs)
        self._last_rewards = np.zeros(self.n_envs, dtype=np.float32)
        self._last_episode_starts = np.ones(self.n_envs, dtype=bool)

    @property
    def _normalizer(self) -> VecNormalize | None:
        """
        The VecNormalize whose inputs the replay keeps, as SB3's replays do: its statistics change, and so would the scale of
        observations stored after it. Only an outermost one can tell its inputs; below other wrappers, what they give is kept.
        """
        return self._vec_normalize_env if self._vec_normalize_env is self.env else None

    def sample_replay(self, batch_size: int, batch_length: int, uniform: bool = False) -> tuple[SequenceBatch, RowIndex]:
        """
        :param batch_size: B
        :param batch_length: T
        :param uniform: leave the online queue alone
        :return: windows of the replay as the policy sees observations, and where they lie
        """
        assert self.replay_buffer is not None
        return self.replay_buffer.sample(batch_size, batch_length, self._normalizer, uniform)

    def _collect_step(self, callback: BaseCallback, log_interval: int | None) -> bool:
        """
        One step of every environment, written to the replay.

        :param callback: called after the step
        :param log_interval: episodes between two writes of the log
        :return: whether to go on
        """
        env, buffer = self.env, self.replay_buffer
        assert env is not None and buffer is not None
        assert self._last_obs is not None and self._last_episode_starts is not None and self._last_rewards is not None
        self._stepping = True
        obs = self.observation_codec.to_arrays(self._last_obs)
        stored = obs if self._normalizer is None else self.observation_codec.to_arrays(self._last_original_obs)
        self.policy.update_statistics(obs, self._last_rewards)
        model_actions = self._act(obs)
        actions = self.action_codec.to_env(model_actions)
        assert self._last_state is not None
        deter, stoch, *_ = self._last_state

        new_obs, rewards, dones, infos = self._step_env(env, actions)
        # the reward head learns true rewards, whatever a VecNormalize makes of them
        true_rewards = rewards if self._vec_normalize_env is None else self._vec_normalize_env.get_original_reward()
        check_finite(self.observation_codec, self.num_timesteps, new_obs, true_rewards, dones, infos)
        original = None if self._normalizer is None else self._normalizer.get_original_obs()
        if original is not None:  # a VecNormalize clips what is infinite
            check_finite(self.observation_codec, self.num_timesteps, original)
        buffer.add(
            np.arange(self.n_envs),
            stored,
            model_actions,
            self._last_rewards,
            self._last_episode_starts,
            deter=deter,
            stoch=stoch,
        )
        self.num_timesteps += env.num_envs
        self._steps_in_all += env.num_envs
        for i in np.flatnonzero(dones):
            self._add_last_row(int(i), true_rewards[i], infos[i])
        self._last_obs = new_obs
        if original is not None:
            self._last_original_obs = original
        # a reset observation comes without reward
        self._last_rewards = np.where(dones, 0.0, true_rewards).astype(np.float32)
        self._last_episode_starts = np.array(dones, dtype=bool)  # whose array may be used for the next step
        self._owe_updates()
        self._stepping = False

        ended = int(dones.sum())
        self._episode_num += ended
        callback.update_locals(locals())
        self._update_info_buffer(infos, dones)
        proceed = callback.on_step()
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        if log_interval is not None and self._episode_num // log_interval > (self._episode_num - ended) // log_interval:
            self.dump_logs()
        return proceed

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Never below 0, of which few schedules make a rate: the last step of many environments goes beyond the end."""
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    @staticmethod
    def _step_env(env: VecEnv, actions: np.ndarray) -> Any:
        """``env.step``, which does not wait for worker processes that have died."""
        try:
            env.step_async(actions)
            wait_for_workers(env.unwrapped)
            return env.step_wait()
        except (EOFError, BrokenPipeError, ConnectionResetError) as gone:
            raise RuntimeError(
                f"A worker process of {type(env.unwrapped).__name__} has died while it stepped (killed, out of memory, or "
                f"crashed: see its output). {GO_ON}"
            ) from gone

    def _add_last_row(self, i: int, reward: float, info: dict[str, Any]) -> None:
        """The row of an episode's last observation, which a VecEnv hides in ``info`` as it has reset already."""
        assert self.replay_buffer is not None and self._last_state is not None
        seen, rewards = batched(info["terminal_observation"]), np.array([reward])
        last_obs = self.observation_codec.to_arrays(seen)
        stored = last_obs
        if self._normalizer is not None:
            stored = self.observation_codec.to_arrays(self._normalizer.unnormalize_obs(seen))
        self.replay_buffer.add(
            np.array([i]),
            stored,
            action=0.0,
            reward=rewards,
            is_first=False,
            is_last=True,
            is_terminal=not info.get("TimeLimit.truncated", False),
            deter=self.policy.world_model.after_episode(self._last_state[0][[i]]),
        )
        self.policy.update_statistics(last_obs, rewards)

    def _acts_at_random(self) -> bool:
        """:return: whether nothing has been learnt yet that could act"""
        return self.random_warmup and self.num_timesteps < self._first_update_at()

    def _act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """
        Filter the observations, choose actions, and keep the new latent states.

        :param obs: ``(n_envs, ...)`` a key
        :return: the model's actions, ``(n_envs, A)``
        """
        given = None
        if self._acts_at_random():
            given = self.action_codec.from_env(np.stack([self.action_space.sample() for _ in range(self.n_envs)]))
        assert self._last_state is not None and self._last_episode_starts is not None
        self._last_state = self.policy.step(obs, self._last_state, self._last_episode_starts, actions=given)
        return self._last_state[-1]

    def dump_logs(self) -> None:
        """Write the log."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        fps = int((self.num_timesteps - self._num_timesteps_at_start) / elapsed)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.record("time/fps", fps)
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        means = self._metrics.take()
        if means:
            for name, value in means.items():
                self.logger.record(f"train/{name}", value, exclude=where_not_to_print(name))
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("train/skipped_updates", self._skipped_updates)
            self.logger.record(
                "train/replay_ratio",
                (self._n_updates - self._n_updates_at_start)
                * (self.batch_size * self.batch_length)
                / max(self.num_timesteps - self._num_timesteps_at_start, 1),
            )
        self.logger.dump(step=self.num_timesteps)
