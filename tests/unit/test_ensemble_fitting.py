"""Learning from single steps: what each network sees, which weights are kept, and what is known in the end."""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_dreamer.world_models import DropoutWorldModel, EnsembleWorldModel, FitHistory, LaplaceWorldModel
from sb3_dreamer.world_models import ensemble_fitting as fitting
from sb3_dreamer.world_models.dataset import EpisodeRecorder
from sb3_dreamer.world_models.ensemble_fitting import fit_transitions, make_optimizer
from sb3_dreamer.world_models.transitions import Transitions

LINE, PUSH = spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(-1.0, 1.0, (1,))
KINDS = {"ensemble": EnsembleWorldModel, "dropout": DropoutWorldModel, "laplace": LaplaceWorldModel}
NOISE, REWARD_NOISE = 0.1, 0.3


def linear(n: int = 200, seed: int = 0, width: float = 1.0) -> Transitions:
    """``x' = 0.8 x + 0.5 a + 0.1 ε``, ``r = 2 x - a + 0.3 ε'``; nothing ends."""
    generator = th.Generator().manual_seed(seed)
    x, action = (2 * th.rand(n, 1, generator=generator) - 1 for _ in range(2))
    x = width * x
    noise = th.randn(n, 2, generator=generator)
    after = 0.8 * x + 0.5 * action + NOISE * noise[:, :1]
    reward = (2 * x - action).squeeze(1) + REWARD_NOISE * noise[:, 1]
    return Transitions(x, action, reward, after, th.zeros(n))


def make(kind: str = "ensemble", **kwargs: Any) -> Any:
    own: dict[str, Any] = {"ensemble": dict(n_members=3), "dropout": dict(n_masks=10), "laplace": dict(n_heads=20)}[kind]
    return KINDS[kind].from_spaces(LINE, PUSH, **{**dict(units=16, layers=2, seed=0), **own, **kwargs})


def weights(model: th.nn.Module) -> dict[str, th.Tensor]:
    return copy.deepcopy(model.state_dict())


