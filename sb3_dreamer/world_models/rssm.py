"""The recurrent state-space model (RSSM) of Dreamer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.arguments import check_gamma, check_ranges
from sb3_dreamer.common.distributions import ScaledNumber, SoftBernoulli, TwoHot
from sb3_dreamer.common.latents import CategoricalLatents, GaussianLatents, LatentFamily
from sb3_dreamer.common.math import symexp_bins
from sb3_dreamer.common.networks import MLP, BlockGRU, Norm, UnrollWeights, norm_silu
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.common.world_model import Policy
from sb3_dreamer.world_models.observations import ObservationModel, RunningMagnitude, Scaling
from sb3_dreamer.world_models.sizes import ModelSize, get_size
from sb3_dreamer.world_models.standalone import StandaloneWorldModel


class RSSM(StandaloneWorldModel):
    """
    A deterministic recurrent state h and a stochastic state z: ``h_t = GRU(h_{t-1}, z_{t-1}, a_{t-1})``, prior
    ``p(z_t | h_t)``, posterior ``q(z_t | h_t, o_t)``; observation, reward and continue flag are predicted from (h, z).

    ``L = β_obs L_obs + β_rew L_rew + β_con L_con + β_dyn max(free, KL[sg(q) ‖ p]) + β_rep max(free, KL[q ‖ sg(p)])``,
    every KL summed over the latents before the free nats are taken (DreamerV3, https://arxiv.org/abs/2301.04104).
    Default arguments are the published choices.

    :param keys: the observation's parts
    :param action_size: A
    :param size: widths and depths, by name or as a ModelSize
    :param latent: ``"categorical"`` (DreamerV3) or ``"gaussian"`` (PlaNet)
    :param gamma: discount factor; it is learnt inside the continue head, whose target is ``γ (1 - is_terminal)``
    :param normalize_obs: ``"symlog"``, ``"running"`` (mean and standard deviation of all observations) or ``"none"``
    :param norm: ``"rms"`` or ``"layer"``
    :param update_bias: bias of the GRU's update gate, or the range of a pair over its units; lower remembers longer
    :param unimix: share of the uniform distribution in categorical latents
    :param min_std: smallest standard deviation of Gaussian latents
    :param reward_head: ``"twohot"`` (symexp two-hot, cross-entropy) or ``"squared"`` (squared error in units of the
        rewards' root mean square so far: smooth, and heavy on rare rewards)
    :param free_nats: KL below which nothing is to gain
    :param reconstruction_scale: β_obs, weight of every observation key but images
    :param image_scale: β_obs of images
    :param strided: cheap convolutions at every second pixel instead of the published ones, see
        :class:`~sb3_dreamer.common.convolutions.ConvStage`
    :param encoder: a module of one's own instead of the encoder: takes the scaled observations, a dictionary of tensors with
        leading axes ``(...)``, and returns ``(..., out_features)``
    :param reward_scale: β_rew
    :param continue_scale: β_con
    :param kl_dynamics_scale: β_dyn
    :param kl_representation_scale: β_rep
    """

    small_task_kwargs: ClassVar[dict[str, Any]] = dict(
        latent="gaussian",
        normalize_obs="running",  # small ranges (a cart's position) would vanish in symlog
        norm="layer",  # one fused operation on a CPU, RMSNorm takes six
        reconstruction_scale=10.0,  # a unit-variance squared error leaves the latents too coarse for fine control
        reward_scale=10.0,
        continue_scale=10.0,  # ends of episodes are rare rows
        update_bias=(1.0, -3.0),  # some units follow what they see, for velocities, some keep it, for memories
        strided=True,  # convolutions several times cheaper on a CPU
        reward_head="squared",  # smooth in the state, which gradients through the dynamics need
    )

    alone_kwargs: ClassVar[dict[str, Any]] = dict(gamma=1.0, reconstruction_scale=100.0, reward_scale=100.0)
    planet_kwargs: ClassVar[dict[str, Any]] = dict(
        latent="gaussian", free_nats=3.0, min_std=0.1, kl_dynamics_scale=1.0, kl_representation_scale=1.0
    )
    """PlaNet's latents: one KL of weight 1 that both sides follow, and 3 free nats (https://arxiv.org/abs/1811.04551)."""

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "1m",
        latent: Literal["categorical", "gaussian"] = "categorical",
        gamma: float = 1 - 1 / 333,
        normalize_obs: Scaling = "symlog",
        norm: Norm = "rms",
        update_bias: float | tuple[float, float] = -1.0,
        unimix: float = 0.01,
        min_std: float = 0.1,
        reward_head: Literal["twohot", "squared"] = "twohot",
        free_nats: float = 1.0,
        reconstruction_scale: float = 1.0,
        image_scale: float = 1.0,
        reward_scale: float = 1.0,
        continue_scale: float = 1.0,
        kl_dynamics_scale: float = 1.0,
        kl_representation_scale: float = 0.1,
        strided: bool = False,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_gamma(gamma)
        check_ranges(positive=dict(min_std=min_std), at_least_0=dict(free_nats=free_nats), shares=dict(unimix=unimix))
        size = get_size(size)
        self.latents: LatentFamily
        if latent == "categorical":
            self.latents = CategoricalLatents(size.groups, size.classes, unimix)
        elif latent == "gaussian":
            self.latents = GaussianLatents(size.groups, min_std)
        else:
            raise ValueError(f"latent must be 'categorical' or 'gaussian', got {latent!r}.")
        self.gamma, self.free_nats = gamma, free_nats
        self.deter_size, self.stoch_size, self.action_size = size.deter, self.latents.size, action_size

        self.observation_model = ObservationModel(
            keys,
            self.deter_size,
            self.stoch_size,
            size.units,
            size.layers,
            norm,
            normalize_obs,
            size.depth,
            size.blocks,
            strided,
            encoder,
        )
        self.core = BlockGRU(size.deter, self.stoch_size, action_size, size.hidden, size.blocks, norm, update_bias)
        self.prior_net = MLP(size.deter, size.hidden, 2, self.latents.param_size, norm)
        self.posterior_net = MLP(size.deter + self.observation_model.embed_size, size.hidden, 1, self.latents.param_size, norm)
        if reward_head not in ("twohot", "squared"):
            raise ValueError(f"reward_head must be 'twohot' or 'squared', got {reward_head!r}.")
        self.reward_magnitude = RunningMagnitude() if reward_head == "squared" else None
        reward_outputs = size.bins if self.reward_magnitude is None else 1
        self.reward_head = MLP(self.feat_size, size.units, size.head_layers, reward_outputs, norm, out_scale=0.0)
        self.continue_head = MLP(self.feat_size, size.units, size.head_layers, 1, norm)
        self.register_buffer("bins", symexp_bins(size.bins), persistent=False)
        self.bins: th.Tensor

        self.loss_scales = {
            f"reconstruction/{key.name}": image_scale if key.kind == "image" else reconstruction_scale
            for key in self.observation_model.keys
        }
        self.loss_scales.update(
            reward=reward_scale,
            **{"continue": continue_scale},
            kl_dynamics=kl_dynamics_scale,
            kl_representation=kl_representation_scale,
        )
        check_ranges(at_least_0=self.loss_scales)

    def update_statistics(self, obs: dict[str, th.Tensor], reward: th.Tensor) -> None:
        self.observation_model.update_statistics(obs)
        if self.reward_magnitude is not None:
            self.reward_magnitude.update(reward)

    def renew_reward_scale(self, reward: th.Tensor) -> None:
        if self.reward_magnitude is not None:
            self.reward_magnitude.renew(reward)

    # ---- filtering

    def _posterior_params(self, deter: th.Tensor, embed_term: th.Tensor) -> th.Tensor:
        """
        The posterior network with its first layer split, as the observation's share is known for all steps at once.

        :param deter: ``(B, D)``
        :param embed_term: from :meth:`_embed_term`, ``(B, H)``
        """
        net = self.posterior_net
        hidden = th.addmm(embed_term, deter, net.first.weight[:, : self.core.deter].T)
        assert net.out is not None
        return net.out(norm_silu(net.norms[0], hidden))

    def _prior_params(self, deter: th.Tensor) -> th.Tensor:
        """:return: the prior's parameters ``(..., P)``, given deterministic states ``(..., D)``"""
        return self.prior_net(deter)

    def _next_deter(self, state: LatentState, action_term: th.Tensor, weights: UnrollWeights) -> th.Tensor:
        """:return: the deterministic state after a dreamt step, ``(B, D)``"""
        return self.core.step(state.deter, state.stoch, action_term, weights)

    def _seen_by_heads(self, feat: th.Tensor) -> th.Tensor:
        """:return: the share of the features ``(..., F)`` that observation, reward and continue flag are predicted from"""
        return feat

    def _embed_term(self, obs: dict[str, th.Tensor]) -> th.Tensor:
        first = self.posterior_net.first
        return F.linear(self.observation_model.encode(obs), first.weight[:, self.core.deter :], first.bias)

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
        deter = self.core(state.deter * keep, state.stoch * keep, prev_action * keep)
        params = self._posterior_params(deter, self._embed_term(self.observation_model.scale(obs)))
        if deterministic:
            return LatentState(deter, self.latents.mode(params))
        return LatentState(deter, self.latents.sample(params, self.latents.noise((len(deter),), deter, generator)))

    def _filter(
        self, batch: SequenceBatch, scaled: dict[str, th.Tensor], deterministic: bool = False
    ) -> tuple[LatentState, th.Tensor]:
        """:return: posterior states ``(B, T, ...)`` and the posterior's parameters ``(B, T, P)``"""
        keep = (1.0 - batch.is_first).unsqueeze(-1)  # (B, T, 1)
        weights = self.core.unroll_weights()
        action_terms = self.core.action_term(batch.prev_action * keep, weights).unbind(1)
        embed_terms = self._embed_term(scaled).unbind(1)
        noise = self.latents.noise(tuple(batch.is_first.shape), keep).unbind(1)
        deter, stoch = batch.initial.deter, batch.initial.stoch
        states, params = [], []
        for t, keep_t in enumerate(keep.unbind(1)):
            deter = self.core.step(deter * keep_t, stoch * keep_t, action_terms[t], weights)
            params_t = self._posterior_params(deter, embed_terms[t])
            stoch = self.latents.mode(params_t) if deterministic else self.latents.sample(params_t, noise[t])
            states.append(LatentState(deter, stoch))
            params.append(params_t)
        return LatentState.stack(states, dim=1).join(), th.stack(params, dim=1)

    def observe(self, batch: SequenceBatch, deterministic: bool = False) -> LatentState:
        return self._filter(batch, self.observation_model.scale(batch.obs), deterministic)[0]

    # ---- dreaming

    def unroll(
        self,
        policy_or_actions: Policy | th.Tensor,
        state: LatentState,
        horizon: int,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> ImaginedRollout:
        weights = self.core.unroll_weights()
        noise = () if deterministic else self.latents.noise((len(state.deter), horizon), state.deter, generator).unbind(1)
        state = state.join()
        states, actions = [state], []
        terms: tuple[th.Tensor, ...] = ()
        if not callable(policy_or_actions):  # they are known before: nothing of them is left to the loop
            terms = self.core.action_term(policy_or_actions, weights).unbind(1)
        for t in range(horizon):
            if callable(policy_or_actions):
                actions.append(policy_or_actions(state.feat))
            term = self.core.action_term(actions[t], weights) if callable(policy_or_actions) else terms[t]
            deter = self._next_deter(state, term, weights)
            params = self._prior_params(deter)
            stoch = self.latents.mode(params) if deterministic else self.latents.sample(params, noise[t])
            state = LatentState(deter, stoch).join()
            states.append(state)
        taken = th.stack(actions, dim=1) if callable(policy_or_actions) else policy_or_actions
        return ImaginedRollout(LatentState.stack_joined(states, dim=1), taken)

    def expected_state(self, deter: th.Tensor) -> LatentState:
        """
        :param deter: a deterministic state, ``(..., D)``
        :return: with it, the mode of the prior there
        """
        return LatentState(deter, self.latents.mode(self._prior_params(deter)))

    # ---- predictions

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        return self.observation_model.decode(self._seen_by_heads(state.feat))

    def reward_distribution(self, feat: th.Tensor) -> TwoHot | ScaledNumber:
        """
        :param feat: ``(..., F)``
        :return: of the reward that arrives with the state
        """
        output = self.reward_head(self._seen_by_heads(feat))
        if self.reward_magnitude is None:
            return TwoHot(output, self.bins)
        return ScaledNumber(output.squeeze(-1), self.reward_magnitude())

    def discount_distribution(self, feat: th.Tensor) -> SoftBernoulli:
        """
        :param feat: ``(..., F)``
        :return: of "the episode goes on", discounted
        """
        return SoftBernoulli(self.continue_head(self._seen_by_heads(feat)).squeeze(-1))

    def predict_reward(self, state: LatentState) -> th.Tensor:
        return self.reward_distribution(state.feat).mean

    def predict_discount(self, state: LatentState) -> th.Tensor:
        return self.discount_distribution(state.feat).mean

    # ---- learning

    def loss(self, batch: SequenceBatch) -> tuple[LatentState, dict[str, th.Tensor], dict[str, th.Tensor]]:
        scaled = self.observation_model.scale(batch.obs)
        states, posterior = self._filter(batch, scaled)
        prior = self._prior_params(states.deter)  # after the loop: the filter does not need it
        feat = states.feat
        kl_dynamics, kl_representation = self.latents.kl(posterior, prior)
        reconstruction = self.observation_model.loss(self._seen_by_heads(feat), scaled)
        losses = {f"reconstruction/{name}": loss for name, loss in reconstruction.items()}
        losses["reward"] = self.reward_distribution(feat).loss(batch.reward)
        losses["continue"] = self.discount_distribution(feat).loss(self.gamma * (1.0 - batch.is_terminal))
        losses["kl_dynamics"] = kl_dynamics.clamp_min(self.free_nats)
        losses["kl_representation"] = kl_representation.clamp_min(self.free_nats)
        assert losses.keys() == self.loss_scales.keys(), (losses.keys(), self.loss_scales.keys())
        assert all(loss.shape == batch.reward.shape for loss in losses.values())
        metrics = {
            "kl": kl_dynamics.detach().mean(),
            "posterior_entropy": self.latents.entropy(posterior.detach()).mean(),
            "prior_entropy": self.latents.entropy(prior.detach()).mean(),
        }
        return states, losses, metrics
