"""Properties that must hold for any numbers."""

import numpy as np
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sb3_dreamer.common.math import lambda_return, symexp, symexp_bins, symlog, two_hot

BINS = symexp_bins(255)
numbers = st.floats(-1e7, 1e7, allow_nan=False, width=32)


@settings(deadline=None, max_examples=100)
@given(arrays(np.float32, st.integers(1, 20), elements=numbers))
def test_two_hot_keeps_the_value_and_its_weights_are_probabilities(values: np.ndarray) -> None:
    value = th.as_tensor(values)
    lower, upper, weight = two_hot(value, BINS)
    assert ((weight >= 0) & (weight <= 1)).all() and th.equal(upper, lower + 1)
    mean = (1 - weight.double()) * BINS[lower].double() + weight.double() * BINS[upper].double()
    assert th.allclose(mean, value.double(), rtol=1e-5, atol=1e-5)
    assert th.allclose(symexp(symlog(value.double())), value.double(), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31))
def test_lambda_return_is_the_recursion(horizon: int, lam: float, gamma: float, seed: int) -> None:
    generator = th.Generator().manual_seed(seed)
    reward, value = (th.randn(3, horizon, generator=generator, dtype=th.float64) for _ in range(2))
    discount = gamma * th.rand(3, horizon, generator=generator, dtype=th.float64)
    returns = lambda_return(reward, discount, value, lam, value[:, -1])
    for n in range(3):
        following = float(value[n, -1])
        for t in reversed(range(horizon)):
            following = float(reward[n, t] + discount[n, t] * ((1 - lam) * value[n, t] + lam * following))
            assert abs(float(returns[n, t]) - following) < 1e-9
