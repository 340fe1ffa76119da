"""How a world model sees observations, and predicts them: scaling, encoder, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.math import symexp, symlog
from sb3_dreamer.common.networks import MLP, Linear, Norm
from sb3_dreamer.common.preprocessing import ObservationKey

Scaling = Literal["symlog", "running", "none"]


class VectorScaling(nn.Module):
    """
    Brings a vector to a scale that a network likes, and back: ``symlog`` (DreamerV3), ``running`` (minus the mean, over
    the standard deviation of all observations so far, clipped at ±10 as SB3's VecNormalize), or ``none``.

    :param mode: which
    :param size: dimensions
    """

    mean: th.Tensor
    square: th.Tensor
    count: th.Tensor

    def __init__(self, mode: Scaling, size: int) -> None:
        super().__init__()
        if mode not in ("symlog", "running", "none"):
            raise ValueError(f"normalize_obs must be 'symlog', 'running' or 'none', got {mode!r}.")
        self.mode = mode
        if mode == "running":
            self.register_buffer("count", th.zeros((), dtype=th.float64))
            self.register_buffer("mean", th.zeros(size, dtype=th.float64))
            self.register_buffer("square", th.ones(size, dtype=th.float64))  # of the deviation from the mean, summed

    @th.no_grad()
    def update(self, x: th.Tensor) -> None:
        """
        :param x: new observations, ``(n, size)``
        """
        if self.mode != "running":
            return
        x = x.double()
        n = len(x)
        total = self.count + n
        mean = x.mean(0)
        delta = mean - self.mean
        square = (x - mean).square().sum(0) + delta.square() * self.count * n / total
        self.square.copy_(square if self.count == 0 else self.square + square)
        self.mean.add_(delta * n / total)
        self.count.copy_(total)

    def _scale(self) -> tuple[th.Tensor, th.Tensor]:
        variance = self.square / self.count.clamp_min(1.0)
        return self.mean.float(), (variance + 1e-8).sqrt().float()

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: in the observation's units, ``(..., size)``
        :return: scaled, same shape
        """
        if self.mode == "symlog":
            return symlog(x)
        if self.mode == "running":
            mean, std = self._scale()
            return ((x - mean) / std).clamp(-10.0, 10.0)
        return x

    def inverse(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: scaled values, ``(..., size)``
        :return: in the observation's units
        """
        if self.mode == "symlog":
            return symexp(x)
        if self.mode == "running":
            mean, std = self._scale()
            return x * std + mean
        return x


class RunningMagnitude(nn.Module):
    """The root mean square of all numbers so far, 1 before any that is not 0."""

    count: th.Tensor
    total: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", th.zeros((), dtype=th.float64))
        self.register_buffer("total", th.zeros((), dtype=th.float64))

    @th.no_grad()
    def update(self, x: th.Tensor) -> None:
        """
        :param x: new numbers, ``(n,)``
        """
        self.count.add_(len(x))
        self.total.add_(x.double().square().sum())

    def forward(self) -> th.Tensor:
        """:return: scalar"""
        square = self.total / self.count.clamp_min(1.0)
        return th.where(square > 0, square.sqrt(), 1.0).float()


class ObservationModel(nn.Module):
    """
    Encoder, decoder and the scaling they share.

    :param keys: the observation's parts
    :param feat_size: F, inputs of the decoder
    :param units: width of the hidden layers
    :param layers: number of hidden layers
    :param norm: kind of normalisation
    :param scaling: of the vector keys
    """

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        feat_size: int,
        units: int,
        layers: int,
        norm: Norm,
        scaling: Scaling,
    ) -> None:
        super().__init__()
        self.keys = tuple(sorted(keys, key=lambda key: key.name))
        self.scalings = nn.ModuleDict(
            {key.name: VectorScaling(scaling if key.kind == "vector" else "none", key.size) for key in self.keys}
        )
        self.encoder = MLP(sum(key.size for key in self.keys), units, layers, norm=norm)
        self.decoder = MLP(feat_size, units, layers, norm=norm)
        self.outputs = nn.ModuleDict({key.name: Linear(units, key.size) for key in self.keys})
        self.embed_size = units

    def update_statistics(self, obs: dict[str, th.Tensor]) -> None:
        """
        :param obs: new observations, ``(n, size)`` a key
        """
        for name, scaling in self.scalings.items():
            assert isinstance(scaling, VectorScaling)
            scaling.update(obs[name])

    def scale(self, obs: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        :param obs: ``(..., size)`` a key
        :return: what encoder and decoder work on, same shapes
        """
        return {name: scaling(obs[name]) for name, scaling in self.scalings.items()}

    def encode(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param scaled: from :meth:`scale`
        :return: embedding, ``(..., E)``
        """
        return self.encoder(th.cat([scaled[key.name] for key in self.keys], dim=-1))

    def decode(self, feat: th.Tensor) -> dict[str, th.Tensor]:
        """
        :param feat: ``(..., F)``
        :return: predictions in the observations' units; probabilities for discrete keys
        """
        hidden = self.decoder(feat)
        decoded = {}
        for key in self.keys:
            output = self.outputs[key.name](hidden)
            scaling = self.scalings[key.name]
            assert isinstance(scaling, VectorScaling)
            decoded[key.name] = th.softmax(output, -1) if key.kind == "discrete" else scaling.inverse(output)
        return decoded

    def loss(self, feat: th.Tensor, scaled: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        Squared error in scaled space for vectors, cross-entropy for discrete keys; both summed over the dimensions.

        :param feat: ``(..., F)``
        :param scaled: targets from :meth:`scale`
        :return: a loss ``(...)`` a key
        """
        hidden = self.decoder(feat)
        losses = {}
        for key in self.keys:
            output, target = self.outputs[key.name](hidden), scaled[key.name]
            if key.kind == "discrete":
                losses[key.name] = -(F.log_softmax(output, -1) * target).sum(-1)
            else:
                losses[key.name] = (output - target).square().sum(-1)
        return losses
