"""Dreams in the environment's own units: observations, rewards and continue probabilities as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_dreamer.common.types import LatentState
from sb3_dreamer.dreamer.policies import DreamerPolicy


@dataclass(frozen=True)
class ImaginedTrajectory:
    """What a model expects. For a single observation the leading axis ``n`` is left out."""

    observations: Any
    """Decoded observations, the given one's reconstruction first, ``(n, H + 1, ...)``."""
    rewards: np.ndarray
    """Rewards that arrive with the observations after the first, ``(n, H)``."""
    continues: np.ndarray
    """Probability that the episode goes on after each of those, not discounted, ``(n, H)``."""
    actions: np.ndarray
    """Actions between them, in the action space, ``(n, H, ...)``."""


@th.no_grad()
def imagine_from_observations(
    policy: DreamerPolicy,
    obs: Any,
    horizon: int,
    actions: np.ndarray | None = None,
    state: tuple[np.ndarray, ...] | None = None,
    deterministic: bool = True,
) -> ImaginedTrajectory:
    """
    See :meth:`Dreamer.imagine`, which has the same arguments.

    :param policy: the policy whose model dreams
    :param obs: one observation, or a batch of n
    :param horizon: H
    :param actions: in the action space, ``(H, ...)`` or ``(n, H, ...)``; None to follow the policy
    :param state: the state after the observation before, None at an episode's start
    :param deterministic: modes instead of samples
    :return: the trajectory
    """
    if horizon < 1 or horizon != int(horizon):
        raise ValueError(f"horizon must be a whole number of at least 1, got {horizon}.")
    policy.set_training_mode(False)
    obs = policy.observation_codec.transpose(obs)
    single = not policy.observation_codec.is_batch(obs)
    policy.check_observation(obs)
    arrays = policy.observation_codec.to_arrays(obs)
    n = len(next(iter(arrays.values())))
    plan = _checked_actions(policy, actions, n, horizon, single)
    before = policy.initial_state(n) if state is None else state
    start = policy.filter(arrays, before, np.zeros(n, dtype=bool), deterministic, evaluation=True)
    model = policy.acting_model(evaluation=True)

    def act(feat: th.Tensor) -> th.Tensor:
        deter, stoch = feat.split([model.deter_size, model.stoch_size], dim=-1)
        action = policy.choose_action(LatentState(deter, stoch), deterministic, evaluation=True)
        return action if policy.action_codec.discrete else action.clamp(-1.0, 1.0)

    rollout = model.imagine(act if plan is None else plan, start, horizon, deterministic, policy.predict_generator)
    future = rollout.states.map(lambda x: x[:, 1:])
    observations = policy.observation_codec.from_tensors(model.decode(rollout.states))
    rewards = model.predict_reward(future).cpu().numpy()
    continues = (model.predict_discount(future) / model.gamma).clamp_max(1.0).cpu().numpy()
    chosen = policy.action_codec.to_env(rollout.actions.cpu().numpy())
    if single:
        observations = {name: part[0] for name, part in observations.items()} if isinstance(obs, dict) else observations[0]
        rewards, continues, chosen = rewards[0], continues[0], chosen[0]
    return ImaginedTrajectory(observations, rewards, continues, chosen)


def _checked_actions(
    policy: DreamerPolicy, actions: np.ndarray | None, n: int, horizon: int, single: bool
) -> th.Tensor | None:
    """:return: actions for the model, ``(n, H, A)``"""
    if actions is None:
        return None
    actions = np.asarray(actions)
    expected = ((horizon,) if single else (n, horizon)) + (policy.action_space.shape or ())
    if actions.shape != expected:
        raise ValueError(
            f"actions has shape {actions.shape}, but {'one observation' if single else f'{n} observations'} and "
            f"horizon={horizon} need {expected}."
        )
    if single:
        actions = actions[None]
    if not all(policy.action_space.contains(action) for action in actions.reshape(-1, *actions.shape[2:])):
        raise ValueError(f"actions must lie in {policy.action_space}, got {actions!r:.200}.")
    return th.as_tensor(policy.action_codec.from_env(actions), device=policy.device)
