"""What algorithms with a recurrent world model share: acting with a latent state, replay, logging, saving."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from sb3_dreamer.common.bookkeeping import MetricMeans, check_finite
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec, batched
from sb3_dreamer.common.saving import SavingAlgorithm
from sb3_dreamer.common.sequence_buffer import SequenceBuffer

SelfModelBased = TypeVar("SelfModelBased", bound="ModelBasedAlgorithm")


class ModelBasedAlgorithm(SavingAlgorithm):
    """
    Base of algorithms that act from the latent state of a world model learnt from replayed sequences.
    A subclass gives the policy and :meth:`train`.

    :param policy: policy class or alias
    :param env: the environment, or its id
    :param learning_rate: learning rate, or a function of the remaining progress (from 1 to 0)
    :param buffer_size: rows of the replay over all environments (an episode of n steps takes n + 1 rows)
    :param learning_starts: environment steps before the first update; None for 200, or more where many environments
        need more to fill one window each
    :param batch_size: windows a batch
    :param batch_length: rows a window
    :param train_ratio: replayed rows per environment step: ``train_ratio / (batch_size * batch_length)`` updates a step
    :param gamma: discount factor
    :param random_warmup: act at random until ``learning_starts`` (else with the untrained policy)
    :param pretrain_updates: updates at once when training starts
    :param online_replay: train on every new window once before drawing at random
    :param policy_kwargs: arguments of the policy
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder for TensorBoard
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: seed of everything random
    :param device: torch device
    :param _init_setup_model: whether to build the networks now
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {}

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        buffer_size: int,
        learning_starts: int | None,
        batch_size: int,
        batch_length: int,
        train_ratio: float,
        gamma: float,
        random_warmup: bool = True,
        pretrain_updates: int = 1,
        online_replay: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.buffer_size = buffer_size
        self.learning_starts = learning_starts
        self.batch_size = batch_size
        self.batch_length = batch_length
        self.train_ratio = train_ratio
        self.gamma = gamma
        self.random_warmup = random_warmup
        self.pretrain_updates = pretrain_updates
        self.online_replay = online_replay
        self.replay_buffer = None
        self._update_debt = 0.0
        self._last_state: tuple[np.ndarray, ...] | None = None
        self._last_rewards: np.ndarray | None = None
        self._stepping = False
        self._n_updates_at_start = 0
        self._metrics = MetricMeans()
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        if _init_setup_model:
            self._setup_model()

    # ---- setting up

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # the codecs' errors say more than SB3's assertions, which would come next
        ObservationCodec(env.observation_space)
        ActionCodec(env.action_space)
        return BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed everything random, the sampling of the replay included.

        :param seed: the seed, None to leave all as it is
        """
        super().set_random_seed(seed)
        if seed is not None and self.replay_buffer is not None:
            self.replay_buffer.seed(seed)

    def _setup_model(self) -> None:
        self._check_arguments()
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, gamma=self.gamma, **self.policy_kwargs
        ).to(self.device)
        self.observation_codec, self.action_codec = self.policy.observation_codec, self.policy.action_codec
        if self.replay_buffer is None or self.replay_buffer.n_envs != self.n_envs:
            model = self.policy.world_model
            self.replay_buffer = SequenceBuffer(
                self.buffer_size,
                self.observation_codec,
                self.action_codec.size,
                model.deter_size,
                model.stoch_size,
                n_envs=self.n_envs,
                device=self.device,
                online=self.online_replay,
                seed=self.seed,
            )

    def _first_update_at(self) -> int:
        """Environment steps before the first update."""
        needed = (self.batch_length + 1) * self.n_envs
        return max(200, needed) if self.learning_starts is None else self.learning_starts

    def _check_arguments(self) -> None:
        """Raise a ValueError for arguments that cannot work, before anything is built."""
        for name in ("buffer_size", "batch_size", "batch_length", "train_ratio"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        if self.pretrain_updates < 1:
            raise ValueError(f"pretrain_updates must be at least 1, got {self.pretrain_updates}.")
        for name in ("buffer_size", "batch_size", "batch_length", "pretrain_updates"):
            if getattr(self, name) != int(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)}.")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {self.gamma}.")
        window = self.batch_length + 1
        if self.buffer_size // self.n_envs < window:
            raise ValueError(
                f"batch_length={self.batch_length} needs {window} rows in a row, but buffer_size={self.buffer_size} "
                f"holds {self.buffer_size // self.n_envs} rows for each of {self.n_envs} environments: "
                f"set buffer_size to at least {window * self.n_envs} or lower batch_length."
            )
        if self._first_update_at() < window * self.n_envs:
            raise ValueError(
                f"learning_starts={self.learning_starts} is too small for one batch: windows of batch_length + 1 = "
                f"{window} rows need that many steps of each of {self.n_envs} environments: set learning_starts to "
                f"at least {window * self.n_envs}, or to None, or lower batch_length."
            )

    # ---- learning

    @abstractmethod
    def train(self, gradient_steps: int) -> None:
        """
        Update the networks from the replay.

        :param gradient_steps: number of updates
        """

    def learn(
        self: SelfModelBased,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfModelBased:
        """
        Collect and train in turns.

        :param total_timesteps: environment steps (over all environments) to collect at least
        :param callback: called at every step
        :param log_interval: episodes between two writes of the log, None for never
        :param tb_log_name: name of the TensorBoard run
        :param reset_num_timesteps: start counting anew and reset the environment; otherwise go on where it stopped
        :param progress_bar: show one
        :return: itself
        """
        if self._stepping:  # interrupted while the environment was stepping: what it is in now is unknown
            self._last_obs = None
            self._stepping = False
        if self._last_obs is None or reset_num_timesteps:
            self._last_state = None
        self._n_updates_at_start = self._n_updates
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        if self._last_state is None:
            reset_obs, self._last_obs = self._last_obs, None  # None again if it is refused
            check_finite(self.observation_codec, self.num_timesteps, reset_obs)
            self._last_obs = reset_obs
            self._last_state = self.policy.initial_state(self.n_envs)
            self._last_rewards = np.zeros(self.n_envs, dtype=np.float32)
            self._last_episode_starts = np.ones(self.n_envs, dtype=bool)

        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()
            proceed = self._collect_step(callback, log_interval)
            callback.on_rollout_end()
            if not proceed:
                break
            self._train_if_due()
        callback.on_training_end()
        return self

    def _collect_step(self, callback: BaseCallback, log_interval: int | None) -> bool:
        """
        One step of every environment, written to the replay.

        :param callback: called after the step
        :param log_interval: episodes between two writes of the log
        :return: whether to go on
        """
        env, buffer = self.env, self.replay_buffer
        assert env is not None and buffer is not None
        assert self._last_obs is not None and self._last_episode_starts is not None
        self._stepping = True
        obs = self.observation_codec.to_arrays(self._last_obs)
        assert self._last_rewards is not None
        self.policy.update_statistics(obs, self._last_rewards)
        model_actions = self._act(obs)
        actions = self.action_codec.to_env(model_actions)
        assert self._last_state is not None
        deter, stoch, _ = self._last_state

        new_obs, rewards, dones, infos = env.step(actions)
        check_finite(self.observation_codec, self.num_timesteps, new_obs, rewards, dones, infos)
        if self._vec_normalize_env is not None:  # the reward head learns true rewards, whatever the policy's scale of them
            rewards = self._vec_normalize_env.get_original_reward()
        buffer.add(
            np.arange(self.n_envs),
            obs,
            model_actions,
            self._last_rewards,
            self._last_episode_starts,
            deter=deter,
            stoch=stoch,
        )
        self.num_timesteps += env.num_envs
        for i in np.flatnonzero(dones):
            self._add_last_row(int(i), rewards[i], infos[i])
        self._last_obs = new_obs  # type: ignore[assignment]
        # a reset observation comes without reward
        self._last_rewards = np.where(dones, 0.0, rewards).astype(np.float32)
        self._last_episode_starts = dones
        self._stepping = False

        callback.update_locals(locals())
        self._update_info_buffer(infos, dones)
        proceed = callback.on_step()
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        for _ in range(int(dones.sum())):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        return proceed

    def _add_last_row(self, i: int, reward: float, info: dict[str, Any]) -> None:
        """The row of an episode's last observation, which a VecEnv hides in ``info`` as it has reset already."""
        assert self.replay_buffer is not None
        last_obs, rewards = self.observation_codec.to_arrays(batched(info["terminal_observation"])), np.array([reward])
        self.replay_buffer.add(
            np.array([i]),
            last_obs,
            action=0.0,
            reward=rewards,
            is_first=False,
            is_last=True,
            is_terminal=not info.get("TimeLimit.truncated", False),
        )
        self.policy.update_statistics(last_obs, rewards)

    def _act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """
        Filter the observations, choose actions, and keep the new latent states.

        :param obs: ``(n_envs, ...)`` a key
        :return: the model's actions, ``(n_envs, A)``
        """
        given = None
        if self.random_warmup and self.num_timesteps < self._first_update_at():
            given = self.action_codec.from_env(np.stack([self.action_space.sample() for _ in range(self.n_envs)]))
        assert self._last_state is not None and self._last_episode_starts is not None
        self._last_state = self.policy.step(obs, self._last_state, self._last_episode_starts, actions=given)
        return self._last_state[-1]

    def _train_if_due(self) -> None:
        """As many updates as the train ratio asks for; the time before training starts counts as pretrain_updates."""
        assert self.replay_buffer is not None
        first = self._first_update_at()
        enough = self.replay_buffer.size() >= min(first, self.n_envs * self.replay_buffer.capacity)
        if self.num_timesteps < first or not enough or not self.replay_buffer.can_sample(self.batch_length):
            return
        if self._n_updates == 0:
            self._update_debt = float(self.pretrain_updates)
        else:
            self._update_debt += self.n_envs * self.train_ratio / (self.batch_size * self.batch_length)
        due = int(self._update_debt)
        if due > 0:
            self._update_debt -= due
            self.train(due)

    # ---- logging

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
                self.logger.record(f"train/{name}", value)
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record(
                "train/replay_ratio",
                (self._n_updates - self._n_updates_at_start)
                * (self.batch_size * self.batch_length)
                / max(self.num_timesteps - self._num_timesteps_at_start, 1),
            )
        self.logger.dump(step=self.num_timesteps)

    # ---- using the model

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions. The state that comes back must be given to the next call.

        :param observation: one observation or a batch
        :param state: deterministic state ``(n, D)``, stochastic state ``(n, Z)`` and previous action ``(n, A)``,
            None at the start
        :param episode_start: where the state is to be forgotten, ``(n,)``
        :param deterministic: modes instead of samples
        :return: actions in the action space, and the new state
        """
        return self.policy.predict(observation, state, episode_start, deterministic)

    # ---- saving

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_last_state",
            "_last_rewards",
            "_metrics",
            "_stepping",
            "observation_codec",
            "action_codec",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
