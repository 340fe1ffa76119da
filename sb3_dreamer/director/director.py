"""Director: a manager chooses goals among states, a worker pursues them, and both learn in a world model's dreams."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_dreamer.behaviour.exploring import RATE_OF_EXPLORER
from sb3_dreamer.behaviour.policy import Exploration, check_exploration
from sb3_dreamer.common.arguments import check_numbers, check_ranges
from sb3_dreamer.director.behaviour import DirectorLosses
from sb3_dreamer.director.policies import CnnPolicy, DirectorPolicy, MlpPolicy, MultiInputPolicy

SelfDirector = TypeVar("SelfDirector", bound="Director")


class Director(DirectorLosses):
    """
    A world model as Dreamer's, and two actors that learn in its dreams: every ``goal_steps`` steps a manager chooses a goal,
    for the task's reward and for novelty; a worker is rewarded for coming near it, and for nothing else unless asked to.
    Goals are states of the model, named by the codes of an autoencoder. Paper: Hafner et al. 2022, https://arxiv.org/abs/2206.04114

    Differences from the paper: the defaults are for small tasks (networks, learning rates, Gaussian latents); the worker's
    gradient goes through the dynamics for continuous actions; rewards are discounted inside a block of ``goal_steps`` steps,
    so that the manager's returns are the task's; novelty and goals do not end with an episode, as the task does; returns are
    scaled by their percentiles, as in DreamerV3.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for dictionaries, or a policy class
    :param env: the environment, or its id
    :param learning_rate: of the world model, and of actors and critics unless they have their own; a number or a function of
        the remaining progress (from 1 to 0)
    :param buffer_size: rows of the replay over all environments (an episode of n steps takes n + 1 rows)
    :param learning_starts: environment steps before the first update; None for 200, or more where many environments
        need more to fill one window each
    :param batch_size: windows a batch; None for as many as make 256 rows
    :param batch_length: rows a window; None for 8 with continuous actions and 32 with discrete ones
    :param train_ratio: replayed rows per environment step: ``train_ratio / (batch_size * batch_length)`` updates a step
    :param train_ratio_decay: share of ``train_ratio`` that remains in a long run: after ``train_ratio_steps`` the ratio falls
        in inverse proportion to the steps, down to this; 1 for a constant ratio
    :param train_ratio_steps: environment steps with the whole ``train_ratio``
    :param gamma: discount factor of an environment step, for manager and worker
    :param return_lambda: λ of the λ-returns
    :param goal_steps: K, steps for which a goal is pursued
    :param imagination_horizon: H, steps imagined: a multiple of ``goal_steps``
    :param imagination_starts: replayed states from which a batch imagines, drawn at random; None for all of them
    :param intrinsic_coef: weight of novelty's returns in the manager's advantage, in units of their range; a number or a
        function of the remaining progress, with which novelty can give way to the task
    :param extrinsic_coef: weight of the task's returns there, in units of theirs
    :param exploration: what novelty is: ``"reconstruction"``, what the autoencoder reconstructs badly, as in the paper, or
        ``"plan2explore"`` or ``"state_entropy"`` as :class:`~sb3_dreamer.dreamer.Dreamer`'s
    :param explorer_share: share of the episodes that an actor without goals collects, for novelty and task, as who explores
        for :class:`~sb3_dreamer.dreamer.Dreamer`; before the first reward other than 0 all are that actor's. Both coefficients
        above are then its own (a Dreamer's are 1), and the manager learns for the task alone. The entropy's weight is that of
        a Dreamer who explores, whatever ``ent_coef`` is. None, as in the paper: manager and worker explore
    :param worker_intrinsic_coef: weight of novelty in the worker's reward, in units of its usual value, beside the goal's,
        which is at most 1 a step: goals are states that have been seen, and with novelty the worker goes beyond them; a number
        or a function of the remaining progress; 0, as in the paper, for goals alone
    :param manager_entropy: entropy that the manager keeps, as a share of the largest; a weight that adapts sees to it
    :param actor_gradient: the worker's: ``"reinforce"``, ``"dynamics"`` (through the imagined dynamics), or ``"auto"``:
        dynamics for continuous actions, reinforce for discrete ones. The manager's is always REINFORCE's
    :param ent_coef: weight of the worker's entropy, relative to the range of its returns, which is wide, as it pursues goals
        near and far; ``"auto"`` for 2e-2 (continuous) or 3e-2 (discrete), which fall as Dreamer's
    :param action_mean_penalty: weight of the mean square of the worker's pre-tanh action means (of the centred logits for
        discrete actions), as Dreamer's
    :param actor_learning_rate: of manager, worker and the actor that explores, None for ``learning_rate``
    :param critic_learning_rate: of their critics, of the autoencoder and of what tells novelty; None for ``learning_rate``.
        Codes that change faster than the manager learns would be a language that it never comes to speak
    :param warmup_updates: updates over which the learning rates rise from 0
    :param max_grad_norm: largest norm of the gradient of each network; None for no limit
    :param slow_critic_scale: weight of the critics' pull towards their slow copies
    :param slow_critic_rate: share of the critics that goes into the slow copies at each update
    :param evaluation_rate: :meth:`predict` acts with a Polyak average of the networks that takes this share of those in
        training at each update (24 / updates if that is more); None to act with these themselves
    :param random_warmup: act at random until ``learning_starts`` (else with the untrained policy)
    :param pretrain_updates: updates of world model and autoencoder alone when training starts
    :param online_replay: train on every new window once before drawing at random
    :param prioritized_replay: share of a batch's windows that are drawn around rows which the world model predicted badly, in
        proportion to its loss, beyond what the best rows have, to the power of 0.7 (Curious Replay, Kauvar et al. 2023, https://arxiv.org/abs/2306.15934):
        rare events, such as a first reward, are learnt from again until they are known. 0 for uniform draws alone
    :param replay_buffer_kwargs: ``storage_path``: a folder to keep a replay on disk that is larger than the memory
    :param policy_kwargs: ``size``, ``latent``, ``world_model_kwargs``, ``goal_kwargs`` ...: see
        :class:`~sb3_dreamer.director.policies.DirectorPolicy`
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder for TensorBoard
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: seed of everything random
    :param device: torch device
    :param _init_setup_model: whether to build the networks now
    """

    policy: DirectorPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    rate_of: ClassVar[dict[str, str]] = {
        "manager": "actor_learning_rate",
        "worker": "actor_learning_rate",
        "manager_critic": "critic_learning_rate",
        "novelty_critic": "critic_learning_rate",
        "worker_critic": "critic_learning_rate",
        "autoencoder": "critic_learning_rate",
        "disagreement": "critic_learning_rate",
        **RATE_OF_EXPLORER,
    }

    def __init__(
        self,
        policy: str | type[DirectorPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int | None = None,
        batch_size: int | None = None,
        batch_length: int | None = None,
        train_ratio: float = 128,
        train_ratio_decay: float = 0.5,
        train_ratio_steps: int = 2000,
        gamma: float = 0.99,
        return_lambda: float = 0.95,
        goal_steps: int = 8,
        imagination_horizon: int = 16,
        imagination_starts: int | None = 64,
        intrinsic_coef: float | Schedule = 0.1,
        extrinsic_coef: float = 1.0,
        exploration: Exploration = "reconstruction",
        explorer_share: float | None = None,
        worker_intrinsic_coef: float | Schedule = 0.0,
        manager_entropy: float = 0.5,
        actor_gradient: Literal["auto", "reinforce", "dynamics"] = "auto",
        ent_coef: float | Literal["auto"] = 3e-3,
        action_mean_penalty: float | Literal["auto"] = "auto",
        actor_learning_rate: float | Schedule | None = 7e-4,
        critic_learning_rate: float | Schedule | None = 1e-3,
        warmup_updates: int = 0,
        max_grad_norm: float | None = 100.0,
        slow_critic_scale: float = 0.1,
        slow_critic_rate: float = 0.02,
        evaluation_rate: float | None = 0.002,
        random_warmup: bool = True,
        pretrain_updates: int = 200,
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
        self.return_lambda = return_lambda
        self.goal_steps = goal_steps
        self.imagination_horizon = imagination_horizon
        self.imagination_starts = imagination_starts
        self.intrinsic_coef = intrinsic_coef
        self.extrinsic_coef = extrinsic_coef
        self.exploration = exploration
        self.explorer_share = explorer_share
        self.worker_intrinsic_coef = worker_intrinsic_coef
        self.manager_entropy = manager_entropy
        self.actor_gradient = actor_gradient
        self.ent_coef = ent_coef
        self.action_mean_penalty = action_mean_penalty
        self.actor_learning_rate = actor_learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.warmup_updates = warmup_updates
        self.max_grad_norm = max_grad_norm
        self.slow_critic_scale = slow_critic_scale
        self.slow_critic_rate = slow_critic_rate
        self.evaluation_rate = evaluation_rate
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,  # type: ignore[arg-type]  # _setup_model chooses where they are None
            batch_length=batch_length,  # type: ignore[arg-type]
            train_ratio=train_ratio,
            train_ratio_decay=train_ratio_decay,
            train_ratio_steps=train_ratio_steps,
            gamma=gamma,
            random_warmup=random_warmup,
            pretrain_updates=pretrain_updates,
            online_replay=online_replay,
            prioritized_replay=prioritized_replay,
            replay_buffer_kwargs=replay_buffer_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_numbers(self, whole=("goal_steps",), real=("manager_entropy",), minimum=0)
        if not callable(self.worker_intrinsic_coef):
            check_numbers(self, real=("worker_intrinsic_coef",))
        check_exploration(self.exploration)
        if self.explorer_share is not None:
            check_ranges(shares=dict(explorer_share=self.explorer_share))
        if self.goal_steps < 1:
            raise ValueError(f"goal_steps must be at least 1, got {self.goal_steps}.")
        if not 0 < self.manager_entropy < 1:
            raise ValueError(f"manager_entropy is a share of the largest and must lie in (0, 1), got {self.manager_entropy}.")
        if self.imagination_horizon % self.goal_steps:
            raise ValueError(
                f"imagination_horizon={self.imagination_horizon} must be a multiple of goal_steps={self.goal_steps}: "
                "dreams are made of whole goals."
            )

    def _policy_arguments(self) -> dict[str, Any]:
        own = dict(
            goal_steps=self.goal_steps,
            manager_entropy=self.manager_entropy,
            exploration=self.exploration,
            explores_without_goals=self.explorer_share is not None,
        )
        return {**super()._policy_arguments(), **own}

    def _share_to_explore(self) -> float:
        return self.explorer_share or 0.0

    def _explorers_ent_coef(self) -> float:
        return self._usual_ent_coef  # its returns are not the worker's

    # ---- learning

    def train(self, gradient_steps: int) -> None:
        """
        Director's updates: world model on a replayed batch, autoencoder on its states, imagination from them, and manager,
        worker and their critics on that.

        :param gradient_steps: number of updates
        """
        assert self.replay_buffer is not None
        policy = self.policy
        policy.set_training_mode(True)
        batches = self._batches(gradient_steps)
        for batch, index in batches:
            self._update_rates()
            model_alone = self._n_updates < self.pretrain_updates
            policy.optimizer.zero_grad(set_to_none=True)

            with policy.autocast():
                # World model: filter the batch, predict observations, rewards and continue flags
                posterior, losses, metrics = self._compiled.get("loss", self.world_model.loss)(batch)
                model_loss = self.world_model.total_loss(losses)
                metrics.update({f"{name}_loss": loss.mean() for name, loss in losses.items()}, model_loss=model_loss)

                # Goals: name the states found by codes
                goal_loss = policy.autoencoder.loss(batch, posterior)
                metrics.update(goal_loss=goal_loss, goal_kl_weight=policy.autoencoder.kl_weight.weight.clone())

                # Behaviour: imagine from the states, goal by goal
                losses_of_behaviour = () if model_alone else self._behaviour_losses(posterior, metrics)

                # What is novel, where it is not what the autoencoder reconstructs badly
                if policy.own_curiosity is not None:
                    metrics[f"{policy.own_curiosity.name}_loss"] = policy.own_curiosity.loss(batch, posterior)
                    goal_loss = goal_loss + metrics[f"{policy.own_curiosity.name}_loss"]

            # Fresh latents go into the replay; one optimizer step, of all networks and what follows them
            if not self._find_gradients(model_loss + goal_loss, losses_of_behaviour, metrics, batches.draw_ahead):
                continue
            self._remember(index, posterior, losses)
            self._step_networks()
            self._n_updates += 1
            self._metrics.add(metrics)

    def learn(
        self: SelfDirector,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "Director",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDirector:
        """See :meth:`ModelBasedAlgorithm.learn`, which has the same arguments."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    # ---- looking inside

    def decode_goals(self, state: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        """
        What the goals look like that are being pursued.

        :param state: what :meth:`predict` returned for n observations
        :return: the observations that the model expects at the goals, ``(n, ...)`` a key (``"obs"`` where there is one), as
            the policy sees observations
        """
        self.policy.check_state(state, len(state[0]))
        with th.no_grad():
            decoded = self.policy.decode_goals(th.as_tensor(state[2], device=self.device))
        return {name: value.cpu().numpy() for name, value in decoded.items()}
