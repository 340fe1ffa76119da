"""Dynamics learnt directly on observations: the simplest world model that works where the full state is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.arguments import check_ranges
from sb3_dreamer.common.distributions import OneHotCategorical, OneHotGroups
from sb3_dreamer.common.math import random_like
from sb3_dreamer.common.networks import MLP, Norm
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.world_models.markov import Certain, MarkovWorldModel
from sb3_dreamer.world_models.observations import Scaling, VectorScaling
from sb3_dreamer.world_models.sizes import ModelSize, get_size

LIMIT = 10.0
"""Standard deviations from the mean at which a dream's numbers stop, as those of normalised observations do."""


class ObservationState(th.nn.Module):
    """
    Scaled observations as one vector: numbers first, then choices (one-hots), then bits. Numbers are certain, choices and bits
    are drawn from the probabilities predicted, with straight-through gradients.

    :param keys: the observation's parts, none of them images
    """

    def __init__(self, keys: Sequence[ObservationKey]) -> None:
        super().__init__()
        kinds = {kind: [key for key in keys if key.kind == kind] for kind in ("vector", "discrete", "binary")}
        self.order = [*kinds["vector"], *kinds["discrete"], *kinds["binary"]]
        self.parts = [sum(key.size for key in kinds[kind]) for kind in ("vector", "discrete", "binary")]
        classes = [n for key in kinds["discrete"] for n in key.classes]
        self.groups = OneHotGroups(classes) if classes else None
        self.size = sum(self.parts)

    def join(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param scaled: ``(..., size)`` a key
        :return: ``(..., Z)``
        """
        return th.cat([scaled[key.name] for key in self.order], dim=-1)

    def split(self, x: th.Tensor) -> dict[str, th.Tensor]:
        """
        :param x: ``(..., Z)``
        :return: ``(..., size)`` a key
        """
        parts = x.split([key.size for key in self.order], dim=-1)
        return {key.name: part for key, part in zip(self.order, parts, strict=True)}

    def noise(self, shape: tuple[int, ...], like: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param shape: batch shape
        :param like: a tensor on the device wanted
        :param generator: where the randomness comes from, torch's own by default
        :return: ``(*shape, choices and bits)``
        """
        return random_like("exponential", (*shape, self.parts[1] + 2 * self.parts[2]), like, generator)

    def sample(self, params: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """
        :param params: numbers, and logits of choices and bits, ``(..., Z)``
        :param noise: from :meth:`noise`
        :return: states ``(..., Z)``
        """
        return self._settle(params, noise)

    def mode(self, params: th.Tensor) -> th.Tensor:
        """
        :param params: numbers, and logits of choices and bits, ``(..., Z)``
        :return: the most probable states, ``(..., Z)``
        """
        return self._settle(params, None)

    def _settle(self, params: th.Tensor, noise: th.Tensor | None) -> th.Tensor:
        if params.shape[-1] == self.parts[0]:  # nothing to draw
            return params
        numbers, choices, bits = params.split(self.parts, dim=-1)
        settled = [numbers]
        if self.groups is not None:
            chosen = OneHotCategorical(choices, self.groups, unimix=0.0)
            settled.append(chosen.mode if noise is None else chosen.sample(noise[..., : self.parts[1]]))
        if self.parts[2]:
            probs = th.sigmoid(bits)
            if noise is None:
                hard = (probs > 0.5).float()
            else:  # the exponential race between on and off
                on, off = noise[..., self.parts[1] :].chunk(2, dim=-1)
                hard = (probs.detach() / on > (1.0 - probs.detach()) / off).float()
            settled.append(hard + probs - probs.detach())
        return th.cat(settled, dim=-1)

    def cross_entropy(self, params: th.Tensor, target: th.Tensor) -> th.Tensor:
        """
        :param params: numbers, and logits of choices and bits, ``(..., Z)``
        :param target: states, ``(..., Z)``
        :return: of choices and bits, summed, ``(...)``
        """
        _, choices, bits = params.split(self.parts, dim=-1)
        _, chosen, truth = target.split(self.parts, dim=-1)
        loss = F.binary_cross_entropy_with_logits(bits, truth, reduction="none").sum(-1)
        return loss if self.groups is None else loss + self.groups.cross_entropy(choices, chosen)


class MLPWorldModel(MarkovWorldModel):
    """
    ``x_{t+1} = x_t + μ_Δ + σ_Δ f(x_t, a_t)``: one network predicts how the scaled observation changes, with mean and standard
    deviation of its changes so far as origin and unit (Nagabandi et al. 2018, https://arxiv.org/abs/1708.02596). Numbers are
    certain, choices and bits have probabilities. There is no latent space and nothing to reconstruct: :meth:`decode` gives the
    state back in the observations' units.

    :param keys: the observation's parts; images are refused
    :param action_size: A
    :param size: widths and depths, by name or as a ModelSize
    :param gamma: discount factor
    :param normalize_obs: ``"running"`` (mean and standard deviation of all observations), ``"symlog"`` or ``"none"``
    :param norm: ``"rms"`` or ``"layer"``
    :param unroll_steps: steps ahead over which the dynamics are learnt, each from the state predicted for the one before
    :param dynamics_scale: weight of the dynamics' loss
    :param reward_scale: weight of the reward's loss
    :param continue_scale: weight of the continue flag's loss
    :raises ValueError: for images
    """

    small_task_kwargs: ClassVar[dict[str, Any]] = dict(norm="layer", reward_scale=10.0, continue_scale=10.0)

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "1m",
        gamma: float = 1 - 1 / 333,
        normalize_obs: Scaling = "running",
        norm: Norm = "rms",
        unroll_steps: int = 5,
        dynamics_scale: float = 1.0,
        reward_scale: float = 1.0,
        continue_scale: float = 1.0,
    ) -> None:
        images = [key.name for key in keys if key.kind == "image"]
        if images:
            raise ValueError(
                f"MLPWorldModel predicts numbers, not images (keys {images}): use VAEWorldModel or RSSM, or MlpPolicy to "
                "treat a small image as a vector."
            )
        sizes = get_size(size)
        keys = sorted(keys, key=lambda key: key.name)
        layout = ObservationState(keys)
        super().__init__(action_size, layout.size, sizes, gamma, norm, unroll_steps, Certain(), layout)
        self.layout, self.normalize_obs = layout, normalize_obs
        self.scalings = th.nn.ModuleList(
            VectorScaling(normalize_obs if key.kind == "vector" else "none", key.size) for key in layout.order
        )
        self.dynamics = MLP(layout.size + action_size, sizes.units, sizes.layers, layout.size, norm, out_scale=0.1)
        self.changes = VectorScaling("running", layout.parts[0])
        self.loss_scales = {"dynamics": dynamics_scale, "reward": reward_scale, "continue": continue_scale}
        check_ranges(at_least_0=self.loss_scales)

    def update_statistics(self, obs: dict[str, th.Tensor], reward: th.Tensor) -> None:
        for key, scaling in zip(self.layout.order, self.scalings, strict=True):
            assert isinstance(scaling, VectorScaling)
            scaling.update(obs[key.name])
        self.reward_magnitude.update(reward)

    def scale(self, obs: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        return {key.name: scaling(obs[key.name]) for key, scaling in zip(self.layout.order, self.scalings, strict=True)}

    def infer(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        return self.layout.join(scaled)

    def transition(self, x: th.Tensor, action: th.Tensor) -> th.Tensor:
        output = self.dynamics(th.cat([x, action], dim=-1)).float()
        numbers = self.layout.parts[0]
        changed = x[..., :numbers] + self.changes.inverse(output[..., :numbers])
        if self.normalize_obs == "running":
            changed = changed.clamp(-LIMIT, LIMIT)
        return th.cat([changed, output[..., numbers:]], dim=-1)

    def divergence(self, predicted: th.Tensor, target: th.Tensor) -> th.Tensor:
        numbers = self.layout.parts[0]
        error = (predicted[..., :numbers] - target[..., :numbers]) / self.changes.deviation()
        loss = error.square().sum(-1)
        return loss if numbers == self.layout.size else loss + self.layout.cross_entropy(predicted, target)

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        parts = self.layout.split(state.stoch)
        decoded = {}
        for key, scaling in zip(self.layout.order, self.scalings, strict=True):
            assert isinstance(scaling, VectorScaling)
            decoded[key.name] = scaling.inverse(parts[key.name])
        return decoded

    def loss(self, batch: SequenceBatch) -> tuple[LatentState, dict[str, th.Tensor], dict[str, th.Tensor]]:
        x = self.infer(self.scale(batch.obs))
        if self.training:
            numbers = x[..., : self.layout.parts[0]]
            self.changes.update((numbers[:, 1:] - numbers[:, :-1])[batch.is_first[:, 1:] == 0])
        losses = self._losses_ahead(x, x, batch)
        return self._states(batch, x), losses, {}
