"""PlaNet: learn a world model from sequences, and plan in its latent space."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_dreamer.common.arguments import check_evaluation_rate, check_max_grad_norm
from sb3_dreamer.common.optimizers import clip_grad_norms_
from sb3_dreamer.common.plain_data import Classes, name_classes
from sb3_dreamer.planet.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PlaNetPolicy
from sb3_dreamer.planning.algorithm import PlanningAlgorithm
from sb3_dreamer.planning.planners import Method
from sb3_dreamer.world_models import SEQUENCE_MODELS, ModelSize

SelfPlaNet = TypeVar("SelfPlaNet", bound="PlaNet")


class PlaNet(PlanningAlgorithm):
    """
    The deep planning network: a recurrent world model learns from replayed sequences, and every action is the first of a
    sequence that was best in its latent space. There is no actor and no critic. Predicted terminations end what a plan can
    gain. Paper: Hafner et al. 2019, https://arxiv.org/abs/1811.04551

    The defaults are for small tasks; the published planner is ``planner="cem"`` with ``planner_kwargs=dict(horizon=12,
    n_samples=1000, n_iterations=10, n_elites=100)``, the published latents are
    ``policy_kwargs=dict(world_model_kwargs=RSSM.planet_kwargs)``.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for dictionaries, or a policy class
    :param env: the environment, or its id
    :param learning_rate: of the world model; a number or a function of the remaining progress (from 1 to 0)
    :param buffer_size: rows of the replay over all environments (an episode of n steps takes n + 1 rows)
    :param learning_starts: environment steps, taken at random, before the first update; None for 200, or more where many
        environments need more to fill one window each
    :param batch_size: windows a batch
    :param batch_length: rows a window
    :param train_ratio: replayed rows per environment step: ``train_ratio / (batch_size * batch_length)`` updates a step
    :param train_ratio_decay: share of ``train_ratio`` that remains in a long run: after ``train_ratio_steps`` the ratio falls
        in inverse proportion to the steps, down to this; 1 for a constant ratio
    :param train_ratio_steps: environment steps with the whole ``train_ratio``
    :param gamma: discount factor of planned rewards
    :param max_grad_norm: largest norm of the gradient, None for no limit
    :param evaluation_rate: :meth:`predict` plans with a Polyak average of the world model that takes this share of the one in
        training after every update, and more at first; None for the world model in training
    :param pretrain_updates: updates at once when training starts
    :param online_replay: train on every new window once before drawing at random
    :param planner: ``"cem"``, ``"icem"`` or ``"mppi"``
    :param planner_kwargs: ``horizon``, ``n_samples``, ``n_iterations``, ``n_elites`` ...: see
        :class:`~sb3_dreamer.planning.planners.Planner`
    :param particles: sampled dreams of each candidate; 1 for the modes alone
    :param replan_every: steps taken of a plan before the next
    :param exploration_noise: of actions while data are collected: standard deviation (in units of half the action space), or
        the probability of a random choice
    :param replay_buffer_kwargs: ``storage_path``: a folder to keep a replay on disk that is larger than the memory
    :param policy_kwargs: ``size``, ``world_model_class``, ``world_model_kwargs`` ...: see
        :class:`~sb3_dreamer.planet.policies.PlaNetPolicy`
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder for TensorBoard
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: seed of everything random
    :param device: torch device
    :param _init_setup_model: whether to build the networks now
    """

    policy: PlaNetPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[PlaNetPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int | None = None,
        batch_size: int = 16,
        batch_length: int = 16,
        train_ratio: float = 256,
        train_ratio_decay: float = 0.25,
        train_ratio_steps: int = 2000,
        gamma: float = 0.99,
        max_grad_norm: float | None = 100.0,
        evaluation_rate: float | None = 0.002,
        pretrain_updates: int = 200,
        online_replay: bool = False,
        planner: Method = "icem",
        planner_kwargs: dict[str, Any] | None = None,
        particles: int = 1,
        replan_every: int = 1,
        exploration_noise: float = 0.3,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.max_grad_norm = max_grad_norm
        self.evaluation_rate = evaluation_rate
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
            batch_length=batch_length,
            train_ratio=train_ratio,
            train_ratio_decay=train_ratio_decay,
            train_ratio_steps=train_ratio_steps,
            gamma=gamma,
            pretrain_updates=pretrain_updates,
            online_replay=online_replay,
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
        check_max_grad_norm(self)
        check_evaluation_rate(self)

    # ---- learning

    def train(self, gradient_steps: int) -> None:
        """
        Updates of the world model on replayed batches.

        :param gradient_steps: number of updates
        """
        assert self.replay_buffer is not None
        policy, model = self.policy, self.policy.world_model
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        parameters: list[th.Tensor] = list(model.parameters())
        batches = self._batches(gradient_steps)
        for batch, index in batches:
            posterior, losses, metrics = model.loss(batch)
            loss = model.total_loss(losses)
            policy.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            (norm,) = clip_grad_norms_([parameters], self.max_grad_norm)
            if not self._is_sound(loss, norm, meanwhile=batches.draw_ahead):
                continue
            self.replay_buffer.write_latents(index, posterior)
            policy.optimizer.step()
            policy.update_average(self.evaluation_rate)
            self._n_updates += 1
            parts = {f"{name}_loss": part.mean() for name, part in losses.items()}
            self._metrics.add({**metrics, **parts, "model_loss": loss, "grad_norm": norm})

    def learn(
        self: SelfPlaNet,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "PlaNet",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPlaNet:
        """See :meth:`ModelBasedAlgorithm.learn`, which has the same arguments."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    # ---- saving

    @classmethod
    def plain_classes(cls) -> Classes:
        return {**super().plain_classes(), **name_classes([], [*SEQUENCE_MODELS, ModelSize])}
