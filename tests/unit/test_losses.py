import math

import pytest
import torch as th

from sb3_dreamer.behaviour.losses import (
    critic_loss,
    dynamics_actor_loss,
    imagined_returns,
    reinforce_actor_loss,
    replay_returns,
)
from sb3_dreamer.common.distributions import BoundedNormal, TwoHot
from sb3_dreamer.common.math import symexp_bins


def test_imagined_returns_and_weights_by_hand() -> None:
    """H = 2, λ = 1: state t's return uses what arrives with t + 1; the weight of t includes the start's own discount."""
    returns, weights = imagined_returns(
        reward=th.tensor([[100.0, 1.0, 2.0]]),  # the start's own reward has been had already
        discount=th.tensor([[0.5, 0.9, 0.8]]),
        value=th.tensor([[100.0, 100.0, 10.0]]),
        lambda_=1.0,
    )
    # R_1 = 2 + 0.8 * 10 = 10; R_0 = 1 + 0.9 * 10 = 10
    assert th.allclose(returns, th.tensor([[10.0, 10.0]]))
    assert th.allclose(weights, th.tensor([[0.5, 0.45]]))


def test_a_terminal_start_has_no_weight() -> None:
    _, weights = imagined_returns(th.zeros(1, 4), th.tensor([[0.0, 0.9, 0.9, 0.9]]), th.zeros(1, 4), 0.95)
    assert weights.tolist() == [[0.0, 0.0, 0.0]]


def test_weights_carry_no_gradient_but_returns_do() -> None:
    discount = th.full((1, 3), 0.9, requires_grad=True)
    returns, weights = imagined_returns(th.ones(1, 3), discount, th.ones(1, 3), 0.95)
    assert returns.requires_grad and not weights.requires_grad


def test_reinforce_loss_by_hand() -> None:
    raw = th.tensor([[[0.5]]], requires_grad=True)
    policy = BoundedNormal(raw, th.full((1, 1, 1), 0.5))
    action = th.tensor([[[1.2]]])  # raw: beyond the bound, not clipped
    loss = reinforce_actor_loss(
        policy.log_prob(action),
        policy.entropy,
        returns=th.tensor([[7.0]]),
        value=th.tensor([[3.0]]),
        weights=th.tensor([[0.9]]),
        scale=th.tensor(2.0),
        ent_coef=0.1,
    )
    mean = math.tanh(0.5)
    log_prob = -0.5 * ((1.2 - mean) / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    entropy = math.log(0.5) + 0.5 * math.log(2 * math.pi * math.e)
    assert loss.item() == pytest.approx(-0.9 * (log_prob * (7 - 3) / 2 + 0.1 * entropy), rel=1e-5)
    loss.sum().backward()
    expected = -0.9 * 2 * (1.2 - mean) / 0.25 * (1 - mean**2)  # the score function times the advantage
    assert raw.grad.item() == pytest.approx(expected, rel=1e-4)


def test_reinforce_takes_no_gradient_through_returns_or_values() -> None:
    returns, value = th.ones(1, 1, requires_grad=True), th.zeros(1, 1, requires_grad=True)
    log_prob = th.zeros(1, 1, requires_grad=True)
    reinforce_actor_loss(log_prob, th.zeros(1, 1), returns, value, th.ones(1, 1), th.tensor(1.0), 0.0).sum().backward()
    assert returns.grad is None and value.grad is None and log_prob.grad.item() == -1.0


def test_dynamics_loss_follows_the_returns() -> None:
    action = th.tensor([[0.3, -0.2]], requires_grad=True)
    returns = 4.0 * action
    loss = dynamics_actor_loss(th.tensor([[1.0, 2.0]]), returns, th.tensor([[1.0, 0.5]]), th.tensor(2.0), 0.1)
    assert th.allclose(loss, th.tensor([[-(4 * 0.3 / 2 + 0.1), -0.5 * (4 * -0.2 / 2 + 0.2)]]))
    loss.sum().backward()
    assert th.allclose(action.grad, th.tensor([[-2.0, -1.0]]))


def test_critic_loss_pulls_towards_target_and_slow_critic() -> None:
    bins = symexp_bins(21, limit=3.0)
    logits = th.randn(2, 3, 21)
    value = TwoHot(logits, bins)
    target, slow, weights = th.randn(2, 3), th.randn(2, 3), th.rand(2, 3)
    expected = weights * (value.loss(target) + 0.3 * value.loss(slow))
    assert th.allclose(critic_loss(value, target, slow, weights, 0.3), expected)
    assert th.allclose(critic_loss(value, target, None, weights, 0.3), weights * value.loss(target))


def test_replay_returns_at_terminations_and_truncations_by_hand() -> None:
    gamma, lam = 0.9, 0.5
    reward = th.tensor([[0.0, 1.0, 2.0, 0.0, 5.0]])
    bootstrap = th.tensor([[10.0, 20.0, 30.0, 40.0, 50.0]])
    last = th.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])  # row 2 ends an episode, row 3 is a reset

    # terminated: the return into row 2 is its reward alone
    returns, weights = replay_returns(reward, last, last, bootstrap, gamma, lam)
    r3 = 5 + gamma * 50
    assert returns[0, 3].item() == pytest.approx(r3)
    assert returns[0, 1].item() == pytest.approx(2.0)
    assert returns[0, 0].item() == pytest.approx(1 + gamma * (0.5 * 20 + 0.5 * 2.0))
    assert weights.tolist() == [[1, 1, 0, 1]]  # nothing is learnt across the reset

    # truncated: it bootstraps with the value of the last observation
    returns, weights = replay_returns(reward, last, th.zeros(1, 5), bootstrap, gamma, lam)
    r1 = 2 + gamma * 30
    assert returns[0, 1].item() == pytest.approx(r1)
    assert returns[0, 0].item() == pytest.approx(1 + gamma * (0.5 * 20 + 0.5 * r1))
    assert weights.tolist() == [[1, 1, 0, 1]]
