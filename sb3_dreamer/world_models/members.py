"""Networks that give several opinions at once, each a Gaussian: ensembles, dropout masks, draws of a Bayesian last layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.common.math import random_like
from sb3_dreamer.common.networks import truncated_normal_

WEIGHT_DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
"""Of the first layers (the third for all between) and the last one: PETS', for four hidden layers."""
BOUND_SCALE = 0.01
"""Of the pull that brings the bounds of the log-variance together."""

Gaussian = tuple[th.Tensor, th.Tensor]
"""Means and log-variances, ``(M, n, O)``."""


def nats(said: Gaussian, y: th.Tensor) -> th.Tensor:
    """
    :param said: means and log-variances, ``(..., O)``
    :param y: what happened, ``(..., O)``
    :return: twice the negative log-likelihood but for a constant, ``(..., O)``
    """
    mean, log_var = said
    return (mean - y).square() * th.exp(-log_var) + log_var


class BatchedLinear(nn.Module):
    """
    Linear layers of E networks in one matrix product. Truncated normal weights of deviation ``1 / (2 √inputs)``, as PETS'.

    :param members: E
    :param inputs: of each
    :param outputs: of each
    :param init_scale: factor of that deviation
    """

    def __init__(self, members: int, inputs: int, outputs: int, init_scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.empty(members, inputs, outputs))
        self.bias = nn.Parameter(th.zeros(members, 1, outputs))
        truncated_normal_(self.weight, inputs, init_scale * 0.5 / 1.1368)

    def forward(self, x: th.Tensor, which: th.Tensor | None = None) -> th.Tensor:
        """
        :param x: ``(M, n, inputs)``
        :param which: M of the networks; None for all
        :return: ``(M, n, outputs)``
        """
        weight, bias = (self.weight, self.bias) if which is None else (self.weight[which], self.bias[which])
        return th.baddbmm(bias, x, weight)


class Members(nn.Module, ABC):
    """
    M opinions on the same question, each with a mean and a log-variance for every output. The log-variance is kept between
    two bounds that are learnt, softly (Chua et al. 2018, https://arxiv.org/abs/1805.12114, appendix A.1).

    :param networks: sets of weights that are trained, each on rows of its own
    :param inputs: I
    :param outputs: O
    :param units: width of the hidden layers
    :param layers: number of hidden layers
    :param init_scale: of the first weights
    """

    count: int
    """M, the number of opinions."""

    def __init__(self, networks: int, inputs: int, outputs: int, units: int, layers: int, init_scale: float = 1.0) -> None:
        super().__init__()
        self.networks, self.outputs = networks, outputs
        sizes = [inputs, *[units] * layers]
        self.hidden = nn.ModuleList(BatchedLinear(networks, a, b, init_scale) for a, b in pairwise(sizes))
        self.head = BatchedLinear(networks, units, 2 * outputs, init_scale)
        self.max_log_var = nn.Parameter(th.full((outputs,), 0.5))
        self.min_log_var = nn.Parameter(th.full((outputs,), -10.0))

    def _bounded(self, output: th.Tensor) -> Gaussian:
        mean, log_var = output.chunk(2, dim=-1)
        log_var = self.max_log_var - F.softplus(self.max_log_var - log_var)
        return mean, self.min_log_var + F.softplus(log_var - self.min_log_var)

    def _trunk(self, x: th.Tensor, which: th.Tensor | None = None) -> th.Tensor:
        for layer in self.hidden:
            x = F.silu(layer(x, which))
        return x

    def learn(self, x: th.Tensor) -> Gaussian:
        """
        What is trained.

        :param x: rows of each network, ``(networks, n, I)``
        :return: ``(networks, n, O)`` each
        """
        return self._bounded(self.head(self._trunk(x)))

    def judge(self, x: th.Tensor) -> Gaussian:
        """
        What is judged by rows held out.

        :param x: ``(n, I)``
        :return: what each network says, ``(networks, n, O)`` each
        """
        return self.learn(x.expand(self.networks, *x.shape))

    @abstractmethod
    def forward(self, x: th.Tensor, which: th.Tensor | None = None) -> Gaussian:
        """
        :param x: ``(k, n, I)``
        :param which: of the M opinions, ``(k,)``, one for every block of rows; None for all of them in their order, which
            copies no weights
        :return: ``(k, n, O)`` each
        """

    def settle(self, x: th.Tensor, y: th.Tensor) -> None:
        """
        Called when the weights are learnt, with the rows they were learnt from.

        :param x: ``(n, I)``
        :param y: ``(n, O)``
        """

    def loss(self, x: th.Tensor, y: th.Tensor) -> th.Tensor:
        """
        Negative log-likelihood but for a constant: a mean over rows and outputs, summed over networks, and the bounds' pull.

        :param x: ``(networks, n, I)``
        :param y: ``(networks, n, O)``
        :return: scalar
        """
        fit = nats(self.learn(x), y).mean((1, 2)).sum()
        return fit + BOUND_SCALE * (self.max_log_var - self.min_log_var).sum()

    def parameter_groups(self) -> list[dict]:
        """:return: for an optimizer, with PETS' weight decay"""
        decays = [WEIGHT_DECAY[min(i, 3)] for i in range(len(self.hidden))] + [WEIGHT_DECAY[-1]]
        layers = [*self.hidden, self.head]
        groups = [dict(params=[layer.weight], weight_decay=decay) for layer, decay in zip(layers, decays, strict=True)]
        rest = [layer.bias for layer in layers] + [self.max_log_var, self.min_log_var]
        return [*groups, dict(params=rest, weight_decay=0.0)]


