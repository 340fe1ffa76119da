import math

import numpy as np
import pytest
import torch as th

from sb3_dreamer.common.math import (
    lambda_return,
    percentile_range,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
    two_hot_cross_entropy,
    two_hot_mean,
)


def test_symlog_by_hand_and_inverse() -> None:
    x = th.tensor([0.0, 1.0, -1.0, math.e - 1, -1e6])
    expected = th.tensor([0.0, math.log(2), -math.log(2), 1.0, -math.log(1 + 1e6)])
    assert th.allclose(symlog(x), expected)
    assert th.allclose(symexp(symlog(x)), x, rtol=1e-5)


def test_bins_are_symmetric_and_exponential() -> None:
    bins = symexp_bins(255)
    assert bins.shape == (255,) and bins[127] == 0
    assert th.equal(bins, -bins.flip(0))
    assert (bins.diff() > 0).all()
    assert bins[-1].item() == pytest.approx(math.exp(20) - 1, rel=1e-6)
    assert bins[128].item() == pytest.approx(math.exp(20 / 127) - 1, rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_bins_refuse_even_counts(count: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        symexp_bins(count)


def test_two_hot_by_hand() -> None:
    bins = th.tensor([-10.0, -1.0, 0.0, 1.0, 10.0])
    lower, upper, weight = two_hot(th.tensor([0.25, -4.0, 10.0, 99.0, -99.0, 0.0]), bins)
    assert lower.tolist() == [2, 0, 3, 3, 0, 2]
    assert upper.tolist() == [3, 1, 4, 4, 1, 3]
    # in raw space: -4 lies 6/9 of the way from -10 to -1; values beyond the ends are clipped to them
    assert th.allclose(weight, th.tensor([0.25, 6 / 9, 1.0, 1.0, 0.0, 0.0]))


def test_two_hot_expectation_is_the_value() -> None:
    bins = symexp_bins(255)
    value = th.tensor([-1234.5, -3.3, -0.01, 0.0, 0.5, 7.77, 4e5])
    lower, upper, weight = two_hot(value, bins)
    assert th.allclose((1 - weight) * bins[lower] + weight * bins[upper], value, rtol=1e-5)


def test_two_hot_cross_entropy_against_a_dense_target() -> None:
    bins = symexp_bins(41, limit=5.0)
    logits = th.randn(6, 41, generator=th.Generator().manual_seed(0))
    value = th.tensor([-200.0, -3.0, 0.0, 0.3, 8.0, 90.0])
    dense = np.zeros((6, 41))
    for i, v in enumerate(value.tolist()):
        v = min(max(v, bins[0].item()), bins[-1].item())
        k = max(j for j in range(40) if bins[j].item() <= v)
        share = (v - bins[k].item()) / (bins[k + 1].item() - bins[k].item())
        dense[i, k], dense[i, k + 1] = 1 - share, share
    expected = -(th.tensor(dense) * th.log_softmax(logits.double(), -1)).sum(-1)
    assert th.allclose(two_hot_cross_entropy(th.log_softmax(logits, -1), value, bins).double(), expected, atol=1e-4)


def test_two_hot_mean_of_equal_probabilities_is_exactly_zero() -> None:
    assert two_hot_mean(th.full((3, 255), 1 / 255), symexp_bins(255)).tolist() == [0.0, 0.0, 0.0]


def test_two_hot_mean_is_the_expectation() -> None:
    bins = symexp_bins(21, limit=3.0)
    logits = th.randn(5, 21, generator=th.Generator().manual_seed(1))
    assert th.allclose(two_hot_mean(th.softmax(logits, -1), bins), th.softmax(logits, -1) @ bins, atol=1e-5)


def test_lambda_return_by_hand() -> None:
    # H = 2, λ = 0.5: R_1 = r_2 + d_2 (0.5 v_2 + 0.5 v_2) = 3 + 0.5 * 10 = 8
    #                 R_0 = r_1 + d_1 (0.5 v_1 + 0.5 R_1) = 1 + 0.9 * (0.5 * 4 + 0.5 * 8) = 6.4
    returns = lambda_return(
        reward=th.tensor([[1.0, 3.0]]),
        discount=th.tensor([[0.9, 0.5]]),
        value=th.tensor([[4.0, 10.0]]),
        lambda_=0.5,
        bootstrap=th.tensor([10.0]),
    )
    assert th.allclose(returns, th.tensor([[6.4, 8.0]]))


def test_lambda_return_against_n_step_mixture() -> None:
    """λ-return as the λ-weighted sum of n-step returns, an independent formula."""
    generator = th.Generator().manual_seed(2)
    horizon, lam, gamma = 6, 0.8, 0.95
    reward, value = th.randn(1, horizon, generator=generator), th.randn(1, horizon, generator=generator)
    r, v = reward[0].tolist(), value[0].tolist()

    def n_step(t: int, n: int) -> float:
        return sum(gamma**i * r[t + i] for i in range(n)) + gamma**n * v[t + n - 1]

    returns = lambda_return(reward, th.full((1, horizon), gamma), value, lam, value[:, -1])
    for t in range(horizon):
        last = horizon - t
        expected = sum((1 - lam) * lam ** (n - 1) * n_step(t, n) for n in range(1, last))
        expected += lam ** (last - 1) * n_step(t, last)
        assert returns[0, t].item() == pytest.approx(expected, abs=1e-5)


def test_lambda_return_extremes() -> None:
    reward, value = th.tensor([[1.0, 2.0, 3.0]]), th.tensor([[5.0, 6.0, 7.0]])
    ones = th.ones(1, 3)
    assert lambda_return(reward, ones, value, 1.0, value[:, -1]).tolist() == [[13.0, 12.0, 10.0]]  # Monte Carlo
    assert lambda_return(reward, ones, value, 0.0, value[:, -1]).tolist() == [[6.0, 8.0, 10.0]]  # one step
    # nothing after the end of an episode counts
    ended = th.tensor([[1.0, 0.0, 1.0]])
    assert lambda_return(reward, ended, value, 1.0, value[:, -1])[0, :2].tolist() == [3.0, 2.0]


def test_percentiles_against_numpy() -> None:
    x = th.randn(7, 13, generator=th.Generator().manual_seed(3))
    low, high = percentile_range(x)
    assert low.item() == pytest.approx(np.percentile(x.numpy(), 5), abs=1e-5)
    assert high.item() == pytest.approx(np.percentile(x.numpy(), 95), abs=1e-5)
    assert percentile_range(th.tensor([2.0])) == (2.0, 2.0)
