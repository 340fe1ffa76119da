"""An RSSM that knows tasks from one another by what it has lived through in them: meta-learning as inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.arguments import check_ranges, check_whole
from sb3_dreamer.common.math import symlog
from sb3_dreamer.common.networks import MLP, BlockGRU, UnrollWeights, gru_gate
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.world_models.rssm import RSSM
from sb3_dreamer.world_models.sizes import ModelSize, get_size

TRIAL, REWARD = "trial", "reward"
"""Keys of an observation that tells of trials, as ``envs.TrialWrapper`` makes it."""


class ContextRSSM(RSSM):
    """
    An RSSM with a context c beside the physical state (h, z): a second recurrent network, ``c_t = GRU(c_{t-1}, h_t, z_{t-1},
    a_{t-1}, o_t, r_t, borders)``, on which the dynamics depend: ``h_t = GRU(h_{t-1}, z_{t-1}, a_{t-1}, c_{t-1})``. A trial is
    several episodes of one task. Where an episode starts in a trial, h and z begin anew and c stays; where a trial starts,
    all begins anew. So a new task is learnt by a forward pass: what was seen in the first episode is known in the second
    (RL², Duan et al. 2016, https://arxiv.org/abs/1611.02779; recurrent dynamics across episodes, Nagabandi et al. 2019,
    https://arxiv.org/abs/1803.11347; contextual RSSM, Prasanna et al. 2024, https://arxiv.org/abs/2403.10967).

    In the latent state, c is the end of the deterministic part: ``deter = [h, c]``. Whatever carries a latent state (replay,
    ``predict``, files, imagination) carries the context, and actor and critic, which read all features, see it.

    - The observation itself tells of trials: key ``"trial"`` (two bits: a trial starts, an episode starts) and key
      ``"reward"`` (of the step before), as ``envs.TrialWrapper`` makes them. Both go into c alone: they are neither encoded
      into z nor learnt to be predicted. :meth:`decode` gives what they are inside an episode: no border, and the expected
      reward.
    - Observation, reward and continue flag are predicted from (h, z) alone. c_t has seen o_t and r_t, and would tell them.
    - A dream holds c: nothing is learnt of a task by dreaming of it. So that the dynamics do not take c for a memory of the
      last observation, which would be out of date there, they are trained with a context held back: at every step of a
      sequence the one used before stays in use with probability ``context_hold``. As with dropout, in training mode alone.
    - The last row of an episode does not change c: who acts in a vector of environments never sees it, as these reset at
      once. What c learns of an episode's end is the reward and the bits that come with the next reset.

    :param keys: the observation's parts, ``"trial"`` and ``"reward"`` among them
    :param action_size: A
    :param size: widths and depths, by name or as a ModelSize
    :param context_size: C, numbers in c
    :param context_hold: probability that a step of a training sequence uses the same c as the step before
    :param kwargs: see :class:`RSSM`; but there can be no ``encoder`` of one's own
    :raises ValueError: the observation does not tell of trials
    """

    usual_window: ClassVar[int | None] = 48  # long enough to reach from one episode into the next, where these are short

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "1m",
        context_size: int = 32,
        context_hold: float = 0.9,
        **kwargs: Any,
    ) -> None:
        check_whole(context_size=context_size)
        check_ranges(shares=dict(context_hold=context_hold))
        _check_keys(keys)
        if kwargs.get("encoder") is not None:
            raise ValueError(
                "A ContextRSSM has its own encoder, as it must know trials from observations: leave out encoder and "
                "features_extractor_class."
            )
        super().__init__([key for key in keys if key.name not in (TRIAL, REWARD)], action_size, size, **kwargs)
        size = get_size(size)
        norm = kwargs.get("norm", "rms")
        self.context_size, self.context_hold = int(context_size), context_hold
        # the core reads the context as a part of the stochastic state
        self.core = BlockGRU(
            size.deter,
            self.stoch_size + self.context_size,
            action_size,
            size.hidden,
            size.blocks,
            norm,
            kwargs.get("update_bias", -1.0),
        )
        inputs = self.feat_size + self.observation_model.embed_size + action_size + 3  # reward and two bits
        self.context_net = MLP(inputs + self.context_size, size.hidden, 1, 3 * self.context_size, norm)
        # time scales of 2 to about 50 steps: what is known of a task is gathered slowly
        self.register_buffer("context_bias", th.linspace(0.0, -4.0, self.context_size), persistent=False)
        self.context_bias: th.Tensor
        self.deter_size += self.context_size

    # ---- the two parts of the deterministic state

    def _parts(self, deter: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """``(..., D)`` to h and c."""
        return deter[..., : -self.context_size], deter[..., -self.context_size :]

    def context(self, state: LatentState) -> th.Tensor:
        """
        :param state: ``(..., D)``, ``(..., Z)``
        :return: what it knows of the task, ``(..., C)``
        """
        return self._parts(state.deter)[1]

    def _seen_by_heads(self, feat: th.Tensor) -> th.Tensor:
        deter, stoch = feat.split([self.deter_size, self.stoch_size], dim=-1)
        return th.cat([self._parts(deter)[0], stoch], dim=-1)

    def _prior_params(self, deter: th.Tensor) -> th.Tensor:
        return self.prior_net(self._parts(deter)[0])

    def _next_deter(self, state: LatentState, action_term: th.Tensor, weights: UnrollWeights) -> th.Tensor:
        physical, context = self._parts(state.deter)
        physical = self.core.step(physical, th.cat([state.stoch, context], dim=-1), action_term, weights)
        return th.cat([physical, context], dim=-1)

    def after_episode(self, deter: np.ndarray) -> np.ndarray:
        kept = np.zeros_like(deter)
        kept[:, -self.context_size :] = deter[:, -self.context_size :]
        return kept

    # ---- filtering

    @staticmethod
    def _keeps_context(trial: th.Tensor, is_first: th.Tensor) -> th.Tensor:
        """
        1 where what is known of the task still holds: no trial starts, and a first row is one that the environment knows as
        such (else a stream was cut there, and nobody can tell what came before).

        :param trial: the two bits, ``(..., 2)``
        :param is_first: ``(...)``
        :return: ``(..., 1)``
        """
        trial_starts, episode_starts = trial.unbind(-1)
        return ((1.0 - trial_starts) * (1.0 - is_first * (1.0 - episode_starts))).unsqueeze(-1)

    def _evidence(self, obs: dict[str, th.Tensor], embed: th.Tensor, action: th.Tensor) -> th.Tensor:
        """:return: the share of the context's input that is known before the filter runs, ``(..., E + A + 3)``"""
        return th.cat([embed, action, symlog(obs[REWARD]), obs[TRIAL]], dim=-1)

    def _next_context(
        self, context: th.Tensor, physical: th.Tensor, stoch_before: th.Tensor, evidence: th.Tensor
    ) -> th.Tensor:
        """
        :param context: before the observation, ``(B, C)``
        :param physical: h at the observation, which says what was expected, ``(B, D - C)``
        :param stoch_before: z of the row before, ``(B, Z)``
        :param evidence: from :meth:`_evidence`, what came instead
        :return: ``(B, C)``
        """
        gates = self.context_net(th.cat([physical, stoch_before, evidence, context], dim=-1))
        return gru_gate(context, gates, self.context_bias)

    def observe_step(
        self,
        obs: dict[str, th.Tensor],
        prev_action: th.Tensor,
        is_first: th.Tensor,
        state: LatentState,
        deterministic: bool = False,
        generator: th.Generator | None = None,
    ) -> LatentState:
        is_first = is_first.float()
        keep = (1.0 - is_first).unsqueeze(-1)
        physical, context = self._parts(state.deter)
        context = context * self._keeps_context(obs[TRIAL], is_first)
        stoch, action = state.stoch * keep, prev_action * keep
        physical = self.core(physical * keep, th.cat([stoch, context], dim=-1), action)
        embed = self.observation_model.encode(self.observation_model.scale(obs))
        params = self._posterior_params(physical, self._term_of(embed))
        context = self._next_context(context, physical, stoch, self._evidence(obs, embed, action))
        deter = th.cat([physical, context], dim=-1)
        if deterministic:
            return LatentState(deter, self.latents.mode(params))
        return LatentState(deter, self.latents.sample(params, self.latents.noise((len(deter),), deter, generator)))

    def _term_of(self, embed: th.Tensor) -> th.Tensor:
        """The embedding's share of the posterior network's first layer."""
        first = self.posterior_net.first
        return F.linear(embed, first.weight[:, self.core.deter :], first.bias)

    def _filter(
        self, batch: SequenceBatch, scaled: dict[str, th.Tensor], deterministic: bool = False
    ) -> tuple[LatentState, th.Tensor]:
        keep = (1.0 - batch.is_first).unsqueeze(-1)  # (B, T, 1)
        action = batch.prev_action * keep
        embed = self.observation_model.encode(scaled)
        weights = self.core.unroll_weights()
        action_terms, embed_terms = self.core.action_term(action, weights).unbind(1), self._term_of(embed).unbind(1)
        evidence = self._evidence(batch.obs, embed, action).unbind(1)
        keep_context = self._keeps_context(batch.obs[TRIAL], batch.is_first).unbind(1)
        unseen = batch.is_last.unsqueeze(-1).unbind(1)  # by who acts
        noise = self.latents.noise(tuple(batch.is_first.shape), keep).unbind(1)
        held = th.zeros_like(keep)
        if self.training and not deterministic:
            held = (th.rand_like(keep) < self.context_hold) * keep
        (physical, context), stoch = self._parts(batch.initial.deter), batch.initial.stoch
        used = context
        states, params = [], []
        for t, (keep_t, held_t) in enumerate(zip(keep.unbind(1), held.unbind(1), strict=True)):
            context = context * keep_context[t]
            used = th.where(held_t > 0, used, context)
            before = stoch * keep_t
            physical = self.core.step(physical * keep_t, th.cat([before, used], dim=-1), action_terms[t], weights)
            params_t = self._posterior_params(physical, embed_terms[t])
            stoch = self.latents.mode(params_t) if deterministic else self.latents.sample(params_t, noise[t])
            context = th.lerp(self._next_context(context, physical, before, evidence[t]), context, unseen[t])
            states.append(LatentState(th.cat([physical, context], dim=-1), stoch))
            params.append(params_t)
        return LatentState.stack(states, dim=1).join(), th.stack(params, dim=1)

    # ---- predictions

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        reward = self.predict_reward(state).unsqueeze(-1)
        return {**super().decode(state), TRIAL: th.zeros_like(reward).expand(*reward.shape[:-1], 2), REWARD: reward}


def _check_keys(keys: Sequence[ObservationKey]) -> None:
    found = {key.name: (key.kind, key.size) for key in keys}
    if found.get(TRIAL) != ("binary", 2) or found.get(REWARD) != ("vector", 1) or len(keys) < 3:
        raise ValueError(
            f"A ContextRSSM needs an observation that tells of trials: a dictionary with {TRIAL!r} (two bits) and {REWARD!r} "
            f"(a number) beside what is seen, got the keys {sorted(found)}. Wrap the environment: envs.TrialWrapper(env)."
        )
