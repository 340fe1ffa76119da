"""
The losses of actor and critic as pure functions. ``t`` runs over imagined states ``0 .. H``, state 0 is the start.
"""

from __future__ import annotations

import torch as th

from sb3_dreamer.common.distributions import TwoHot
from sb3_dreamer.common.math import lambda_return, without_autocast


def imagined_returns(reward: th.Tensor, discount: th.Tensor, value: th.Tensor, lambda_: float) -> tuple[th.Tensor, th.Tensor]:
    """
    λ-returns of imagined states, and how much each state counts: ``w_t = Π_{i<=t} d_i``, the start's own ``d_0``
    included, so that nothing is learnt from states after the episode's end.

    :param reward: expected reward at every state, ``(N, H + 1)``
    :param discount: probability to go on after the state times the discount factor, ``(N, H + 1)``
    :param value: ``(N, H + 1)``
    :param lambda_: λ
    :return: returns ``(N, H)`` and weights ``(N, H)`` (without gradient) of the states ``0 .. H-1``
    """
    returns = lambda_return(reward[:, 1:], discount[:, 1:], value[:, 1:], lambda_, value[:, -1])
    weights = th.cumprod(discount.detach()[:, :-1], dim=1)
    return returns, weights


def reinforce_actor_loss(
    log_prob: th.Tensor,
    entropy: th.Tensor,
    returns: th.Tensor,
    value: th.Tensor,
    weights: th.Tensor,
    scale: th.Tensor,
    ent_coef: float,
) -> th.Tensor:
    """
    ``-w_t [log π(a_t | s_t) sg((R_t - v_t) / scale) + η H(π(s_t))]`` (DreamerV3, eq. 6).

    :param log_prob: of the imagined actions, whose gradient reaches the actor alone, ``(N, H)``
    :param entropy: of the policy at the states ``0 .. H-1``, ``(N, H)``
    :param returns: ``(N, H)``
    :param value: ``(N, H)``
    :param weights: ``(N, H)``
    :param scale: range of the returns, scalar
    :param ent_coef: η
    :return: loss ``(N, H)``
    """
    advantage = ((returns - value) / scale).detach()
    return -weights * (log_prob * advantage + ent_coef * entropy)


def dynamics_actor_loss(
    entropy: th.Tensor, returns: th.Tensor, weights: th.Tensor, scale: th.Tensor, ent_coef: float
) -> th.Tensor:
    """
    ``-w_t [R_t / scale + η H(π(s_t))]``, with the gradient of the returns through the imagined dynamics
    (Dreamer, Hafner et al. 2020, https://arxiv.org/abs/1912.01603).

    :param entropy: of the policy at the states ``0 .. H-1``, ``(N, H)``
    :param returns: differentiable, ``(N, H)``
    :param weights: ``(N, H)``
    :param scale: range of the returns, scalar
    :param ent_coef: η
    :return: loss ``(N, H)``
    """
    return -weights * (returns / scale + ent_coef * entropy)


def hand_over(loss: th.Tensor, nudge: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    The chain rule, cut where an actor chose actions that dreams went on from: so it is evaluated with a graph once for all
    steps of a dream, not at each of them, and the graph of the dreams leads to nothing but the actions.

    :param loss: of the dreams, scalar; its graph is used up
    :param nudge: zeros with a gradient, added to the actions in the dreams, ``(N, H, A)``
    :param actions: the same ones, chosen again, ``(N, H, A)``
    :return: 0, whose gradient by the actor is that of the loss
    :raises RuntimeError: the loss does not depend on the actions
    """
    with without_autocast(loss.device.type):  # every operation goes back in the numbers that it came in
        (pull,) = th.autograd.grad(loss, nudge, allow_unused=True)
    if pull is None:
        raise RuntimeError(
            "actor_gradient='dynamics' needs a world model whose rewards or states depend on the actions with a gradient, and "
            "what it imagined does not: use 'reinforce'."
        )
    return (pull * (actions - actions.detach())).sum()


def critic_loss(
    value: TwoHot, target: th.Tensor, slow_value: th.Tensor | None, weights: th.Tensor, slow_scale: float
) -> th.Tensor:
    """
    ``w_t [CE(v_t, R_t) + β CE(v_t, slow v_t)]``: the slow critic regularises, the targets come from the online one.

    :param value: the critic's distribution, ``(..., )``
    :param target: returns, ``(...)``
    :param slow_value: the slow critic's mean, ``(...)``; None for no pull towards it
    :param weights: ``(...)``
    :param slow_scale: β
    :return: loss ``(...)``
    """
    loss = value.loss(target)
    if slow_value is not None:
        loss = loss + slow_scale * value.loss(slow_value)
    return weights.detach() * loss


def replay_returns(
    reward: th.Tensor,
    is_last: th.Tensor,
    is_terminal: th.Tensor,
    bootstrap: th.Tensor,
    gamma: float,
    lambda_: float,
) -> tuple[th.Tensor, th.Tensor]:
    """
    λ-returns along replayed sequences, every step of which has a value estimate to bootstrap from. A termination ends
    the return with its reward; a truncation bootstraps (λ = 0 there) with the value of its last observation.

    :param reward: arrives with the row, ``(B, T)``
    :param is_last: ``(B, T)``
    :param is_terminal: ``(B, T)``
    :param bootstrap: estimated value of every row, ``(B, T)``
    :param gamma: discount factor
    :param lambda_: λ
    :return: returns ``(B, T - 1)`` of all rows but the last, and weights that leave out rows with no next one in their
        episode, ``(B, T - 1)``
    """
    discount = gamma * (1.0 - is_terminal[:, 1:])
    lambdas = lambda_ * (1.0 - is_last[:, 1:])
    returns = lambda_return(reward[:, 1:], discount, bootstrap[:, 1:], lambdas, bootstrap[:, -1])
    return returns, 1.0 - is_last[:, :-1]
