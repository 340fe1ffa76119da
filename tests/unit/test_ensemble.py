"""World models that say how sure they are: what they predict of a step, how they dream, what they say of data."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from gymnasium import spaces

from sb3_dreamer.common.math import SharedGenerator
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.world_models import (
    DropoutWorldModel,
    EnsembleWorldModel,
    EpisodeDataset,
    LaplaceWorldModel,
    ProbabilisticWorldModel,
    StandaloneWorldModel,
)
from sb3_dreamer.world_models.dataset import EpisodeRecorder
from sb3_dreamer.world_models.propagation import Propagation
from sb3_dreamer.world_models.transitions import Transitions

BOX, ACTION = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(np.float32([-1, 0]), np.float32([3, 10]))
CHOICE = spaces.Discrete(3, start=-1)
MIXED = spaces.Dict(
    turn=spaces.Discrete(3, start=4),
    bits=spaces.MultiBinary(2),
    number=spaces.Box(-9.0, 9.0, (2, 2)),
    speed=spaces.Box(-9, 9, (1,)),
)
KINDS: dict[str, tuple[type[ProbabilisticWorldModel], dict[str, Any]]] = {
    "ensemble": (EnsembleWorldModel, dict(n_members=5, n_elites=3)),
    "dropout": (DropoutWorldModel, dict(n_masks=4)),
    "laplace": (LaplaceWorldModel, dict(n_heads=4)),
}


def steps(n: int = 200, seed: int = 0, sizes: tuple[int, int] = (2, 2), ends: float = 0.1) -> Transitions:
    """Of very different scales."""
    generator = th.Generator().manual_seed(seed)
    x, change = (th.randn(n, sizes[0], generator=generator) for _ in range(2))
    x = x * th.logspace(0, 2, sizes[0]) + 3.0
    action = 2 * th.rand(n, sizes[1], generator=generator) - 1
    reward = 5.0 * th.randn(n, generator=generator) - 7.0
    terminal = (th.rand(n, generator=generator) < ends).float()
    return Transitions(x, action, reward, x + 0.1 * change + 0.2, terminal)


def make(
    kind: str = "ensemble", space: spaces.Space = BOX, action: spaces.Space = ACTION, ends: float = 0.1, **kwargs: Any
) -> Any:
    """Not fitted, but with opinions that differ, elites that are not the first, and units of its own."""
    cls, own = KINDS[kind]
    model = cls.from_spaces(space, action, **{**dict(units=16, layers=2, seed=0), **own, **kwargs})
    th.manual_seed(0)
    with th.no_grad():
        model.termination_head.out.weight.normal_()
        if kind == "laplace":
            model.members.heads.normal_(std=0.3)
        if kind == "ensemble":
            model.members.head.weight.normal_(std=0.5)
        if len(model.elites) == 3:
            model.elites.copy_(th.tensor([4, 1, 3]))
    model.learn_statistics(steps(sizes=(model.stoch_size, model.action_size), ends=ends))
    return model


def make_certain(model: Any) -> Any:
    """Variances are next to nothing."""
    with th.no_grad():
        model.members.max_log_var.fill_(-40.0)
        model.members.min_log_var.fill_(-40.0)
    return model


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def opinion(model: Any, member: int, x: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of reward and change in their units, of one member of an ensemble, by hand."""
    h = (np.concatenate([x, action], -1) - model.input_mean.numpy()) / model.input_std.numpy()
    for layer in model.members.hidden:
        h = silu(h @ layer.weight[member].detach().double().numpy() + layer.bias[member].detach().numpy())
    head = model.members.head
    output = h @ head.weight[member].detach().double().numpy() + head.bias[member].detach().numpy()
    mean, log_var = np.split(output, 2, axis=-1)
    high, low = (bound.detach().double().numpy() for bound in (model.members.max_log_var, model.members.min_log_var))
    log_var = high - np.logaddexp(0, high - log_var)
    log_var = low + np.logaddexp(0, log_var - low)
    scale = model.target_std.double().numpy()
    return mean * scale + model.target_mean.numpy(), np.exp(log_var) * scale**2


def some(n: int, seed: int = 1) -> tuple[th.Tensor, th.Tensor]:
    """States and actions."""
    data = steps(n, seed)
    return data.x, data.action


def clip(model: Any, after: np.ndarray) -> np.ndarray:
    low, high = model.low.numpy(), model.high.numpy()
    return np.clip(after, low - 0.1 * (high - low), high + 0.1 * (high - low))


# ---- one step ahead


def test_predictions_are_moments_over_the_elites_in_the_environments_units() -> None:
    model, (x, action) = make(), some(6)
    found = model.predict(x.numpy(), action.numpy() * [2.0, 5.0] + [1.0, 5.0])
    opinions = [opinion(model, member, x.numpy(), action.numpy()) for member in (4, 1, 3)]
    means, variances = (np.stack(parts) for parts in zip(*opinions, strict=True))
    means[..., 1:] += x.numpy()  # the next state, not its change
    assert found.mean.shape == found.aleatoric.shape == found.epistemic.shape == (6, 3)
    assert np.allclose(found.mean, means.mean(0), rtol=1e-4)
    assert np.allclose(found.aleatoric, variances.mean(0), rtol=1e-4)
    centre = means.sum(0) / 3
    assert np.allclose(found.epistemic, ((means - centre) ** 2).sum(0) / 3, rtol=1e-3)
    assert (found.epistemic > 0).all() and np.allclose(found.total, found.aleatoric + found.epistemic)
    one = model.predict(x[2].numpy(), action[2].numpy() * [2.0, 5.0] + [1.0, 5.0])
    assert one.mean.shape == (3,)
    for name in ("mean", "aleatoric", "epistemic"):
        assert np.allclose(getattr(one, name), getattr(found, name)[2], rtol=1e-4)


