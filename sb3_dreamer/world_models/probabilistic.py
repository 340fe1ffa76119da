"""World models that say how sure they are: probabilistic ensembles, and two Bayesian approximations with one interface."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.arguments import check_gamma, check_whole
from sb3_dreamer.common.distributions import SoftBernoulli
from sb3_dreamer.common.networks import bounded
from sb3_dreamer.common.predictions import GaussianPrediction
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.common.world_model import Policy
from sb3_dreamer.world_models.members import Gaussian, Members, nats
from sb3_dreamer.world_models.mlp import ObservationState
from sb3_dreamer.world_models.propagation import Deal, Propagation, deal
from sb3_dreamer.world_models.sizes import ModelSize, get_size
from sb3_dreamer.world_models.standalone import StandaloneWorldModel
from sb3_dreamer.world_models.terminations import TerminationHead
from sb3_dreamer.world_models.trajectories import actions_for_model
from sb3_dreamer.world_models.transitions import Transitions

if TYPE_CHECKING:
    from sb3_dreamer.world_models.dataset import EpisodeDataset
    from sb3_dreamer.world_models.fitting import FitHistory

RewardFn = Callable[[dict[str, th.Tensor], th.Tensor, dict[str, th.Tensor]], th.Tensor]
"""Observations ``(n, size)`` a key, actions ``(n, A)`` in the model's space, next observations; to rewards ``(n,)``."""
TerminationFn = Callable[[dict[str, th.Tensor], th.Tensor, dict[str, th.Tensor]], th.Tensor]
"""The same, to 1 (or True) where the episode terminates, ``(n,)``."""

CHUNK = 16_384
"""Rows that are predicted at once, of a data set of any length."""
MARGIN = 0.1
"""Share of the range of each number seen, by which dreams may leave it."""