class Ensemble(Members):
    """
    E networks with weights and data of their own, all in the same matrix products.

    :param members: E
    :param inputs: I
    :param outputs: O
    :param units: width
    :param layers: hidden layers
    :param init_scale: of the first weights
    """

    def __init__(self, members: int, inputs: int, outputs: int, units: int, layers: int, init_scale: float = 1.0) -> None:
        super().__init__(members, inputs, outputs, units, layers, init_scale)
        self.count = members

    def forward(self, x: th.Tensor, which: th.Tensor | None = None) -> Gaussian:
        output = self.head(self._trunk(x, which), which)
        return self._bounded(output)


class DropoutMasks(Members):
    """
    One network under M masks of dropout, drawn once, so that an opinion is a function and stays the same along a dream
    (Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142).

    :param members: M
    :param inputs: I
    :param outputs: O
    :param units: width
    :param layers: hidden layers
    :param dropout: probability that a unit is left out
    """

    masks: th.Tensor

    def __init__(self, members: int, inputs: int, outputs: int, units: int, layers: int, dropout: float) -> None:
        super().__init__(1, inputs, outputs, units, layers)
        self.count, self.dropout = members, dropout
        self.register_buffer("masks", self._draw((layers, members, 1, units), self.head.weight))

    def _draw(self, shape: tuple[int, ...], like: th.Tensor) -> th.Tensor:
        return F.dropout(th.ones(shape, device=like.device), self.dropout)

    def _masked(self, x: th.Tensor, masks: th.Tensor) -> th.Tensor:
        shape = x.shape[:-1]
        for layer, mask in zip(self.hidden, masks, strict=True):  # one network: all rows in one product
            x = F.silu(layer(x.reshape(1, -1, x.shape[-1]))).view(*shape, -1) * mask
        return self.head(x.reshape(1, -1, x.shape[-1])).view(*shape, -1)

    def learn(self, x: th.Tensor) -> Gaussian:
        masks = self._draw((len(self.hidden), *x.shape[:-1], self.masks.shape[-1]), x)
        return self._bounded(self._masked(x, masks))

    def judge(self, x: th.Tensor) -> Gaussian:
        mean, log_var = self._bounded(self._masked(x.expand(self.count, *x.shape), self.masks))
        return mean.mean(0, keepdim=True), log_var.exp().mean(0, keepdim=True).log()

    def forward(self, x: th.Tensor, which: th.Tensor | None = None) -> Gaussian:
        return self._bounded(self._masked(x, self.masks if which is None else self.masks[:, which]))


class LaplaceLastLayer(Members):
    """
    One network whose last layer is Bayesian: Gaussian around the weights learnt, with the curvature of the likelihood there
    as precision, from which M heads are drawn (Kristiadi et al. 2020, https://arxiv.org/abs/2002.10118). For the means of a
    Gaussian likelihood this is exact Bayesian linear regression on the features φ with the noise learnt:
    ``Λ_o = Σ_rows φ φᵀ / σ_o² + λ I``, mean ``Λ_o⁻¹ Σ_rows φ y_o / σ_o²``.

    :param members: M
    :param inputs: I
    :param outputs: O
    :param units: width
    :param layers: hidden layers
    :param prior_precision: λ
    """

    heads: th.Tensor

    def __init__(self, members: int, inputs: int, outputs: int, units: int, layers: int, prior_precision: float = 1.0) -> None:
        super().__init__(1, inputs, outputs, units, layers)
        self.count, self.prior_precision = members, prior_precision
        self.register_buffer("heads", th.zeros(members, units + 1, outputs))  # of the means, with biases

    def _features(self, x: th.Tensor) -> th.Tensor:
        hidden = self._trunk(x.reshape(1, -1, x.shape[-1])).view(*x.shape[:-1], -1)
        return th.cat([hidden, th.ones_like(hidden[..., :1])], dim=-1)

    @th.no_grad()
    def settle(self, x: th.Tensor, y: th.Tensor) -> None:
        feat = self._features(x[None])
        log_var = self._bounded(self.head(feat[..., :-1]))[1][0].double()
        phi, weight = feat[0].double(), th.exp(-log_var)  # (n, K), (n, O)
        # output by output: all at once would need n K O numbers
        precision = th.stack([phi.t() @ (weight[:, o, None] * phi) for o in range(self.outputs)])  # (O, K, K)
        precision += self.prior_precision * th.eye(phi.shape[1], dtype=th.float64, device=phi.device)
        root = th.linalg.cholesky(precision)  # (O, K, K), lower
        mean = th.cholesky_solve(th.einsum("no,nk->ok", weight * y.double(), phi).unsqueeze(-1), root)  # (O, K, 1)
        noise = random_like("normal", (self.outputs, phi.shape[1], self.count), mean, None).double()
        draws = mean + th.linalg.solve_triangular(root.transpose(-1, -2), noise, upper=True)  # covariance Λ⁻¹
        self.heads.copy_(draws.permute(2, 1, 0).float())

    def forward(self, x: th.Tensor, which: th.Tensor | None = None) -> Gaussian:
        feat = self._features(x)
        _, log_var = self._bounded(self.head(feat[..., :-1].reshape(1, -1, feat.shape[-1] - 1)).view(*x.shape[:-1], -1))
        return th.bmm(feat, self.heads if which is None else self.heads[which]), log_var
