import pytest
import torch as th
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from sb3_dreamer.common.distributions import (
    BoundedNormal,
    OneHotCategorical,
    OneHotGroups,
    ScaledNumber,
    SoftBernoulli,
    TwoHot,
)
from sb3_dreamer.common.math import symexp_bins


def test_two_hot_gradient_does_not_reach_the_target() -> None:
    target = th.tensor([1.5], requires_grad=True)
    logits = th.zeros(1, 255, requires_grad=True)
    TwoHot(logits, symexp_bins(255)).loss(target).sum().backward()
    assert target.grad is None and logits.grad.abs().sum() > 0


def test_two_hot_learns_the_mean_of_its_targets() -> None:
    """The minimiser of the cross-entropy has the targets' mean as expectation, however skewed they are."""
    bins = symexp_bins(255)
    logits = th.zeros(255, requires_grad=True)
    targets = th.tensor([0.0, 0.0, 0.0, 40.0])
    optimizer = th.optim.Adam([logits], lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        TwoHot(logits.expand(4, -1), bins).loss(targets).mean().backward()
        optimizer.step()
    # the tails never vanish wholly; restricted to the bins that matter the expectation is the mean
    probs = th.softmax(logits.detach(), -1)
    assert (probs * bins)[(bins.abs() < 100)].sum().item() == pytest.approx(10.0, abs=0.2)


def test_bounded_normal_is_a_plain_normal() -> None:
    raw, std, action = th.randn(5, 2), th.rand(5, 2) + 0.1, 3 * th.randn(5, 2)
    policy = BoundedNormal(raw, std)
    reference = Independent(Normal(th.tanh(raw), std), 1)
    assert th.allclose(policy.log_prob(action), reference.log_prob(action), atol=1e-5)  # no tanh Jacobian, no clipping
    assert th.allclose(policy.entropy, reference.entropy(), atol=1e-5)
    noise = th.randn(5, 2)
    assert th.allclose(policy.sample(noise), th.tanh(raw) + std * noise)
    assert th.allclose(policy.saturation, raw.square().mean(-1))


def test_one_hot_policy_applies_unimix_everywhere() -> None:
    logits = th.tensor([[50.0, 0.0, 0.0, 0.0]])
    policy = OneHotCategorical(logits, OneHotGroups([4]), unimix=0.01)
    probs = 0.99 * th.softmax(logits, -1) + 0.0025
    reference = Categorical(probs=probs)
    rare = th.tensor([[0.0, 1.0, 0.0, 0.0]])
    assert th.allclose(policy.log_prob(rare), th.log(th.tensor([0.0025])), atol=1e-4)
    assert th.allclose(policy.entropy, reference.entropy(), atol=1e-5)
    assert policy.mode.tolist() == [[1, 0, 0, 0]]


def test_one_hot_policy_samples_and_straight_through_gradient() -> None:
    th.manual_seed(0)
    logits = th.tensor([1.0, 0.0, -1.0], requires_grad=True)
    policy = OneHotCategorical(logits.expand(20_000, 3), OneHotGroups([3]))
    sample = policy.sample(th.empty(20_000, 3).exponential_())
    assert th.allclose(sample.detach().mean(0), policy.probs[0, 0].detach(), atol=0.015)
    gradient = th.autograd.grad(sample[0, 0], logits, retain_graph=True)[0]
    assert th.allclose(gradient, th.autograd.grad(policy.probs[0, 0, 0], logits)[0])


@pytest.mark.parametrize("classes", [(3, 2, 4), (2, 2, 2)])
def test_several_variables_are_independent_categoricals(classes: tuple[int, ...]) -> None:
    th.manual_seed(0)
    size = sum(classes)
    logits = th.randn(30_000, size)[:1].expand(30_000, size)
    policy = OneHotCategorical(logits, OneHotGroups(classes), unimix=0.1)
    parts = [0.9 * th.softmax(part, -1) + 0.1 / n for part, n in zip(logits.split(classes, -1), classes, strict=True)]
    references = [Categorical(probs=part) for part in parts]
    sample = policy.sample(th.empty(30_000, size).exponential_())
    assert all(th.equal(part.sum(-1), th.ones(30_000)) for part in sample.split(classes, -1))
    assert th.allclose(sample.mean(0), th.cat([part[0] for part in parts]), atol=0.015)
    chosen = [part.argmax(-1) for part in sample.split(classes, -1)]
    expected = sum(reference.log_prob(choice) for reference, choice in zip(references, chosen, strict=True))
    assert th.allclose(policy.log_prob(sample), expected, atol=1e-5)
    assert th.allclose(policy.entropy, sum(reference.entropy() for reference in references), atol=1e-5)
    assert [part.argmax(-1)[0] for part in policy.mode.split(classes, -1)] == [part[0].argmax() for part in parts]
    centred = th.cat([part - part.mean(-1, keepdim=True) for part in logits.split(classes, -1)], -1)
    assert th.allclose(policy.saturation, centred.square().mean(-1), atol=1e-5)


def test_the_gradient_of_padded_variables_is_finite_and_right() -> None:
    logits = th.randn(5, requires_grad=True)
    groups = OneHotGroups((3, 2))
    target = th.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    ours = th.autograd.grad(groups.cross_entropy(logits, target), logits)[0]
    expected = -(th.log_softmax(logits[:3], -1)[1] + th.log_softmax(logits[3:], -1)[0])
    assert th.allclose(ours, th.autograd.grad(expected, logits)[0], atol=1e-6)
    policy = OneHotCategorical(logits, groups)
    assert th.isfinite(th.autograd.grad(policy.entropy + policy.log_prob(target), logits)[0]).all()


def test_soft_bernoulli() -> None:
    logits, target = th.randn(7), th.rand(7)
    head = SoftBernoulli(logits)
    reference = Bernoulli(logits=logits)
    expected = -(target * reference.log_prob(th.ones(7)) + (1 - target) * reference.log_prob(th.zeros(7)))
    assert th.allclose(head.loss(target), expected, atol=1e-5)
    assert th.allclose(head.mean, reference.probs)


def test_scaled_number() -> None:
    head = ScaledNumber(th.tensor([1.0, -2.0]), th.tensor(4.0))
    assert head.mean.tolist() == [4.0, -8.0]
    assert head.loss(th.tensor([4.0, 0.0])).tolist() == [0.0, 4.0]
