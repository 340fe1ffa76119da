"""MBPO: an off-policy agent of Stable-Baselines3 that learns from short dreams as well as from what happened."""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_dreamer.common.arguments import check_numbers, check_whole
from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec
from sb3_dreamer.common.world_model import check_model_arguments
from sb3_dreamer.mbpo.buffers import ImaginedBuffer, MixedReplay, real_transitions
from sb3_dreamer.world_models import EnsembleWorldModel, ProbabilisticWorldModel
from sb3_dreamer.world_models.ensemble_fitting import fit_transitions, make_optimizer
from sb3_dreamer.world_models.probabilistic import RewardFn, TerminationFn
from sb3_dreamer.world_models.transitions import Transitions

SelfMBPO = TypeVar("SelfMBPO", bound="ModelBasedPolicyOptimization")

NOISE = 0.1
"""Standard deviation of the noise on a deterministic actor's imagined actions, in units of half the action space."""


class ModelBasedPolicyOptimization(OffPolicyAlgorithm):
    """
    What :class:`MBPO` adds to an off-policy algorithm of SB3, which comes after it among a class's bases. See there.
    """

    world_model: ProbabilisticWorldModel
    model_optimizer: th.optim.Optimizer
    imagined: ImaginedBuffer
    agent_class: type[OffPolicyAlgorithm]

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        learning_rate: Any = 1e-3,
        learning_starts: int = 200,
        batch_size: int = 128,
        gradient_steps: int = 20,
        model_train_freq: int = 50,
        rollouts_per_step: int = 20,
        rollout_length: int | tuple[int, int, int, int] = 5,
        retain_fits: int = 2,
        real_ratio: float = 0.05,
        model_batch_size: int = 32,
        model_max_epochs: int = 25,
        model_max_updates: int = 2000,
        model_validation: float = 0.2,
        model_learning_rate: float = 1e-3,
        world_model_class: type[ProbabilisticWorldModel] = EnsembleWorldModel,
        world_model_kwargs: dict[str, Any] | None = None,
        termination_fn: TerminationFn | None = None,
        reward_fn: RewardFn | None = None,
        agent_class: type[OffPolicyAlgorithm] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **agent_kwargs: Any,
    ) -> None:
        self.model_train_freq = model_train_freq
        self.rollouts_per_step = rollouts_per_step
        self.rollout_length = rollout_length
        self.retain_fits = retain_fits
        self.real_ratio = real_ratio
        self.model_batch_size = model_batch_size
        self.model_max_epochs = model_max_epochs
        self.model_max_updates = model_max_updates
        self.model_validation = model_validation
        self.model_learning_rate = model_learning_rate
        self.world_model_class = world_model_class
        self.world_model_kwargs = world_model_kwargs
        self.termination_fn = termination_fn
        self.reward_fn = reward_fn
        self._agent = self.agent_class
        self._fitted_at: int | None = None
        self._check_model_arguments(agent_kwargs)
        settings = dict(
            learning_rate=learning_rate,
            learning_starts=learning_starts,
            batch_size=batch_size,
            gradient_steps=gradient_steps,
            policy_kwargs=dict(net_arch=[64, 64]) if policy_kwargs is None else dict(policy_kwargs),  # SB3 writes into it
            _init_setup_model=_init_setup_model,
            **agent_kwargs,
        )
        super().__init__(policy, env, **settings)  # type: ignore[arg-type]  # of the agent's class, which comes next

    def _check_model_arguments(self, agent_kwargs: Mapping[str, Any]) -> None:
        whole = ("model_train_freq", "rollouts_per_step", "retain_fits")
        check_numbers(self, whole=(*whole, "model_batch_size", "model_max_epochs", "model_max_updates"), minimum=1)
        check_numbers(self, real=("real_ratio", "model_validation", "model_learning_rate"))
        for name, below in (("real_ratio", False), ("model_validation", True)):
            value = getattr(self, name)
            if value > 1 or (below and value == 1):
                raise ValueError(f"{name} must be a share from 0 to 1{' (excluded)' if below else ''}, got {value}.")
        given = self.rollout_length
        if isinstance(given, tuple | list):
            numbers = len(given) == 4 and all(isinstance(step, int | float) for step in given[:2])
            if not numbers or not 0 <= given[0] < given[1]:
                raise ValueError(
                    f"rollout_length must be a number or (first step, last step, first length, last length), got {given!r}."
                )
            check_whole(**{f"rollout_length[{i}]": given[i] for i in (2, 3)})
        else:
            check_whole(rollout_length=given)
        derived = ("keys", "action_size", "gamma", "reward_fn", "termination_fn")
        check_model_arguments(self.world_model_class, ProbabilisticWorldModel, self.world_model_kwargs, derived)
        if agent_kwargs.get("optimize_memory_usage"):
            raise ValueError(
                "optimize_memory_usage=True does not keep the observations at which episodes end, which the model needs: use "
                "False."
            )
        if agent_kwargs.get("n_steps", 1) != 1:
            raise ValueError(f"MBPO learns from single steps, got n_steps={agent_kwargs['n_steps']}: use 1.")

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.action_space, spaces.Box):
            raise ValueError(f"MBPO is for numbers as actions, not for {self.action_space}: use Dreamer, PETS or DQN.")
        codec = ObservationCodec(self.observation_space, convolve=True)
        wrong = [f"{key.name} ({key.kind})" for key in codec.keys if key.kind != "vector"]
        if wrong:
            raise ValueError(f"MBPO's model is one of vectors, not of {', '.join(wrong)}: use Dreamer.")
        self.observation_codec, self.action_codec = codec, ActionCodec(self.action_space)
        defaults: dict[str, Any] = dict(propagation="ts1")
        if self.world_model_class is EnsembleWorldModel:
            defaults.update(n_members=7, n_elites=5)
        self.world_model = self.world_model_class(
            keys=codec.keys,
            action_size=self.action_codec.size,
            gamma=1.0,
            reward_fn=self.reward_fn,
            termination_fn=self.termination_fn,
            **{**defaults, **(self.world_model_kwargs or {})},
        ).to(self.device)
        self.world_model.attach(codec, self.action_codec)
        self.model_optimizer = make_optimizer(self.world_model, self.model_learning_rate)
        self.imagined = ImaginedBuffer(1, 1)

    # ---- learning

    def rollout_length_now(self) -> int:
        """:return: steps a dream takes now"""
        if not isinstance(self.rollout_length, tuple | list):
            return int(self.rollout_length)
        first, last, short, long = self.rollout_length
        progress = min(1.0, max(0.0, (self.num_timesteps - first) / (last - first)))
        return int(short + progress * (long - short))

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Fit the model where that is due, dream from states that were seen, and let the agent learn from both.

        :param gradient_steps: of the agent
        :param batch_size: of the agent
        """
        real = self.replay_buffer
        assert real is not None
        # the steps may have been counted anew since
        due = self._fitted_at is None or not 0 <= self.num_timesteps - self._fitted_at < self.model_train_freq
        if due and real.size() * self.n_envs >= min(self._rows_of_a_fit(), real.buffer_size * self.n_envs):
            self._fit_model()
            self._dream()
        elif self._fitted_at is None:
            return
        elif len(self.imagined) == 0:  # loaded: what was dreamt is not saved
            self._dream()
        self.replay_buffer = MixedReplay(real, self.imagined, self.real_ratio, self._policy_obs)  # type: ignore[assignment]
        try:
            super().train(gradient_steps, batch_size)
        finally:
            self.replay_buffer = real

    def _rows_of_a_fit(self) -> int:
        """:return: steps to learn from at least: some are held out, and what few rows say of the scales may be far off"""
        few = 5 if self.model_validation == 0 else math.ceil(1 / self.model_validation) + 2
        return max(self.learning_starts, few)

    def _real_transitions(self, rows: np.ndarray | None = None) -> Transitions:
        assert self.replay_buffer is not None
        return real_transitions(self.replay_buffer, self.observation_codec, self.world_model.layout, self.device, rows)

    def _fit_model(self) -> None:
        history = fit_transitions(
            self.world_model,
            self._real_transitions(),
            updates=self.model_max_updates,
            epochs=self.model_max_epochs,
            validation=self.model_validation,
            batch_size=self.model_batch_size,
            optimizer=self.model_optimizer,
            seed=None,
        )
        self._fitted_at = self.num_timesteps
        self.logger.record("model/nats", history.train["nats"][-1])
        self.logger.record("model/updates", history.updates[-1])
        if history.validation:
            self.logger.record("model/validation_error", min(history.validation["error"]))

    @th.no_grad()
    def _dream(self) -> None:
        """
        Roll out the policy for a few steps from states drawn from the replay; what has probably terminated goes no further.
        The last step is no end: its value is that of the state it leads to.
        """
        assert self.replay_buffer is not None
        length, dreams = self.rollout_length_now(), self.rollouts_per_step * self.model_train_freq
        capacity = self.retain_fits * dreams * length
        if self.imagined.capacity != capacity:
            self.imagined = ImaginedBuffer(capacity, self.retain_fits)
        self.imagined.begin()
        self.policy.set_training_mode(False)
        held = self.replay_buffer.size()
        rows = th.randint(held * self.n_envs, (dreams,), device=self.device).cpu().numpy()
        x = self._real_transitions(rows).x
        running = th.ones(len(x), dtype=th.bool, device=x.device)  # rows stay where they are: one may be one network's
        for _ in range(length):
            action = self.policy._predict(self._policy_obs(x), deterministic=False)
            if not hasattr(self.policy.actor, "action_log_prob"):
                action = (action + NOISE * th.randn_like(action)).clamp(-1.0, 1.0)
            state = self.world_model.step(x, action)
            ends = 1.0 - state.deter[:, 1]
            # as probable as it is: of ends that are seldom certain, a threshold would leave out most
            self.imagined.add(Transitions(x, action, state.deter[:, 0], state.stoch, ends)[running])
            x, running = state.stoch, running & (ends < 0.5)
            if not bool(running.any()):
                break
        self.logger.record("model/rollout_length", length)

    def _policy_obs(self, x: th.Tensor) -> Any:
        """:return: joined observations ``(n, Z)`` as the policy sees them"""
        parts = self.world_model.layout.split(x)
        shaped = {key.name: parts[key.name].unflatten(-1, key.shape) for key in self.observation_codec.keys}
        if self._vec_normalize_env is not None:
            arrays = {name: part.cpu().numpy() for name, part in shaped.items()}
            normalized = self.observation_codec.normalize(arrays, self._vec_normalize_env)
            shaped = {name: th.as_tensor(part, device=self.device).float() for name, part in normalized.items()}
        return shaped if self.observation_codec.is_dict else shaped["obs"]

    def learn(
        self: SelfMBPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "MBPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMBPO:
        """As SB3's, with the same arguments."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    # ---- saving

    def _excluded_save_params(self) -> list[str]:
        ours = ["world_model", "model_optimizer", "imagined", "observation_codec", "action_codec"]
        return [*super()._excluded_save_params(), *ours]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        return [*modules, "world_model", "model_optimizer"], variables

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        As SB3's; the file appears whole or not at all.

        :param path: where; ``.zip`` is added if there is no suffix
        :param exclude: attributes to leave out as well
        :param include: attributes to put in although they are left out otherwise
        """
        if isinstance(path, io.BufferedIOBase):
            return super().save(path, exclude, include)

        def write(temporary: pathlib.Path) -> None:
            with open(temporary, "w+b") as file:
                super(ModelBasedPolicyOptimization, self).save(file, exclude, include)

        write_atomically(path, write, ".zip")


_CLASSES: dict[type[OffPolicyAlgorithm], type[ModelBasedPolicyOptimization]] = {}


class MBPO(ModelBasedPolicyOptimization, SAC):
    """
    Model-based policy optimization: SAC, most of whose batches are imagined. An ensemble learns from all real steps; dreams of
    few steps, which start from states that were really seen, fill a second replay; and the agent makes several gradient steps
    an environment step, on batches of which a small share is real. Paper: Janner et al. 2019,
    https://arxiv.org/abs/1906.08253

    All other arguments are those of the agent, SAC unless ``agent_class`` says otherwise. The defaults are for small tasks.

    :param policy: ``"MlpPolicy"``, or ``"MultiInputPolicy"`` for dictionaries of vectors
    :param env: the environment, or its id; actions are numbers, observations vectors that show all that matters
    :param learning_rate: of the agent
    :param learning_starts: random environment steps before anything is learnt
    :param batch_size: of the agent
    :param gradient_steps: of the agent, an environment step
    :param model_train_freq: environment steps from one fit of the model to the next
    :param rollouts_per_step: dreams an environment step; they are dreamt together after every fit
    :param rollout_length: steps a dream takes; or ``(first step, last step, first length, last length)``, between which it is
        linear in the environment steps
    :param retain_fits: fits of which dreams are kept; longer dreams than before drop all
    :param real_ratio: share of the real steps in every batch
    :param model_batch_size: rows a member and gradient step of the model
    :param model_max_epochs: passes over the data at most, a fit
    :param model_max_updates: gradient steps of the model at most, a fit: what bounds its cost where data are many
    :param model_validation: share of the rows by which a fit stops and members are judged
    :param model_learning_rate: of the model
    :param world_model_class: the model; an ensemble of 7 networks, of which the 5 best count, by default
    :param world_model_kwargs: its arguments: ``n_members``, ``n_elites``, ``units``, ``layers`` ...
    :param termination_fn: when episodes terminate, of tensors ``(obs, action, next_obs)``, each observation a dictionary of
        keys (``"obs"`` where it is none), actions from -1 to 1; None to learn it
    :param reward_fn: the reward likewise; None to learn it
    :param agent_class: another off-policy algorithm for numbers as actions: TD3, DDPG, or TQC and CrossQ of sb3-contrib
    :param policy_kwargs: of the agent's policy; ``dict(net_arch=[64, 64])`` by default
    :param _init_setup_model: whether to build the networks now
    :param agent_kwargs: of the agent: ``gamma``, ``tau``, ``ent_coef``, ``seed``, ``device`` ...
    """

    agent_class = SAC

    def __new__(cls, *args: Any, agent_class: type[OffPolicyAlgorithm] | None = None, **kwargs: Any) -> Any:
        """:return: a model of the class that belongs to the agent"""
        kind = cls if agent_class is None or agent_class is cls.agent_class else mbpo_class(agent_class)
        if kind is cls:
            return super().__new__(cls)
        return kind(*args, **kwargs)

    @classmethod
    def load(cls, path: Any, env: GymEnv | None = None, *args: Any, **kwargs: Any) -> Any:
        """As SB3's; the file tells which agent it holds."""
        data, _, _ = load_from_zip_file(path, device="cpu")
        if isinstance(path, io.BufferedIOBase):
            path.seek(0)
        found = (data or {}).get("_agent", SAC)
        kind = cls if found is cls.agent_class else mbpo_class(found)
        return super().load(path, env, *args, **kwargs) if kind is cls else kind.load(path, env, *args, **kwargs)


def mbpo_class(agent_class: type[OffPolicyAlgorithm]) -> type[ModelBasedPolicyOptimization]:
    """
    :param agent_class: an off-policy algorithm
    :return: the class of its models that learn from dreams
    :raises ValueError: it is none
    """
    if not (isinstance(agent_class, type) and issubclass(agent_class, OffPolicyAlgorithm)):
        raise ValueError(f"agent_class must be an off-policy algorithm, such as SAC or TD3, got {agent_class!r:.100}.")
    if issubclass(agent_class, ModelBasedPolicyOptimization):
        return agent_class
    if agent_class is SAC:
        return MBPO
    if agent_class not in _CLASSES:
        name = f"MBPO_{agent_class.__name__}"
        _CLASSES[agent_class] = type(name, (ModelBasedPolicyOptimization, agent_class), {"agent_class": agent_class})
    return _CLASSES[agent_class]
