"""
How one imagined rollout becomes two: a block a goal for the worker, and a step a block for the manager. Pure functions.

``M`` blocks of ``K`` steps each; block ``j`` has the states ``i = 0 .. K``, the last of which is the first of block ``j + 1``.
Reward and discount arrive with a state, as everywhere::

    state          s_00  s_01 .. s_0K = s_10  s_11 .. s_1K = s_20
    goal           g_0 .............. g_1 ...............
    manager        at s_00            at s_10
    manager's r    r_01 + d_01 r_02 + d_01 d_02 r_03 ..     (with s_0K)
    manager's d    d_01 d_02 .. d_0K                        (with s_0K)

The manager's rewards are discounted within the block as well, and an episode that ends inside takes the rest of it along:
its returns are those of the task, whatever K is (options, Sutton, Precup and Singh 1999).
"""

from __future__ import annotations

import torch as th

from sb3_dreamer.common.math import lambda_return


def max_cosine(deter: th.Tensor, goal: th.Tensor) -> th.Tensor:
    """
    ``(g / n) · (h / n)`` with ``n = max(|g|, |h|)``: 1 where state and goal are equal, in direction and in length (Director,
    Hafner et al. 2022, https://arxiv.org/abs/2206.04114).

    :param deter: h, ``(..., D)``
    :param goal: g, ``(..., D)``
    :return: ``(...)``
    """
    norm = th.maximum(deter.square().sum(-1), goal.square().sum(-1))
    return (deter * goal).sum(-1) / norm.clamp_min(1e-8)


def step_weights(discount: th.Tensor) -> th.Tensor:
    """
    How much each step counts: the product of the discounts of all states up to its own, the start's included. Those at the
    beginning of blocks are the manager's.

    :param discount: of the states, ``(N, M, K + 1)``
    :return: without gradient, ``(N, M, K)``
    """
    steps = discount.detach()[..., :-1]
    return th.cumprod(steps.flatten(1), dim=1).view_as(steps)


def block_sums(reward: th.Tensor, discount: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    What a manager gets for a block.

    :param reward: that arrives with each state, ``(N, M, K + 1)``
    :param discount: ``(N, M, K + 1)``
    :return: discounted sums of the rewards after the first state, and products of the discounts there, ``(N, M)`` each
    """
    through = th.cumprod(discount[..., 1:], dim=-1)  # d_1, d_1 d_2, ..
    before = th.cat([th.ones_like(through[..., :1]), through[..., :-1]], dim=-1)
    return (before * reward[..., 1:]).sum(-1), through[..., -1]


def manager_returns(reward: th.Tensor, discount: th.Tensor, value: th.Tensor, lambda_: float) -> th.Tensor:
    """
    λ-returns with a block as a step.

    :param reward: of the states, ``(N, M, K + 1)``
    :param discount: ``(N, M, K + 1)``
    :param value: of the states where blocks begin, and of the last, ``(N, M + 1)``
    :param lambda_: λ
    :return: of the states where blocks begin, ``(N, M)``
    """
    rewards, discounts = block_sums(reward, discount)
    return lambda_return(rewards, discounts, value[:, 1:], lambda_, value[:, -1])


def worker_returns(reward: th.Tensor, discount: th.Tensor, value: th.Tensor, lambda_: float) -> th.Tensor:
    """
    λ-returns within each block, which end with the value of its last state under its own goal.

    :param reward: for the block's goal, ``(N, M, K + 1)``
    :param discount: ``(N, M, K + 1)``
    :param value: under the block's goal, ``(N, M, K + 1)``
    :param lambda_: λ
    :return: of the states but the last of each block, ``(N, M, K)``
    """
    rewards, discounts, values = (x.flatten(0, 1)[:, 1:] for x in (reward, discount, value))
    returns = lambda_return(rewards, discounts, values, lambda_, values[:, -1])
    return returns.unflatten(0, reward.shape[:2])