def equal(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> bool:
    return first.keys() == second.keys() and all(th.equal(value, second[name]) for name, value in first.items())


def finite(model: th.nn.Module) -> bool:
    return all(bool(th.isfinite(value).all()) for value in model.state_dict().values())


def spy(monkeypatch: pytest.MonkeyPatch, instead: Any) -> None:
    """``instead(fit, rows, call, original)`` is what happens at the call-th update, from 1."""
    original, calls = fitting._Fit.update, [0]

    def update(self: Any, rows: th.Tensor) -> th.Tensor:
        calls[0] += 1
        return instead(self, rows, calls[0], original)

    monkeypatch.setattr(fitting._Fit, "update", update)


def nothing(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
    return th.zeros(())


# ---- what is learnt


@pytest.fixture(scope="module")
def learnt() -> Any:
    """All epochs: by the error of the means alone, weights are kept from before the variances are learnt."""
    model = make(n_members=5)
    fit_transitions(model, linear(2000), epochs=12, validation=0)
    return model


def grid(low: float, high: float, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    sign = rng.choice([-1.0, 1.0], (n, 1))
    return (sign * rng.uniform(low, high, (n, 1))).astype(np.float32), rng.uniform(-1, 1, (n, 1)).astype(np.float32)


def test_a_linear_system_is_learnt_and_its_noise_told_from_ignorance(learnt: Any) -> None:
    x, action = grid(0.0, 0.9)
    found = learnt.predict(x, action)
    truth = np.concatenate([2 * x - action, 0.8 * x + 0.5 * action], -1)
    assert np.sqrt(((found.mean - truth) ** 2).mean(0)) == pytest.approx([0.0, 0.0], abs=0.05)
    deviations = np.sqrt(found.aleatoric.mean(0))
    assert deviations == pytest.approx([REWARD_NOISE, NOISE], rel=0.3)
    assert (np.sqrt(found.epistemic.mean(0)) < deviations / 3).all()


def test_what_is_not_known_is_greater_where_nothing_was_seen(learnt: Any) -> None:
    inside, outside = (learnt.predict(*grid(low, high)).epistemic.sum(-1) for low, high in ((0.0, 0.9), (2.0, 4.0)))
    ranks = np.concatenate([inside, outside]).argsort().argsort()
    area = (ranks[200:].sum() - 200 * 199 / 2) / 200**2  # that one of outside exceeds one of inside
    assert area > 0.9
    assert outside.mean() > 10 * inside.mean()


@pytest.mark.parametrize("kind", ["dropout", "laplace"])
def test_the_approximations_learn_the_same_system(kind: str) -> None:
    model = make(kind, **({"dropout": 0.05} if kind == "dropout" else {}))
    history = fit_transitions(model, linear(1000), epochs=15)
    x, action = grid(0.0, 0.9)
    found = model.predict(x, action)
    truth = np.concatenate([2 * x - action, 0.8 * x + 0.5 * action], -1)
    assert (np.sqrt(((found.mean - truth) ** 2).mean(0)) < [0.3, 0.15]).all()
    assert (found.epistemic > 0).all() and (found.epistemic.mean(0) < found.aleatoric.mean(0)).all()
    away = model.predict(*grid(2.0, 4.0)).epistemic.sum(-1)
    assert away.mean() > 3 * found.epistemic.sum(-1).mean()
    errors = history.validation["error"]
    assert min(errors) < 0.8 * errors[0]
    assert model.elites.tolist() == list(range(model.members.count))  # all opinions count


def test_noise_that_differs_is_found_where_it_is() -> None:
    """Next to none for x < 0, much of it for x > 0."""
    data = linear(1500)
    noise = th.where(data.x > 0, 0.5, 0.02) * th.randn(1500, 1, generator=th.Generator().manual_seed(9))
    data = dataclasses.replace(data, next_x=data.x + noise)
    model = make()
    fit_transitions(model, data, epochs=20, validation=0)
    quiet, loud = (
        np.sqrt(model.predict(np.full((20, 1), x, np.float32), np.zeros((20, 1))).aleatoric[:, 1].mean()) for x in (-0.6, 0.6)
    )
    assert loud == pytest.approx(0.5, rel=0.3) and quiet < 0.1


# ---- statistics and rows


def test_statistics_are_those_of_all_the_data_and_new_ones_replace_old_ones() -> None:
    model = make()
    for seed, width in ((0, 1.0), (1, 5.0)):
        data = linear(100, seed, width)
        fit_transitions(model, data, epochs=1)
        inputs, targets = model.normalized(data)
        for values in (inputs, targets):
            assert th.allclose(values.mean(0), th.zeros(2), atol=1e-5)
            assert th.allclose(values.std(0, correction=0), th.ones(2), atol=1e-5)
        both = th.cat([data.x, data.next_x])
        assert th.equal(model.low, both.min(0).values) and th.equal(model.high, both.max(0).values)
        assert model.termination_head.share == 0


def test_every_network_has_rows_of_its_own_drawn_with_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[th.Tensor] = []

    def record(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        seen.append(rows.clone())
        assert len(fit.train) == 320 and len(fit.held_out) == 80
        held_out = {float(value) for value in fit.held_out.x}
        assert not held_out & {float(value) for value in fit.train.x}
        return th.zeros(())

    spy(monkeypatch, record)
    history = fit_transitions(make(), linear(400), epochs=2, batch_size=32)
    assert len(seen) == 20 and history.updates == [10, 20] and all(rows.shape == (3, 32) for rows in seen)
    first, second = (th.cat(seen[part : part + 10], dim=1) for part in (0, 10))
    for member in range(3):
        assert th.equal(first[member].sort().values, second[member].sort().values)  # the same rows in every epoch
        assert not th.equal(first[member], second[member])  # in another order
        distinct = len(first[member].unique()) / 320
        assert distinct == pytest.approx(1 - 1 / math.e, abs=0.06)
        assert first[member].min() >= 0 and first[member].max() < 320
        for other in range(member):
            assert not th.equal(first[member].sort().values, first[other].sort().values)


@pytest.mark.parametrize("kind", ["dropout", "laplace"])
def test_a_single_network_sees_every_row_once_an_epoch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[th.Tensor] = []

    def record(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        seen.append(rows.clone())
        return th.zeros(())

    spy(monkeypatch, record)
    fit_transitions(make(kind), linear(400), epochs=1)
    assert th.equal(th.cat(seen, dim=1).sort().values, th.arange(320)[None])


def test_members_learn_from_their_rows_and_become_different() -> None:
    model = make()
    with th.no_grad():
        for parameter in model.members.parameters():
            if parameter.dim() == 3:
                parameter[:] = parameter[:1].clone()  # as if they had begun alike
    fit_transitions(model, linear(200), epochs=2)
    first, second, third = model.members.head.weight.detach()
    assert (first - second).abs().max() > 1e-3 and (first - third).abs().max() > 1e-3


def test_rows_held_out_are_at_most_five_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        seen.append((len(fit.train), len(fit.held_out), rows.shape))
        return th.zeros(())

    spy(monkeypatch, record)
    fit_transitions(make(), linear(30_000), updates=1)
    fit_transitions(make(), linear(30), updates=1, batch_size=1000)  # no more rows a step than there are
    assert seen == [(25_000, 5_000, (3, 32)), (24, 6, (3, 24))]


# ---- which weights are kept


def biased(biases: list[list[float]]) -> Any:
    """Updates after which the members' only output is a bias; normalised targets make its error ``1 + bias²``, or about."""

    def update(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        with th.no_grad():
            fit.members.head.weight.zero_()
            fit.members.head.bias[:, 0, :2] = th.tensor(biases[call - 1])[:, None]
            fit.members.hidden[0].bias[:] = float(call)  # which says when
        return th.zeros(())

    return update


def test_every_member_keeps_the_weights_with_which_its_own_error_was_least(monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, biased([[9.0, 7.0, 8.0], [4.0, 5.0, 6.0], [2.0, 6.0, 3.0], [3.0, 5.5, 9.0]]))
    model = make(n_elites=2)
    with th.no_grad():
        model.members.head.bias.fill_(20.0)
    history = fit_transitions(model, linear(100), epochs=4, batch_size=1000)
    assert model.members.head.bias[:, 0, 0].tolist() == [2.0, 5.0, 3.0]
    assert model.members.hidden[0].bias[:, 0, 0].tolist() == [3.0, 2.0, 3.0]  # and all the weights of that time
    assert model.elites.tolist() == [0, 2]  # the best first
    assert history.updates == [1, 2, 3, 4] and not history.stopped_early
    of_epoch = [np.mean([1 + b**2 for b in biases]) for biases in ([9, 7, 8], [4, 5, 6], [2, 6, 3], [3, 5.5, 9])]
    assert history.validation["error"] == pytest.approx(of_epoch, rel=0.2)


def test_weights_from_before_the_fit_are_to_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, biased([[9.0, 0.0, 9.0], [9.0, 9.0, 9.0]]))
    model = make(n_elites=1)
    with th.no_grad():
        model.members.head.weight.zero_()
        model.members.head.bias.fill_(3.0)
        model.members.hidden[0].bias.zero_()
    fit_transitions(model, linear(100), epochs=2, batch_size=1000)
    assert model.members.hidden[0].bias[:, 0, 0].tolist() == [0.0, 1.0, 0.0]
    assert model.members.head.bias[:, 0, 0].tolist() == [3.0, 0.0, 3.0] and model.elites.tolist() == [1]


def test_the_least_error_is_that_of_the_rows_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The elites of a real fit, by an error worked out anew."""
    found: list[Any] = []

    def record(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        found[:] = [fit.held_out]
        return original(fit, rows)

    spy(monkeypatch, record)
    model = make(n_members=5, n_elites=3)
    fit_transitions(model, linear(150), epochs=3)
    (held_out,) = found
    inputs, targets = model.normalized(held_out)
    means = model.members(inputs.expand(5, *inputs.shape), th.arange(5))[0].detach()
    errors = ((means - targets) ** 2).mean((1, 2))
    assert model.elites.tolist() == errors.argsort()[:3].tolist()
    assert len(set(errors.tolist())) == 5


def test_a_fit_without_rows_held_out_keeps_the_last_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, biased([[1.0, 1.0, 1.0], [5.0, 6.0, 7.0], [9.0, 8.0, 7.0]]))
    model = make(n_elites=2)
    history = fit_transitions(model, linear(100), epochs=3, batch_size=1000, validation=0, patience=1)
    assert model.members.head.bias[:, 0, 0].tolist() == [9.0, 8.0, 7.0]
    assert model.elites.tolist() == [0, 1] and history.validation == {} and history.updates == [1, 2, 3]


@pytest.mark.parametrize("patience", [1, 4])
def test_a_fit_stops_when_nothing_has_improved_for_a_while(patience: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, biased([[9.0] * 3, [8.0] * 3, *[[8.0, 8.0, 7.9999]] * 20]))  # less than 0.01 nats is no gain
    model = make()
    with th.no_grad():
        model.members.head.bias.fill_(20.0)
    history = fit_transitions(model, linear(100), epochs=22, batch_size=1000, patience=patience)
    assert history.updates == list(range(1, 2 + patience + 1)) and history.stopped_early
    assert model.members.hidden[0].bias[:, 0, 0].tolist() == [2.0, 2.0, 2.0]


def test_one_member_that_improves_keeps_a_fit_going(monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, biased([[9.0, 9.0, 9.0 - 0.5 * epoch] for epoch in range(10)]))
    history = fit_transitions(make(), linear(100), epochs=10, batch_size=1000, patience=3)
    assert history.updates[-1] == 3  # the first weights were better
    model = make()
    with th.no_grad():
        model.members.head.bias.fill_(20.0)
    spy(monkeypatch, biased([[9.0, 9.0, 9.0 - 0.5 * epoch] for epoch in range(10)]))
    assert fit_transitions(model, linear(100), epochs=10, batch_size=1000, patience=3).updates[-1] == 10


def test_without_patience_a_fit_goes_on_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, nothing)
    for patience, epochs in ((None, 12), (5, 5)):
        history = fit_transitions(make(), linear(100), epochs=12, batch_size=1000, patience=patience)
        assert len(history.updates) == epochs and history.stopped_early == (patience is not None)


@pytest.mark.parametrize(
    ("given", "wanted"), [(dict(updates=25), [10, 20, 25]), (dict(updates=3), [3]), (dict(epochs=2), [10, 20])]
)
def test_as_many_updates_as_wanted(given: dict[str, int], wanted: list[int]) -> None:
    for number in (int, float):
        history = fit_transitions(
            make(), linear(400), **{name: number(value) for name, value in given.items()}, batch_size=32.0
        )
        assert history.updates == wanted and len(history.train["nats"]) == len(history.validation["error"]) == len(wanted)
        assert history.seconds > 0


def test_history_is_the_mean_loss_of_an_epoch_and_the_error_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    def record(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        wanted = fit.members.loss(fit.inputs[rows], fit.targets[rows]).item()
        losses.append(float(original(fit, rows)))
        assert losses[-1] == pytest.approx(wanted)
        return th.tensor(losses[-1])

    spy(monkeypatch, record)
    history = fit_transitions(make(), linear(400), epochs=2)
    assert history.train["nats"] == pytest.approx([np.mean(losses[:10]), np.mean(losses[10:])], rel=1e-5)
    assert losses[-1] < losses[0] and history.validation["error"][1] < history.validation["error"][0]


# ---- going on from before


def test_a_second_fit_goes_on_from_the_weights_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    fit_transitions(model, linear(200), epochs=2)
    before = {name: value.clone() for name, value in model.named_parameters()}
    spy(monkeypatch, nothing)
    fit_transitions(model, linear(200, seed=4), epochs=1)
    assert all(th.equal(value, before[name]) for name, value in model.named_parameters())


def test_an_optimizer_that_is_given_keeps_its_moments() -> None:
    model = make()
    optimizer = make_optimizer(model, 3e-4)
    first = fit_transitions(model, linear(200), epochs=2, optimizer=optimizer)
    assert all(group["lr"] == 3e-4 for group in optimizer.param_groups)
    moment = optimizer.state[model.members.head.weight]["exp_avg"].clone()
    assert moment.abs().max() > 0
    second = fit_transitions(model, linear(200, seed=1), updates=1, learning_rate=1e-9, optimizer=optimizer)
    state = optimizer.state[model.members.head.weight]
    assert float(state["step"]) == first.updates[-1] + second.updates[-1]
    assert all(group["lr"] == 1e-9 for group in optimizer.param_groups)
    gradient = model.members.head.weight.grad + 1e-4 * model.members.head.weight
    assert th.allclose(state["exp_avg"], 0.9 * moment + 0.1 * gradient, atol=1e-5)


def test_what_is_new_and_far_off_is_learnt_by_a_model_that_was_sure() -> None:
    """Its likelihood is so small at first that its inverse is no number any more."""
    model = make()
    calm = dataclasses.replace(linear(1000), reward=linear(1000).x[:, 0])
    sure = dataclasses.replace(calm, next_x=0.8 * calm.x + 0.5 * calm.action)
    fit_transitions(model, sure, epochs=40)
    reward = sure.reward.clone()
    reward[sure.next_x[:, 0] > 1.1] = -100.0
    assert 3 < (reward < -50).sum() < 60
    before = weights(model.members)
    fit_transitions(model, dataclasses.replace(sure, reward=reward), epochs=10)
    assert not equal(weights(model.members), before)


def test_epochs_and_updates_both_end_a_fit() -> None:
    for updates, epochs, expected in ((7, 100, 7), (1000, 2, 10), (7, None, 7), (None, 1, 5)):
        history = fit_transitions(make(), linear(200), updates, epochs, patience=None)
        assert history.updates[-1] == expected


def test_an_optimizer_has_every_weight_once_and_the_learning_rate() -> None:
    model = make()
    optimizer = make_optimizer(model, 0.02)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert {group["lr"] for group in optimizer.param_groups} == {0.02}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.members.head.weight)] == 1e-4
    assert {decay[id(parameter)] for parameter in model.termination_head.parameters()} == {1e-3}


def test_without_one_the_moments_are_new_and_the_learning_rate_a_thousandth() -> None:
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    for given, wanted in ((None, 1e-3), (0.01, 0.01)):
        model = make()
        for seed in (0, 1):
            before = model.members.head.bias.detach().clone()
            fit_transitions(model, linear(100, seed), updates=1, learning_rate=given, validation=0)
            step = (model.members.head.bias - before).abs()
            assert th.allclose(step, th.full_like(step, wanted), rtol=0.01)


# ---- where episodes end


def ending(n: int, share: float | None, seed: int = 0) -> Transitions:
    """Where the next state exceeds 0.9; or at random."""
    data = linear(n, seed)
    if share is None:
        return dataclasses.replace(data, terminal=(data.next_x[:, 0] > 0.9).float())
    drawn = th.rand(n, generator=th.Generator().manual_seed(seed + 100))
    return dataclasses.replace(data, terminal=(drawn < share).float())


def test_a_rule_of_rare_ends_is_learnt_and_calibrated() -> None:
    data, fresh = ending(2000, None), ending(4000, None, seed=7)
    assert 0.01 < data.terminal.mean() < 0.12
    model = make()
    fit_transitions(model, data, epochs=40, patience=None)
    logit = model.termination_logit(fresh.action, fresh.next_x).detach()
    ends = th.sigmoid(logit)
    truth = fresh.terminal == 1
    assert ends.mean().item() == pytest.approx(fresh.terminal.mean().item(), rel=0.25)
    assert ((ends > 0.5) == truth).float().mean() > 0.98
    assert ends[truth].mean() > 0.6 and ends[~truth].mean() < 0.03
    # a dream ends there as well
    state = model.step(th.tensor([[0.9], [-0.5]]), th.tensor([[1.0], [0.0]]), "expectation")
    assert state.stoch[0] > 1.0 and state.deter[0, 1] < 0.3 and state.deter[1, 1] > 0.99


def test_a_rule_of_rare_ends_is_found_among_many_numbers() -> None:
    """A threshold of one of 12 numbers, which 1 step in 40 crosses: what robots fall over."""

    def falling(n: int, seed: int) -> Transitions:
        generator = th.Generator().manual_seed(seed)
        x, change = th.randn(n, 12, generator=generator), 0.5 * th.randn(n, 12, generator=generator)
        x[:, 3].clamp_(min=-2.19)  # where it went on
        action = 2 * th.rand(n, 1, generator=generator) - 1
        return Transitions(x, action, th.zeros(n), x + change, ((x + change)[:, 3] < -2.2).float())

    data, fresh = falling(3000, 0), falling(4000, 1)
    assert 60 < data.terminal.sum() < 90
    model = EnsembleWorldModel.from_spaces(spaces.Box(-np.inf, np.inf, (12,)), PUSH, n_members=2, units=32, layers=2, seed=0)
    fit_transitions(model, data, epochs=20, patience=None)
    found = model.termination_logit(fresh.action, fresh.next_x) > 0
    truth = fresh.terminal == 1
    assert (found & truth).sum() / truth.sum() > 0.9 and (found & truth).sum() / found.sum() > 0.9


def test_dreams_may_go_where_episodes_ended_but_the_head_knows_that_they_did() -> None:
    x, after = th.tensor([[0.0], [1.0], [-3.0]]), th.tensor([[1.0], [4.0], [2.0]])
    model = make()
    model.learn_statistics(Transitions(x, th.zeros(3, 1), th.zeros(3), after, th.tensor([0.0, 1.0, 0.0])))
    assert (model.low.item(), model.high.item()) == (-3.0, 4.0)
    assert (model.termination_head.low.item(), model.termination_head.high.item()) == (-3.0, 2.0)


@pytest.mark.parametrize("share", [0.05, 0.8])
def test_ends_at_random_are_as_probable_as_they_are_frequent(share: float) -> None:
    data = ending(2000, share)
    model = make()
    fit_transitions(model, data, epochs=3)
    found = th.sigmoid(model.termination_logit(data.action, data.next_x)).detach()
    assert found.mean().item() == pytest.approx(data.terminal.mean().item(), rel=0.25) and found.std() < 0.1


def test_the_loss_of_the_head_is_the_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's loss by hand, and its gradient beside the members'."""
    checked = []

    def check(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        train, model = fit.train, fit.model
        logit = model.termination_logit(train.action, train.next_x).detach().double().numpy()
        ended = train.terminal.numpy() == 1
        by_hand = np.where(ended, np.logaddexp(0, -logit), np.logaddexp(0, logit)).mean()
        assert fit._end_loss(train).item() == pytest.approx(by_hand, rel=1e-4)
        loss = original(fit, rows)
        assert all(parameter.grad is not None for parameter in model.termination_head.parameters())
        assert loss.item() == pytest.approx(fit_loss(fit, rows, before[0]), rel=1e-4)
        before[0] = weights(fit.members)
        checked.append(call)
        return loss

    def fit_loss(fit: Any, rows: th.Tensor, members: dict[str, th.Tensor]) -> float:
        copied = copy.deepcopy(fit.members)
        copied.load_state_dict(members)
        return copied.loss(fit.inputs[rows[:3]], fit.targets[rows[:3]]).item()  # without that of the head

    spy(monkeypatch, check)
    model = make()
    with th.no_grad():
        model.termination_head.out.weight.normal_()
    before = [weights(model.members)]
    fit_transitions(model, ending(300, 0.1), updates=4)
    assert checked == [1, 2, 3, 4]


def test_the_head_sees_every_end_there_is_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be few: rows drawn with replacement leave out more than a third."""
    seen: list[th.Tensor] = []

    def record(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        seen.append(rows.clone())
        return original(fit, rows)

    spy(monkeypatch, record)
    fit_transitions(make(), ending(400, 0.1), epochs=1)
    assert th.equal(th.cat(seen, dim=1)[-1].sort().values, th.arange(320))
    assert len(seen[0]) == 4


def test_the_head_keeps_its_own_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def update(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        with th.no_grad():
            fit.model.termination_head.out.bias.fill_([0.0, 0.1, 3.0, -3.0][call - 1])
        return th.zeros(())

    model = make()
    with th.no_grad():
        model.termination_head.out.bias.fill_(-5.0)
    spy(monkeypatch, update)
    fit_transitions(model, ending(400, 0.2), epochs=4, batch_size=1000)
    # of no information about the rows, the best is about even odds; a small step from there is no improvement
    assert model.termination_head.out.bias.item() == 0.0


def test_no_head_is_learnt_where_nothing_ends_or_the_rule_is_known() -> None:
    for model, data in (
        (make(), linear(200)),
        (make(termination_fn=lambda before, action, after: before["obs"][:, 0] > 0.5), ending(200, None)),
    ):
        before = [parameter.detach().clone() for parameter in model.termination_head.parameters()]
        fit_transitions(model, data, epochs=2)
        assert all(map(th.equal, model.termination_head.parameters(), before))
        state = model.step(th.tensor([[0.0], [0.8]]), th.tensor([[0.0], [1.0]]), "expectation")
        assert state.deter[0, 1] == 1 and state.deter[1, 1] == float(model.termination_fn is None)


def test_all_ends_held_out_and_ends_everywhere_do_no_harm() -> None:
    once = dataclasses.replace(linear(10), terminal=th.eye(10)[3])
    for data in (once, dataclasses.replace(linear(40), terminal=th.ones(40))):
        for seed in range(6):
            model = make()
            fit_transitions(model, data, epochs=2, seed=seed)
            assert finite(model)
            state = model.step(data.x, data.action, "expectation")
            assert ((state.deter[:, 1] >= 0) & (state.deter[:, 1] <= 1)).all()


# ---- randomness


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_weights_and_leaves_the_random_numbers_alone(kind: str) -> None:
    def learn(seed: int | None) -> dict[str, th.Tensor]:
        model = make(kind)
        fit_transitions(model, ending(150, 0.1), epochs=2, seed=seed)
        return weights(model)

    before = th.get_rng_state()
    first, again, other = (learn(seed) for seed in (1, 1, 2))
    assert th.equal(before, th.get_rng_state())
    assert equal(first, again) and not equal(first, other)
    th.manual_seed(5)
    own = learn(None)
    after = th.get_rng_state()
    assert not th.equal(after, before)
    th.manual_seed(5)
    assert equal(own, learn(None)) and th.equal(after, th.get_rng_state())


# ---- what goes wrong


@pytest.mark.parametrize("validation", [0.2, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_is_an_error_and_good_weights_are_kept(
    kind: str, validation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    best: list[th.Tensor] = []

    def update(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        if call < 7:  # five an epoch
            return original(fit, rows)
        if call == 7:
            best.extend(value.clone() for value in fit.best)
            with th.no_grad():
                for parameter in fit.members.parameters():
                    parameter.fill_(math.nan)
        return th.tensor(math.nan)

    spy(monkeypatch, update)
    model = make(kind)
    data = linear(200 if validation else 160)
    with pytest.raises(FloatingPointError, match=r"NaN or infinite by update 10\. Lower learning_rate"):
        fit_transitions(model, data, epochs=5, validation=validation)
    assert finite(model) and not model.training
    assert all(th.equal(*pair) for pair in zip(model.members.parameters(), best, strict=True))
    if not validation or kind == "ensemble":  # an epoch has made them better
        assert not th.equal(model.members.head.weight, make(kind).members.head.weight)
    x, action = grid(0.0, 0.9, 5)
    assert np.isfinite(model.predict(x, action).total).all()


def test_a_learning_rate_that_is_far_too_high_is_an_error() -> None:
    model = make()
    with pytest.raises(FloatingPointError):
        fit_transitions(model, linear(200), epochs=30, learning_rate=1e12)
    assert finite(model)


def test_an_interrupted_fit_leaves_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = biased([[4.0, 5.0, 6.0], [2.0, 9.0, 3.0], [9.0, 9.0, 9.0]])

    def update(fit: Any, rows: th.Tensor, call: int, original: Any) -> th.Tensor:
        loss = steps(fit, rows, call, original)
        if call == 3:
            raise KeyboardInterrupt
        return loss

    spy(monkeypatch, update)
    model = make("ensemble", n_elites=2)
    with th.no_grad():
        model.members.head.bias.fill_(20.0)
    with pytest.raises(KeyboardInterrupt):
        fit_transitions(model, linear(100), epochs=5, batch_size=1000)
    assert model.members.head.bias[:, 0, 0].tolist() == [2.0, 5.0, 3.0] and model.elites.tolist() == [0, 2]
    assert not model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(updates=0), "updates must be a whole number of at least 1, got 0"),
        (dict(epochs=1.5), "epochs must be a whole number of at least 1, got 1.5"),
        (dict(batch_size=0), "batch_size must be a whole number"),
        (dict(patience=0), "patience must be a whole number"),
        (dict(learning_rate=0.0), "learning_rate must be a number, positive, got 0.0"),
        (dict(learning_rate=math.nan), "learning_rate must be a number, positive"),
        (dict(validation=1.0), "validation must be a share of the rows, from 0 to less than 1, got 1.0"),
        (dict(validation=-0.1), "validation must be a share"),
        (dict(validation=math.nan), "validation must be a share"),
        (dict(validation=None), "validation must be a share of the rows, from 0 to less than 1, got None"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    model = make()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        fit_transitions(model, linear(50), **arguments)
    assert equal(weights(model), before)


@pytest.mark.parametrize(("n", "validation"), [(0, 0.2), (1, 0), (2, 0.5), (4, 0.2)])
def test_too_few_rows_are_refused(n: int, validation: float) -> None:
    model = make()
    before = weights(model)
    with pytest.raises(ValueError, match=rf"{n} steps are too few to learn from with validation={validation}: collect more"):
        fit_transitions(model, linear(n), validation=validation)
    assert equal(weights(model), before)


@pytest.mark.parametrize(("n", "validation"), [(2, 0), (5, 0.2)])
def test_as_few_rows_as_can_be(n: int, validation: float) -> None:
    model = make()
    assert isinstance(fit_transitions(model, linear(n), validation=validation, epochs=2), FitHistory)
    assert finite(model)


# ---- of a data set


def test_fitting_to_a_data_set_is_fitting_to_its_steps() -> None:
    recorder, rng = EpisodeRecorder(LINE, PUSH), np.random.default_rng(0)
    for episode in range(8):
        recorder.start(0, rng.normal(size=1).astype(np.float32))
        for t in range(1, 11):
            obs, action = rng.normal(size=1).astype(np.float32), rng.uniform(-1, 1, 1).astype(np.float32)
            recorder.step(0, action, obs, float(rng.normal()), t == 10 and episode % 2 == 0, t == 10)
    data = recorder.dataset()
    model, other = make(), make()
    with pytest.raises(ValueError, match="as_env needs episodes"):
        model.as_env()
    history = model.fit(data, 7, batch_size=16, seed=3)
    wanted = fit_transitions(other, fitting.transitions_of(other, data), 7, batch_size=16, seed=3)
    assert history.updates == wanted.updates == [4, 7] and equal(weights(model), weights(other))
    assert model.termination_head.share.item() == pytest.approx(4 / 80)
    assert model.as_env(seed=0).reset()[0].shape == (1,)  # from the episodes it was fitted to
    empty = data.episodes([])
    with pytest.raises(ValueError, match="The data set is empty"):
        model.fit(empty)