@pytest.mark.parametrize("kind", ["dropout", "laplace"])
def test_other_opinions_are_put_together_alike(kind: str) -> None:
    model, (x, action) = make(kind), some(5)
    found = model.predict_states(x, action)
    inputs = (th.cat([x, action], -1) - model.input_mean) / model.input_std
    opinions = [model.members(inputs[None], th.tensor([i])) for i in range(4)]
    means = th.cat([mean for mean, _ in opinions]) * model.target_std + model.target_mean
    means[..., 1:] += x
    variances = th.cat([log_var.exp() for _, log_var in opinions]) * model.target_std**2
    assert th.allclose(found.mean, means.mean(0), rtol=1e-4) and th.allclose(found.aleatoric, variances.mean(0), rtol=1e-4)
    assert th.allclose(found.epistemic, means.var(0, correction=0), rtol=1e-3, atol=1e-5)
    assert found.epistemic.max() > 1e-3


def test_outputs_are_named_and_in_the_order_of_the_state() -> None:
    assert make().outputs == ("reward", "obs[0]", "obs[1]")
    model = make(space=MIXED, action=CHOICE)
    numbers = [*(f"number[{i}]" for i in range(4)), "speed"]
    assert model.outputs == ("reward", *numbers, "turn[0]", "turn[1]", "turn[2]", "bits[0]", "bits[1]")
    MIXED.seed(0)
    obs = MIXED.sample()
    with th.no_grad():
        model.members.head.weight.zero_()
        model.members.head.bias.zero_()
        model.target_mean.zero_()
    found = model.predict(obs, 1)  # that nothing changes
    turn = [float(obs["turn"] == choice) for choice in (4, 5, 6)]
    assert np.allclose(found.mean, [0.0, *obs["number"].ravel(), *obs["speed"], *turn, *obs["bits"]], atol=1e-5)


def test_predictions_of_what_does_not_fit_are_refused() -> None:
    model = make()
    obs, actions = np.zeros((3, 2), dtype=np.float32), np.ones((3, 2), dtype=np.float32)
    for arguments, message in (
        ((obs, actions[:2]), r"action has shape \(2, 2\), but 3 observations need \(3, 2\)"),
        ((obs, actions[0]), r"action has shape \(2,\), but 3 observations need \(3, 2\)"),
        ((obs[0], actions), r"action has shape \(3, 2\), but one observation needs \(2,\)"),
        ((obs[:, :1], actions), "Unexpected observation shape"),
        ((obs, actions * 11), "actions must lie in Box"),
        ((obs * np.nan, actions), "observation 0 has NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(*arguments)
    with pytest.raises(ValueError, match="actions must lie in Discrete"):
        make(action=CHOICE).predict(obs, [0, 1, 2])


# ---- steps of a dream


def test_a_step_by_expectation_is_that_of_the_mean() -> None:
    model, (x, action) = make(), some(6)
    before = th.get_rng_state()
    state = model.step(x, action, "expectation")
    assert th.equal(before, th.get_rng_state())
    mean = np.mean([opinion(model, member, x.numpy(), action.numpy())[0] for member in (4, 1, 3)], axis=0)
    assert np.allclose(state.deter[:, 0].detach(), mean[:, 0], rtol=1e-4)
    assert np.allclose(state.stoch.detach(), clip(model, x.numpy() + mean[:, 1:]), rtol=1e-4)


def outcomes(model: Any, x: th.Tensor, action: th.Tensor) -> np.ndarray:
    """What each elite alone expects: rewards and next states ``(k, n, 3)``."""
    means = np.stack([opinion(model, int(member), x.numpy(), action.numpy())[0] for member in model.elites])
    return np.concatenate([means[..., :1], clip(model, x.numpy() + means[..., 1:])], -1)


def whose(model: Any, x: th.Tensor, action: th.Tensor, state: LatentState) -> list[int]:
    """Number of the elite whose expectation each row has, -1 for nobody's."""
    found = th.cat([state.deter[:, :1], state.stoch], -1).detach().numpy()
    fits = np.isclose(outcomes(model, x, action), found, rtol=1e-4, atol=1e-4).all(-1)
    assert (fits.sum(0) <= 1).all()  # the elites can be told apart
    return np.where(fits.any(0), fits.argmax(0), -1).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 11])
