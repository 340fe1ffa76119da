"""What algorithms with a recurrent world model share: acting with a latent state, replay, logging, saving."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_dreamer.common.arguments import check_replay_arguments
from sb3_dreamer.common.batches import ReplayedBatches, works_beside
from sb3_dreamer.common.bookkeeping import MetricMeans, restore_random_state
from sb3_dreamer.common.memory import keep_freed_memory
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec
from sb3_dreamer.common.rollouts import RolloutAlgorithm
from sb3_dreamer.common.sequence_buffer import SequenceBuffer
from sb3_dreamer.common.world_model import WorldModel

USUAL_START = 200
"""Environment steps before the first update, where ``learning_starts`` is left open."""
MAX_SKIPPED = 20
"""Updates skipped in a row after which something must be wrong for good."""


def share_left(steps: int, whole: int, least: float, power: int = 1) -> float:
    """
    :param steps: environment steps taken
    :param whole: up to how many of them all remains; then it falls in inverse proportion to a power of the steps
    :param least: share that remains in the end
    :param power: the power
    :return: share that remains now
    """
    return max(least, min(1.0, whole / max(1, steps)) ** power)


SelfModelBased = TypeVar("SelfModelBased", bound="ModelBasedAlgorithm")


class ModelBasedAlgorithm(RolloutAlgorithm):
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
    :param train_ratio_decay: share of ``train_ratio`` that remains in a long run, where a new step tells less: after
        ``train_ratio_steps`` the ratio falls in inverse proportion to the steps, down to this; 1 for a constant ratio
    :param train_ratio_steps: environment steps with the whole ``train_ratio``
    :param gamma: discount factor
    :param random_warmup: act at random until ``learning_starts`` (else with the untrained policy)
    :param pretrain_updates: updates of the world model alone, at once when training starts
    :param online_replay: train on every new window once before drawing at random
    :param prioritized_replay: share of a batch's windows drawn in proportion to rows' priorities, which a subclass writes
    :param replay_buffer_kwargs: further arguments of the replay: ``storage_path``, a folder to keep it on disk
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
        train_ratio_decay: float = 1.0,
        train_ratio_steps: int = 2000,
        random_warmup: bool = True,
        pretrain_updates: int = 1,
        online_replay: bool = False,
        prioritized_replay: float = 0.0,
        replay_buffer_kwargs: dict[str, Any] | None = None,
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
        self.train_ratio_decay = train_ratio_decay
        self.train_ratio_steps = train_ratio_steps
        self.gamma = gamma
        self.random_warmup = random_warmup
        self.pretrain_updates = pretrain_updates
        self.online_replay = online_replay
        self.prioritized_replay = prioritized_replay
        self.replay_buffer_kwargs = replay_buffer_kwargs
        self.replay_buffer = None
        self._update_debt = 0.0
        self._steps_in_all = 0  # num_timesteps may begin anew
        self._skipped_updates = 0
        self._skipped_in_a_row = 0
        self._random_state = None
        self._replay_rows = None
        self._saved_normalized = False
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
        if seed is None:
            return
        if self.replay_buffer is not None:
            self.replay_buffer.seed(seed)
        if hasattr(self, "policy"):
            self.policy.predict_generator.manual_seed(seed)

    def _setup_model(self) -> None:
        self._check_arguments()
        arguments = self._policy_arguments()
        twice = sorted(arguments.keys() & self.policy_kwargs.keys())
        if twice:
            raise ValueError(
                f"policy_kwargs must not hold {', '.join(twice)}: what they are is told by arguments of {type(self).__name__}."
            )
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **arguments, **self.policy_kwargs
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
                prioritized=self.prioritized_replay,
                seed=self.seed,
                **(self.replay_buffer_kwargs or {}),
            )

    def _policy_arguments(self) -> dict[str, Any]:
        """:return: arguments of the policy that come from the algorithm's own, beside ``policy_kwargs``"""
        return dict(gamma=self.gamma)

    def _first_update_at(self) -> int:
        """Environment steps before the first update."""
        needed = (self.batch_length + 1) * self.n_envs
        return max(USUAL_START, needed) if self.learning_starts is None else self.learning_starts

    def _check_arguments(self) -> None:
        """Raise a ValueError for arguments that cannot work, before anything is built."""
        check_replay_arguments(self, self.n_envs, self._first_update_at())

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
        if self.device.type == "cpu":
            keep_freed_memory()
        self._check_workers()
        if self._random_state is not None and not reset_num_timesteps:  # loaded: random numbers go on as well
            restore_random_state(self._random_state, self.action_space, self.policy.predict_generator)
        self._random_state = None
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if self._last_state is None:
            self._begin_rollout()

        callback.on_training_start(locals(), globals())
        self._current_progress_remaining = 1.0
        if self.num_timesteps > 0:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.policy.set_training_mode(False)  # but while it trains
        self._train_if_due()  # what was due when learning stopped, or the model was saved
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()
            proceed = self._collect_step(callback, log_interval)
            callback.on_rollout_end()
            if not proceed:
                break
            self._train_if_due()
        callback.on_training_end()
        return self

    def _owe_updates(self) -> None:
        """The step just taken asks for updates; all those before training starts together for one, after pretrain_updates."""
        assert self.replay_buffer is not None
        first = self._first_update_at()
        enough = self.replay_buffer.size() >= min(first, self.n_envs * self.replay_buffer.capacity)
        if self.num_timesteps < first or not enough or not self.replay_buffer.can_sample(self.batch_length):
            return
        if self._n_updates == 0:
            self._update_debt = self.pretrain_updates + 1.0
        else:
            self._update_debt += self.n_envs * self._train_ratio_now() / (self.batch_size * self.batch_length)

    def _train_ratio_now(self) -> float:
        """:return: replayed rows per environment step, at this one"""
        return self.train_ratio * share_left(self._steps_in_all, self.train_ratio_steps, self.train_ratio_decay)

    def _train_if_due(self) -> None:
        """Pay the whole updates that are owed."""
        assert self.replay_buffer is not None
        due = int(self._update_debt)
        if due > 0 and self.replay_buffer.can_sample(self.batch_length):
            self._update_debt -= due
            self.train(due)
            self.policy.set_training_mode(False)

    def _batches(self, count: int) -> ReplayedBatches:
        """:return: one batch for each of so many updates, beside a GPU drawn ahead"""
        ahead = works_beside(self.device)
        return ReplayedBatches(lambda: self.sample_replay(self.batch_size, self.batch_length), count, ahead)

    def _is_sound(self, *values: th.Tensor, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """
        Whether an update may be applied. One with NaN or infinity is to be skipped, as it would spoil the weights for good.
        This is where the processor waits for a GPU.

        :param values: losses and norms of gradients, scalars
        :param meanwhile: to be done while a GPU works on them
        :return: True if all are finite
        :raises FloatingPointError: too many updates in a row were not
        """
        finite = th.isfinite(th.stack([value.detach() for value in values])).all()
        meanwhile()
        if bool(finite):
            self._skipped_in_a_row = 0
            return True
        self._skipped_updates += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED:
            self._skipped_in_a_row = 0
            raise FloatingPointError(
                f"{MAX_SKIPPED} updates in a row had a loss or gradient with NaN or infinity and were skipped. The weights "
                "are finite and the model can be saved. Look at the scale of rewards and observations, lower "
                "learning_rate, or set max_grad_norm."
            )
        return False

    # ---- using the model

    @property
    def world_model(self) -> WorldModel:
        """What is learnt of the environment."""
        return self.policy.world_model

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
        :param state: what the call before returned (arrays of n rows, the latent state first), None at the start
        :param episode_start: where the state is to be forgotten, ``(n,)``
        :param deterministic: modes instead of samples
        :return: actions in the action space, and the new state
        """
        return self.policy.predict(observation, state, episode_start, deterministic)

    # ---- saving

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_metrics",
            "observation_codec",
            "action_codec",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
