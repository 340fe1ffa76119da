"""Windows and whole episodes of a data set, and learning from them."""

import copy
import dataclasses
import math
import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import tiny_dreamer
from gymnasium import spaces

from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models import (
    RSSM,
    EpisodeDataset,
    MLPWorldModel,
    StandaloneWorldModel,
    VAEWorldModel,
    collect,
    fit,
    rows,
)
from sb3_dreamer.world_models.dataset import EpisodeRecorder
from sb3_dreamer.world_models.fitting import _update, validation_losses
from sb3_dreamer.world_models.rows import Rows, filter_episodes

BOX, ACTION = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-2.0, 2.0, (1,))
MODELS: list[type[StandaloneWorldModel]] = [RSSM, VAEWorldModel, MLPWorldModel]


def drifting(lengths: list[int], seed: int = 0, noise: float = 0.0) -> EpisodeDataset:
    """A point pushed by the actions, and by how much; the reward is its place. Every second episode terminates."""
    rng, recorder = np.random.default_rng(seed), EpisodeRecorder(BOX, ACTION)
    for i, length in enumerate(lengths):
        place = rng.normal()
        recorder.start(0, np.array([place, 0.0], dtype=np.float32))
        for t in range(1, length + 1):
            action = rng.uniform(-2, 2, 1).astype(np.float32)
            place = place + 0.3 * action[0] + noise * rng.normal()
            obs = np.array([place, 0.3 * action[0]], dtype=np.float32)
            recorder.step(0, action, obs, place, t == length and i % 2 == 0, t == length and i % 2 == 1)
    return recorder.dataset()


def make(kind: type[StandaloneWorldModel] = MLPWorldModel, **kwargs: Any) -> Any:
    return kind.from_spaces(BOX, ACTION, size="debug", seed=0, **kwargs)


def rows_of(data: EpisodeDataset, model: Any) -> Rows:
    return Rows(data, model)


def weights(model: StandaloneWorldModel) -> dict[str, th.Tensor]:
    return copy.deepcopy(model.state_dict())


