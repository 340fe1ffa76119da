"""LaProp with adaptive gradient clipping, the optimizer of DreamerV3, and the clipping on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch as th


def adaptive_grad_clip_(parameters: list[th.Tensor], grads: list[th.Tensor], clip: float, min_norm: float = 1e-3) -> None:
    """
    Scale each gradient tensor down to ``clip`` times its parameter tensor's norm (AGC over whole tensors,
    Brock et al. 2021, https://arxiv.org/abs/2102.06171, as DreamerV3 uses it).

    :param parameters: parameters
    :param grads: their gradients, changed in place
    :param clip: largest ratio of the norms
    :param min_norm: lower bound of a parameter's norm, so that zero-initialised tensors can move
    """
    limits = th.stack(th._foreach_norm(parameters)).clamp_min_(min_norm).mul_(clip)
    norms = th.stack(th._foreach_norm(grads))
    factors = (limits / norms.clamp_min(1e-30)).clamp_max_(1.0)
    th._foreach_mul_(grads, list(factors.unbind()))


def clip_grad_norms_(groups: Iterable[Iterable[th.Tensor]], limit: float | None) -> list[th.Tensor]:
    """
    Scale the gradients of each group of parameters down to a norm of at most ``limit``.

    :param groups: parameters, those without a gradient do not count
    :param limit: largest norm, None for no limit
    :return: the norm of each group before, scalars on its device
    """
    members = [list(parameters) for parameters in groups]
    found = [[p.grad for p in parameters if p.grad is not None] for parameters in members]
    every = [grad for grads in found for grad in grads]
    each = iter(th._foreach_norm(every) if every else ())
    norms = [
        th.linalg.vector_norm(th.stack([next(each) for _ in grads])) if grads else parameters[0].new_zeros(())
        for parameters, grads in zip(members, found, strict=True)
    ]
    for norm, grads in zip(norms, found, strict=True):
        # a GPU would be waited for by the question; the product with 1 is cheap there
        if limit is not None and grads and (norm.device.type != "cpu" or not norm <= limit):
            th._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp_max(1.0))
    return norms


class LaProp(th.optim.Optimizer):
    r"""
    LaProp (Ziyin et al. 2020, https://arxiv.org/abs/2002.04839): the gradient is normalised by its running second
    moment FIRST and averaged over time THEN, which stays stable with a tiny eps (Adam does it the other way round).

    ``v = β2 v + (1-β2) g²;  u = g / (sqrt(v / (1-β2^n)) + eps);  m = β1 m + (1-β1) u;  p -= lr m / (1-β1^n)``

    :param params: parameters or parameter groups
    :param lr: learning rate
    :param betas: β1 (momentum) and β2 (second moment)
    :param eps: added to the root of the second moment
    :param agc: clip every gradient tensor to this multiple of its parameter's norm first; None for no clipping
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float | None = 0.3,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}.")
        if agc is not None and agc <= 0:
            raise ValueError(f"agc must be positive or None, got {agc}.")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, agc=agc))

    @th.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """
        One update of all parameters that have a gradient.

        :param closure: recomputes the loss, torch's optional argument
        :return: the closure's loss
        """
        loss = None
        if closure is not None:
            with th.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        grads = [p.grad for p in params]
        beta1, beta2 = group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p].update(
                    step=0, exp_avg=th.zeros_like(p, dtype=th.float32), exp_avg_sq=th.zeros_like(p, dtype=th.float32)
                )
            self.state[p]["step"] += 1
        if group["agc"] is not None:
            adaptive_grad_clip_(params, grads, group["agc"])
        averages = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        steps = [self.state[p]["step"] for p in params]

        th._foreach_mul_(squares, beta2)
        th._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        roots = th._foreach_div(squares, [1 - beta2**n for n in steps])
        th._foreach_sqrt_(roots)
        th._foreach_add_(roots, group["eps"])
        normalised = th._foreach_div(grads, roots)
        th._foreach_lerp_(averages, normalised, 1 - beta1)
        th._foreach_add_(params, th._foreach_mul(averages, [-group["lr"] / (1 - beta1**n) for n in steps]))