class ProbabilisticWorldModel(StandaloneWorldModel):
    """
    ``x_{t+1} = x_t + μ_Δ + σ_Δ f_m(x_t, a_t)``, with several opinions ``f_m``, each a Gaussian: how much these vary is what
    the model does not know (epistemic), what each expects to vary is noise (aleatoric). Inputs and targets are normalised,
    with the statistics of the last fit. For observations that show all that matters (no images); choices and bits
    are numbers between 0 and 1 here.

    :attr:`LatentState.stoch` is the observation x, in its own units; :attr:`LatentState.deter` what the transition into it
    gave: the reward expected, and the probability that the episode went on. Rewards and terminations are learnt, or known
    functions: ``reward_fn(obs, action, next_obs)`` and ``termination_fn(obs, action, next_obs)`` of tensors.

    :param keys: the observation's parts, none of them images
    :param action_size: A
    :param size: widths and depths, by name or as a ModelSize
    :param gamma: discount factor, part of :meth:`predict_discount`
    :param units: width of the hidden layers, the size's by default
    :param layers: hidden layers, the size's by default
    :param propagation: how dreams use the opinions: ``"ts1"`` (another one at every step), ``"tsinf"`` (the same along a
        dream, though a dream environment asks anew at every step), both of which sample from its Gaussian (Chua et al. 2018,
        https://arxiv.org/abs/1805.12114), or ``"expectation"`` (the mean of all). Deterministic dreams are always of the mean
    :param reward_fn: None to learn the reward
    :param termination_fn: None to learn when episodes terminate
    """

    small_task_kwargs: ClassVar[dict[str, Any]] = {}
    learns_from_sequences: ClassVar[bool] = False
    shares_randomness: ClassVar[bool] = True

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "small",
        gamma: float = 1 - 1 / 333,
        units: int | None = None,
        layers: int | None = None,
        propagation: Propagation = "tsinf",
        reward_fn: RewardFn | None = None,
        termination_fn: TerminationFn | None = None,
    ) -> None:
        images = [key.name for key in keys if key.kind == "image"]
        if images:
            raise ValueError(
                f"{type(self).__name__} predicts numbers, not images (keys {images}): use an RSSM, or MlpPolicy to treat a "
                "small image as a vector."
            )
        check_gamma(gamma)
        if propagation not in ("ts1", "tsinf", "expectation"):
            raise ValueError(f"propagation must be 'ts1', 'tsinf' or 'expectation', got {propagation!r}.")
        super().__init__()
        sizes = get_size(size)
        units, layers = sizes.units if units is None else units, sizes.layers if layers is None else layers
        check_whole(units=units, layers=layers)
        units, layers = int(units), int(layers)
        self.gamma, self.action_size, self.propagation = gamma, action_size, propagation
        self.reward_fn, self.termination_fn = reward_fn, termination_fn
        self.layout = ObservationState(sorted(keys, key=lambda key: key.name))
        self.deter_size, self.stoch_size = 2, self.layout.size
        inputs, outputs = self.stoch_size + action_size, self.stoch_size + 1
        self.members: Members = self.make_members(inputs, outputs, units, layers)
        self.termination_head = TerminationHead(action_size, self.stoch_size, units)
        self.loss_scales = {"dynamics": 1.0, "continue": 1.0}
        self.input_mean: th.Tensor
        self.input_std: th.Tensor
        self.target_mean: th.Tensor
        self.target_std: th.Tensor
        self.low: th.Tensor
        self.high: th.Tensor
        self.elites: th.Tensor
        for name, shape in (("input", inputs), ("target", outputs)):
            self.register_buffer(f"{name}_mean", th.zeros(shape))
            self.register_buffer(f"{name}_std", th.ones(shape))
        self.register_buffer("low", th.full((self.stoch_size,), -th.inf))
        self.register_buffer("high", th.full((self.stoch_size,), th.inf))
        self.register_buffer("elites", th.arange(self.members.count))

    @abstractmethod
    def make_members(self, inputs: int, outputs: int, units: int, layers: int) -> Members:
        """
        :param inputs: I, state and action
        :param outputs: O, reward and change of the state
        :param units: width
        :param layers: hidden layers
        :return: the networks
        """

    # ---- what the members say

    def _inputs_of(self, x: th.Tensor, action: th.Tensor) -> th.Tensor:
        return (th.cat([x, action], dim=-1) - self.input_mean) / self.input_std

    def _opinions(self, x: th.Tensor, action: th.Tensor, which: th.Tensor | None) -> Gaussian:
        """
        :param x: ``(k, n, Z)``
        :param action: within the bounds, ``(k, n, A)``
        :param which: of the opinions, for each block of rows, ``(k,)``; None for all in their order
        :return: means and variances of reward and change of x, in their units, ``(k, n, 1 + Z)`` each
        """
        mean, log_var = self.members(self._inputs_of(x, action), which)
        return mean * self.target_std + self.target_mean, log_var.exp() * self.target_std.square()

    def _all_opinions(self, x: th.Tensor, action: th.Tensor) -> Gaussian:
        """:return: of the elites, in any order, on the same rows ``(n, ...)``, ``(k, n, 1 + Z)`` each"""
        k = len(self.elites)
        which = None if k == self.members.count else self.elites
        return self._opinions(x.expand(k, *x.shape), action.expand(k, *action.shape), which)

    def predict_states(self, x: th.Tensor, action: th.Tensor) -> GaussianPrediction:
        """
        :param x: states ``(n, Z)``
        :param action: in the model's space, ``(n, A)``
        :return: reward and next state, ``(n, 1 + Z)``; a reward that is known has no variance
        """
        action = bounded(action)
        mean, variance = self._all_opinions(x, action)
        centre, aleatoric, epistemic = mean.mean(0) + F.pad(x, (1, 0)), variance.mean(0), mean.var(0, unbiased=False)
        if self.reward_fn is not None:
            after = self.layout.split(centre[:, 1:])
            centre[:, 0] = self.reward_fn(self.layout.split(x), action, after).float()
            aleatoric[:, 0] = epistemic[:, 0] = 0.0
        return GaussianPrediction(centre, aleatoric, epistemic)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`predict` predicts: the reward, then the observation's numbers."""
        names = [key.name if key.size == 1 else f"{key.name}[{i}]" for key in self.layout.order for i in range(key.size)]
        return ("reward", *names)

    @th.no_grad()
    def predict(self, obs: Any, action: Any) -> GaussianPrediction:
        """
        One step ahead, in the environment's units.

        :param obs: one observation, or a batch of n
        :param action: of the action space, one or n
        :return: arrays ``(1 + Z,)`` or ``(n, 1 + Z)`` of mean, aleatoric and epistemic variance, see :attr:`outputs`
        :raises ValueError: shapes or values that do not match the spaces
        """
        inputs, n, single = self._inputs(obs)
        given, shape = np.asarray(action), self.action_space.shape or ()
        if given.shape != (shape if single else (n, *shape)):
            raise ValueError(
                f"action has shape {given.shape}, but {'one observation needs' if single else f'{n} observations need'} "
                f"{shape if single else (n, *shape)}."
            )
        actions = actions_for_model(given.reshape(n, 1, *shape), self.action_codec, n, 1, False, self.device)[:, 0]
        found = self.predict_states(self.layout.join(inputs), actions)
        parts = (part.cpu().numpy() for part in (found.mean, found.aleatoric, found.epistemic))
        return GaussianPrediction(*(part[0] if single else part for part in parts))

    @th.no_grad()
    def predict_dataset(self, dataset: EpisodeDataset) -> tuple[GaussianPrediction, np.ndarray]:
        """
        All steps of a data set, for :func:`~sb3_dreamer.uncertainty.report.judge_uncertainty`.

        :param dataset: episodes of the model's spaces
        :return: :meth:`predict` of every step ``(n, 1 + Z)``, and what happened, ``(n, 1 + Z)``
        :raises ValueError: the data set is empty or of other spaces
        """
        from sb3_dreamer.world_models.ensemble_fitting import transitions_of

        data = transitions_of(self, dataset)
        pieces = [self.predict_states(*piece) for piece in zip(data.x.split(CHUNK), data.action.split(CHUNK), strict=True)]
        columns = zip(*((piece.mean, piece.aleatoric, piece.epistemic) for piece in pieces), strict=True)
        parts = (th.cat(column).cpu().numpy() for column in columns)
        truth = th.cat([data.reward.unsqueeze(-1), data.next_x], dim=-1)
        return GaussianPrediction(*parts), truth.cpu().numpy()

    # ---- dreaming

    def step(
        self,
        x: th.Tensor,
        action: th.Tensor,
        propagation: Propagation | None = None,
        generator: th.Generator | None = None,
        elites: th.Tensor | None = None,
        may_end: bool = True,
    ) -> LatentState:
        """
        One step of n dreams. With ``"tsinf"``, the i-th row has the i-th elite's opinion, modulo their number.

        :param x: ``(n, Z)``
        :param action: in the model's space, ``(n, A)``
        :param propagation: the model's by default
        :param generator: where the samples' randomness comes from, torch's own by default
        :param elites: in what order, ``(k,)``; None for from best to worst
        :param may_end: False where :meth:`_may_end` has said so: the head need not be asked
        :return: the states after it, ``(n, ...)``
        """
        action = bounded(action)
        propagation = self.propagation if propagation is None else propagation
        if propagation == "expectation":
            outcome = self._all_opinions(x, action)[0].mean(0)
        else:
            elites = self.elites if elites is None else elites
            outcome = self._sampled(x, action, deal(len(x), elites, self.stoch_size, propagation, generator, x))
        low, high = self.low - MARGIN * (self.high - self.low), self.high + MARGIN * (self.high - self.low)
        after = th.minimum(th.maximum(x + outcome[:, 1:], low), high)  # infinite before the first fit
        before, then = self.layout.split(x), self.layout.split(after)
        reward = outcome[:, :1] if self.reward_fn is None else self.reward_fn(before, action, then).float().unsqueeze(-1)
        if self.termination_fn is None and not may_end:
            goes_on = th.ones_like(reward[:, 0])
        elif self.termination_fn is None:
            goes_on = 1.0 - th.sigmoid(self.termination_logit(action, after))
        else:
            goes_on = 1.0 - self.termination_fn(before, action, then).float()
        return LatentState(th.cat([reward, goes_on.unsqueeze(-1)], dim=-1), after)

    def _may_end(self) -> bool:
        """:return: whether an episode has been seen to terminate, or a function says when; waits for the device"""
        return self.termination_fn is not None or self.termination_head.has_seen_one()

    def _sampled(self, x: th.Tensor, action: th.Tensor, dealt: Deal) -> th.Tensor:
        """:return: draws of the change, and expected rewards, one elite's opinion a row, ``(n, 1 + Z)``"""
        rows, elites = dealt.rows, dealt.elites
        if len(elites) == self.members.count:  # the rows change places, so that no weights need to
            rows = rows[elites.argsort()]
            mean, variance = (part[elites] for part in self._opinions(x[rows], action[rows], None))
        else:
            mean, variance = self._opinions(x[rows], action[rows], elites)
        change = mean[..., 1:] + variance[..., 1:].sqrt() * dealt.noise
        return dealt.collect(th.cat([mean[..., :1], change], dim=-1))

    def unroll(
        self,
        policy_or_actions: Policy | th.Tensor,
        state: LatentState,
        horizon: int,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> ImaginedRollout:
        given = None if callable(policy_or_actions) else policy_or_actions.unbind(1)
        propagation: Propagation = "expectation" if deterministic else self.propagation
        elites = self.elites
        if propagation == "tsinf":  # the first dream has another one's opinion every time
            source = state.stoch.device if generator is None else generator.device
            elites = elites.roll(int(th.randint(len(elites), (), generator=generator, device=source)))
        state, may_end = state.join(), self._may_end()
        states, actions = [state], []
        for t in range(horizon):
            action = policy_or_actions(state.feat) if callable(policy_or_actions) else given[t]  # type: ignore[index]
            state = self.step(state.stoch, action, propagation, generator, elites, may_end).join()
            states.append(state)
            actions.append(action)
        return ImaginedRollout(LatentState.stack_joined(states, dim=1), th.stack(actions, dim=1))

    # ---- filtering: the observation is the state

    def initial_state(self, batch_size: int) -> LatentState:
        state = super().initial_state(batch_size)
        state.deter[:, 1] = 1.0
        return state

    def observe_step(
        self,
        obs: dict[str, th.Tensor],
        prev_action: th.Tensor,
        is_first: th.Tensor,
        state: LatentState,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> LatentState:
        x = self.layout.join(obs)
        return self._arrived(state.stoch, prev_action, x, is_first)

    def _arrived(self, before: th.Tensor, prev_action: th.Tensor, x: th.Tensor, is_first: th.Tensor) -> LatentState:
        """:return: the states of observations x, with what is expected of the transitions into them, ``(n, ...)``"""
        expected = self.step(before, prev_action, "expectation").deter
        start = expected.new_tensor([0.0, 1.0])
        return LatentState(th.where(is_first.bool().unsqueeze(-1), start, expected), x)

    def observe(self, batch: SequenceBatch, deterministic: bool = False) -> LatentState:
        x = self.layout.join(batch.obs)
        before = th.cat([batch.initial.stoch.unsqueeze(1), x[:, :-1]], dim=1)
        parts = (part.flatten(0, 1) for part in (before, batch.prev_action, x, batch.is_first))
        return self._arrived(*parts).map(lambda part: part.unflatten(0, x.shape[:2])).join()

    # ---- predictions of a state

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        parts = self.layout.split(state.stoch)
        return {
            key.name: parts[key.name] if key.kind == "vector" else parts[key.name].clamp(0.0, 1.0) for key in self.layout.order
        }

    def predict_reward(self, state: LatentState) -> th.Tensor:
        return state.deter[..., 0]

    def predict_discount(self, state: LatentState) -> th.Tensor:
        return self.gamma * state.deter[..., 1]

    def termination_logit(self, action: th.Tensor, after: th.Tensor) -> th.Tensor:
        """
        :param action: within the bounds, ``(..., A)``
        :param after: states they led to, ``(..., Z)``
        :return: of a termination, ``(...)``; very low where none has been seen at all
        """
        return self.termination_head.logit(after, self.input_std[: self.stoch_size], self._inputs_of(after, action))

    # ---- learning

    def loss(self, batch: SequenceBatch) -> tuple[LatentState, dict[str, th.Tensor], dict[str, th.Tensor]]:
        states = self.observe(batch)
        before = th.cat([batch.initial.stoch.unsqueeze(1), states.stoch[:, :-1]], dim=1)
        action = bounded(batch.prev_action)
        target = (th.cat([batch.reward.unsqueeze(-1), states.stoch - before], dim=-1) - self.target_mean) / self.target_std
        inputs = self._inputs_of(before, action).flatten(0, 1)
        said = self.members.learn(inputs.expand(self.members.networks, *inputs.shape))
        dynamics = nats(said, target.flatten(0, 1)).mean(-1).sum(0)
        valid = 1.0 - batch.is_first
        logit = self.termination_logit(action, states.stoch)
        ends = SoftBernoulli(logit).loss(batch.is_terminal)
        losses = {"dynamics": valid * dynamics.view_as(valid), "continue": valid * ends}
        return states, losses, {}

    def fit(self, dataset: EpisodeDataset, updates: int | None = None, **kwargs: Any) -> FitHistory:
        """
        Learn from single steps of a data set; see :func:`~sb3_dreamer.world_models.ensemble_fitting.fit_transitions`, which
        has the arguments.

        :param dataset: episodes
        :param updates: gradient steps at most
        :param kwargs: of ``fit_transitions``
        :return: losses along the way
        """
        from sb3_dreamer.world_models.ensemble_fitting import fit_transitions, transitions_of

        history = fit_transitions(self, transitions_of(self, dataset), updates, **kwargs)
        self._fitted_to = dataset
        return history

    @th.no_grad()
    def learn_statistics(self, data: Transitions) -> None:
        """
        :param data: all that is to be learnt from
        """
        inputs = th.cat([data.x, data.action], dim=-1).double()
        for name, values in (("input", inputs), ("target", data.outcome.double())):
            std = values.std(0, unbiased=False)
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_std").copy_(th.where(std < 1e-6, 1.0, std))  # what never varies stays as it is
        both = th.cat([data.x, data.next_x])
        self.low.copy_(both.amin(0))
        self.high.copy_(both.amax(0))
        self.termination_head.learn_statistics(data)
        self._statistics_known = True

    def normalized(self, data: Transitions) -> tuple[th.Tensor, th.Tensor]:
        """
        :param data: transitions
        :return: inputs ``(n, I)`` and targets ``(n, O)`` of the members
        """
        return self._inputs_of(data.x, data.action), (data.outcome - self.target_mean) / self.target_std
