"""PETS: plan in the dreams of a probabilistic ensemble, and fit it anew every few steps."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_dreamer.common.arguments import check_numbers
from sb3_dreamer.common.networks import bounded
from sb3_dreamer.common.plain_data import Classes, name_classes
from sb3_dreamer.pets.policies import MlpPolicy, MultiInputPolicy, PETSPolicy
from sb3_dreamer.planning.algorithm import PlanningAlgorithm
from sb3_dreamer.planning.planners import Method
from sb3_dreamer.world_models import DropoutWorldModel, EnsembleWorldModel, LaplaceWorldModel, ModelSize
from sb3_dreamer.world_models.ensemble_fitting import fit_transitions
from sb3_dreamer.world_models.transitions import Transitions, from_rows

SelfPETS = TypeVar("SelfPETS", bound="PETS")


class PETS(PlanningAlgorithm):
    """
    Probabilistic ensembles with trajectory sampling: an ensemble learns the dynamics from single steps, and every action is
    the first of a sequence that was best over dreams of all its members. There is no actor: what is learnt is the
    model. For observations that show all that matters. The model normalises them itself: a ``VecNormalize``, whose units
    change from one fit to the next, had better have ``norm_obs=False``. Paper: Chua et al. 2018,
    https://arxiv.org/abs/1805.12114

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"`` for dictionaries, or a policy class
    :param env: the environment, or its id
    :param learning_rate: of the ensemble; a number or a function of the remaining progress (from 1 to 0)
    :param buffer_size: rows of the replay over all environments (an episode of n steps takes n + 1 rows)
    :param learning_starts: environment steps, taken at random, before the first fit; None for 200
    :param train_freq: environment steps from one fit to the next
    :param batch_size: rows a member and gradient step
    :param max_epochs: passes over the data at most, a fit
    :param max_updates: gradient steps at most, a fit: what bounds its cost where data are many
    :param validation: share of the rows held out of a fit, by which it stops and members are judged
    :param patience: passes without improvement after which a fit stops
    :param gamma: discount factor of planned rewards
    :param planner: ``"cem"``, ``"icem"`` or ``"mppi"``
    :param planner_kwargs: ``horizon``, ``n_samples``, ``n_iterations``, ``n_elites`` ...: see
        :class:`~sb3_dreamer.planning.planners.Planner`
    :param particles: dreams of each candidate; None for one an elite member
    :param replan_every: steps taken of a plan before the next
    :param exploration_noise: of actions while data are collected: standard deviation (in units of half the action space), or
        the probability of a random choice
    :param replay_buffer_kwargs: ``storage_path``: a folder to keep a replay on disk that is larger than the memory
    :param policy_kwargs: ``size``, ``world_model_class``, ``world_model_kwargs``: see
        :class:`~sb3_dreamer.pets.policies.PETSPolicy`
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder for TensorBoard
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: seed of everything random
    :param device: torch device
    :param _init_setup_model: whether to build the networks now
    """

    policy: PETSPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy, "MultiInputPolicy": MultiInputPolicy}

    def __init__(
        self,
        policy: str | type[PETSPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int | None = None,
        train_freq: int = 50,
        batch_size: int = 32,
        max_epochs: int = 25,
        max_updates: int = 2000,
        validation: float = 0.1,
        patience: int = 5,
        gamma: float = 0.99,
        planner: Method = "icem",
        planner_kwargs: dict[str, Any] | None = None,
        particles: int | None = None,
        replan_every: int = 1,
        exploration_noise: float = 0.0,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.train_freq = train_freq
        self.max_epochs = max_epochs
        self.max_updates = max_updates
        self.validation = validation
        self.patience = patience
        self.planner = planner
        self.planner_kwargs = planner_kwargs
        self.particles = particles
        self.replan_every = replan_every
        self.exploration_noise = exploration_noise
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            batch_length=1,  # single steps
            train_ratio=1.0,  # has no meaning: fits see all data
            gamma=gamma,
            replay_buffer_kwargs=replay_buffer_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name == "CnnPolicy":
            raise ValueError(
                "PETS has no CnnPolicy, as its models predict numbers, not images: use PlaNet or Dreamer, or MlpPolicy to "
                "treat a small image as a vector."
            )
        return super()._get_policy_from_name(policy_name)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_numbers(self, whole=("train_freq", "max_epochs", "max_updates", "patience"), minimum=1)
        check_numbers(self, real=("validation",))
        if self.validation >= 1:
            raise ValueError(f"validation is a share of the rows and must be less than 1, got {self.validation}.")
        # an environment's newest row is no step yet, and an episode of a single step takes two rows
        steps = min(self._first_update_at(), self.buffer_size // 2) - self.n_envs
        held_out = int(self.validation * steps)
        if steps - held_out < 2 or (self.validation > 0 and held_out == 0):
            raise ValueError(
                f"learning_starts={self.learning_starts} with buffer_size={self.buffer_size} and {self.n_envs} environments "
                f"may leave {steps} steps for the first fit, too few to hold out validation={self.validation} of them: "
                "raise learning_starts or buffer_size."
            )

    # ---- learning

    def _owe_updates(self) -> None:
        """A fit is due when random steps end, and every ``train_freq`` steps from then on."""
        assert self.replay_buffer is not None
        since = self.num_timesteps - self._first_update_at()
        enough = self.replay_buffer.size() >= min(self._first_update_at(), self.n_envs * self.replay_buffer.capacity)
        crossed = since // self.train_freq > (since - self.n_envs) // self.train_freq
        if since >= 0 and enough and (crossed or self._n_updates == 0):
            self._update_debt = 1.0

    def train(self, gradient_steps: int) -> None:
        """
        Fit the ensemble to all data there is, from where the last fit left it.

        :param gradient_steps: of no meaning: a fit ends when it no longer improves, or after ``max_epochs`` or ``max_updates``
        """
        policy = self.policy
        self._update_learning_rate(policy.optimizer)
        history = fit_transitions(
            policy.world_model,
            self._transitions(),
            updates=self.max_updates,
            epochs=self.max_epochs,
            validation=self.validation,
            batch_size=self.batch_size,
            patience=self.patience,
            optimizer=policy.optimizer,
            seed=None,
        )
        self._n_updates += history.updates[-1]
        self._metrics.add({"model_loss": th.tensor(history.train["nats"][-1])})
        if history.validation:
            self._metrics.add({"validation_error": th.tensor(min(history.validation["error"]))})

    def _transitions(self) -> Transitions:
        """:return: all steps of the replay, observations as the policy sees them"""
        assert self.replay_buffer is not None
        model, device, parts = self.policy.world_model, self.device, []
        for rows in self.replay_buffer.streams():
            obs = rows.observations
            if self._normalizer is not None:
                obs = self.observation_codec.normalize(obs, self._normalizer)
            x = model.layout.join(self.observation_codec.to_tensors(obs, device))
            columns = (rows.rewards, rows.is_first, rows.is_last, rows.is_terminal)
            action = bounded(th.as_tensor(rows.actions, device=device))
            parts.append(from_rows(x, action, *(th.as_tensor(column, device=device).float() for column in columns)))
        return Transitions.join(parts)

    def learn(
        self: SelfPETS,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "PETS",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPETS:
        """
        See :meth:`ModelBasedAlgorithm.learn`, which has the same arguments.

        :raises ValueError: ``VecNormalize`` changes the observations that a ``reward_fn`` or ``termination_fn`` knows
        """
        model, normalizer = self.policy.world_model, self._normalizer
        given = [name for name in ("reward_fn", "termination_fn") if getattr(model, name) is not None]
        if given and normalizer is not None and normalizer.norm_obs:
            raise ValueError(
                f"{' and '.join(given)} would be shown what VecNormalize makes of the observations: use "
                "VecNormalize(..., norm_obs=False), as the model normalises its inputs itself."
            )
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    # ---- saving

    @classmethod
    def plain_classes(cls) -> Classes:
        models = [EnsembleWorldModel, DropoutWorldModel, LaplaceWorldModel, ModelSize]
        return {**super().plain_classes(), **name_classes([], models)}
