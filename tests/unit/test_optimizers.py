import copy

import numpy as np
import pytest
import torch as th

from sb3_dreamer.common.optimizers import LaProp, adaptive_grad_clip_, clip_grad_norms_


def test_laprop_against_the_formula() -> None:
    """Normalise first, then average: three steps by hand, in float64."""
    parameter = th.nn.Parameter(th.tensor([1.0, -2.0]))
    optimizer = LaProp([parameter], lr=0.1, betas=(0.9, 0.99), eps=1e-20, agc=None)
    p, v, m = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for n, grad in enumerate([[0.5, -4.0], [0.1, 2.0], [-0.3, 0.0]], start=1):
        parameter.grad = th.tensor(grad)
        optimizer.step()
        g = np.array(grad)
        v = 0.99 * v + 0.01 * g**2
        m = 0.9 * m + 0.1 * g / np.sqrt(v / (1 - 0.99**n))
        p = p - 0.1 * m / (1 - 0.9**n)
        assert np.allclose(parameter.detach().numpy(), p, atol=1e-5)


def test_laprop_is_not_adam() -> None:
    start, results = th.tensor([1.0, -2.0]), []
    for cls, kwargs in ((LaProp, dict(agc=None, eps=1e-8)), (th.optim.Adam, dict(eps=1e-8))):
        parameter = th.nn.Parameter(start.clone())
        optimizer = cls([parameter], lr=0.1, **kwargs)
        for grad in ([1.0, -4.0], [0.01, 2.0]):
            parameter.grad = th.tensor(grad)
            optimizer.step()
        results.append(parameter.detach().clone())
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_agc_clips_whole_tensors_to_a_share_of_their_norm() -> None:
    parameters = [th.full((2, 2), 3.0), th.zeros(3)]  # norms 6 and 0
    grads = [th.full((2, 2), 5.0), th.tensor([3.0, 4.0, 0.0])]  # norms 10 and 5
    adaptive_grad_clip_(parameters, grads, clip=0.3)
    assert grads[0].norm().item() == pytest.approx(0.3 * 6)
    assert grads[1].norm().item() == pytest.approx(0.3 * 1e-3)  # a zero tensor counts as 1e-3
    assert th.allclose(grads[0], grads[0][0, 0].expand(2, 2))  # the direction stays
    small = [th.full((2, 2), 1e-3)]
    adaptive_grad_clip_(parameters[:1], small, clip=0.3)
    assert th.equal(small[0], th.full((2, 2), 1e-3))


def test_laprop_state_round_trip_and_groups() -> None:
    th.manual_seed(0)
    net = th.nn.Linear(3, 2)
    optimizer = LaProp([dict(params=[net.weight], lr=0.1), dict(params=[net.bias], lr=0.0)])
    bias = net.bias.detach().clone()

    def update(network: th.nn.Module, opt: th.optim.Optimizer) -> None:
        opt.zero_grad()
        network(th.ones(1, 3)).square().sum().backward()
        opt.step()

    update(net, optimizer)
    assert th.equal(net.bias, bias)
    twin = copy.deepcopy(net)
    other = LaProp([dict(params=[twin.weight], lr=0.1), dict(params=[twin.bias], lr=0.0)])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    update(net, optimizer)
    update(twin, other)
    assert th.equal(net.weight, twin.weight)


@pytest.mark.parametrize("bad", [dict(lr=-1.0), dict(betas=(1.0, 0.9)), dict(eps=-1.0), dict(agc=0.0)])
def test_laprop_refuses_nonsense(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        LaProp([th.nn.Parameter(th.zeros(1))], **bad)


def test_laprop_minimises_a_quadratic() -> None:
    parameter = th.nn.Parameter(th.tensor([5.0, -3.0]))
    optimizer = LaProp([parameter], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (parameter - th.tensor([1.0, 2.0])).square().sum().backward()
        optimizer.step()
    assert th.allclose(parameter, th.tensor([1.0, 2.0]), atol=0.1)


def test_clip_grad_norms_is_torch_s_by_group() -> None:
    def parameters() -> list[list[th.Tensor]]:
        th.manual_seed(0)
        groups = [[th.zeros(3, 2), th.zeros(5)], [th.zeros(4)], [th.zeros(2)]]
        for group, size in zip(groups, (10.0, 0.01, None), strict=True):
            for p in group:
                p.grad = None if size is None else size * th.randn_like(p)
        return groups

    ours, theirs = parameters(), parameters()
    norms = clip_grad_norms_(ours, 0.5)
    for group, expected, norm in zip(ours, theirs, norms, strict=True):
        assert th.allclose(norm, th.nn.utils.clip_grad_norm_(expected, 0.5))
        assert all(a.grad is b.grad is None or th.allclose(a.grad, b.grad) for a, b in zip(group, expected, strict=True))
    assert float(th.cat([p.grad.flatten() for p in ours[0]]).norm()) == pytest.approx(0.5, rel=1e-4)

    unlimited = parameters()
    assert [float(n) for n in clip_grad_norms_(unlimited, None)] == pytest.approx([float(n) for n in norms])
    assert th.equal(unlimited[0][0].grad, parameters()[0][0].grad)


def test_a_group_without_gradients_has_its_norm_on_its_own_device() -> None:
    """What is compared with it is there as well: a GPU's numbers and the processor's cannot be stacked."""
    still, moved = (th.nn.Parameter(th.zeros(3, device="meta")) for _ in range(2))
    moved.grad = th.zeros(3, device="meta")
    norms = clip_grad_norms_([iter([still]), [moved]], 1.0)
    assert [norm.device.type for norm in norms] == ["meta", "meta"]
    assert clip_grad_norms_([[th.nn.Parameter(th.zeros(3))]], None)[0].item() == 0.0
