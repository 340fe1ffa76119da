"""Several opinions at once: batched layers, the likelihood, masks of dropout, heads of a Bayesian last layer."""

import copy

import numpy as np
import pytest
import torch as th
import torch.nn as nn
import torch.nn.functional as F

from sb3_dreamer.world_models.members import BatchedLinear, DropoutMasks, Ensemble, LaplaceLastLayer, Members

E, I, O, UNITS = 3, 4, 2, 8  # noqa: E741  (the names of the axes)


def ensemble(layers: int = 2, members: int = E, init_scale: float = 1.0) -> Ensemble:
    th.manual_seed(0)
    model = Ensemble(members, I, O, UNITS, layers, init_scale)
    for parameter in model.parameters():
        if parameter.dim() == 3 and parameter.shape[1] == 1:  # biases, which are 0 at first
            nn.init.normal_(parameter)
    return model


def bounded(log_var: np.ndarray, low: float = -10.0, high: float = 0.5) -> np.ndarray:
    """By the formula, in double precision."""
    log_var = high - np.logaddexp(0.0, high - log_var.astype(np.float64))
    return low + np.logaddexp(0.0, log_var - low)


def separate(model: Members) -> list[nn.Sequential]:
    """The same networks, one by one, of torch's own layers."""
    networks = []
    for e in range(model.networks):
        layers: list[nn.Module] = []
        for batched in [*model.hidden, model.head]:
            _, inputs, outputs = batched.weight.shape
            layer = nn.Linear(inputs, outputs)
            layer.weight.data, layer.bias.data = batched.weight[e].detach().T.clone(), batched.bias[e, 0].detach().clone()
            layers += [layer, nn.SiLU()]
        networks.append(nn.Sequential(*layers[:-1]))
    return networks


# ---- batched layers


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_members_are_separate_networks(layers: int) -> None:
    """Values and gradients, each network on rows of its own."""
    model, x = ensemble(layers), th.randn(E, 5, I)
    networks = separate(model)
    found, wanted = model.head(model._trunk(x)), th.stack([network(x[e]) for e, network in enumerate(networks)])
    assert th.allclose(found, wanted, atol=1e-6)
    coefficients = th.randn_like(found)
    (found * coefficients).sum().backward()
    (wanted * coefficients).sum().backward()
    for e, network in enumerate(networks):
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        for batched, layer in zip([*model.hidden, model.head], linears, strict=True):
            assert th.allclose(batched.weight.grad[e], layer.weight.grad.T, atol=1e-6)
            assert th.allclose(batched.bias.grad[e, 0], layer.bias.grad, atol=1e-6)


def test_means_and_log_variances_are_the_two_halves_of_the_output() -> None:
    model, x = ensemble(), th.randn(E, 5, I)
    mean, log_var = model.learn(x)
    output = model.head(model._trunk(x)).detach()
    assert th.equal(mean, output[..., :O])
    assert np.allclose(log_var.detach(), bounded(output[..., O:].numpy()), atol=1e-5)


def test_opinions_are_those_asked_for_in_that_order() -> None:
    model, x = ensemble(), th.randn(4, 5, I)
    which = [2, 0, 2, 1]
    mean, log_var = model(x, th.tensor(which))
    for block, e in enumerate(which):
        alone = [part[e] for part in model.learn(x[block].expand(E, 5, I))]
        assert th.allclose(mean[block], alone[0], atol=1e-6) and th.allclose(log_var[block], alone[1], atol=1e-6)
    assert not th.allclose(mean[0], model(x, th.tensor([0, 0, 2, 1]))[0][0], atol=1e-3)


def test_every_network_is_judged_by_the_same_rows() -> None:
    model, x = ensemble(), th.randn(5, I)
    for judged, learnt in zip(model.judge(x), model.learn(x.expand(E, 5, I)), strict=True):
        assert th.equal(judged, learnt)


