"""Dreams of a policy: what its world model expects to happen when it acts."""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_dreamer.common.model_based_algorithm import ModelBasedAlgorithm
from sb3_dreamer.common.recurrent_policy import RecurrentModelPolicy
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models.trajectories import ImaginedTrajectory, actions_for_model, check_horizon, describe_rollout


class DreamingAlgorithm(ModelBasedAlgorithm):
    """Base of algorithms whose dreams can be looked at."""

    policy: RecurrentModelPolicy

    @th.no_grad()
    def imagine(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        horizon: int,
        actions: np.ndarray | None = None,
        state: tuple[np.ndarray, ...] | None = None,
        deterministic: bool = True,
    ) -> ImaginedTrajectory:
        """
        What the model expects to happen after an observation.

        :param obs: one observation, or a batch of n
        :param horizon: steps to imagine
        :param actions: actions of the action space to imagine with, ``(horizon, ...)`` for one observation or
            ``(n, horizon, ...)`` for a batch; None for what the policy would do: follow its actor, or plan at every step
        :param state: the state that :meth:`predict` returned for the observation before, None at an episode's start
        :param deterministic: modes instead of samples
        :return: observations, rewards, continue probabilities and actions
        """
        policy = self.policy
        horizon = check_horizon(horizon)
        policy.set_training_mode(False)
        observations, codec = policy.observation_codec, policy.action_codec
        obs = observations.transpose(obs)
        single = not observations.is_batch(obs)
        policy.check_observation(obs)
        arrays = observations.to_arrays(obs)
        n = len(next(iter(arrays.values())))
        plan = None if actions is None else actions_for_model(actions, codec, n, horizon, single, policy.device)
        before = policy.initial_state(n) if state is None else state
        policy.check_state(before, n)
        start = policy.filter(arrays, before, np.zeros(n, dtype=bool), deterministic, evaluation=True)
        model, choose = policy.acting_model(evaluation=True), policy.dream_actor(before, deterministic)

        def act(feat: th.Tensor) -> th.Tensor:
            deter, stoch = feat.split([model.deter_size, model.stoch_size], dim=-1)
            action = choose(LatentState(deter, stoch))
            return action if codec.discrete else action.clamp(-1.0, 1.0)

        rollout = model.imagine(act if plan is None else plan, start, horizon, deterministic, policy.predict_generator)
        trajectory = describe_rollout(model, rollout, observations, codec)
        return trajectory.first() if single else trajectory
