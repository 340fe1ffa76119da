"""Director's networks as one SB3 policy: world model, goals, manager, worker, and the copies that follow them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
import torch.nn as nn
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule

from sb3_dreamer.behaviour.curiosity import Curiosity, UsualValue
from sb3_dreamer.behaviour.exploring import Explorer, ExploringPolicy
from sb3_dreamer.behaviour.goals import AdaptiveWeight, GoalAutoencoder
from sb3_dreamer.behaviour.networks import Actor, ReturnRange
from sb3_dreamer.behaviour.policy import Exploration
from sb3_dreamer.common.averaging import Followers, frozen_copy
from sb3_dreamer.common.recurrent_policy import PicturePolicy
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models import RSSM, ContextRSSM, ModelSize


class DirectorPolicy(ExploringPolicy):
    """
    A manager chooses a goal, as a code of the autoencoder, every ``goal_steps`` steps; a worker acts towards the state that
    the code stands for. Between two steps, the state holds the code and for how many more steps it is pursued: latent state
    ``(n, D)``, ``(n, Z)``, code ``(n, C)``, steps ``(n, 1)``, and the action before ``(n, A)``.

    :param observation_space: observations
    :param action_space: actions
    :param lr_schedule: learning rate by remaining progress
    :param gamma: discount factor
    :param goal_steps: K, steps for which a goal is pursued
    :param manager_entropy: entropy wanted of the manager, as a share of the largest
    :param exploration: what novelty is, the algorithm's argument
    :param explores_without_goals: whether an actor that follows no goals explores
    :param size: widths and depths: a name of :data:`~sb3_dreamer.world_models.SIZES` or a ModelSize
    :param latent: ``"categorical"`` or ``"gaussian"``; None for the latter
    :param world_model_class: an :class:`~sb3_dreamer.world_models.RSSM`, whose deterministic states goals are; none with a
        context, which no worker can bring about
    :param world_model_kwargs: its arguments, over its ``small_task_kwargs``
    :param features_extractor_class: an SB3 features extractor as the world model's encoder; None for the model's own
    :param features_extractor_kwargs: its arguments
    :param normalize_images: divide images by 255; False for pictures that are floats between 0 and 1 already
    :param actor_kwargs: the worker's, and those of an actor that explores: ``min_std``, ``max_std`` (continuous actions),
        ``unimix`` (discrete ones)
    :param goal_kwargs: the autoencoder's: ``code`` (groups, classes), ``units``, ``layers``, ``kl_share``
    :param curiosity_kwargs: as :class:`~sb3_dreamer.dreamer.policies.DreamerPolicy`'s, but for "reconstruction"
    :param precision: ``"fp32"``, or ``"bf16"`` for updates with matrix products and convolutions in bfloat16
    :param compile: compile the unrolls of the world model with ``torch.compile``
    :param optimizer_class: optimizer of all networks
    :param optimizer_kwargs: its arguments, but the learning rate
    :raises ValueError: an argument that there is not, or the world model has a context
    """

    world_model: RSSM
    average_world_model: RSSM

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        gamma: float = 0.99,
        goal_steps: int = 8,
        manager_entropy: float = 0.5,
        exploration: Exploration = "reconstruction",
        explores_without_goals: bool = False,
        size: str | ModelSize = "toy",
        latent: Literal["categorical", "gaussian"] | None = None,
        world_model_class: type[RSSM] = RSSM,
        world_model_kwargs: dict[str, Any] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        actor_kwargs: dict[str, Any] | None = None,
        goal_kwargs: dict[str, Any] | None = None,
        curiosity_kwargs: dict[str, Any] | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_images)
        self._constructor = dict(
            lr_schedule=self._dummy_schedule,  # as SB3: a policy alone does not learn
            gamma=gamma,
            goal_steps=goal_steps,
            manager_entropy=manager_entropy,
            exploration=exploration,
            explores_without_goals=explores_without_goals,
            size=size,
            latent=latent,
            world_model_class=world_model_class,
            world_model_kwargs=world_model_kwargs,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            actor_kwargs=actor_kwargs,
            goal_kwargs=goal_kwargs,
            curiosity_kwargs=curiosity_kwargs,
            precision=precision,
            compile=compile,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        if isinstance(world_model_class, type) and issubclass(world_model_class, ContextRSSM):
            raise ValueError(
                f"world_model_class={world_model_class.__name__} has a context, which would be a part of Director's goals "
                "that no worker can bring about: use an RSSM here, or Dreamer with a context."
            )
        self._set_precision(precision, compile)
        self.goal_steps = int(goal_steps)
        self.world_model = self._make_world_model(  # type: ignore[assignment]  # it must be one, says the last argument
            gamma,
            size,
            latent,
            world_model_class,
            world_model_kwargs,
            features_extractor_class,
            features_extractor_kwargs,
            RSSM,
        )
        model, units, layers, norm = self.world_model, self._sizes.units, self._sizes.layers, self._norm
        given = {"units": units, "layers": layers, "norm": norm, **(goal_kwargs or {})}
        self.autoencoder = GoalAutoencoder(model.deter_size, **given)
        self.own_curiosity: Curiosity | None = None  # where the goals' autoencoder tells what is novel
        if exploration != "reconstruction":
            self.own_curiosity = self._new_curiosity(exploration, curiosity_kwargs)
        elif curiosity_kwargs:
            raise ValueError('curiosity_kwargs need another exploration than "reconstruction", whose are goal_kwargs.')
        pursuing = model.feat_size + model.deter_size
        code_size, choices = self.autoencoder.groups.size, self.autoencoder.choices
        self.manager = Actor(model.feat_size, code_size, choices, units, layers, norm)
        classes, size_ = self.action_codec.classes, self.action_codec.size
        self.worker = Actor(pursuing, size_, classes, units, layers, norm, **(actor_kwargs or {}))
        self.manager_critic, self.novelty_critic = self._new_critic(), self._new_critic()
        self.worker_critic = self._new_critic(pursuing)
        self.slow_manager_critic = frozen_copy(self.manager_critic)
        self.slow_novelty_critic = frozen_copy(self.novelty_critic)
        self.slow_worker_critic = frozen_copy(self.worker_critic)
        self.manager_ent = AdaptiveWeight(1e-2, manager_entropy * self.autoencoder.max_entropy, rises_above=False)
        self.task_range, self.novelty_range, self.worker_range = ReturnRange(), ReturnRange(), ReturnRange()
        self.usual_novelty = UsualValue()
        self.explorer: Explorer | None = self._new_explorer(self.curiosity) if explores_without_goals else None

        self.average_autoencoder = frozen_copy(self.autoencoder)
        self.average_manager, self.average_worker = frozen_copy(self.manager), frozen_copy(self.worker)
        slow: list[tuple[nn.Module, nn.Module]] = [
            (self.slow_manager_critic, self.manager_critic),
            (self.slow_novelty_critic, self.novelty_critic),
            (self.slow_worker_critic, self.worker_critic),
        ]
        self._slow = Followers(slow if self.explorer is None else [*slow, *self.explorer.slow_pairs()])
        self._keep_averages(
            (self.average_autoencoder, self.autoencoder),
            (self.average_manager, self.manager),
            (self.average_worker, self.worker),
        )
        self.optimizer = self._make_optimizer(optimizer_class, optimizer_kwargs, lr_schedule)

    def trained_modules(self) -> dict[str, nn.Module]:
        """:return: the networks that the optimizer changes, by the name of their parameter group"""
        names = ("world_model", "autoencoder", "manager", "worker", "manager_critic", "novelty_critic", "worker_critic")
        modules: dict[str, nn.Module] = {name: self.get_submodule(name) for name in names}
        if self.explorer is not None:
            modules.update(self.explorer.trained_modules())
        if self.own_curiosity is not None and list(self.own_curiosity.parameters()):
            modules[self.own_curiosity.name] = self.own_curiosity
        return modules

    @property
    def curiosity(self) -> Curiosity:
        """What novelty is."""
        return self.autoencoder if self.own_curiosity is None else self.own_curiosity

    # ---- acting

    def state_sizes(self) -> tuple[int, ...]:
        """:return: columns of the state's parts"""
        deter, stoch, action = super().state_sizes()
        return deter, stoch, self.autoencoder.groups.size, 1, action

    def _act(
        self, latent: LatentState, intended: tuple[np.ndarray, ...], deterministic: bool, evaluation: bool
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See :meth:`RecurrentModelPolicy._act`: codes, and for how many more steps these are pursued."""
        actions, code, clock = self._pursue(latent, intended[0], intended[1], deterministic, evaluation)
        return actions.cpu().numpy(), (code, clock)

    def _pursue(
        self, latent: LatentState, code: np.ndarray, clock: np.ndarray, deterministic: bool, evaluation: bool
    ) -> tuple[th.Tensor, np.ndarray, np.ndarray]:
        """:return: actions, codes, and for how many more steps these are pursued; new codes where that was 0"""
        averaged = evaluation and self._averaged
        manager, worker = (self.average_manager, self.average_worker) if averaged else (self.manager, self.worker)
        autoencoder = self.average_autoencoder if averaged else self.autoencoder
        generator = self.predict_generator if evaluation else None

        def choose(actor: Actor, feat: th.Tensor) -> th.Tensor:
            policy = actor(feat)
            return policy.mode if deterministic else policy.sample(actor.noise((len(feat),), feat, generator))

        code, clock = code.copy(), clock.copy()
        due = np.flatnonzero(clock[:, 0] == 0)
        if len(due):
            rows = th.as_tensor(due, device=self.device)
            code[due] = choose(manager, latent.feat[rows]).cpu().numpy()
            clock[due] = self.goal_steps
        goal = autoencoder.decode(th.as_tensor(code, device=self.device))
        return choose(worker, th.cat([latent.feat, goal], dim=-1)), code, clock - 1.0

    def choose_action(self, state: LatentState, deterministic: bool, evaluation: bool) -> th.Tensor:
        """
        The first action towards a new goal; :meth:`step` goes on with the goal before.

        :param state: ``(n, ...)``
        :param deterministic: modes, no samples
        :param evaluation: for :meth:`predict`, not for collecting data
        :return: actions in the model's space, ``(n, A)``
        """
        n = len(state.deter)
        nothing = self.initial_state(n)
        return self._pursue(state, nothing[2], nothing[3], deterministic, evaluation)[0]

    def dream_actor(self, state: tuple[np.ndarray, ...], deterministic: bool) -> Callable[[LatentState], th.Tensor]:
        """See :meth:`RecurrentModelPolicy.dream_actor`: goals are pursued in dreams as they are awake."""
        code, clock = (np.asarray(part, dtype=np.float32) for part in state[2:4])

        def act(latent: LatentState) -> th.Tensor:
            nonlocal code, clock
            action, code, clock = self._pursue(latent, code, clock, deterministic, evaluation=True)
            return action

        return act

    # ---- goals

    def decode_goals(self, code: th.Tensor) -> dict[str, th.Tensor]:
        """
        What goals look like: codes as states, with the stochastic state that the prior expects there, as observations.

        :param code: ``(..., C)``
        :return: predicted observations ``(..., size)``, images ``(..., C, H, W)`` a key
        """
        model = self.acting_model(evaluation=True)
        autoencoder = self.average_autoencoder if self._averaged else self.autoencoder
        assert isinstance(model, RSSM)
        return model.decode(model.expected_state(autoencoder.decode(code)))


MlpPolicy = DirectorPolicy


class CnnPolicy(PicturePolicy, DirectorPolicy):
    """The policy for images: encoder and decoder of the world model are convolutional."""


class MultiInputPolicy(DirectorPolicy):
    """The policy for dictionaries: images among their keys go through convolutions, all else through an MLP."""

    convolve: ClassVar[bool] = True
