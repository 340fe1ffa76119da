"""Layers and their initialisation as DreamerV3 has them: Linear, norm, SiLU; the block GRU."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch as th
import torch.nn as nn
import torch.nn.functional as F

Norm = Literal["rms", "layer"]


def truncated_normal_(weight: th.Tensor, fan_in: int, scale: float = 1.0) -> None:
    """
    Truncated normal initialisation with standard deviation ``scale * sqrt(1 / fan_in)``. The bounds lie at two
    standard deviations of the untruncated normal, hence the correction by 1.1368.

    :param weight: filled in place
    :param fan_in: number of inputs
    :param scale: multiplies the result; 0 gives zeros
    """
    if scale == 0.0:
        nn.init.zeros_(weight)
        return
    std = 1.1368 * scale * math.sqrt(1 / fan_in)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class Linear(nn.Linear):
    """
    A linear layer with DreamerV3's initialisation.

    :param in_features: inputs
    :param out_features: outputs
    :param scale: factor of the initial weights (0 makes the first output exactly 0)
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        self._scale = scale
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        truncated_normal_(self.weight, self.in_features, self._scale)
        nn.init.zeros_(self.bias)


def make_norm(kind: Norm | None, size: int) -> nn.Module:
    """
    :param kind: ``"rms"`` (published) or ``"layer"``, which is one fused operation on a CPU; None for none
    :param size: number of features
    :return: the normalisation layer, eps 1e-4
    """
    if kind == "rms":
        return nn.RMSNorm(size, eps=1e-4)
    if kind == "layer":
        return nn.LayerNorm(size, eps=1e-4)
    if kind is None:
        return nn.Identity()
    raise ValueError(f"norm must be 'rms' or 'layer', got {kind!r}.")


def _runs_on_cpu(x: th.Tensor) -> bool:
    """:return: whether a CPU computes it now; what is compiled or exported is better written as torch's own operations"""
    return x.device.type == "cpu" and not th.compiler.is_compiling() and not th.jit.is_tracing()


def _rms_norm_silu(x: th.Tensor, weight: th.Tensor, eps: float) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """:return: ``silu(w x / sqrt(mean(x²) + eps))``, computed in float32, ``x / sqrt(...)`` and ``1 / sqrt(...)``"""
    wide = x.float()
    norm = th.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = th.rsub(norm.mul_(norm), eps, alpha=-1 / x.shape[-1]).rsqrt_()  # rsub: eps + mean(x²) in one small operation
    normed = wide * scale if wide is x else wide.mul_(scale)
    return F.silu(normed * weight, inplace=True).to(x.dtype), normed, scale


class _RMSNormSiLU(th.autograd.Function):
    """
    ``silu(w x / sqrt(mean(x²) + eps))``, computed in float32, with as few passes over memory, and as little of it to keep
    for the gradient, as torch's own operations allow.
    """

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, weight: th.Tensor, eps: float) -> th.Tensor:
        out, normed, scale = _rms_norm_silu(x, weight, eps)
        ctx.save_for_backward(normed, scale, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: th.Tensor) -> tuple[th.Tensor, th.Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        grad = th.ops.aten.silu_backward(grads[0].float(), normed * weight)
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0)
        along = (product @ weight).div_(-len(weight)).unsqueeze(-1)  # x changes its own norm as well
        return grad.mul_(weight).addcmul_(normed, along).mul_(scale).to(grads[0].dtype), grad_weight, None


