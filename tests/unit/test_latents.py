import math

import pytest
import torch as th
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from sb3_dreamer.common.latents import CategoricalLatents, GaussianLatents


@pytest.fixture
def generator() -> th.Generator:
    return th.Generator().manual_seed(0)


def mixed(params: th.Tensor, groups: int, classes: int, unimix: float) -> Categorical:
    probs = th.softmax(params.view(*params.shape[:-1], groups, classes), -1)
    return Categorical(probs=(1 - unimix) * probs + unimix / classes)


def test_categorical_kl_and_entropy_include_unimix_and_sum_over_groups(generator: th.Generator) -> None:
    family = CategoricalLatents(groups=3, classes=5, unimix=0.1)
    post, prior = (4 * th.randn(2, 7, 15, generator=generator) for _ in range(2))
    p, q = mixed(post, 3, 5, 0.1), mixed(prior, 3, 5, 0.1)
    expected = kl_divergence(p, q).sum(-1)
    dynamics, representation = family.kl(post, prior)
    assert dynamics.shape == (2, 7)
    assert th.allclose(dynamics, expected, atol=1e-5) and th.allclose(representation, expected, atol=1e-5)
    assert th.allclose(family.entropy(post), p.entropy().sum(-1), atol=1e-5)


def test_unimix_bounds_the_kl_of_opposite_distributions() -> None:
    family = CategoricalLatents(groups=1, classes=4, unimix=0.01)
    post, prior = th.tensor([[1000.0, 0, 0, 0]]), th.tensor([[0, 1000.0, 0, 0]])
    sure, rest = 0.99 + 0.0025, 0.0025
    expected = (sure - rest) * math.log(sure / rest)  # the other two classes are equal in both
    assert family.kl(post, prior)[0].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", [CategoricalLatents(2, 3), GaussianLatents(4)])
def test_kl_stops_the_gradient_on_the_right_side(family, generator: th.Generator) -> None:
    post = th.randn(5, family.param_size, generator=generator).requires_grad_()
    prior = th.randn(5, family.param_size, generator=generator).requires_grad_()
    dynamics, representation = family.kl(post, prior)
    assert th.autograd.grad(dynamics.sum(), [post, prior], allow_unused=True)[0] is None
    grads = th.autograd.grad(representation.sum(), [post, prior], allow_unused=True)
    assert grads[1] is None and grads[0].abs().sum() > 0


def test_categorical_samples_follow_the_mixed_probabilities() -> None:
    th.manual_seed(0)
    family = CategoricalLatents(groups=2, classes=3, unimix=0.3)
    params = th.tensor([8.0, 0.0, 0.0, 0.0, 1.0, 2.0])
    samples = family.sample(params.expand(20_000, 6), family.noise((20_000,), params))
    assert th.equal(samples.view(-1, 2, 3).sum(-1), th.ones(20_000, 2))
    assert th.allclose(samples.mean(0).view(2, 3), mixed(params, 2, 3, 0.3).probs, atol=0.015)


def test_categorical_gradient_is_straight_through_to_the_mixed_probabilities(generator: th.Generator) -> None:
    family = CategoricalLatents(groups=2, classes=3, unimix=0.2)
    params = th.randn(4, 6, generator=generator).requires_grad_()
    direction = th.randn(4, 6, generator=generator)
    th.manual_seed(0)
    sample = family.sample(params, family.noise((4,), params))
    given = th.autograd.grad((sample * direction).sum(), params)[0]
    expected = th.autograd.grad((mixed(params, 2, 3, 0.2).probs.flatten(1) * direction).sum(), params)[0]
    # torch's Categorical normalises its probabilities once more, which has no gradient of its own
    assert th.allclose(given, expected, atol=1e-6)


def test_categorical_mode_is_the_most_probable_class() -> None:
    family = CategoricalLatents(groups=2, classes=3)
    assert family.mode(th.tensor([0.0, 5.0, 1.0, 2.0, 0.0, 1.0])).tolist() == [0, 1, 0, 1, 0, 0]


def test_gaussian_against_torch(generator: th.Generator) -> None:
    family = GaussianLatents(4, min_std=0.2)
    post, prior = (th.randn(6, 8, generator=generator) for _ in range(2))

    def normal(params: th.Tensor) -> Independent:
        mean, raw = params.chunk(2, -1)
        return Independent(Normal(mean, th.nn.functional.softplus(raw) + 0.2), 1)

    expected = kl_divergence(normal(post), normal(prior))
    dynamics, representation = family.kl(post, prior)
    assert th.allclose(dynamics, expected, atol=1e-5) and th.allclose(representation, expected, atol=1e-5)
    assert th.allclose(family.entropy(post), normal(post).entropy(), atol=1e-5)
    noise = family.noise((6,), post)
    p = normal(post).base_dist
    assert th.allclose(family.sample(post, noise), p.mean + p.stddev * noise)
    assert th.equal(family.mode(post), p.mean)


def test_without_unimix_sure_distributions_stay_finite() -> None:
    family = CategoricalLatents(groups=1, classes=3, unimix=0.0)
    params = th.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    loss = family.kl(params, th.zeros(1, 3))[1].sum() + family.entropy(params).sum()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-4)
    loss.backward()
    assert th.isfinite(params.grad).all()