def test_the_same_elite_follows_a_row_with_tsinf(n: int) -> None:
    model, (x, action) = make_certain(make()), some(n)
    for _ in range(3):
        assert whose(model, x, action, model.step(x, action, "tsinf")) == [i % 3 for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
def test_another_elite_follows_a_row_at_every_step_with_ts1(n: int) -> None:
    """All of them in turn, whatever the number of rows, each for about as many rows; and every row keeps its own outcome."""
    model, (x, action) = make_certain(make()), some(n)
    generator = th.Generator().manual_seed(0)
    seen = np.array([whose(model, x, action, model.step(x, action, "ts1", generator)) for _ in range(60)])
    assert (seen >= 0).all()
    shares = np.stack([(seen == elite).mean(0) for elite in range(3)])
    assert shares.min() > 0.1 and shares.max() < 0.6  # 1/3 each; deviation 0.06
    rows_each = np.stack([(seen == elite).sum(1) for elite in range(3)])
    assert (rows_each >= n // 3).all() and (rows_each <= -(-n // 3)).all()
    assert 0.1 < (seen[1:] == seen[:-1]).mean() < 0.6  # the last step tells nothing


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_dreams_are_drawn_from_the_elites_gaussians_and_rewards_expected(propagation: str) -> None:
    model, n = make(n_members=1, n_elites=1), 20_000
    x, action = (part.expand(n, -1) for part in some(1))
    mean, variance = opinion(model, 0, x[:1].numpy(), action[:1].numpy())
    state = model.step(x, action, propagation, th.Generator().manual_seed(0))
    assert np.allclose(state.deter[:, 0].detach(), mean[0, 0], rtol=1e-4)
    change = (state.stoch - x).detach().double().numpy()
    std = np.sqrt(variance[0, 1:])
    assert np.allclose(change.mean(0), mean[0, 1:], atol=5 * std.max() / np.sqrt(n))
    assert np.allclose(change.std(0), std, rtol=0.03)
    assert abs(np.corrcoef(change.T)[0, 1]) < 0.05


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_a_generator_gives_the_same_step_again(propagation: str) -> None:
    model, (x, action) = make(), some(7)
    before = th.get_rng_state()
    first, again, other = (model.step(x, action, propagation, th.Generator().manual_seed(seed)).feat for seed in (1, 1, 2))
    assert th.equal(before, th.get_rng_state())
    assert th.equal(first, again) and not th.equal(first, other)
    th.manual_seed(3)
    own = model.step(x, action, propagation).feat
    th.manual_seed(3)
    assert th.equal(own, model.step(x, action, propagation).feat)  # torch's own by default


@pytest.mark.parametrize("elites", [[4, 1, 3], [4, 0, 1, 3, 2]])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_groups_draw_the_same_numbers_each_as_if_alone(propagation: Propagation, n: int, elites: list[int]) -> None:
    """With all members as elites as well, whose weights stay where they are."""
    model, (x, action) = make(), some(3 * n)
    together = model.step(x, action, propagation, SharedGenerator.seeded(1, groups=3), th.tensor(elites)).feat
    parts = zip(x.split(n), action.split(n), strict=True)
    alone = [model.step(*part, propagation, th.Generator().manual_seed(1), th.tensor(elites)).feat for part in parts]
    assert th.allclose(together, th.cat(alone), rtol=1e-4, atol=1e-4)


def test_groups_that_are_not_equal_are_refused() -> None:
    with pytest.raises(ValueError, match="7 rows are not 2 equal groups"):
        make().step(*some(7), "ts1", SharedGenerator.seeded(0, groups=2))


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_all_members_as_elites_have_their_own_rows(propagation: Propagation) -> None:
    model, (x, action) = make_certain(make()), some(10)
    model.elites = th.tensor([3, 0, 4, 2, 1])
    found = [whose(model, x, action, model.step(x, action, propagation)) for _ in range(3)]
    if propagation == "tsinf":
        assert found == [[i % 5 for i in range(10)]] * 3
    else:
        assert all(sorted(one) == sorted([*range(5)] * 2) for one in found) and found[0] != found[1]


def test_dreams_of_what_never_ended_do_not_ask_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, action) = make(), some(4)
    start, plan = LatentState(th.zeros(4, 2), x), action.unsqueeze(1).repeat(1, 3, 1)
    asked = []
    original = model.termination_logit
    monkeypatch.setattr(model, "termination_logit", lambda *args: asked.append(1) or original(*args))
    for share, calls, ends in ((0.1, 3, True), (0.0, 0, False)):
        model.termination_head.share.fill_(share)
        asked.clear()
        goes_on = model.unroll(plan, start, 3, deterministic=True).states.deter[:, 1:, 1]
        assert len(asked) == calls and bool((goes_on < 1).any()) is ends
        assert th.allclose(goes_on[:, 0], model.step(x, action, "expectation").deter[:, 1])  # who asks one step at a time


def test_the_models_propagation_is_the_default_and_deterministic_dreams_expect() -> None:
    x, action = some(6)
    for name in ("ts1", "tsinf", "expectation"):
        model = make(propagation=name)
        th.manual_seed(0)
        wanted = model.step(x, action, name).feat
        th.manual_seed(0)
        assert th.equal(model.step(x, action).feat, wanted)
        start, plan = LatentState(th.zeros(6, 2), x), action.unsqueeze(1).repeat(1, 4, 1)
        dream = model.unroll(plan, start, 4, deterministic=True)
        state = start
        for t in range(4):
            state = model.step(state.stoch, action, "expectation")
            assert th.allclose(dream.states.feat[:, t + 1], state.feat, rtol=1e-5)
        assert th.equal(dream.states.stoch[:, 0], x) and th.equal(dream.actions, plan)


def test_a_dream_is_one_step_after_the_other() -> None:
    """With the same elite along a dream, another one every time, and the actions of a policy that sees the state."""
    model, (x, _) = make_certain(make()), some(4)
    weight = th.randn(4, 2)
    start = LatentState(th.zeros(4, 2), x)
    generator = th.Generator()
    generator.manual_seed(0)
    dream = model.unroll(lambda feat: th.tanh(feat @ weight), start, 5, generator=generator)
    found = set()
    for t in range(5):
        before, after = (dream.states.map(lambda part, t=t: part[:, t]) for t in (t, t + 1))
        assert th.allclose(dream.actions[:, t], th.tanh(dream.states.feat[:, t] @ weight))
        found.add(tuple(whose(model, before.stoch.detach(), dream.actions[:, t].detach(), after)))
    assert len(found) == 1 and found < {(0, 1, 2, 0), (1, 2, 0, 1), (2, 0, 1, 2)}
    same = model.unroll(dream.actions, start, 5, generator=generator.manual_seed(0))
    assert th.allclose(same.states.feat, dream.states.feat, rtol=1e-4)
    first = [model.unroll(dream.actions, start, 1) for _ in range(30)]
    owners = {whose(model, x, dream.actions[:, 0].detach(), one.states.map(lambda part: part[:, 1]))[0] for one in first}
    assert owners == {0, 1, 2}
    assert dream.states.stoch.requires_grad  # gradients flow


def test_actions_beyond_the_bounds_count_as_the_bounds() -> None:
    model, (x, _) = make(), some(1)
    wild, bound = th.tensor([[3.0, -7.0]]), th.tensor([[1.0, -1.0]])
    assert th.equal(model.step(x, wild, "expectation").feat, model.step(x, bound, "expectation").feat)
    assert th.equal(model.predict_states(x, wild).mean, model.predict_states(x, bound).mean)


def test_dreams_stay_within_a_tenth_beyond_what_was_seen() -> None:
    model = make()
    low, high = model.low, model.high
    data = steps()
    both = th.cat([data.x, data.next_x])
    assert th.equal(low, both.min(0).values) and th.equal(high, both.max(0).values)
    x, action = some(4)
    for direction, wanted in ((1.0, high + 0.1 * (high - low)), (-1.0, low - 0.1 * (high - low))):
        with th.no_grad():
            model.target_mean[1:] = direction * 1e4
        for propagation in ("ts1", "tsinf", "expectation"):
            assert th.allclose(model.step(x, action, propagation).stoch, wanted.expand(4, 2), rtol=1e-6)
        assert (model.predict_states(x, action).mean[:, 1:].abs() > 9e3).all()  # what is predicted is what it says
        copied = make()  # the bounds are part of the weights
        for name, shape in (("low", 2), ("high", 2)):
            getattr(copied, name).copy_(th.full((shape,), float("inf") if name == "high" else -float("inf")))
        del copied._statistics_known
        copied.load_state_dict(model.state_dict())
        assert th.allclose(copied.step(x, action, "expectation").stoch, wanted.expand(4, 2), rtol=1e-6)


def test_a_model_that_has_seen_nothing_keeps_no_bounds() -> None:
    model = EnsembleWorldModel.from_spaces(BOX, ACTION, units=8, layers=1, seed=0)
    x = th.tensor([[500.0, -500.0]])
    state = model.step(x, th.zeros(1, 2), "expectation")
    change = np.mean([opinion(model, member, x.numpy(), np.zeros((1, 2)))[0][:, 1:] for member in range(5)], axis=0)
    assert np.allclose(state.stoch.detach(), x.numpy() + change) and np.abs(change).max() > 1


# ---- rewards and ends


def test_known_functions_see_the_transition_as_it_was_dreamt() -> None:
    calls: list[tuple[dict[str, th.Tensor], th.Tensor, dict[str, th.Tensor]]] = []

    def reward(before: dict[str, th.Tensor], action: th.Tensor, after: dict[str, th.Tensor]) -> th.Tensor:
        calls.append((before, action, after))
        return before["obs"][:, 0] + 10 * action[:, 1] + 100 * after["obs"][:, 1]

    def ends(before: dict[str, th.Tensor], action: th.Tensor, after: dict[str, th.Tensor]) -> th.Tensor:
        calls.append((before, action, after))
        return after["obs"][:, 0] > before["obs"][:, 0] + 0.2  # bools will do

    model, (x, action) = make(reward_fn=reward, termination_fn=ends, gamma=0.9), some(12)
    for propagation in ("ts1", "tsinf", "expectation"):
        calls.clear()
        state = model.step(x, 3 * action, propagation)
        within = 3 * action / (3 * action).abs().clamp_min(1)
        assert len(calls) == 2
        for before, chosen, after in calls:
            assert th.equal(before["obs"], x) and th.equal(chosen, within) and th.equal(after["obs"], state.stoch)
        wanted = x[:, 0] + 10 * within[:, 1] + 100 * state.stoch[:, 1]
        assert th.allclose(model.predict_reward(state), wanted)
        over = state.stoch[:, 0] > x[:, 0] + 0.2
        assert 0 < over.sum() < 12
        assert th.equal(model.predict_discount(state), 0.9 * (~over).float())
    dream = model.unroll(action.unsqueeze(1), LatentState(th.zeros(12, 2), x), 1)
    after = dream.states.map(lambda part: part[:, 1])
    assert th.allclose(model.predict_reward(after), x[:, 0] + 10 * action[:, 1] + 100 * after.stoch[:, 1])


def test_known_functions_of_a_dictionary_see_its_keys() -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def reward(before: dict[str, th.Tensor], action: th.Tensor, after: dict[str, th.Tensor]) -> th.Tensor:
        seen.update({name: tuple(part.shape) for name, part in after.items()})
        return action[:, 2]

    model = make(space=MIXED, action=CHOICE, reward_fn=reward)
    state = model.step(th.zeros(2, 10), th.eye(3)[[2, 0]])
    assert seen == {"turn": (2, 3), "bits": (2, 2), "number": (2, 4), "speed": (2, 1)}
    assert model.predict_reward(state).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_ends_are_as_probable_as_the_head_says_times_how_frequent_they_were(share: float) -> None:
    """The head begins with the share of steps that ended an episode, and says by how much the odds differ from it."""
    model, (x, action) = make(gamma=0.9), some(5)
    model.termination_head.share.fill_(share)
    state = model.step(x, action, "expectation")
    inputs = (th.cat([state.stoch, action], -1) - model.input_mean) / model.input_std
    inputs = th.cat([inputs, th.zeros_like(x)], -1)  # nothing is known to be out of range
    likely = th.sigmoid(model.termination_head(inputs).squeeze(-1)).detach().double().numpy()
    assert likely.std() > 0.01
    ends = likely * share / (likely * share + (1 - likely) * (1 - share))
    assert np.allclose(model.predict_discount(state).detach(), 0.9 * (1 - ends), atol=1e-5)


def test_where_no_episode_ever_terminated_the_discount_is_gamma() -> None:
    model, (x, action) = make(ends=0.0, gamma=0.97), some(50)
    with th.no_grad():
        model.termination_head.out.bias.fill_(8.0)  # whatever the head says
    for propagation in ("ts1", "tsinf", "expectation"):
        state = model.step(x, action, propagation)
        assert (model.predict_discount(state) == 0.97).all()


def test_where_every_step_ended_its_episode_all_stays_finite() -> None:
    model, (x, action) = make(ends=1.0), some(4)
    assert model.termination_head.share == 1.0
    state = model.step(x, action, "expectation")
    assert (model.predict_discount(state) < 1e-4).all()
    _, losses, _ = model.loss(dataclasses.replace(batch(), is_terminal=th.ones(3, 6)))
    assert th.isfinite(losses["continue"]).all()


# ---- filtering, losses


def batch(border: int = 3) -> SequenceBatch:
    generator = th.Generator().manual_seed(5)
    first = th.zeros(3, 6)
    first[0, 0] = first[:2, border] = 1
    obs = th.randn(3, 6, 2, generator=generator) * th.tensor([1.0, 100.0]) + 3.0
    action, reward = 2 * th.rand(3, 6, 2, generator=generator) - 1, th.randn(3, 6, generator=generator)
    terminal = th.zeros(3, 6)
    terminal[2, 4] = 1
    initial = LatentState(th.randn(3, 2, generator=generator), 3 + th.randn(3, 2, generator=generator))
    return SequenceBatch({"obs": obs}, action, reward, first, th.zeros(3, 6), terminal, initial)


@pytest.mark.parametrize("kind", KINDS)
def test_observing_is_step_by_step_filtering(kind: str) -> None:
    model, rows = make(kind), batch()
    states, state = model.observe(rows), rows.initial
    for t in range(6):
        obs = {"obs": rows.obs["obs"][:, t]}
        before = state.stoch
        state = model.observe_step(obs, rows.prev_action[:, t], rows.is_first[:, t], state)
        assert th.allclose(states.feat[:, t], state.feat, rtol=1e-4, atol=1e-4)
        expected = model.step(before, rows.prev_action[:, t], "expectation").deter
        follows = rows.is_first[:, t] == 0
        assert th.allclose(state.deter[follows], expected[follows], rtol=1e-4, atol=1e-4)
    assert th.equal(states.stoch, rows.obs["obs"])  # the observation is the state
    start = states.deter[rows.is_first == 1]
    assert (start == th.tensor([0.0, 1.0])).all() and len(start) == 3  # no reward arrives with a reset, and it goes on
    assert states.feat.shape == (3, 6, model.feat_size)
    assert (model.initial_state(2).deter == th.tensor([0.0, 1.0])).all()


def test_losses_are_of_the_steps_and_none_leads_to_an_episodes_first_row() -> None:
    model, rows = make(gamma=0.9), batch()
    states, losses, metrics = model.loss(rows)
    assert losses.keys() == model.loss_scales.keys() and not metrics
    assert th.equal(states.feat, model.observe(rows).feat)
    follows = rows.is_first == 0
    for loss in losses.values():
        assert loss.shape == (3, 6) and (loss[~follows] == 0).all() and (loss[follows] != 0).all()
    for b, t in ((1, 0), (0, 2), (2, 3), (1, 5)):
        x = (rows.initial.stoch[b] if t == 0 else rows.obs["obs"][b, t - 1]).numpy()
        after, action = rows.obs["obs"][b, t].numpy(), rows.prev_action[b, t].numpy()
        truth = np.concatenate([rows.reward[b, t : t + 1].numpy(), after - x])
        nats = 0.0
        for member in range(5):  # all of them learn
            mean, variance = opinion(model, member, x, action)
            scaled = variance / model.target_std.double().numpy() ** 2
            nats += np.mean((mean - truth) ** 2 / variance + np.log(scaled))
        assert losses["dynamics"][b, t].item() == pytest.approx(nats, rel=1e-3)
    logit = model.termination_logit(rows.prev_action[2, 4], states.stoch[2, 4])
    assert losses["continue"][2, 4].item() == pytest.approx(F.softplus(-logit).item(), rel=1e-4)  # where it terminated
    logit = model.termination_logit(rows.prev_action[2, 5], states.stoch[2, 5])
    assert losses["continue"][2, 5].item() == pytest.approx(F.softplus(logit).item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_first_rows_hold_changes_no_other_loss(kind: str) -> None:
    model, rows = make(kind), batch()
    changed = dataclasses.replace(
        rows,
        reward=th.where(rows.is_first == 1, 1e6, rows.reward),
        prev_action=th.where(rows.is_first.unsqueeze(-1) == 1, 1.0, rows.prev_action),
        is_terminal=th.where(rows.is_first == 1, 1.0, rows.is_terminal),
    )
    found = []
    for given in (rows, changed):
        th.manual_seed(0)  # the same masks
        found.append(model.loss(given)[1])
    for name in found[0]:
        assert th.allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-6)
    model.total_loss(found[0]).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing


# ---- data, dreams in the environment's units, files


def recorded(space: spaces.Space, action: spaces.Space, lengths: tuple[int, ...] = (9, 6, 8, 7)) -> EpisodeDataset:
    """Random walks over samples of the space; every other episode terminates."""
    recorder = EpisodeRecorder(space, action)
    space.seed(0)
    action.seed(0)
    for i, length in enumerate(lengths):
        recorder.start(0, space.sample())
        for t in range(1, length + 1):
            recorder.step(0, action.sample(), space.sample(), float(t), t == length and i % 2 == 0, t == length and i % 2 == 1)
    return recorder.dataset()


def fitted(kind: str = "ensemble", space: spaces.Space = BOX, action: spaces.Space = ACTION, **kwargs: Any) -> Any:
    cls, own = KINDS[kind]
    model = cls.from_spaces(space, action, **{**dict(units=8, layers=1, seed=0), **own, **kwargs})
    model.fit(recorded(space, action), epochs=2)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_imagining_from_observations_is_the_latent_dream(kind: str) -> None:
    model, (x, _) = fitted(kind), some(3)
    rng = np.random.default_rng(0)
    scaled = rng.uniform(-1, 1, (3, 4, 2)).astype(np.float32)
    actions = (scaled * [2.0, 5.0] + [1.0, 5.0]).astype(np.float32)
    found = model.imagine(x.numpy(), actions)
    with th.no_grad():
        states = model.unroll(th.as_tensor(scaled), model.encode(x.numpy()), 4, True).states
    assert np.allclose(found.observations, states.stoch, rtol=1e-4, atol=1e-4) and found.observations.shape == (3, 5, 2)
    assert np.allclose(found.observations[:, 0], x)  # the given ones, as they are
    assert np.allclose(found.rewards, states.deter[:, 1:, 0], rtol=1e-3, atol=1e-4)
    assert np.allclose(found.continues, states.deter[:, 1:, 1], atol=1e-5)
    assert np.allclose(found.actions, actions, atol=1e-5)
    one = model.imagine(x[1].numpy(), actions[1], 2)
    assert np.allclose(one.observations, found.observations[1, :3], rtol=1e-4, atol=1e-4) and one.rewards.shape == (2,)
    drawn = [model.imagine(x.numpy(), actions, None, False, th.Generator().manual_seed(s)).observations for s in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert np.allclose(model.reconstruct(x.numpy()), x)


def test_one_step_imagined_is_what_is_predicted() -> None:
    model = fitted()
    obs, action = BOX.sample(), ACTION.sample()
    predicted, dream = model.predict(obs, action), model.imagine(obs, action[None])
    assert dream.rewards[0] == pytest.approx(predicted.mean[0], rel=1e-4)
    assert np.allclose(dream.observations[1], clip(model, predicted.mean[1:]), rtol=1e-4)


@pytest.mark.parametrize("action", [ACTION, CHOICE, spaces.MultiDiscrete([2, 3])], ids=["box", "discrete", "multi"])
@pytest.mark.parametrize("space", [BOX, CHOICE, MIXED], ids=["box", "discrete", "dict"])
def test_a_model_of_any_numbers_is_judged_and_dreamt_in(space: spaces.Space, action: spaces.Space) -> None:
    model, data = fitted(space=space, action=action), recorded(space, action)
    judged = model.evaluate(data, horizons=(1, 3), context=1, likelihood_samples=4)
    assert judged.get("reward", 3).n == sum(length - 2 for length in (9, 6, 8, 7))
    assert np.isfinite(judged.get("reward", 1).rmse) and 0 <= judged.get("continue", 1).accuracy <= 1
    env = model.as_env(n_envs=3, seed=0)  # starts where it was fitted to
    obs = env.reset()
    for _ in range(12):
        obs, rewards, dones, _ = env.step(np.stack([action.sample() for _ in range(3)]))
        assert np.isfinite(rewards).all() and rewards.shape == dones.shape == (3,)
        parts = obs if isinstance(obs, dict) else {"obs": obs}
        for i in range(3):
            one = {name: part[i] for name, part in parts.items()}
            assert space.contains(one if isinstance(obs, dict) else one["obs"])
    single = model.as_env(data, seed=0)
    assert space.contains(single.reset()[0]) and len(single.step(action.sample())) == 5


def test_choices_and_bits_decode_to_probabilities() -> None:
    model = make(space=MIXED, action=CHOICE)
    state = LatentState(th.zeros(1, 2), th.linspace(-2.0, 2.5, 10)[None])
    decoded = model.decode(state)
    wild = state.stoch[0]
    assert th.equal(decoded["number"][0], wild[:4]) and th.equal(decoded["speed"][0], wild[4:5])
    assert th.equal(decoded["turn"][0], wild[5:8].clamp(0, 1)) and th.equal(decoded["bits"][0], wild[8:].clamp(0, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [BOX, MIXED], ids=["box", "dict"])
def test_a_file_gives_the_same_model_back(kind: str, space: spaces.Space, tmp_path: pathlib.Path) -> None:
    model = fitted(kind, space, gamma=0.9, propagation="ts1")
    if kind == "ensemble":
        model.elites.copy_(th.tensor([3, 0, 4]))
    model.save(tmp_path / "model")
    obs, actions = space.sample(), np.stack([ACTION.sample() for _ in range(3)])
    for loaded in (type(model).load(tmp_path / "model"), StandaloneWorldModel.load(tmp_path / "model.pt")):
        assert type(loaded) is type(model) and not loaded.training
        weights, others = model.state_dict(), loaded.state_dict()
        assert weights.keys() == others.keys() and all(th.equal(value, others[name]) for name, value in weights.items())
        assert th.equal(loaded.elites, model.elites) and (loaded.gamma, loaded.propagation) == (0.9, "ts1")
        assert th.isfinite(loaded.low).all() and (loaded.input_std != 1).any()
        for name in ("mean", "aleatoric", "epistemic"):
            first, second = (getattr(each.predict(obs, actions[0]), name) for each in (model, loaded))
            assert np.array_equal(first, second)
        first, second = (each.imagine(obs, actions, None, False, th.Generator().manual_seed(0)) for each in (model, loaded))
        assert np.array_equal(first.rewards, second.rewards) and np.array_equal(first.continues, second.continues)
        with pytest.raises(ValueError, match="as_env needs episodes"):
            loaded.as_env()
        loaded.fit(recorded(space, ACTION), epochs=1)  # and goes on learning


def test_functions_are_no_part_of_a_file_and_are_given_again(tmp_path: pathlib.Path) -> None:
    def reward(before: Any, action: th.Tensor, after: Any) -> th.Tensor:
        return action[:, 0]

    model, (x, action) = make(reward_fn=reward), some(6)
    model.save(tmp_path / "model")
    for wrong in ({}, dict(termination_fn=reward), dict(reward_fn=reward, termination_fn=reward)):
        with pytest.raises(ValueError, match=r"made with the functions \['reward_fn'\], got .*: give load\(\) the same"):
            EnsembleWorldModel.load(tmp_path / "model", **wrong)
    loaded = EnsembleWorldModel.load(tmp_path / "model", reward_fn=reward)
    first, second = (each.step(x, action, "expectation") for each in (model, loaded))
    assert th.equal(first.feat, second.feat) and th.equal(loaded.predict_reward(second), action[:, 0])
    make().save(tmp_path / "plain")
    with pytest.raises(ValueError, match="functions none, got"):
        EnsembleWorldModel.load(tmp_path / "plain", reward_fn=reward)


def test_a_known_reward_is_certain_and_predicted_as_it_is_dreamt() -> None:
    model, (x, action) = make(reward_fn=lambda before, action, after: action[:, 0] + after["obs"][:, 1]), some(6)
    found, unknown = model.predict_states(x, 3 * action), make().predict_states(x, 3 * action)
    within = 3 * action / (3 * action).abs().clamp_min(1)
    assert th.allclose(found.mean[:, 0], within[:, 0] + found.mean[:, 2])
    assert (found.aleatoric[:, 0] == 0).all() and (found.epistemic[:, 0] == 0).all()
    for part in ("mean", "aleatoric", "epistemic"):
        assert th.equal(getattr(found, part)[:, 1:], getattr(unknown, part)[:, 1:])


def test_a_data_set_is_predicted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make(), recorded(BOX, ACTION)
    whole, truth = model.predict_dataset(data)
    monkeypatch.setattr("sb3_dreamer.world_models.probabilistic.CHUNK", 7)
    pieces, again = model.predict_dataset(data)
    assert len(truth) > 14 and np.array_equal(truth, again)
    for part in ("mean", "aleatoric", "epistemic"):
        assert np.allclose(getattr(whole, part), getattr(pieces, part), rtol=1e-4, atol=1e-7)


# ---- making


def test_images_are_refused_and_small_ones_are_vectors_if_wanted() -> None:
    space = spaces.Dict(camera=spaces.Box(0, 255, (16, 16, 3), np.uint8), speed=spaces.Box(-1, 1, (1,)))
    for kind, _ in KINDS.values():
        with pytest.raises(ValueError, match=rf"{kind.__name__} predicts numbers, not images \(keys \['camera'\]\)"):
            kind.from_spaces(space, ACTION)
    model = EnsembleWorldModel.from_spaces(space, ACTION, convolve=False, units=4, layers=1)
    assert model.stoch_size == 16 * 16 * 3 + 1


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("ensemble", dict(propagation="tsinfinity"), "propagation must be 'ts1', 'tsinf' or 'expectation', got 'tsinfinity'"),
        ("ensemble", dict(gamma=1.1), r"gamma must lie in \(0, 1\]"),
        ("ensemble", dict(units=0), "units must be a whole number of at least 1, got 0"),
        ("ensemble", dict(layers=1.5), "layers must be a whole number of at least 1, got 1.5"),
        ("ensemble", dict(size="huge"), "Unknown size='huge'"),
        ("ensemble", dict(n_members=0), "n_members must be a whole number of at least 1, got 0"),
        ("ensemble", dict(n_members=3, n_elites=4), "n_elites=4 cannot be more than n_members=3"),
        ("ensemble", dict(n_elites=0), "n_elites must be a whole number of at least 1, got 0"),
        ("ensemble", dict(init_scale=0.0), "init_scale must be a number, positive, got 0.0"),
        ("dropout", dict(n_masks=2.5), "n_masks must be a whole number"),
        ("dropout", dict(dropout=0.0), r"dropout must lie in \(0, 1\), got 0.0"),
        ("dropout", dict(dropout=1), r"dropout must lie in \(0, 1\), got 1"),
        ("laplace", dict(n_heads=-1), "n_heads must be a whole number"),
        ("laplace", dict(prior_precision=0), "prior_precision must be a number, positive, got 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused(kind: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KINDS[kind][0].from_spaces(BOX, ACTION, **arguments)


def test_sizes_and_whole_numbers_however_they_are_written() -> None:
    by_size = EnsembleWorldModel.from_spaces(BOX, ACTION, size="debug", n_members=2.0)
    assert by_size.members.hidden[0].weight.shape == (2, 4, 8) and len(by_size.members.hidden) == 1
    given = EnsembleWorldModel.from_spaces(BOX, ACTION, units=np.int64(5), layers=3.0, n_members=4, n_elites=2.0)
    assert given.members.head.weight.shape == (4, 5, 2 * 3) and len(given.members.hidden) == 3
    assert given.elites.tolist() == [0, 1] and given.members.networks == 4
    everyone = EnsembleWorldModel.from_spaces(BOX, ACTION, size="debug")
    assert everyone.elites.tolist() == [0, 1, 2, 3, 4]
    for kind, name in (("dropout", "n_masks"), ("laplace", "n_heads")):
        model = KINDS[kind][0].from_spaces(BOX, ACTION, size="debug", **{name: 6.0})
        assert model.members.networks == 1 and model.elites.tolist() == [0, 1, 2, 3, 4, 5]


def test_constant_columns_stay_as_they_are_and_others_have_mean_0_and_deviation_1() -> None:
    data = steps(300)
    data.x[:, 0], data.next_x[:, 0] = 7.0, 7.0
    data = dataclasses.replace(data, reward=th.full((300,), -1.0))
    model = make()
    model.learn_statistics(data)
    inputs, targets = model.normalized(data)
    assert inputs.shape == (300, 4) and targets.shape == (300, 3)
    for values, constant in ((inputs, [0]), (targets, [0, 1])):
        for i in range(values.shape[1]):
            assert values[:, i].mean().item() == pytest.approx(0.0, abs=1e-4)
            wanted = 0.0 if i in constant else 1.0
            assert values[:, i].std(correction=0).item() == pytest.approx(wanted, abs=1e-4)
    assert model.input_std[0] == 1 and (model.target_std[:2] == 1).all()
    changed = dataclasses.replace(data, x=data.x + th.tensor([2.0, 0.0]), next_x=data.next_x + th.tensor([2.0, 0.0]))
    assert th.allclose(model.normalized(changed)[0][:, 0], th.tensor(2.0))  # in its own units
    unscaled = targets * model.target_std + model.target_mean
    truth = th.cat([data.reward[:, None], data.next_x - data.x], -1)
    assert th.allclose(unscaled, truth, atol=1e-4)
    share = (data.terminal.sum() / 300).item()
    assert model.termination_head.share.item() == pytest.approx(share)