def test_first_weights_have_the_published_deviation() -> None:
    """1 / (2 √inputs), cut off at two deviations, which leaves 0.88 of it; no two networks are alike."""
    th.manual_seed(0)
    layer = BatchedLinear(4, 100, 200)
    deviation = 1 / (2 * np.sqrt(100))
    assert layer.weight.abs().max() <= 2 * deviation
    assert layer.weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.01)
    assert (layer.bias == 0).all() and not th.equal(layer.weight[0], layer.weight[1])


def test_first_weights_may_be_larger_all_through_a_network() -> None:
    for large, usual in zip(ensemble(init_scale=3.0).parameter_groups()[:-1], ensemble().parameter_groups()[:-1], strict=True):
        assert th.allclose(large["params"][0], 3.0 * usual["params"][0])


# ---- the likelihood


def test_log_variances_stay_between_their_bounds_softly() -> None:
    model = ensemble()
    raw = th.tensor([-1e4, -30.0, -10.0, -4.0, 0.0, 0.5, 3.0, 1e4])
    _, found = model._bounded(th.cat([th.zeros(8, O), raw[:, None].expand(8, O)], dim=-1))
    assert np.allclose(found[:, 0].detach(), bounded(raw.numpy()), atol=1e-5)
    assert found.min().item() == pytest.approx(-10.0, abs=1e-4) and found.max().item() == pytest.approx(0.5, abs=1e-4)
    assert found[3, 0].item() == pytest.approx(-4.0, abs=0.02)  # far from both, nothing changes
    assert (found[1:-1].diff(dim=0) > 0).all()


def test_bounds_are_those_of_each_output_and_learnt() -> None:
    model, x = ensemble(), th.randn(E, 5, I)
    with th.no_grad():
        model.max_log_var.copy_(th.tensor([-2.0, 1.0]))
        model.min_log_var.copy_(th.tensor([-3.0, -1.0]))
    _, log_var = model.learn(x)
    raw = model.head(model._trunk(x))[..., O:].detach().numpy()
    wanted = np.stack([bounded(raw[..., 0], -3.0, -2.0), bounded(raw[..., 1], -1.0, 1.0)], -1)
    assert np.allclose(log_var.detach(), wanted, atol=1e-5)
    model.loss(x, th.randn(E, 5, O)).backward()
    assert (model.max_log_var.grad != 0).all() and (model.min_log_var.grad != 0).all()


def test_loss_is_a_mean_over_rows_and_outputs_summed_over_members() -> None:
    model, x, y = ensemble(), th.randn(E, 6, I), th.randn(E, 6, O)
    mean, log_var = (part.detach().double().numpy() for part in model.learn(x))
    total = 0.0
    for e in range(E):
        terms = [
            (mean[e, i, o] - y[e, i, o].item()) ** 2 / np.exp(log_var[e, i, o]) + log_var[e, i, o]
            for i in range(6)
            for o in range(O)
        ]
        total += sum(terms) / (6 * O)
    pull = 0.01 * (O * 0.5 - O * -10.0)
    assert model.loss(x, y).item() == pytest.approx(total + pull, rel=1e-5)


def test_rows_of_one_member_do_not_teach_the_others() -> None:
    model, x, y = ensemble(), th.randn(E, 6, I), th.randn(E, 6, O)
    model.loss(x, y).backward()
    before = model.head.weight.grad.clone()
    model.zero_grad()
    y[1] += 5.0
    model.loss(x, y).backward()
    changed = (model.head.weight.grad - before).abs().amax((1, 2))
    assert changed[1] > 1e-3 and changed[0] == changed[2] == 0


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (1, [2.5e-5, 1e-4]),
        (2, [2.5e-5, 5e-5, 1e-4]),
        (4, [2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4]),
        (6, [2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 7.5e-5, 7.5e-5, 1e-4]),
    ],
)
def test_weight_decay_by_layer(layers: int, wanted: list[float]) -> None:
    """Of weights alone; an optimizer that sees no other gradient shrinks them by just that."""
    model = ensemble(layers)
    before = copy.deepcopy(model.state_dict())
    optimizer = th.optim.SGD(model.parameter_groups(), lr=1000.0)
    for parameter in model.parameters():
        parameter.grad = th.zeros_like(parameter)
    optimizer.step()
    for layer, old, decay in zip(
        [*model.hidden, model.head],
        [*(f"hidden.{i}.weight" for i in range(layers)), "head.weight"],
        wanted,
        strict=True,
    ):
        assert th.allclose(layer.weight, (1 - 1000 * decay) * before[old], rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        assert name.endswith("weight") or th.equal(parameter, before[name])
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())  # each once


