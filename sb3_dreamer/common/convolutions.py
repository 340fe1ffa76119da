"""Convolutional encoder and decoder for images of any size."""

from __future__ import annotations

import math
from itertools import pairwise

import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.networks import MLP, Norm, make_norm, norm_silu, truncated_normal_

CHANNELS = (2, 3, 4)
"""Multiples of ``depth`` by stage; later stages have as many channels as the last."""


def plan_stages(height: int, width: int) -> tuple[int, int, int]:
    """
    How often to halve an image: until its shorter side has 4 to 7 pixels. Sides that do not divide are padded.

    :param height: in pixels
    :param width: in pixels
    :return: number of stages, and height and width after them
    """
    shorter = min(height, width)
    stages = int(math.log2(shorter / 4)) if shorter >= 8 else 0
    return stages, math.ceil(height / 2**stages), math.ceil(width / 2**stages)


def stage_channels(depth: int, stage: int) -> int:
    """
    :param depth: unit of the numbers of channels
    :param stage: from 0, at the image
    :return: channels after that stage
    """
    return depth * CHANNELS[min(stage, len(CHANNELS) - 1)]


class ConvStage(nn.Module):
    """
    One stage: halves or doubles an image, or keeps its size. ``strided`` stages use 4x4 kernels at every second pixel
    (Dreamer and DreamerV2; several times cheaper on a CPU), the others 5x5 kernels at every pixel with 2x2 maximum pooling
    after or repeated pixels before them (DreamerV3 today).

    :param inputs: channels
    :param outputs: channels
    :param change: ``"halve"``, ``"double"`` or ``"keep"`` (a 3x3 kernel)
    :param strided: which kind of stage
    :param norm: kind of normalisation over the channels of every pixel, followed by SiLU; None for neither
    """

    def __init__(self, inputs: int, outputs: int, change: str, strided: bool, norm: Norm | None) -> None:
        super().__init__()
        self.change, self.strided = change, strided
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if change == "keep":
            self.conv, fan_in = nn.Conv2d(inputs, outputs, 3, padding=1), 9 * inputs
        elif not strided:
            self.conv, fan_in = nn.Conv2d(inputs, outputs, 5, padding=2), 25 * inputs
        elif change == "halve":
            self.conv, fan_in = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), 16 * inputs
        else:  # four of the sixteen weights meet at every pixel
            self.conv, fan_in = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), 4 * inputs
        truncated_normal_(self.conv.weight, fan_in)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        self.norm = None if norm is None else make_norm(norm, outputs)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: ``(N, inputs, H, W)``
        :return: ``(N, outputs, H', W')``
        """
        if self.change == "double" and not self.strided:
            x = F.interpolate(x, scale_factor=2)
        x = self.conv(x)
        if self.change == "halve" and not self.strided:
            x = F.max_pool2d(x, 2)
        return x if self.norm is None else normalise_channels(self.norm, x)


def normalise_channels(norm: nn.Module, x: th.Tensor) -> th.Tensor:
    """
    :param norm: normalises the last axis
    :param x: ``(N, C, H, W)``
    :return: every pixel normalised over its channels, then SiLU; same shape
    """
    # with the channels last in memory, both permutations are views
    return norm_silu(norm, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvEncoder(nn.Module):
    """
    Images to a flat embedding, by stages that halve them. Images too small for that get one stage that does not.

    :param shape: channels, height, width
    :param depth: unit of the numbers of channels
    :param norm: kind of normalisation
    :param strided: kind of stages, see :class:`ConvStage`
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, norm: Norm, strided: bool) -> None:
        super().__init__()
        channels, height, width = shape
        stages, rows, columns = plan_stages(height, width)
        self._padding = (0, columns * 2**stages - width, 0, rows * 2**stages - height)
        sizes = [channels] + [stage_channels(depth, stage) for stage in range(max(1, stages))]
        change = "halve" if stages else "keep"
        self.stages = nn.Sequential(*(ConvStage(i, o, change, strided, norm) for i, o in pairwise(sizes)))
        self.out_features = sizes[-1] * rows * columns

    def forward(self, images: th.Tensor) -> th.Tensor:
        """
        :param images: from 0 to 1, ``(..., C, H, W)``
        :return: ``(..., out_features)``
        """
        x = images.flatten(0, -4).contiguous(memory_format=th.channels_last) - 0.5
        if any(self._padding):
            x = F.pad(x, self._padding)
        x = self.stages(x)
        return x.permute(0, 2, 3, 1).flatten(1).unflatten(0, images.shape[:-3])


class ConvDecoder(nn.Module):
    """
    A latent state to images: a small map from the deterministic state (block-diagonal) and the stochastic one (a hidden
    layer), then stages that double it.

    :param deter_size: D, may be 0
    :param stoch_size: Z
    :param shape: channels, height, width
    :param depth: unit of the numbers of channels
    :param units: half the width of the hidden layer
    :param blocks: blocks of the layer from the deterministic state
    :param norm: kind of normalisation
    :param strided: kind of stages, see :class:`ConvStage`
    """

    def __init__(
        self,
        deter_size: int,
        stoch_size: int,
        shape: tuple[int, int, int],
        depth: int,
        units: int,
        blocks: int,
        norm: Norm,
        strided: bool,
    ) -> None:
        super().__init__()
        channels, self.height, self.width = shape
        stages, rows, columns = plan_stages(self.height, self.width)
        top = depth * CHANNELS[-1]
        self._map = (rows, columns)
        self.deter_size, self.stoch_size, self.blocks = deter_size, stoch_size, blocks
        self.deter_weight = nn.Parameter(th.empty(blocks, deter_size // blocks, rows * columns * top // blocks))
        truncated_normal_(self.deter_weight, max(1, deter_size))
        self.deter_bias = nn.Parameter(th.zeros(rows * columns * top))
        self.stoch_net = MLP(stoch_size, 2 * units, 1, rows * columns * top, norm)
        self.norm = make_norm(norm, top)
        sizes = [top] + [stage_channels(depth, stage) for stage in reversed(range(stages - 1))]
        change = "double" if stages else "keep"
        self.stages = nn.Sequential(
            *(ConvStage(i, o, change, strided, norm) for i, o in pairwise(sizes)),
            ConvStage(sizes[-1], channels, change, strided, None),
        )

    def forward(self, feat: th.Tensor) -> th.Tensor:
        """
        :param feat: deterministic and stochastic state, ``(..., D + Z)``
        :return: images from 0 to 1, ``(..., C, H, W)``
        """
        deter, stoch = feat.flatten(0, -2).split([self.deter_size, self.stoch_size], dim=-1)
        grouped = deter.unflatten(-1, (self.blocks, -1)).transpose(0, 1)  # (G, N, D / G)
        # each block gives some of the channels of every pixel
        from_deter = th.bmm(grouped, self.deter_weight).unflatten(-1, (*self._map, -1))  # (G, N, h, w, C / G)
        from_deter = from_deter.permute(1, 2, 3, 0, 4).flatten(1) + self.deter_bias
        x = (from_deter + self.stoch_net(stoch)).unflatten(-1, (*self._map, -1))
        x = self.stages(normalise_channels(self.norm, x.permute(0, 3, 1, 2)))
        return th.sigmoid(x[..., : self.height, : self.width].float()).unflatten(0, feat.shape[:-1])
