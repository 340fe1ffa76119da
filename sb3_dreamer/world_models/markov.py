"""What world models without a memory share: one step of dynamics in a state that the newest observation shows."""

from __future__ import annotations

from abc import abstractmethod

import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.arguments import check_gamma, check_whole
from sb3_dreamer.common.distributions import ScaledNumber, SoftBernoulli
from sb3_dreamer.common.latents import StateFamily
from sb3_dreamer.common.networks import MLP, Norm, bounded
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.common.world_model import Policy
from sb3_dreamer.world_models.observations import RunningMagnitude
from sb3_dreamer.world_models.sizes import ModelSize
from sb3_dreamer.world_models.standalone import StandaloneWorldModel


class Certain:
    """A state that its parameters are: nothing to draw."""

    def noise(self, shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """:return: nothing, ``(*shape, 0)``"""
        return like.new_zeros((*shape, 0))

    def sample(self, params: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """:return: the parameters"""
        return params

    def mode(self, params: th.Tensor) -> th.Tensor:
        """:return: the parameters"""
        return params


class MarkovWorldModel(StandaloneWorldModel):
    """
    A model whose state is a function of the newest observation alone. It is for environments whose observations show all
    that matters for the future: where something is hidden (velocities in a picture, what was seen before), use an RSSM.

    :attr:`LatentState.stoch` is that state x, :attr:`LatentState.deter` one number: the reward expected of the transition
    ``r(x_{t-1}, a_{t-1})``, which arrives with ``x_t``; the model's reward is one of state and action, not of the state it
    leads to. Dynamics, reward and continue flag are also learnt over several steps ahead, each from the state predicted
    for the step before, as in a dream: without it, errors of dreams grow much faster with the horizon.

    :param action_size: A
    :param state_size: Z
    :param sizes: widths and depths
    :param gamma: discount factor, part of the continue head's target
    :param norm: ``"rms"`` or ``"layer"``
    :param unroll_steps: K, steps ahead over which the dynamics are learnt; 1 for the next step alone
    :param posterior: family of the state after an observation
    :param prior: family of the state after a transition
    """

    def __init__(
        self,
        action_size: int,
        state_size: int,
        sizes: ModelSize,
        gamma: float,
        norm: Norm,
        unroll_steps: int,
        posterior: StateFamily,
        prior: StateFamily,
    ) -> None:
        super().__init__()
        check_gamma(gamma)
        check_whole(unroll_steps=unroll_steps)
        self.gamma, self.unroll_steps, self.action_size = gamma, int(unroll_steps), action_size
        self.deter_size, self.stoch_size = 1, state_size
        self.posterior, self.prior = posterior, prior
        self.reward_magnitude = RunningMagnitude()
        self.reward_head = MLP(state_size + action_size, sizes.units, sizes.layers, 1, norm, out_scale=0.0)
        self.continue_head = MLP(state_size, sizes.units, sizes.head_layers, 1, norm)

    def renew_reward_scale(self, reward: th.Tensor) -> None:
        self.reward_magnitude.renew(reward)

    # ---- what a subclass gives

    @abstractmethod
    def scale(self, obs: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        :param obs: ``(..., size)``, images ``(..., C, H, W)`` a key
        :return: what the networks work on
        """

    @abstractmethod
    def infer(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param scaled: from :meth:`scale`
        :return: parameters of the state after the observation, ``(..., P)``
        """

    @abstractmethod
    def transition(self, x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """
        :param x: states, ``(..., Z)``
        :param action: within the bounds, ``(..., A)``
        :return: parameters of the next states, ``(..., P)``
        """

    @abstractmethod
    def divergence(self, predicted: th.Tensor, target: th.Tensor) -> th.Tensor:
        """
        :param predicted: from :meth:`transition`, ``(..., P)``
        :param target: from :meth:`infer`, of the same rows
        :return: how far the prediction is from the target, which it does not move, ``(...)``
        """

    # ---- filtering

    def _expected_reward(self, x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """:return: in units of the rewards' magnitude, ``(..., 1)``"""
        return self.reward_head(th.cat([x, action], dim=-1)).float()

    def observe_step(
        self,
        obs: dict[str, th.Tensor],
        prev_action: th.Tensor,
        is_first: th.Tensor,
        state: LatentState,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> LatentState:
        keep = (1.0 - is_first.float()).unsqueeze(-1)
        params = self.infer(self.scale(obs))
        noise = None if deterministic else self.posterior.noise(tuple(keep.shape[:-1]), keep, generator)
        x = self.posterior.mode(params) if noise is None else self.posterior.sample(params, noise)
        return LatentState(keep * self._expected_reward(state.stoch, bounded(prev_action)), x)

    def _states(self, batch: SequenceBatch, x: th.Tensor) -> LatentState:
        """:return: states ``(B, T, ...)`` with the rewards expected of the transitions into them"""
        before = th.cat([batch.initial.stoch.unsqueeze(1), x[:, :-1]], dim=1)
        keep = (1.0 - batch.is_first).unsqueeze(-1)
        # the reward has a loss of its own: nothing else is to teach it, as a critic that reads it would
        return LatentState(keep * self._expected_reward(before, bounded(batch.prev_action)).detach(), x).join()

    def _sample(self, params: th.Tensor) -> th.Tensor:
        return self.posterior.sample(params, self.posterior.noise(tuple(params.shape[:-1]), params))

    def observe(self, batch: SequenceBatch, deterministic: bool = False) -> LatentState:
        params = self.infer(self.scale(batch.obs))
        return self._states(batch, self.posterior.mode(params) if deterministic else self._sample(params))

    # ---- dreaming

    def unroll(
        self,
        policy_or_actions: Policy | th.Tensor,
        state: LatentState,
        horizon: int,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> ImaginedRollout:
        given = None if callable(policy_or_actions) else policy_or_actions.unbind(1)
        like = state.stoch
        noise = () if deterministic else self.prior.noise((len(like), horizon), like, generator).unbind(1)
        state = state.join()
        states, actions = [state], []
        for t in range(horizon):
            action = policy_or_actions(state.feat) if callable(policy_or_actions) else given[t]  # type: ignore[index]
            within = bounded(action)
            params = self.transition(state.stoch, within)
            x = self.prior.mode(params) if deterministic else self.prior.sample(params, noise[t])
            state = LatentState(self._expected_reward(state.stoch, within), x).join()
            states.append(state)
            actions.append(action)
        return ImaginedRollout(LatentState.stack_joined(states, dim=1), th.stack(actions, dim=1))

    # ---- predictions

    def predict_reward(self, state: LatentState) -> th.Tensor:
        return state.deter.squeeze(-1) * self.reward_magnitude()

    def predict_discount(self, state: LatentState) -> th.Tensor:
        return self._discount(state.stoch).mean

    def _discount(self, x: th.Tensor) -> SoftBernoulli:
        return SoftBernoulli(self.continue_head(x).squeeze(-1))

    # ---- learning

    def _losses_ahead(self, x: th.Tensor, target: th.Tensor, batch: SequenceBatch) -> dict[str, th.Tensor]:
        """
        Unroll the dynamics from every row at once, K steps or to the window's end, never over an episode's border.

        :param x: sampled states, ``(B, T, Z)``
        :param target: parameters of the states that the observations tell, ``(B, T, P)``
        :param batch: the batch
        :return: losses of dynamics, reward and continue flag at the rows predicted, means over the predictions of each row (a
            row that nothing predicts has none), ``(B, T)``
        """
        action, keep = bounded(batch.prev_action), 1.0 - batch.is_first
        goes_on = self.gamma * (1.0 - batch.is_terminal)
        steps = min(self.unroll_steps, x.shape[1] - 1)
        totals = {name: th.zeros_like(batch.reward) for name in ("dynamics", "reward", "continue")}
        predictions, valid = th.zeros_like(batch.reward), th.ones_like(batch.reward)
        of_observed = self._discount(x).loss(goes_on)
        magnitude = self.reward_magnitude()
        for k in range(1, steps + 1):  # x holds predictions of rows k - 1 on, they lead to rows k on
            x, valid = x[:, :-1], valid[:, :-1] * keep[:, k:]
            predicted = self.transition(x, action[:, k:])
            expected = self._expected_reward(x, action[:, k:]).squeeze(-1)
            x = self.prior.sample(predicted, self.prior.noise(tuple(valid.shape), valid))
            found = {
                "dynamics": self.divergence(predicted, target[:, k:]),
                "reward": ScaledNumber(expected, magnitude).loss(batch.reward[:, k:]),
                "continue": self._discount(x).loss(goes_on[:, k:]),
            }
            predictions = predictions + F.pad(valid, (k, 0))
            for name, loss in found.items():
                totals[name] = totals[name] + F.pad(valid * loss, (k, 0))
        losses = {name: total / predictions.clamp_min(1.0) for name, total in totals.items()}
        return {**losses, "continue": losses["continue"] + of_observed}
