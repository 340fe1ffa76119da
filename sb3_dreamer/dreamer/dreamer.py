"""Dreamer: learn a world model, and behave by what one dreams in it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import configure_logger

from sb3_dreamer.behaviour.exploring import RATE_OF_EXPLORER
from sb3_dreamer.behaviour.policy import Exploration, check_exploration
from sb3_dreamer.common.arguments import check_numbers, check_ranges, check_whole
from sb3_dreamer.common.preprocessing import ObservationCodec
from sb3_dreamer.common.sequence_buffer import RewardFn
from sb3_dreamer.dreamer.behaviour import BehaviourLosses
from sb3_dreamer.dreamer.policies import CnnPolicy, DreamerPolicy, MlpPolicy, MultiInputPolicy

SelfDreamer = TypeVar("SelfDreamer", bound="Dreamer")


class Dreamer(BehaviourLosses):
    """
    Dreamer learns a recurrent world model from replayed sequences, and an actor and a critic from trajectories that the
    model imagines. Paper: https://www.nature.com/articles/s41586-025-08744-2 (DreamerV3).

    ``Dreamer("MlpPolicy", env, **DREAMER_V3)`` is the published algorithm. The defaults are for small tasks and differ
    from it, as measured on toy tasks: small networks, Gaussian latents, actor gradients through the dynamics for continuous
    actions, fewer imagination starts, larger learning rates, observations normalised by running statistics, heavier
    reconstruction and reward losses, a penalty on the pre-tanh mean of the actions, a world model that is trained for a while
    before the actor is, and an average of the weights for :meth:`predict`.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for dictionaries, or a policy class
    :param env: the environment, or its id
    :param learning_rate: of the world model, and of actor and critic unless they have their own; a number or a function
        of the remaining progress (from 1 to 0)
    :param buffer_size: rows of the replay over all environments (an episode of n steps takes n + 1 rows)
    :param learning_starts: environment steps before the first update; None for 200, or more where many environments
        need more to fill one window each
    :param batch_size: windows a batch; None for as many as make 512 rows, or 256 where convolutions see pictures, to which
        twice the rows are twice the time
    :param batch_length: rows a window, which bounds over how many steps the model can learn to remember; None for 8 with
        continuous actions, whose updates cost more (they go back through what is imagined), 32 with discrete ones, and 48
        for a :class:`~sb3_dreamer.world_models.ContextRSSM`
    :param train_ratio: replayed rows per environment step: ``train_ratio / (batch_size * batch_length)`` updates a step; None
        for 768, or 384 with pictures: three updates in two steps with batches as they are by default
    :param train_ratio_decay: share of ``train_ratio`` that remains in a long run, where a new step tells less: after
        ``train_ratio_steps`` the ratio falls in inverse proportion to the steps, down to this; 1 for a constant ratio
    :param train_ratio_steps: environment steps with the whole ``train_ratio``
    :param gamma: discount factor
    :param return_lambda: λ of the λ-returns
    :param imagination_horizon: H, steps imagined
    :param imagination_starts: replayed states from which a batch imagines, drawn at random; None for all of them
    :param actor_gradient: ``"reinforce"``, ``"dynamics"`` (back-propagation through the imagined dynamics, reparametrised
        or straight-through actions), or ``"auto"``: dynamics for continuous actions, reinforce for discrete ones
    :param ent_coef: weight of the policy's entropy, relative to the range of the returns; ``"auto"`` for 2e-2 (continuous)
        or 3e-2 (discrete), which fall after 2,000 environment steps, in inverse proportion to them, down to a tenth (not
        for an actor that explores)
    :param action_mean_penalty: weight of the mean square of the pre-tanh action means (of the centred logits for discrete
        actions): keeps the policy from saturating before it knows what for; ``"auto"`` for 1e-2, which falls after 1,000
        environment steps, in inverse proportion to their square, down to a fiftieth
    :param actor_learning_rate: None for ``learning_rate``
    :param critic_learning_rate: None for ``learning_rate``
    :param warmup_updates: updates over which the learning rates rise from 0
    :param max_grad_norm: largest norm of the gradient of world model, actor and critic each; None for no limit
    :param slow_critic_scale: weight of the critic's pull towards its slow copy
    :param slow_critic_rate: share of the critic that goes into the slow copy at each update
    :param replay_value_scale: weight of the critic's loss on replayed sequences (its gradient reaches the world model)
    :param evaluation_rate: :meth:`predict` acts with a Polyak average of world model and actor that takes this share of the
        networks in training at each update (24 / updates if that is more); None to act with these themselves
    :param exploration: ``"plan2explore"`` to be rewarded, in imagination, for what several predictions of the next latent
        state disagree on (Sekar et al. 2020, https://arxiv.org/abs/2005.05960), beside the task's reward;
        ``"reconstruction"`` for what an autoencoder of the states reconstructs badly, which is the novelty of
        :class:`~sb3_dreamer.director.Director` without its hierarchy; ``"state_entropy"`` for what is far from the states
        seen (Liu and Abbeel 2021, https://arxiv.org/abs/2103.04551), which lasts where nothing is hard to predict; None for
        the task alone. While exploring, an actor of its own collects most of the data, for curiosity and task;
        :meth:`predict` acts for the task alone, with another that dreams from the same states (``explorer_share``)
    :param explorer_share: share of the episodes that the actor who explores collects; the others are the task's, which sees
        there where its dreams were wrong; None for a half, or all where ``extrinsic_coef`` is 0. Before the first reward other
        than 0, be it a cost, there is no task, and all are the explorer's
    :param intrinsic_coef: weight of the returns of curiosity, in units of their range; a number or a function of the remaining
        progress (from 1 to 0), with which curiosity can give way to the task
    :param extrinsic_coef: weight of the task's returns, in units of theirs (at least 1), for the actor that explores; 0 to
        collect data by curiosity alone, and learn another task afterwards with :meth:`adapt`
    :param random_warmup: act at random until ``learning_starts`` (else with the untrained policy)
    :param pretrain_updates: updates of the world model alone when training starts: an actor that learns from an untrained
        model saturates
    :param online_replay: train on every new window once before drawing at random
    :param prioritized_replay: share of a batch's windows that are drawn around rows which the world model predicted badly, in
        proportion to its loss, beyond what the best rows have, to the power of 0.7 (Curious Replay, Kauvar et al. 2023, https://arxiv.org/abs/2306.15934):
        rare events, such as a first reward, are learnt from again until they are known. 0 for uniform draws alone
    :param replay_buffer_kwargs: ``storage_path``: a folder to keep a replay on disk that is larger than the memory
    :param policy_kwargs: ``size``, ``latent``, ``world_model_class``, ``world_model_kwargs``, ``features_extractor_class``,
        ``optimizer_class`` ...: see
        :class:`~sb3_dreamer.dreamer.policies.DreamerPolicy`
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder for TensorBoard
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: seed of everything random
    :param device: torch device
    :param _init_setup_model: whether to build the networks now
    """

    policy: DreamerPolicy
    _aliases = ("actor", "critic")
    usual: ClassVar[dict[str, Any]] = {
        **BehaviourLosses.usual,
        "rows": 512,
        "picture_rows": 256,  # rows cost little where networks are small, but for convolutions
        "updates_a_step": 1.5,  # at first
        "explorer_share": 0.5,
    }
    rate_of: ClassVar[dict[str, str]] = {
        "actor": "actor_learning_rate",
        "critic": "critic_learning_rate",
        "disagreement": "critic_learning_rate",
        "autoencoder": "critic_learning_rate",
        **RATE_OF_EXPLORER,
    }
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[DreamerPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int | None = None,
        batch_size: int | None = None,
        batch_length: int | None = None,
        train_ratio: float | None = None,
        train_ratio_decay: float = 0.5,
        train_ratio_steps: int = 2000,
        gamma: float = 0.99,
        return_lambda: float = 0.95,
        imagination_horizon: int = 15,
        imagination_starts: int | None = 64,
        actor_gradient: Literal["auto", "reinforce", "dynamics"] = "auto",
        ent_coef: float | Literal["auto"] = "auto",
        action_mean_penalty: float | Literal["auto"] = "auto",
        actor_learning_rate: float | Schedule | None = 7e-4,
        critic_learning_rate: float | Schedule | None = 1e-3,
        warmup_updates: int = 0,
        max_grad_norm: float | None = 100.0,
        slow_critic_scale: float = 0.1,
        slow_critic_rate: float = 0.02,
        replay_value_scale: float = 0.3,
        evaluation_rate: float | None = 0.002,
        exploration: Exploration | None = None,
        explorer_share: float | None = None,
        intrinsic_coef: float | Schedule = 1.0,
        extrinsic_coef: float = 1.0,
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
        self.imagination_horizon = imagination_horizon
        self.imagination_starts = imagination_starts
        self.actor_gradient = actor_gradient
        self.ent_coef = ent_coef
        self.action_mean_penalty = action_mean_penalty
        self.actor_learning_rate = actor_learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.warmup_updates = warmup_updates
        self.max_grad_norm = max_grad_norm
        self.slow_critic_scale = slow_critic_scale
        self.slow_critic_rate = slow_critic_rate
        self.replay_value_scale = replay_value_scale
        self.evaluation_rate = evaluation_rate
        self.exploration = exploration
        self.explorer_share = explorer_share
        self.intrinsic_coef = intrinsic_coef
        self.extrinsic_coef = extrinsic_coef
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,  # type: ignore[arg-type]  # _setup_model chooses where they are None
            batch_length=batch_length,  # type: ignore[arg-type]
            train_ratio=train_ratio,  # type: ignore[arg-type]
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
        check_numbers(self, real=("replay_value_scale",))
        check_exploration(self.exploration, None)
        if self.explorer_share is not None:
            check_ranges(shares=dict(explorer_share=self.explorer_share))

    def _usual_rows(self) -> int:
        scaled = self.policy_kwargs.get("normalize_images", True)
        convolve = getattr(self.policy_class, "convolve", False)
        codec = ObservationCodec(self.observation_space, convolve, scaled)
        return int(self.usual["picture_rows" if any(key.kind == "image" for key in codec.keys) else "rows"])

    def _setup_model(self) -> None:
        if self.train_ratio is None:
            self.train_ratio = self.usual["updates_a_step"] * self._usual_rows()
        super()._setup_model()

    def _policy_arguments(self) -> dict[str, Any]:
        exploring = {} if self.exploration is None else dict(exploration=self.exploration)
        return {**super()._policy_arguments(), **exploring}

    def _create_aliases(self) -> None:
        super()._create_aliases()
        self.actor = self.policy.actor
        self.critic = self.policy.critic

    def _share_to_explore(self) -> float:
        if self.explorer_share is not None:
            return self.explorer_share
        return float(self.usual["explorer_share"]) if self.extrinsic_coef > 0 else 1.0

    # ---- learning

    def train(self, gradient_steps: int) -> None:
        """
        Dreamer's updates: world model on a replayed batch, imagination from its states, actor and critic on that.

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

                # Behaviour: imagine from the states found, raise the returns, and learn to predict them
                losses_of_behaviour = () if model_alone else self._behaviour_losses(batch, posterior, metrics)

                # What exploring is rewarded for: predictions that learn from the states, not these from them
                if policy.explorer is not None:
                    curiosity_loss = policy.explorer.curiosity.loss(batch, posterior)
                    metrics[f"{policy.explorer.curiosity.name}_loss"] = curiosity_loss
                    model_loss = model_loss + curiosity_loss

            # Fresh latents go into the replay; one optimizer step, of all networks and what follows them
            if not self._find_gradients(model_loss, losses_of_behaviour, metrics, batches.draw_ahead):
                continue
            self._remember(index, posterior, losses)
            self._step_networks()
            self._n_updates += 1
            self._metrics.add(metrics)

    def learn(
        self: SelfDreamer,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "Dreamer",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDreamer:
        """See :meth:`ModelBasedAlgorithm.learn`, which has the same arguments."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def adapt(self, gradient_steps: int, reward_fn: RewardFn | None = None, last_rows: int | None = None) -> None:
        """
        Learn from what has been seen, without a step of the environment. After exploring: exploration ends, and :meth:`learn`
        goes on with the task; actor and critic begin anew if that is another one. All other networks go on from where they
        are: with ``last_rows`` they are fine-tuned to what came last, such as a task that has changed.

        :param gradient_steps: updates of model, actor and critic
        :param reward_fn: the task: rewards ``(n,)`` of observations ``(n, ...)`` or a dictionary of such, actions ``(n, ...)``
            of the action space, and the observations they led to; the replay's rewards become these. None for the rewards
            that the environment gave
        :param last_rows: learn from so many newest rows of each environment (an episode of n steps takes n + 1); None for all
        :raises ValueError: there is nothing to learn from, or rewards that are not n finite numbers
        """
        assert self.replay_buffer is not None
        check_whole(gradient_steps=gradient_steps)
        if last_rows is not None:
            check_whole(last_rows=last_rows)
            if last_rows <= self.batch_length:
                raise ValueError(
                    f"last_rows={last_rows} must be more than batch_length={self.batch_length}, one window's rows."
                )
        if not self.replay_buffer.can_sample(self.batch_length):
            raise ValueError(
                "adapt() learns from the replay, which holds no window of rows yet: learn(), or load_replay_buffer()."
            )
        if reward_fn is not None:
            self.replay_buffer.relabel(reward_fn, self.action_codec.to_env)
            rewards = np.concatenate([rows.rewards[~rows.is_first] for rows in self.replay_buffer.streams()])
            self.policy.world_model.renew_reward_scale(th.as_tensor(rewards, device=self.device))
        if self.exploration is not None:
            self.exploration = None
            kept = {name: value for name, value in self.policy_kwargs.items() if name != "curiosity_kwargs"}
            self.policy_kwargs = kept  # the dictionary before is the caller's
            self.policy.stop_exploring(anew=reward_fn is not None)
            self._create_aliases()
            if reward_fn is not None:
                self._behaviour_began = self._steps_in_all
        self.policy.averaged_updates.zero_()  # what predict acts with is to follow at once
        if not hasattr(self, "_logger"):
            self.set_logger(configure_logger(self.verbose, None))
        # with the learning rates of a beginning: a schedule may have come to its end
        remaining, self._current_progress_remaining = self._current_progress_remaining, 1.0
        try:
            with self.replay_buffer.newest(last_rows):
                self.train(gradient_steps)
        finally:
            self._current_progress_remaining = remaining

    # ---- saving

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self._aliases]
