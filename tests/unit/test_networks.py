import math

import pytest
import torch as th
import torch.nn.functional as F

from sb3_dreamer.common import networks
from sb3_dreamer.common.networks import MLP, BlockGRU, Linear, make_norm, norm_silu, truncated_normal_


def test_truncated_normal_has_the_stated_spread_and_bounds() -> None:
    th.manual_seed(0)
    weight = th.empty(400, 300)
    truncated_normal_(weight, fan_in=300)
    assert weight.std().item() == pytest.approx(math.sqrt(1 / 300), rel=0.02)
    assert weight.abs().max().item() <= 2 * 1.1368 * math.sqrt(1 / 300) + 1e-6


def test_linear_scale_zero_gives_exactly_zero() -> None:
    assert Linear(3, 4, scale=0.0)(th.randn(2, 3)).abs().sum() == 0
    assert Linear(3, 4).bias.abs().sum() == 0


def test_rms_norm_by_hand() -> None:
    norm = make_norm("rms", 4)
    x = th.tensor([1.0, -2.0, 3.0, 0.0])
    assert th.allclose(norm(x), x / math.sqrt((1 + 4 + 9) / 4 + 1e-4))
    assert sum(p.numel() for p in norm.parameters()) == 4  # a scale, no shift
    with pytest.raises(ValueError, match="norm"):
        make_norm("batch", 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm_silu_is_both_one_after_the_other(kind: networks.Norm) -> None:
    norm = make_norm(kind, 12)
    with th.no_grad():
        norm.weight.normal_()
    x = th.randn(3, 5, 12, requires_grad=True)
    pull = th.randn(3, 5, 12)
    found = th.autograd.grad((norm_silu(norm, x) * pull).sum(), [x, norm.weight])
    expected = th.autograd.grad((F.silu(norm(x)) * pull).sum(), [x, norm.weight])
    assert th.allclose(norm_silu(norm, x), F.silu(norm(x)), atol=1e-6)
    assert all(th.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm_silu_computes_in_float32_and_gives_the_type_back(kind: networks.Norm) -> None:
    norm = make_norm(kind, 64)
    x = (100 * th.randn(7, 64)).bfloat16().requires_grad_()
    found = norm_silu(norm, x)
    assert found.dtype == th.bfloat16
    assert th.equal(found, F.silu(norm(x.float())).bfloat16())
    found.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == th.bfloat16 and th.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("dtype", [th.float32, th.bfloat16])
def test_norm_silu_is_the_same_without_gradients(kind: networks.Norm, dtype: th.dtype) -> None:
    norm, x = make_norm(kind, 8), th.randn(5, 8).to(dtype)
    assert isinstance(norm.weight, th.Tensor)
    norm.weight.data.uniform_(0.5, 1.5)
    before = x.clone()
    with th.no_grad():
        found = norm_silu(norm, x)
    assert th.equal(x, before) and found.dtype is dtype and not found.requires_grad
    assert th.equal(found, norm_silu(norm, x.requires_grad_()).detach())


@pytest.mark.parametrize("outputs", [None, 1, 7, 64, 65, 255])
def test_mlp_is_linear_norm_silu(outputs: int | None) -> None:
    mlp = MLP(3, 8, 2, out_features=outputs)
    x = th.randn(6, 3)
    hidden = x
    for linear, norm in zip(mlp.linears, mlp.norms, strict=True):
        hidden = F.silu(norm(F.linear(hidden, linear.weight, linear.bias)))
    expected = hidden if mlp.out is None else F.linear(hidden, mlp.out.weight, mlp.out.bias)
    found, parameters = mlp(x), list(mlp.parameters())
    pull = th.randn(6, mlp.out_features)
    assert found.shape == expected.shape == pull.shape and th.allclose(found, expected, atol=1e-5)
    ours, theirs = (th.autograd.grad((out * pull).sum(), parameters) for out in (found, expected))
    assert all(th.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def naive_block_gru(core: BlockGRU, biases: list[float], deter: th.Tensor, stoch: th.Tensor, action: th.Tensor) -> th.Tensor:
    """The published description, block by block with copies of the inputs."""
    silu = F.silu
    x0 = silu(core.deter_norm(core.deter_in(deter)))
    x1 = silu(core.stoch_norm(core.stoch_in(stoch)))
    x2 = silu(core.action_norm(core.action_in(action / action.abs().clamp_min(1))))
    x = th.cat([x0, x1, x2], -1)
    g, width = core.blocks, core.deter // core.blocks
    hidden = th.cat([th.cat([deter[:, i * width : (i + 1) * width], x], -1) @ core.hidden_weight[i] for i in range(g)], -1)
    hidden = silu(core.hidden_norm(hidden + core.hidden_bias))  # the norm spans all blocks
    resets, candidates, updates = [], [], []
    for i in range(g):
        out = hidden[:, i * width : (i + 1) * width] @ core.gate_weight[i]
        out = out + core.gate_bias[i * 3 * width : (i + 1) * 3 * width]
        for parts, part in zip((resets, candidates, updates), out.chunk(3, -1), strict=True):
            parts.append(part)
    reset, candidate, update = (th.cat(parts, -1) for parts in (resets, candidates, updates))
    update = th.sigmoid(update + th.tensor(biases * g))
    return update * th.tanh(th.sigmoid(reset) * candidate) + (1 - update) * deter


@pytest.mark.parametrize(
    ("blocks", "update_bias", "biases"),
    [
        (1, -1.0, [-1.0] * 8),
        (4, -1.0, [-1.0] * 2),
        (1, (2.5, -1.0), [2.5, 2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0]),
        (2, (1, -2), [1.0, 0.0, -1.0, -2.0]),
    ],
)
def test_block_gru_equals_the_description(blocks: int, update_bias: float | tuple[float, float], biases: list[float]) -> None:
    th.manual_seed(0)
    core = BlockGRU(deter=8, stoch=6, action=2, hidden=5, blocks=blocks, norm="rms", update_bias=update_bias)
    with th.no_grad():
        core.hidden_bias.normal_()
        core.gate_bias.normal_()
        core.hidden_norm.weight.normal_()
    deter, stoch, action = th.randn(3, 8), th.randn(3, 6), 3 * th.randn(3, 2)
    weights = core.unroll_weights()
    step = core.step(deter, stoch, core.action_term(action, weights), weights)
    assert th.allclose(core(deter, stoch, action), step, atol=1e-6)
    assert th.allclose(step, naive_block_gru(core, biases, deter, stoch, action), atol=1e-5)


def test_block_gru_initialises_with_the_fan_in_of_the_whole_input() -> None:
    th.manual_seed(0)
    core = BlockGRU(deter=64, stoch=16, action=2, hidden=32, blocks=8, norm="rms")
    assert core.hidden_weight.std().item() == pytest.approx(math.sqrt(1 / (64 + 3 * 32 * 8)), rel=0.05)
    assert core.gate_weight.std().item() == pytest.approx(math.sqrt(1 / 64), rel=0.1)


def test_block_gru_refuses_blocks_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="blocks=3"):
        BlockGRU(deter=8, stoch=6, action=2, hidden=5, blocks=3, norm="rms")


def test_actions_beyond_the_bounds_are_scaled_down_without_gradient_of_the_scale() -> None:
    th.manual_seed(0)
    core = BlockGRU(deter=4, stoch=2, action=1, hidden=3, blocks=1, norm="rms")
    weights = core.unroll_weights()
    outer, bound = th.tensor([[5.0]], requires_grad=True), th.tensor([[1.0]], requires_grad=True)
    terms = [core.action_term(action, weights) for action in (outer, bound)]
    assert th.allclose(*terms)
    slopes = [th.autograd.grad(term.square().sum(), action)[0] for term, action in zip(terms, (outer, bound), strict=True)]
    assert slopes[1].abs() > 0 and th.allclose(slopes[0], slopes[1] / 5)  # a / sg(5): the slope of the division only