def equal(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> bool:
    return first.keys() == second.keys() and all(th.equal(value, second[name]) for name, value in first.items())


DATA = drifting([9, 14, 6, 11, 8, 12, 10, 7, 13, 9])


# ---- rows


def test_windows_are_aligned_with_the_data_set_also_across_borders() -> None:
    data = drifting([3, 2, 4])
    model = make(RSSM)
    table = rows_of(data, model)
    assert len(table) == 12 and table.bounds.tolist() == [[0, 4], [4, 7], [7, 12]]
    count = th.arange(12.0)[:, None]
    table.latents = LatentState(count.repeat(1, 8), -count.repeat(1, 2))
    batch, numbers = table.windows(th.tensor([2, 0, 7]), 5)
    assert numbers.tolist() == [[2, 3, 4, 5, 6], [0, 1, 2, 3, 4], [7, 8, 9, 10, 11]]
    for line, begin in enumerate((2, 0, 7)):
        for t in range(5):
            n = begin + t
            assert batch.obs["obs"][line, t].tolist() == data.observations["obs"][n].tolist()
            assert batch.reward[line, t] == data.rewards[n]
            flags = batch.is_first[line, t], batch.is_last[line, t], batch.is_terminal[line, t]
            assert [bool(flag) for flag in flags] == [data.is_first[n], data.is_last[n], data.is_terminal[n]]
            # the action chosen at the row before, from [-2, 2] to [-1, 1]; none leads to an episode's first row
            wanted = 0.0 if data.is_first[n] else data.actions[n - 1, 0] / 2
            assert batch.prev_action[line, t, 0] == pytest.approx(wanted)
    assert batch.is_terminal.sum() == 3 and batch.is_last.sum() == 4
    assert batch.initial.deter[:, 0].tolist() == [1, 0, 6] and batch.initial.stoch[:, 0].tolist() == [-1, 0, -6]
    table.keep_latents(numbers[:1], LatentState(th.full((1, 5, 8), 50.0), th.full((1, 5, 2), 60.0)))
    assert table.latents.deter[:, 0].tolist() == [0, 1, 50, 50, 50, 50, 50, 7, 8, 9, 10, 11]
    assert table.latents.stoch[:, 1].tolist() == [0, -1, 60, 60, 60, 60, 60, -7, -8, -9, -10, -11]


def test_actions_of_last_rows_mean_nothing() -> None:
    data, model = drifting([3, 2]), make()
    actions = data.actions.copy()
    actions[data.is_last] = np.nan
    other = dataclasses.replace(data, actions=actions)
    assert th.equal(rows_of(other, model).prev_action, rows_of(data, model).prev_action)


@pytest.mark.parametrize("kind", MODELS)
def test_filtering_whole_episodes_is_filtering_each_alone(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long ones take several pieces, and few fit side by side where memory is short."""
    data, model = drifting([70, 3, 130, 1, 20]), make(kind)
    for family in ("latents", "posterior"):  # the mode takes no random numbers
        if hasattr(model, family):
            latents = getattr(model, family)
            monkeypatch.setattr(latents, "sample", lambda params, noise, latents=latents: latents.mode(params))
    for size in (rows.PIECE_BYTES, 2 * 4 * 64 * 2):  # all, two episodes
        monkeypatch.setattr(rows, "PIECE_BYTES", size)
        table = rows_of(data, model)
        found = filter_episodes(table, model)
        for begin, end in data.bounds():
            state = LatentState(th.full((1, model.deter_size), 9.0), th.full((1, model.stoch_size), 9.0))
            for n in range(begin, end):
                obs = th.as_tensor(data.observations["obs"][n : n + 1]).float()
                action = th.as_tensor(data.actions[n - 1 : n] / 2).float() if n else th.ones(1, 1)
                first = th.tensor([float(n == begin)])
                with th.no_grad():
                    state = model.observe_step({"obs": obs}, action, first, state, deterministic=True)
                assert th.allclose(found.deter[n], state.deter[0], atol=1e-5), n
                assert th.allclose(found.stoch[n], state.stoch[0], atol=1e-5), n


def test_validation_losses_are_means_over_all_rows() -> None:
    model = make(unroll_steps=1)
    both, parts = drifting([70, 5]), drifting([70, 5])
    whole = validation_losses(model, rows_of(both, model))
    single = [validation_losses(model, rows_of(parts.episodes([i]), model)) for i in (0, 1)]
    assert whole.keys() == {*model.loss_scales, "total"}
    for name in ("reward", "continue"):
        # MLPWorldModel looks a step ahead inside a piece of 64 rows: the first row of the second has no step to it
        assert whole[name] == pytest.approx((71 * single[0][name] + 6 * single[1][name]) / 77, rel=1e-5)
    assert whole["total"] == pytest.approx(sum(model.loss_scales[name] * whole[name] for name in model.loss_scales), rel=1e-6)
    assert whole == validation_losses(model, rows_of(both, model))  # with samples, the same ones
    assert validation_losses(make(RSSM), rows_of(both, make(RSSM))) == validation_losses(make(RSSM), rows_of(both, make(RSSM)))


# ---- fit


@pytest.mark.parametrize("kind", MODELS)
def test_fit_lowers_the_losses_on_episodes_it_has_not_seen(kind: type) -> None:
    model = make(kind)
    held_out = rows_of(drifting([10] * 6, seed=5), model)
    model.update_statistics(rows_of(DATA, model).obs, th.as_tensor(DATA.rewards))  # so that both are in the same units
    before = validation_losses(model, held_out)
    history = fit(model, DATA, updates=100, batch_size=8, batch_length=8, learning_rate=2e-2, patience=None)
    after = validation_losses(model, held_out)
    for name in ("total", "reward", "continue", "dynamics" if kind is MLPWorldModel else "reconstruction/obs"):
        assert after[name] < 0.8 * before[name], name
    assert not model.training and history.updates == list(range(5, 101, 5))
    assert history.train.keys() == history.validation.keys() == {*model.loss_scales, "total"}
    assert all(len(values) == len(history.updates) for values in (*history.train.values(), *history.validation.values()))
    assert history.train["total"][-1] < 0.8 * history.train["total"][0]
    assert history.best_update in history.updates and not history.stopped_early and history.seconds > 0


def test_the_history_holds_means_of_the_losses_of_the_updates_between() -> None:
    model, other = make(), make()
    history = fit(model, DATA, updates=7, eval_every=3, batch_size=4, batch_length=5, validation=None, learning_rate=1e-2)
    table = rows_of(DATA, other)
    other.update_statistics(table.obs, table.reward)
    other.train()
    optimizer, totals = th.optim.Adam(other.parameters(), lr=1e-2, eps=1e-6), []
    th.manual_seed(0)
    for update in range(7):
        optimizer.param_groups[0]["lr"] = 1e-2 * (0.55 + 0.45 * math.cos(math.pi * update / 7))
        starts = th.randint(len(DATA) - 4, (4,))
        totals.append(float(_update(other, table, starts, 5, optimizer, 100.0)["total"]))
    wanted = [np.mean(totals[:3]), np.mean(totals[3:6]), totals[6]]
    assert history.updates == [3, 6, 7] and history.train["total"] == pytest.approx(wanted, rel=1e-4)
    assert history.validation == {} and history.best_update is None
    last = {name: value for name, value in weights(model).items() if value.is_floating_point()}
    assert all(th.allclose(value, weights(other)[name], atol=1e-5) for name, value in last.items())  # the last weights


def test_epochs_count_how_often_a_row_is_seen() -> None:
    def updates(**kwargs: Any) -> int:
        return fit(make(), DATA, validation=None, batch_size=16, batch_length=10, patience=None, **kwargs).updates[-1]

    assert len(DATA) == 109
    assert updates(epochs=2) == math.ceil(2 * 109 / 160) and updates(epochs=0.01) == 1 and updates(updates=3) == 3
    assert updates() == math.ceil(50 * 109 / 160)


def test_learning_stops_when_the_validation_loss_does_and_goes_back_to_the_best_weights(tmp_path: pathlib.Path) -> None:
    noisy = drifting([8] * 4, noise=1.0)  # soon known by heart
    held_out = drifting([30] * 4, seed=1, noise=1.0)
    model = make(MLPWorldModel)
    history = fit(
        model,
        noisy,
        updates=2000,
        eval_every=10,
        validation=held_out,
        batch_size=8,
        batch_length=8,
        learning_rate=3e-2,
        patience=3,
        checkpoint=tmp_path / "best",
    )
    found = history.validation["total"]
    best = int(np.argmin(found))
    assert history.stopped_early and history.updates[-1] < 2000 and best == len(found) - 4
    assert history.best_update == history.updates[best] == 10 * (best + 1)
    assert validation_losses(model, rows_of(held_out, model))["total"] == pytest.approx(found[best], rel=1e-6)
    assert found[-1] > found[best] * 1.0001
    kept = MLPWorldModel.load(tmp_path / "best.pt")
    assert equal(weights(kept), weights(model)) and [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_held_out_episodes_are_not_learnt_from() -> None:
    """Another share of the episodes, other weights; and what is held out alone decides nothing about them but the best."""
    train, held_out = DATA.split(0.3, seed=0)
    short = dict(updates=6, eval_every=6, batch_size=4, batch_length=5)
    by_share, by_hand, whole = make(), make(), make()
    first = fit(by_share, DATA, validation=0.3, seed=0, **short)
    second = fit(by_hand, train, validation=held_out, seed=0, **short)
    fit(whole, DATA, validation=None, seed=0, **short)
    assert first.validation == second.validation and equal(weights(by_share), weights(by_hand))
    assert not equal(weights(by_share), weights(whole))


@pytest.mark.parametrize("kind", MODELS)
def test_a_seed_gives_the_same_weights_and_leaves_the_random_numbers_alone(kind: type) -> None:
    def learn(seed: int) -> dict[str, th.Tensor]:
        model = make(kind)
        fit(model, DATA, updates=4, eval_every=2, batch_size=4, batch_length=5, seed=seed)
        return weights(model)

    th.manual_seed(5)
    np.random.seed(5)
    before = th.get_rng_state(), np.random.get_state()[1].copy()
    first = learn(3)
    assert th.equal(before[0], th.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
    th.rand(3)
    assert equal(first, learn(3)) and not equal(first, learn(4))


def test_a_second_fit_goes_on_from_the_first() -> None:
    model = make()
    runs = [fit(model, DATA, updates=60, batch_size=8, batch_length=8, learning_rate=1e-2, patience=None) for _ in range(2)]
    assert runs[1].train["total"][0] < 0.7 * runs[0].train["total"][0]
    assert runs[1].validation["total"][-1] <= 1.2 * runs[0].validation["total"][-1]


def test_a_loss_that_is_not_finite_is_an_error_and_leaves_the_weights_of_before() -> None:
    model = make()
    fit(model, DATA, updates=5, batch_size=4, batch_length=5)
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"NaN or infinite by update 1[0-9]?: .*Lower learning_rate=1e\+25"):
        fit(model, DATA, updates=100, eval_every=10, batch_size=4, batch_length=5, learning_rate=1e25, max_grad_norm=None)
    after = weights(model)
    names = [name for name, _ in model.named_parameters()]
    assert all(th.isfinite(value).all() for value in after.values()) and all(th.equal(after[n], before[n]) for n in names)


def test_an_update_keeps_the_states_it_has_found() -> None:
    """A later window that begins in the middle of an episode starts from them."""
    model = make(RSSM)
    table = rows_of(DATA, model)
    _update(model.train(), table, th.tensor([0, 20]), 5, th.optim.SGD(model.parameters(), lr=1e-3), 100.0)
    assert th.where(table.latents.stoch.abs().sum(1) > 0)[0].tolist() == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]
    assert not table.latents.deter.requires_grad
    batch, _ = table.windows(th.tensor([5]), 3)
    assert th.equal(batch.initial.feat[0], table.latents.feat[4]) and batch.is_first[0, 0] == 0


def test_a_gradient_that_is_not_finite_takes_no_step() -> None:
    model = make()
    table = rows_of(DATA, model)
    before, kept = weights(model), table.latents.stoch.clone()
    table.reward = th.full_like(table.reward, 1e30)  # the squared error is infinite
    optimizer = th.optim.Adam(model.parameters(), lr=1e-3)
    found = _update(model.train(), table, th.tensor([0, 5]), 5, optimizer, 100.0)
    assert not math.isfinite(found["total"]) and th.equal(table.latents.stoch, kept)
    assert all(th.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_gradient_is_limited() -> None:
    steps = []
    for limit in (None, 1e-3):
        model = make()
        table, optimizer = rows_of(DATA, model), th.optim.SGD(model.parameters(), lr=1.0)
        before = th.cat([p.detach().flatten().clone() for p in model.parameters()])
        _update(model.train(), table, th.tensor([0, 5]), 5, optimizer, limit)
        steps.append(float((th.cat([p.detach().flatten() for p in model.parameters()]) - before).norm()))
    assert steps[0] > 0.1 and steps[1] == pytest.approx(1e-3, rel=1e-2)


def test_a_single_episode_leaves_none_for_validation() -> None:
    with pytest.warns(UserWarning, match="single episode, none is left for validation"):
        history = fit(make(), drifting([20]), updates=3, batch_size=2, batch_length=5)
    assert history.validation == {} and history.best_update is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(make(), drifting([20]), updates=3, batch_size=2, batch_length=5, validation=None)


OTHER = EpisodeRecorder(spaces.Box(-1, 1, (2,)), ACTION)
OTHER.start(0, np.zeros(2))
OTHER.step(0, [0.0], np.zeros(2), 0.0, True, False)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(updates=0), "updates must be a whole number of at least 1, got 0"),
        (dict(updates=1.5), "updates must be a whole number"),
        (dict(updates=math.inf), "updates must be a whole number"),
        (dict(updates=5, epochs=5), "updates or epochs, not both"),
        (dict(epochs=0), "epochs must be positive, got 0"),
        (dict(epochs=math.nan), "epochs must be positive"),
        (dict(batch_size=0), "batch_size must be a whole number"),
        (dict(batch_length=-1), "batch_length must be a whole number"),
        (dict(batch_length=110, validation=None), "batch_length=110 is longer than the 109 rows"),
        (dict(learning_rate=0.0), "learning_rate must be positive"),
        (dict(max_grad_norm=-1.0), "max_grad_norm must be positive"),
        (dict(eval_every=0), "eval_every must be a whole number"),
        (dict(eval_every=2.5), "eval_every must be a whole number"),
        (dict(patience=0), "patience must be a whole number"),
        (dict(validation=0.0), "validation must be episodes, a share between 0 and 1, or None, got 0.0"),
        (dict(validation=1.0), "validation must be"),
        (dict(validation=OTHER.dataset()), "observation_space is Box"),
        (dict(validation=DATA.episodes([])), "The data set is empty"),
        (dict(dataset=DATA.episodes([])), "The data set is empty"),
        (dict(dataset=OTHER.dataset()), r"The data set's observation_space is Box\(-1.0, 1.0.*the model's Box\(-inf, inf"),
    ],
)
def test_arguments_that_cannot_work(kwargs: dict[str, Any], message: str) -> None:
    model = make()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        fit(**{**dict(model=model, dataset=DATA), **kwargs})
    assert equal(before, weights(model))


def test_whole_numbers_may_be_floats() -> None:
    history = fit(make(), DATA, updates=4.0, batch_size=2.0, batch_length=5.0, eval_every=2.0, patience=1.0)  # type: ignore[arg-type]
    assert history.updates[0] == 2


def test_a_model_that_could_not_be_written_is_refused_before_it_learns(tmp_path: pathlib.Path) -> None:
    class Eyes(th.nn.Linear):
        def forward(self, scaled: Any) -> th.Tensor:
            return super().forward(scaled["obs"])

    model = make(RSSM, encoder=Eyes(2, 2))
    before = weights(model)
    with pytest.raises(ValueError, match="Eyes"):
        fit(model, DATA, updates=3, checkpoint=tmp_path / "model")
    assert equal(before, weights(model))
    fit(model, DATA, updates=3, batch_size=2, batch_length=5)
    bare = MLPWorldModel(make().observation_codec.keys, 1, "debug")
    with pytest.raises(ValueError, match=r"does not know its spaces: make it with MLPWorldModel\.from_spaces"):
        fit(bare, DATA)


def test_the_progress_bar_counts_updates(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make(), DATA, updates=4, batch_size=2, batch_length=5, progress_bar=True)
    assert "4/4" in capsys.readouterr().err


PENDULUM = "envs:ContinuousPendulum-v0"


def test_a_later_fit_leaves_the_scales_alone(tmp_path: pathlib.Path) -> None:
    """Other scales would change what the weights have learnt."""
    first, other = (collect(PENDULUM, None, 400, seed=seed) for seed in (0, 1))
    model = RSSM.from_spaces(first.observation_space, first.action_space, size="debug", seed=0)
    model.fit(first, 5)
    scaling: Any = model.observation_model.scalings[0]
    known = scaling.count.item(), scaling.mean.clone()
    assert known[0] == 201  # the other episode is for validation
    model.save(tmp_path / "model.pt")
    for again in (model, RSSM.load(tmp_path / "model.pt")):
        again.fit(other, 5)
        scaling = again.observation_model.scalings[0]
        assert scaling.count.item() == known[0] and th.equal(scaling.mean, known[1])


def test_a_fit_that_makes_it_worse_changes_nothing() -> None:
    data = collect(PENDULUM, None, 600, seed=0)
    model = MLPWorldModel.from_spaces(data.observation_space, data.action_space, size="debug", seed=0)
    model.fit(data, 150)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    history = model.fit(data, 4, learning_rate=3.0, eval_every=1)
    assert history.best_update is None and min(history.validation["total"]) > 0
    assert all(th.equal(part, before[name]) for name, part in model.state_dict().items())


def test_an_agents_model_is_not_fitted() -> None:
    model: Any = tiny_dreamer().world_model
    with pytest.raises(ValueError, match="belongs to an agent"):
        model.fit(collect(PENDULUM, None, 400, seed=0), 1)


def test_interrupted_it_has_its_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    data = collect(PENDULUM, None, 600, seed=0)
    model = MLPWorldModel.from_spaces(data.observation_space, data.action_space, size="debug", seed=0)
    loss, seen = model.loss, []

    def interrupt(batch: Any) -> Any:
        seen.append({name: part.clone() for name, part in model.state_dict().items()})
        if len(seen) == 30:
            raise KeyboardInterrupt
        return loss(batch)

    monkeypatch.setattr(model, "loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, 100, validation=None, eval_every=10)
    assert not model.training
    assert all(th.equal(part, seen[20][name]) for name, part in model.state_dict().items())


def test_models_alone_do_not_end_dreams_of_a_task_without_ends() -> None:
    """The continue flag is learnt without a discount, which a dream could not tell from a chance to end."""
    data = collect(PENDULUM, None, 1000, seed=0)
    model = MLPWorldModel.from_spaces(data.observation_space, data.action_space, size="toy", seed=0)
    assert model.gamma == 1.0
    model.fit(data, 300, learning_rate=3e-3)
    dreams = model.as_env(None, n_envs=20, max_episode_steps=50, seed=0)
    dreams.reset()
    ended = 0
    for _ in range(50):
        _, _, dones, infos = dreams.step(np.zeros((20, 1), np.float32))
        ended += sum(not info["TimeLimit.truncated"] for done, info in zip(dones, infos, strict=True) if done)
    assert ended <= 2
