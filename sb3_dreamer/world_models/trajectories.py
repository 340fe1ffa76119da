"""Dreams in the environment's own units: observations, rewards and continue probabilities as numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_dreamer.common.arguments import check_whole
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec, pick
from sb3_dreamer.common.types import ImaginedRollout
from sb3_dreamer.common.world_model import WorldModel


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

    def first(self) -> ImaginedTrajectory:
        """:return: the first of them, without the leading axis"""
        return ImaginedTrajectory(pick(self.observations, 0), self.rewards[0], self.continues[0], self.actions[0])


def continue_probability(model: WorldModel, discount: th.Tensor) -> th.Tensor:
    """
    :param model: whose continue head has learnt ``gamma (1 - is_terminal)``
    :param discount: from its ``predict_discount``
    :return: probability that the episode goes on, same shape
    """
    return (discount / model.gamma).clamp_max(1.0)


@th.no_grad()
def describe_rollout(
    model: WorldModel, rollout: ImaginedRollout, observation_codec: ObservationCodec, action_codec: ActionCodec
) -> ImaginedTrajectory:
    """
    :param model: that imagined it
    :param rollout: n trajectories of H steps
    :param observation_codec: of the environment
    :param action_codec: of the environment
    :return: the same in the environment's units
    """
    future = rollout.states.map(lambda x: x[:, 1:])
    return ImaginedTrajectory(
        observation_codec.from_tensors(model.decode(rollout.states)),
        model.predict_reward(future).cpu().numpy(),
        continue_probability(model, model.predict_discount(future)).cpu().numpy(),
        action_codec.to_env(rollout.actions.cpu().numpy()),
    )


def check_horizon(horizon: Any) -> int:
    """
    :param horizon: given by a user
    :return: the same
    :raises ValueError: it is not a whole number of at least 1
    """
    check_whole(horizon=horizon)
    return int(horizon)


def actions_for_model(actions: Any, codec: ActionCodec, n: int, horizon: int, single: bool, device: th.device) -> th.Tensor:
    """
    :param actions: in the action space, ``(n, H, ...)``, for a single observation ``(H, ...)``
    :param codec: of the environment
    :param n: number of observations
    :param horizon: H
    :param single: whether there is one observation without a batch axis
    :param device: where the tensor goes
    :return: for the model, ``(n, H, A)``
    :raises ValueError: their shape is another, or one is not in the action space
    """
    space = codec.space
    actions = np.asarray(actions)
    expected = ((horizon,) if single else (n, horizon)) + (space.shape or ())
    if actions.shape != expected:
        raise ValueError(
            f"actions has shape {actions.shape}, but {'one observation' if single else f'{n} observations'} and "
            f"horizon={horizon} need {expected}."
        )
    check_actions(actions.reshape(-1, *(space.shape or ())), codec)
    return th.as_tensor(codec.from_env(actions[None] if single else actions), device=device)


def check_actions(actions: np.ndarray, codec: ActionCodec) -> None:
    """
    :param actions: ``(n, ...)``
    :param codec: of the environment
    :raises ValueError: one is not in the action space
    """
    found = find_outside(actions, codec)
    if found is not None:
        raise ValueError(f"actions must lie in {codec.space}, got {actions[found]!r:.200} (number {found}).")


def find_outside(actions: np.ndarray, codec: ActionCodec) -> int | None:
    """
    :param actions: ``(n, ...)``
    :param codec: of the environment
    :return: number of the first that is not in the action space (a Box's bounds may be passed by a rounding error: SB3's
        scaling of actions does so), None if all are
    """
    space = codec.space
    actions = actions.reshape(len(actions), math.prod(space.shape or ()))
    if isinstance(space, spaces.Box):
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        slack = 1e-6 * (np.abs(low) + np.abs(high))
        inside = (actions >= low - slack) & (actions <= high + slack)  # NaN is not
    else:
        inside = (actions == np.rint(actions)) & (actions >= codec.start) & (actions < codec.start + np.array(codec.classes))
    outside = ~inside.all(axis=1)
    return int(outside.argmax()) if outside.any() else None
