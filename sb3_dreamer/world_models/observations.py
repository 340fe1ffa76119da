"""How a world model sees observations, and predicts them: scaling, encoder, decoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.convolutions import ConvDecoder, ConvEncoder
from sb3_dreamer.common.distributions import OneHotGroups
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
        if self.mode != "running" or len(x) == 0:
            return
        x = x.double()
        n = len(x)
        total = self.count + n
        mean = x.mean(0)
        delta = mean - self.mean
        square = (x - mean).square().sum(0) + delta.square() * self.count * n / total
        self.square.copy_(th.where(self.count == 0, square, self.square + square))
        self.mean.add_(delta * n / total)
        self.count.copy_(total)

    def deviation(self) -> th.Tensor:
        """:return: standard deviations so far (``running`` only), 1 before anything was seen, ``(size,)``"""
        variance = self.square / self.count.clamp_min(1.0)
        return (variance + 1e-8).sqrt().float()

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: in the observation's units, ``(..., size)``
        :return: scaled, same shape
        """
        if self.mode == "symlog":
            return symlog(x)
        if self.mode == "running":
            return ((x - self.mean.float()) / self.deviation()).clamp(-10.0, 10.0)
        return x

    def inverse(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: scaled values, ``(..., size)``
        :return: in the observation's units
        """
        if self.mode == "symlog":
            return symexp(x)
        if self.mode == "running":
            return x * self.deviation() + self.mean.float()
        return x


LARGEST_NUMBER = 10.0
"""In units of their magnitude."""


class RunningMagnitude(nn.Module):
    """
    The root mean square of all numbers so far, or a tenth of the largest if that is more: one reward among thousands of zeros
    would be hundreds of units, and its squared error would undo what else has been learnt. 1 before any that is not 0.
    """

    count: th.Tensor
    total: th.Tensor
    largest: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", th.zeros((), dtype=th.float64))
        self.register_buffer("total", th.zeros((), dtype=th.float64))
        self.register_buffer("largest", th.zeros((), dtype=th.float64))

    @th.no_grad()
    def update(self, x: th.Tensor) -> None:
        """
        :param x: new numbers, ``(n,)``
        """
        square = x.double().square()
        self.count.add_(len(x))
        self.total.add_(square.sum())
        if len(x):
            self.largest.copy_(th.maximum(self.largest, square.max().sqrt()))

    def renew(self, x: th.Tensor) -> None:
        """
        Begin anew.

        :param x: numbers, ``(n,)``
        """
        self.count.zero_()
        self.total.zero_()
        self.largest.zero_()
        self.update(x)

    def forward(self) -> th.Tensor:
        """:return: scalar"""
        usual = (self.total / self.count.clamp_min(1.0)).sqrt()
        magnitude = th.maximum(usual, self.largest / LARGEST_NUMBER)
        return th.where(magnitude > 0, magnitude, 1.0).float()


class Encoder(nn.Module):
    """
    Scaled observations to one embedding: an MLP for all that is flat, convolutions for images (those of equal size stacked
    along their channels).

    :param keys: the observation's parts
    :param units: width of the hidden layers
    :param layers: number of hidden layers
    :param norm: kind of normalisation
    :param depth: unit of the convolutions' channels
    :param strided: kind of convolutions
    """

    def __init__(self, keys: Sequence[ObservationKey], units: int, layers: int, norm: Norm, depth: int, strided: bool) -> None:
        super().__init__()
        self.flat = [key.name for key in keys if key.kind != "image"]
        self.pictures = image_groups(keys)
        flat_size = sum(key.size for key in keys if key.kind != "image")
        self.mlp = MLP(flat_size, units, layers, norm=norm) if self.flat else None
        self.convs = nn.ModuleList(ConvEncoder(shape, depth, norm, strided) for shape, _ in self.pictures)
        conv_features = [conv.out_features for conv in self.convs if isinstance(conv, ConvEncoder)]
        self.out_features = (units if self.flat else 0) + sum(conv_features)

    def forward(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param scaled: ``(..., size)``, images ``(..., C, H, W)`` a key
        :return: ``(..., out_features)``
        """
        parts = []
        if self.mlp is not None:
            parts.append(self.mlp(_join([scaled[name] for name in self.flat], dim=-1)))
        for conv, (_, members) in zip(self.convs, self.pictures, strict=True):
            parts.append(conv(_join([scaled[key.name] for key in members], dim=-3)))
        return _join(parts, dim=-1)


def image_groups(keys: Sequence[ObservationKey]) -> list[tuple[tuple[int, int, int], list[ObservationKey]]]:
    """
    :param keys: the observation's parts
    :return: images of equal size together: channels of all of them, height, width; and the keys
    """
    groups: dict[tuple[int, int], list[ObservationKey]] = defaultdict(list)
    for key in keys:
        if key.kind == "image":
            groups[key.image_shape[1:]].append(key)
    return [((sum(key.image_shape[0] for key in members), *size), members) for size, members in groups.items()]


def _join(parts: list[th.Tensor], dim: int) -> th.Tensor:
    return parts[0] if len(parts) == 1 else th.cat(parts, dim=dim)


class ObservationModel(nn.Module):
    """
    Encoder, decoder and the scaling they share.

    :param keys: the observation's parts
    :param deter_size: D
    :param stoch_size: Z
    :param units: width of the hidden layers
    :param layers: number of hidden layers
    :param norm: kind of normalisation
    :param scaling: of the vector keys
    :param depth: unit of the convolutions' channels
    :param blocks: blocks of the image decoder's first layer
    :param strided: kind of convolutions, see :class:`~sb3_dreamer.common.convolutions.ConvStage`
    :param encoder: takes the scaled observations and returns ``(..., out_features)``; None for :class:`Encoder`
    """

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        deter_size: int,
        stoch_size: int,
        units: int,
        layers: int,
        norm: Norm,
        scaling: Scaling,
        depth: int = 4,
        blocks: int = 1,
        strided: bool = True,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.keys = tuple(sorted(keys, key=lambda key: key.name))
        self.flat = [key for key in self.keys if key.kind != "image"]
        self.pictures = image_groups(self.keys)
        # lists, as a key of the environment's may be a name that a ModuleDict refuses
        self.scalings = nn.ModuleList(
            VectorScaling(scaling if key.kind == "vector" else "none", key.size) for key in self.flat
        )
        self.encoder = Encoder(self.keys, units, layers, norm, depth, strided) if encoder is None else encoder
        self.embed_size = int(self.encoder.out_features)  # type: ignore[arg-type]
        self.decoder = MLP(deter_size + stoch_size, units, layers, norm=norm) if self.flat else None
        self.outputs = nn.ModuleList(Linear(units, key.size) for key in self.flat)
        self.groups = nn.ModuleDict(
            {str(i): OneHotGroups(key.classes) for i, key in enumerate(self.flat) if key.kind == "discrete"}
        )
        self.conv_decoders = nn.ModuleList(
            ConvDecoder(deter_size, stoch_size, shape, depth, units, blocks, norm, strided) for shape, _ in self.pictures
        )

    def update_statistics(self, obs: dict[str, th.Tensor]) -> None:
        """
        :param obs: new observations, ``(n, size)`` a key
        """
        for key, scaling in zip(self.flat, self.scalings, strict=True):
            assert isinstance(scaling, VectorScaling)
            scaling.update(obs[key.name])

    def scale(self, obs: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        :param obs: ``(..., size)``, images ``(..., C, H, W)`` a key
        :return: what encoder and decoder work on, same shapes; images from 0 to 1
        """
        scaled = {key.name: scaling(obs[key.name]) for key, scaling in zip(self.flat, self.scalings, strict=True)}
        for _, members in self.pictures:
            scaled.update({key.name: obs[key.name].float() / key.scale for key in members})
        return scaled

    def encode(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param scaled: from :meth:`scale`
        :return: embedding, ``(..., E)``
        """
        return self.encoder(scaled)

    def _outputs(self, feat: th.Tensor) -> dict[str, th.Tensor]:
        """Scaled vectors, logits of choices and bits, images from 0 to 1."""
        outputs = {}
        if self.decoder is not None:
            hidden = self.decoder(feat)
            outputs = {key.name: head(hidden).float() for key, head in zip(self.flat, self.outputs, strict=True)}
        for conv, (_, members) in zip(self.conv_decoders, self.pictures, strict=True):
            images = conv(feat).split([key.image_shape[0] for key in members], dim=-3)
            outputs.update({key.name: image for key, image in zip(members, images, strict=True)})
        return outputs

    def decode(self, feat: th.Tensor) -> dict[str, th.Tensor]:
        """
        :param feat: ``(..., F)``
        :return: predictions in the observations' units; probabilities for choices and bits
        """
        decoded = self._outputs(feat)
        for i, (key, scaling) in enumerate(zip(self.flat, self.scalings, strict=True)):
            output = decoded[key.name]
            assert isinstance(scaling, VectorScaling)
            if key.kind == "discrete":
                groups = self.groups[str(i)]
                assert isinstance(groups, OneHotGroups)
                decoded[key.name] = groups.join(groups.softmax(output))
            else:
                decoded[key.name] = th.sigmoid(output) if key.kind == "binary" else scaling.inverse(output)
        for _, members in self.pictures:
            decoded.update({key.name: decoded[key.name] * key.scale for key in members})
        return decoded

    def loss(self, feat: th.Tensor, scaled: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        Squared error in scaled space for vectors and images, cross-entropy for choices and bits; summed over the dimensions.

        :param feat: ``(..., F)``
        :param scaled: targets from :meth:`scale`
        :return: a loss ``(...)`` a key
        """
        losses = self._outputs(feat)
        for i, key in enumerate(self.flat):
            output, target = losses[key.name], scaled[key.name]
            if key.kind == "discrete":
                groups = self.groups[str(i)]
                assert isinstance(groups, OneHotGroups)
                losses[key.name] = groups.cross_entropy(output, target)
            elif key.kind == "binary":
                losses[key.name] = F.binary_cross_entropy_with_logits(output, target, reduction="none").sum(-1)
            else:
                losses[key.name] = (output - target).square().sum(-1)
        for _, members in self.pictures:
            for key in members:
                losses[key.name] = (losses[key.name] - scaled[key.name]).square().sum((-3, -2, -1))
        return losses
