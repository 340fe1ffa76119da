"""A variational autoencoder whose latents have dynamics of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch as th
import torch.nn as nn

from sb3_dreamer.common.arguments import check_ranges, check_whole
from sb3_dreamer.common.latents import GaussianLatents
from sb3_dreamer.common.networks import MLP, Norm, bounded
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.world_models.markov import Certain, MarkovWorldModel
from sb3_dreamer.world_models.observations import ObservationModel, Scaling
from sb3_dreamer.world_models.sizes import ModelSize, get_size


class VAEWorldModel(MarkovWorldModel):
    """
    Encoder ``q(z_t | o_t)``, decoder ``p(o_t | z_t)``, dynamics ``z_{t+1} = z_t + f(z_t, a_t)``, or
    ``N(z_t + f(z_t, a_t), σ(z_t, a_t))``, reward ``r(z_t, a_t)`` and continue flag ``c(z_t)`` in the latent space.

    ``joint=True`` learns all of it together, as a sequential VAE: the transition is the prior of the next latent, and
    ``KL[q(z_{t+1} | o_{t+1}) ‖ p(z_{t+1} | z_t, a_t)]`` pulls each towards the other (the prior more, as in Dreamer).
    ``joint=False`` is that of World Models (Ha and Schmidhuber 2018, https://arxiv.org/abs/1803.10122): a VAE with the prior
    ``N(0, 1)``, and dynamics, reward and continue flag on its latents, which their losses do not change.
    Deterministic dynamics are given the posterior's standard deviation in that divergence, which becomes the squared
    distance of the means in its units: what the VAE does not know well counts little.

    It has no memory: for pictures, stack frames (``VecFrameStack``), or use an RSSM.

    :param keys: the observation's parts
    :param action_size: A
    :param size: widths and depths, by name or as a ModelSize
    :param gamma: discount factor
    :param dynamics: ``"deterministic"`` or ``"gaussian"``
    :param joint: learn the dynamics together with the VAE
    :param latent_size: Z; None for twice the size's groups of latents
    :param beta: what the latents pay for being far from their prior. That is ``N(0, 1)``; where the dynamics are a prior
        (joint and Gaussian), it is what they predict, but for episodes' first observations
    :param unroll_steps: steps ahead over which the dynamics are learnt, each from the state predicted for the one before
    :param normalize_obs: ``"symlog"``, ``"running"`` (mean and standard deviation of all observations) or ``"none"``
    :param norm: ``"rms"`` or ``"layer"``
    :param min_std: smallest standard deviation of latents
    :param free_nats: KL of the dynamics below which nothing is to gain (Gaussian dynamics, joint)
    :param reconstruction_scale: weight of every observation key but images
    :param image_scale: weight of images
    :param dynamics_scale: weight of the dynamics' loss
    :param representation_scale: weight of the pull of the latents towards what the dynamics predict, times ``beta`` (joint
        only)
    :param reward_scale: weight of the reward's loss
    :param continue_scale: weight of the continue flag's loss
    :param strided: cheap convolutions, see :class:`~sb3_dreamer.common.convolutions.ConvStage`
    :param encoder: a module of one's own instead of the encoder, as of :class:`~sb3_dreamer.world_models.RSSM`
    """

    small_task_kwargs: ClassVar[dict[str, Any]] = dict(
        normalize_obs="running",
        norm="layer",
        reconstruction_scale=300.0,  # all that the dynamics know of the state goes through the latents' noise
        beta=0.1,
        representation_scale=1.0,
        reward_scale=10.0,
        continue_scale=10.0,
        strided=True,
    )

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "1m",
        gamma: float = 1 - 1 / 333,
        dynamics: Literal["deterministic", "gaussian"] = "gaussian",
        joint: bool = True,
        latent_size: int | None = None,
        beta: float = 1.0,
        unroll_steps: int = 5,
        normalize_obs: Scaling = "symlog",
        norm: Norm = "rms",
        min_std: float = 0.1,
        free_nats: float = 1.0,
        reconstruction_scale: float = 1.0,
        image_scale: float = 1.0,
        dynamics_scale: float = 1.0,
        representation_scale: float = 0.1,
        reward_scale: float = 1.0,
        continue_scale: float = 1.0,
        strided: bool = False,
        encoder: nn.Module | None = None,
    ) -> None:
        if dynamics not in ("deterministic", "gaussian"):
            raise ValueError(f"dynamics must be 'deterministic' or 'gaussian', got {dynamics!r}.")
        sizes = get_size(size)
        latent_size = 2 * sizes.groups if latent_size is None else latent_size
        check_whole(latent_size=latent_size)
        check_ranges(positive=dict(min_std=min_std), at_least_0=dict(beta=beta, free_nats=free_nats))
        latents = GaussianLatents(latent_size, min_std)
        prior = latents if dynamics == "gaussian" else Certain()
        super().__init__(action_size, latent_size, sizes, gamma, norm, unroll_steps, latents, prior)
        self.latents, self.joint, self.free_nats = latents, joint, free_nats if joint else 0.0
        self.gaussian = dynamics == "gaussian"
        self.observation_model = ObservationModel(
            keys, 0, latent_size, sizes.units, sizes.layers, norm, normalize_obs, sizes.depth, 1, strided, encoder
        )
        params = latents.param_size if self.gaussian else latent_size
        self.posterior_net = MLP(self.observation_model.embed_size, sizes.units, 1, latents.param_size, norm)
        self.dynamics = MLP(latent_size + action_size, sizes.hidden, sizes.layers, params, norm, out_scale=0.1)
        self.loss_scales = {
            f"reconstruction/{key.name}": image_scale if key.kind == "image" else reconstruction_scale
            for key in self.observation_model.keys
        }
        self.loss_scales.update(kl=beta, dynamics=dynamics_scale, reward=reward_scale, **{"continue": continue_scale})
        if joint:
            self.loss_scales["representation"] = beta * representation_scale
        check_ranges(at_least_0=self.loss_scales)

    def update_statistics(self, obs: dict[str, th.Tensor], reward: th.Tensor) -> None:
        self.observation_model.update_statistics(obs)
        self.reward_magnitude.update(reward)

    def scale(self, obs: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        return self.observation_model.scale(obs)

    def infer(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        return self.posterior_net(self.observation_model.encode(scaled)).float()

    def transition(self, x: th.Tensor, action: th.Tensor) -> th.Tensor:
        output = self.dynamics(th.cat([x, action], dim=-1)).float()
        return th.cat([x + output[..., : self.stoch_size], output[..., self.stoch_size :]], dim=-1)

    def divergence(self, predicted: th.Tensor, target: th.Tensor) -> th.Tensor:
        return self._divergences(predicted, target)[0]

    def _divergences(self, predicted: th.Tensor, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """:return: with gradients to the prediction alone, and to the target alone, ``(...)``"""
        if self.gaussian:
            dynamics, representation = self.latents.kl(target, predicted)
            return dynamics.clamp_min(self.free_nats), representation.clamp_min(self.free_nats)
        mean, std = self.latents.mean_std(target)
        fixed = std.detach()
        dynamics = 0.5 * ((predicted - mean.detach()) / fixed).square().sum(-1)
        return dynamics, 0.5 * ((predicted.detach() - mean) / fixed).square().sum(-1)

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        return self.observation_model.decode(state.stoch)

    def loss(self, batch: SequenceBatch) -> tuple[LatentState, dict[str, th.Tensor], dict[str, th.Tensor]]:
        scaled = self.scale(batch.obs)
        params = self.infer(scaled)
        z = self._sample(params)
        reconstruction = self.observation_model.loss(z, scaled)
        losses = {f"reconstruction/{name}": loss for name, loss in reconstruction.items()}
        kl = self.latents.kl_to_standard_normal(params)
        metrics = {"kl": kl.detach().mean(), "posterior_entropy": self.latents.entropy(params.detach()).mean()}
        if not self.joint:
            z, params = z.detach(), params.detach()
        losses.update(self._losses_ahead(z, params, batch), kl=kl)
        if self.joint:
            follows = 1.0 - batch.is_first[:, 1:]  # rows with a row of the same episode before them
            predicted = self.transition(z[:, :-1].detach(), bounded(batch.prev_action[:, 1:]))
            pull = follows * self._divergences(predicted, params[:, 1:])[1]
            losses["representation"] = nn.functional.pad(pull, (1, 0))
            if self.gaussian:
                losses["kl"] = kl * batch.is_first
        return self._states(batch, z), losses, metrics