# ---- masks of dropout


def dropout(masks: int = 5, units: int = UNITS, rate: float = 0.25) -> DropoutMasks:
    th.manual_seed(0)
    return DropoutMasks(masks, I, O, units, 2, rate)


def test_masks_leave_out_the_share_wanted_and_keep_the_mean() -> None:
    model = dropout(200, 128, 0.2)
    assert model.masks.shape == (2, 200, 1, 128)
    values = model.masks.flatten()
    assert set(values.unique().tolist()) == {0.0, 1.25}
    assert (values == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert values.mean().item() == pytest.approx(1.0, abs=0.01)


def test_an_opinion_is_the_network_under_its_mask() -> None:
    model, x = dropout(), th.randn(3, 6, I)
    which = [4, 1, 4]
    mean, log_var = model(x, th.tensor(which))
    for block, mask in enumerate(which):
        hidden = x[block]
        for layer, masks in zip(model.hidden, model.masks, strict=True):
            hidden = F.silu(hidden @ layer.weight[0] + layer.bias[0]) * masks[mask, 0]
        output = hidden @ model.head.weight[0] + model.head.bias[0]
        assert th.allclose(mean[block], output[:, :O], atol=1e-6)
        assert np.allclose(log_var[block].detach(), bounded(output[:, O:].detach().numpy()), atol=1e-5)


def test_opinions_are_functions_and_learning_draws_masks_anew() -> None:
    model, x = dropout().train(), th.randn(5, 6, I)
    every = th.arange(5)
    first, again = model(x, every)[0], model(x, every)[0]
    assert th.equal(first, again) and not th.allclose(first[0], model(x[:1], th.tensor([1]))[0][0])
    for mode in (model.train, model.eval):  # whatever the mode
        mode()
        one, two = model.learn(x[:1])[0], model.learn(x[:1])[0]
        assert not th.equal(one, two)
        assert th.equal(model(x, every)[0], first)
    same_row = model.learn(x[:1, :1].expand(1, 50, I))[0][0, :, 0]
    assert len(same_row.unique()) > 40  # a mask a row
    rebuilt = dropout()
    rebuilt.masks.zero_()
    rebuilt.load_state_dict(model.state_dict())
    assert th.equal(rebuilt(x, every)[0], first)  # masks are part of the weights


def test_what_is_learnt_with_masks_is_judged_by_the_mean_of_the_opinions() -> None:
    model, x = dropout(), th.randn(6, I)
    means, log_vars = (th.stack(part) for part in zip(*(model(x[None], th.tensor([i])) for i in range(5)), strict=True))
    mean, log_var = model.judge(x)
    assert mean.shape == (1, 6, O) and th.allclose(mean, means.mean(0), atol=1e-6)
    assert th.allclose(log_var.exp(), log_vars.exp().mean(0), atol=1e-6)  # the mean variance


def test_gradients_pass_through_the_masks_drawn() -> None:
    model = dropout(rate=0.5)
    model.loss(th.randn(1, 4, I), th.randn(1, 4, O)).backward()
    assert all(parameter.grad is not None and th.isfinite(parameter.grad).all() for parameter in model.parameters())


# ---- a Bayesian last layer


def laplace(heads: int, prior_precision: float = 1.0) -> LaplaceLastLayer:
    """Five features, a noise that differs between rows and outputs."""
    th.manual_seed(0)
    model = LaplaceLastLayer(heads, I, O, 4, 1, prior_precision)
    for layer in (*model.hidden, model.head):
        nn.init.normal_(layer.weight, std=0.7)
        nn.init.normal_(layer.bias, std=0.5)
    return model


def features(model: LaplaceLastLayer, x: th.Tensor) -> np.ndarray:
    pre = x.double().numpy() @ model.hidden[0].weight[0].detach().double().numpy() + model.hidden[0].bias[0].detach().numpy()
    return np.concatenate([pre / (1 + np.exp(-pre)), np.ones((len(x), 1))], axis=1)


def noise_variance(model: LaplaceLastLayer, phi: np.ndarray) -> np.ndarray:
    weight, bias = model.head.weight[0].detach().double().numpy(), model.head.bias[0, 0].detach().numpy()
    return np.exp(bounded(phi[:, :-1] @ weight[:, O:] + bias[O:]))


@pytest.mark.parametrize("prior_precision", [0.5, 20.0])
def test_heads_are_drawn_from_bayesian_linear_regression(prior_precision: float) -> None:
    """Ridge regression on the features with known noise, in closed form."""
    model, n = laplace(20_000, prior_precision), 40
    x, y = th.randn(n, I), th.randn(n, O) + 1.0
    th.manual_seed(1)
    model.settle(x, y)
    phi = features(model, x)
    variance = noise_variance(model, phi)
    assert variance.max() / variance.min() > 1.5  # rows count differently
    for o in range(O):
        precision = sum(np.outer(f, f) / v for f, v in zip(phi, variance[:, o], strict=True)) + prior_precision * np.eye(5)
        mean = np.linalg.solve(precision, phi.T @ (y[:, o].numpy() / variance[:, o]))
        heads = model.heads[:, :, o].double().numpy()
        whitened = (heads - mean) @ np.linalg.cholesky(precision)  # standard normal
        assert np.abs(whitened.mean(0)).max() < 5 / np.sqrt(20_000)
        assert np.abs(np.cov(whitened.T) - np.eye(5)).max() < 0.05


def test_opinions_of_heads_share_the_features_and_the_noise() -> None:
    model, x = laplace(6), th.randn(3, 7, I)
    model.settle(th.randn(30, I), th.randn(30, O))
    which = [5, 0, 5]
    mean, log_var = model(x, th.tensor(which))
    for block, head in enumerate(which):
        phi = features(model, x[block])
        assert np.allclose(mean[block].detach(), phi @ model.heads[head].numpy(), atol=1e-4)
        assert np.allclose(log_var[block].detach().exp(), noise_variance(model, phi), rtol=1e-4)


def spread(model: LaplaceLastLayer, x: th.Tensor) -> th.Tensor:
    """Variance of the opinions, summed over outputs, ``(n,)``."""
    every = th.arange(model.count)
    with th.no_grad():
        return model(x.expand(model.count, *x.shape), every)[0].var(0).sum(-1)


def test_heads_agree_the_more_rows_there_are_and_disagree_far_away() -> None:
    near, far = th.randn(50, I), 10 * F.normalize(th.randn(50, I), dim=-1)
    spreads = {}
    for n in (20, 200, 2000):
        model = laplace(400)
        x = th.randn(n, I)
        model.settle(x, th.randn(n, O))
        spreads[n] = spread(model, near).mean().item()
        assert spread(model, far).mean() > 5 * spreads[n]
    assert 20 > spreads[200] / spreads[2000] > 5  # about the inverse of the number of rows
    assert spreads[20] > 3 * spreads[200]


def test_heads_change_nothing_that_is_learnt() -> None:
    """And the network goes on learning with its own last layer."""
    model = laplace(3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert (model.heads == 0).all()
    model.settle(th.randn(30, I), th.randn(30, O))
    assert (model.heads.abs().amax((1, 2)) > 0).all()
    assert all(th.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    x = th.randn(1, 6, I)
    assert th.allclose(model.learn(x)[0], model.head(model._trunk(x))[..., :O])
    assert th.equal(model.judge(x[0])[0], model.learn(x)[0])