def norm_silu(norm: nn.Module, x: th.Tensor) -> th.Tensor:
    """
    :param norm: from :func:`make_norm`
    :param x: ``(..., size)``
    :return: ``silu(norm(x))``, same shape and type, computed in float32
    """
    if isinstance(norm, nn.LayerNorm) and x.dtype is th.float32:  # what small networks spend their time on
        return F.silu(th.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    if isinstance(norm, nn.RMSNorm) and _runs_on_cpu(x):
        assert norm.eps is not None
        if th.is_grad_enabled():
            return _RMSNormSiLU.apply(x, norm.weight, norm.eps)
        return _rms_norm_silu(x, norm.weight, norm.eps)[0]
    return F.silu(norm(x.float())).to(x.dtype)


class MLP(nn.Module):
    """
    ``layers`` times Linear, norm, SiLU; then, if ``out_features`` is given, a Linear.

    :param in_features: inputs
    :param units: width of the hidden layers
    :param layers: number of hidden layers
    :param out_features: outputs, None for the last hidden layer itself
    :param norm: kind of normalisation, None for none
    :param out_scale: initialisation scale of the output layer
    """

    def __init__(
        self,
        in_features: int,
        units: int,
        layers: int,
        out_features: int | None = None,
        norm: Norm | None = "rms",
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = [in_features] + [units] * layers
        self.linears = nn.ModuleList(Linear(i, o) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(make_norm(norm, units) for _ in range(layers))
        self.out = None if out_features is None else Linear(sizes[-1], out_features, out_scale)
        self.out_features = sizes[-1] if out_features is None else out_features

    @property
    def first(self) -> Linear:
        """The first layer, for callers that know a part of its input earlier than the rest."""
        layer = self.linears[0]
        assert isinstance(layer, Linear)
        return layer

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: ``(..., in_features)``
        :return: ``(..., out_features)``
        """
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm_silu(norm, linear(x))
        if self.out is None:
            return x
        if self.out_features < 64 or self.out_features % 2 == 0 or not _runs_on_cpu(x):
            return self.out(x)
        # on a CPU, an odd number of columns halves the speed of a large matrix product
        weight, bias = F.pad(self.out.weight, (0, 0, 0, 1)), F.pad(self.out.bias, (0, 1))
        return F.linear(x, weight, bias)[..., :-1]


def bounded(action: th.Tensor) -> th.Tensor:
    """
    :param action: in the model's space, ``(..., A)``; raw samples may exceed the bounds
    :return: numbers beyond ±1 scaled down to ±1, as the environment clips them, but with a gradient
    """
    return action / action.detach().abs().clamp_min(1.0)


class UnrollWeights(NamedTuple):
    """The block GRU's first weight, split once an unroll instead of once a step."""

    deter: th.Tensor | None
    """``(G, D/G, D/G)``: from each block's own slice of the deterministic state; None with a single block."""
    inputs: th.Tensor
    """``(2H, D)``: from the embedded deterministic and stochastic state, dense over all blocks. With a single block
    ``(D + 2H, D)``: from the deterministic state as well."""
    action: th.Tensor
    """``(H, D)``: from the embedded action."""
    gate_bias: th.Tensor
    """``(3 D)``, or ``(G, 1, 3 D / G)``: with the update gate's own bias in it."""


class BlockGRU(nn.Module):
    """
    The recurrent core of DreamerV3's RSSM. State, sample and action are embedded to ``hidden`` units each; every one of
    ``blocks`` blocks sees its own slice of the state and ALL of the embedded inputs; a hidden layer and the gates are
    block-diagonal; with ``sigmoid(update + update_bias)`` as update gate and the reset gate on the candidate.

    The input layer's weight is one tensor ``(G, D/G + 3H, D/G)`` as published. Since the inputs are the same for all
    blocks, it is applied as a dense ``3H -> D`` product plus a small block-diagonal one, which spares G copies of the
    inputs, and the action's share is computed for all time steps at once.

    :param deter: D
    :param stoch: Z
    :param action: A
    :param hidden: H, width of the input embeddings
    :param blocks: G, must divide ``deter``
    :param norm: kind of normalisation
    :param update_bias: added to the update gate before the sigmoid; lower remembers longer. A pair is spread evenly over the
        units of a block, whose time scales, about ``1 + exp(-update_bias)`` steps, span a range then (Tallec and Ollivier
        2018, https://arxiv.org/abs/1804.11188)
    """

    update_bias: th.Tensor

    def __init__(
        self,
        deter: int,
        stoch: int,
        action: int,
        hidden: int,
        blocks: int,
        norm: Norm,
        update_bias: float | tuple[float, float] = -1.0,
    ) -> None:
        super().__init__()
        if deter % blocks:
            raise ValueError(f"blocks={blocks} must divide deter={deter}.")
        self.deter, self.hidden, self.blocks = deter, hidden, blocks
        self.deter_in, self.deter_norm = Linear(deter, hidden), make_norm(norm, hidden)
        self.stoch_in, self.stoch_norm = Linear(stoch, hidden), make_norm(norm, hidden)
        self.action_in, self.action_norm = Linear(action, hidden), make_norm(norm, hidden)
        width = deter // blocks
        first, last = update_bias if isinstance(update_bias, tuple | list) else (update_bias, update_bias)
        self.register_buffer("update_bias", th.linspace(first, last, width), persistent=False)
        self.hidden_weight = nn.Parameter(th.empty(blocks, width + 3 * hidden, width))
        self.hidden_bias = nn.Parameter(th.zeros(deter))
        self.hidden_norm = make_norm(norm, deter)
        self.gate_weight = nn.Parameter(th.empty(blocks, width, 3 * width))
        self.gate_bias = nn.Parameter(th.zeros(3 * deter))
        # published fan-in: the whole input of the layer, not that of one block
        truncated_normal_(self.hidden_weight, deter + 3 * hidden * blocks)
        truncated_normal_(self.gate_weight, deter)

    def unroll_weights(self) -> UnrollWeights:
        """:return: views of the weights in the form that :meth:`step` uses; make them once an unroll"""
        gates = self.gate_bias.view(self.blocks, 3, -1)  # every block's outputs are split into the three gates
        bias = th.cat([gates[:, :2], gates[:, 2:] + self.update_bias], dim=1).flatten(1)
        if self.blocks == 1:
            split = self.deter + 2 * self.hidden
            return UnrollWeights(None, self.hidden_weight[0, :split], self.hidden_weight[0, split:], bias[0])
        width = self.deter // self.blocks
        inputs = self.hidden_weight[:, width:].transpose(0, 1).reshape(3 * self.hidden, self.deter)
        dense = inputs[: 2 * self.hidden], inputs[2 * self.hidden :]
        return UnrollWeights(self.hidden_weight[:, :width], *dense, bias.unsqueeze(1))

    def action_term(self, action: th.Tensor, weights: UnrollWeights) -> th.Tensor:
        """
        The action's share of the hidden layer, for any number of steps at once.

        :param action: ``(..., A)``
        :param weights: from :meth:`unroll_weights`
        :return: ``(..., D)``
        """
        return self._embed_action(action) @ weights.action + self.hidden_bias

    def _embed_action(self, action: th.Tensor) -> th.Tensor:
        return norm_silu(self.action_norm, self.action_in(bounded(action)))

    def forward(self, deter: th.Tensor, stoch: th.Tensor, action: th.Tensor) -> th.Tensor:
        """
        A single step, as :meth:`action_term` and :meth:`step`, without the weights being arranged for many.

        :param deter: ``(B, D)``
        :param stoch: ``(B, Z)``
        :param action: ``(B, A)``
        :return: the next deterministic state, ``(B, D)``
        """
        from_deter = norm_silu(self.deter_norm, self.deter_in(deter))
        from_stoch = norm_silu(self.stoch_norm, self.stoch_in(stoch))
        inputs = th.cat([from_deter, from_stoch, self._embed_action(action)], dim=-1).expand(self.blocks, -1, -1)
        split = self._split(deter)
        x = self._join(th.bmm(th.cat([split, inputs], dim=-1), self.hidden_weight)) + self.hidden_bias
        x = norm_silu(self.hidden_norm, x)
        gates = th.baddbmm(self.gate_bias.view(self.blocks, 1, -1), self._split(x), self.gate_weight)
        return self._join(gru_gate(split, gates, self.update_bias))

    def step(self, deter: th.Tensor, stoch: th.Tensor, action_term: th.Tensor, weights: UnrollWeights) -> th.Tensor:
        """
        :param deter: ``(B, D)``
        :param stoch: ``(B, Z)``
        :param action_term: ``(B, D)``
        :param weights: from :meth:`unroll_weights`
        :return: the next deterministic state, ``(B, D)``
        """
        from_deter = norm_silu(self.deter_norm, self.deter_in(deter))
        from_stoch = norm_silu(self.stoch_norm, self.stoch_in(stoch))
        if weights.deter is None:
            x = th.addmm(action_term, th.cat([deter, from_deter, from_stoch], dim=-1), weights.inputs)
        else:
            x = th.addmm(action_term, from_deter, weights.inputs[: self.hidden])
            x = th.addmm(x, from_stoch, weights.inputs[self.hidden :])
            x = x + self._join(th.bmm(self._split(deter), weights.deter))
        x = norm_silu(self.hidden_norm, x)
        if self.blocks == 1:
            return gru_gate(deter, th.addmm(weights.gate_bias, x, self.gate_weight[0]))
        gates = th.baddbmm(weights.gate_bias, self._split(x), self.gate_weight)
        return self._join(gru_gate(self._split(deter), gates))

    def _split(self, x: th.Tensor) -> th.Tensor:
        """``(B, G * I)`` to ``(G, B, I)``."""
        return x.unflatten(-1, (self.blocks, -1)).transpose(0, 1)

    def _join(self, x: th.Tensor) -> th.Tensor:
        """``(G, B, O)`` to ``(B, G * O)``."""
        return x.transpose(0, 1).flatten(1)


def gru_gate(deter: th.Tensor, gates: th.Tensor, update_bias: th.Tensor | None = None) -> th.Tensor:
    """
    The last step of a GRU whose reset gate is on the candidate; in float32, as states are.

    :param deter: the state before, ``(..., D)``
    :param gates: of reset, candidate and update, ``(..., 3 D)``
    :param update_bias: added to the update gate, ``(D,)``; None where it has been
    :return: the state, ``(..., D)``
    """
    reset, candidate, update = gates.float().chunk(3, dim=-1)
    candidate = th.tanh(th.sigmoid(reset) * candidate)
    return th.lerp(deter, candidate, th.sigmoid(update if update_bias is None else update + update_bias))
