"""A world model by itself: what it is given and gives in the environment's own terms, and its file."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import Clock, tiny_dreamer
from gymnasium import spaces

from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models import RSSM, SIZES, MLPWorldModel, StandaloneWorldModel, VAEWorldModel, collect
from sb3_dreamer.world_models.standalone import channels_first

BOX, ACTION = spaces.Box(-5.0, 5.0, (2,)), spaces.Box(np.float32([-1, 0]), np.float32([3, 10]))
CHOICE = spaces.Discrete(3, start=-1)
MIXED = spaces.Dict(
    turn=spaces.Discrete(3, start=4),
    bits=spaces.MultiBinary(2),
    number=spaces.Box(-1.0, 1.0, (2, 2)),
    picture=spaces.Box(0, 255, (16, 20, 3), np.uint8),
)
MODELS: list[type[StandaloneWorldModel]] = [RSSM, VAEWorldModel, MLPWorldModel]


def make(kind: type = RSSM, space: spaces.Space = BOX, action_space: spaces.Space = ACTION, **kwargs: Any) -> Any:
    """Its rewards and ends are not all the same."""
    model = kind.from_spaces(space, action_space, **{**dict(size="debug", seed=0), **kwargs})
    th.manual_seed(0)
    with th.no_grad():
        model.reward_head.out.weight.normal_()
        model.reward_head.out.bias.fill_(0.5)
    return model


def sample(space: spaces.Space, n: int | None = None, seed: int = 0) -> Any:
    space.seed(seed)
    if n is None:
        return space.sample()
    many = [space.sample() for _ in range(n)]
    return {name: np.stack([obs[name] for obs in many]) for name in many[0]} if isinstance(many[0], dict) else np.stack(many)


# ---- encode, reconstruct


@pytest.mark.parametrize("kind", MODELS)
def test_encoding_is_a_step_of_the_filter(kind: type) -> None:
    model, obs, actions = make(kind), sample(BOX, 4), sample(ACTION, 4)
    inputs = {"obs": th.as_tensor(obs)}
    zeros = th.zeros(4, 2)
    with th.no_grad():
        first = model.observe_step(inputs, zeros, th.ones(4), model.initial_state(4), deterministic=True)
        scaled = th.as_tensor((actions - [1.0, 5.0]) / [2.0, 5.0]).float()
        then = model.observe_step({"obs": -inputs["obs"]}, scaled, th.zeros(4), first, deterministic=True)
    found = model.encode(obs)
    assert th.equal(found.feat, first.feat) and not found.feat.requires_grad
    after = model.encode(-obs, found, actions)
    assert th.allclose(after.feat, then.feat, atol=1e-6)
    assert not th.allclose(after.deter, model.encode(-obs).deter, atol=1e-4)
    one = model.encode(-obs[1], found.map(lambda part: part[1:2]), actions[1])
    assert one.deter.shape == (1, model.deter_size) and th.allclose(one.feat, after.feat[1:2], atol=1e-5)
    samples = [model.encode(obs, deterministic=False, generator=th.Generator().manual_seed(s)).stoch for s in (1, 1, 2)]
    assert th.equal(samples[0], samples[1])
    assert th.equal(samples[0], samples[2]) == (kind is MLPWorldModel)  # whose states are certain


def test_encoding_discrete_actions() -> None:
    model = make(RSSM, BOX, CHOICE)
    obs = sample(BOX, 2)
    state = model.encode(obs)
    one_hots = th.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    with th.no_grad():
        wanted = model.observe_step({"obs": th.as_tensor(obs)}, one_hots, th.zeros(2), state, deterministic=True)
    assert th.allclose(model.encode(obs, state, [1, -1]).feat, wanted.feat, atol=1e-6)
    single = model.encode(obs[0], state.map(lambda part: part[:1]), 1)
    assert th.allclose(single.feat, wanted.feat[:1], atol=1e-5)


@pytest.mark.parametrize("kind", [RSSM, VAEWorldModel])
def test_reconstructions_have_the_shapes_and_types_of_observations(kind: type) -> None:
    model = make(kind, MIXED)
    shapes = {"turn": (), "bits": (2,), "number": (2, 2), "picture": (3, 16, 20)}  # pictures channels first
    assert {name: part.shape for name, part in model.observation_space.spaces.items()} == shapes
    single, batch = sample(MIXED), sample(MIXED, 3)
    first_channels = {**batch, "picture": batch["picture"].transpose(0, 3, 1, 2)}
    one, many, same = model.reconstruct(single), model.reconstruct(batch), model.reconstruct(first_channels)
    for name, shape in shapes.items():
        assert one[name].shape == shape and many[name].shape == (3, *shape)
        assert np.array_equal(many[name], same[name])
        assert np.allclose(one[name], many[name][0], atol=1)  # the same observation; a pixel may be rounded otherwise
    assert many["picture"].dtype == np.uint8 and set(np.unique(many["bits"])) <= {0, 1} and set(many["turn"]) <= {4, 5, 6}
    decoded = model.decode(model.encode(batch))
    assert np.allclose(many["number"].reshape(3, 4), decoded["number"].detach(), atol=1e-6)


def test_a_model_of_observations_reconstructs_them_exactly() -> None:
    model, obs = make(MLPWorldModel), sample(BOX, 5)
    assert np.allclose(model.reconstruct(obs), obs, atol=1e-5) and model.reconstruct(obs[0]).shape == (2,)


# ---- imagine


@pytest.mark.parametrize("kind", MODELS)
def test_imagining_from_observations_is_the_latent_dream_decoded(kind: type) -> None:
    model, obs = make(kind), sample(BOX, 3)
    actions = sample(ACTION, 12).reshape(3, 4, 2)
    plan = th.as_tensor((actions - [1.0, 5.0]) / [2.0, 5.0]).float()
    before = th.get_rng_state()
    found = model.imagine(obs, actions)
    assert th.equal(before, th.get_rng_state())  # modes
    with th.no_grad():
        states = model.imagine(plan, model.encode(obs), 4, True).states
        decoded, reward = model.decode(states)["obs"].numpy(), model.predict_reward(states).numpy()
        goes_on = (model.predict_discount(states) / model.gamma).clamp_max(1).numpy()
    assert found.observations.shape == (3, 5, 2) and np.allclose(found.observations, decoded, atol=1e-5)
    assert np.allclose(found.observations[:, 0], model.reconstruct(obs), atol=1e-5)
    assert np.allclose(found.rewards, reward[:, 1:], atol=1e-5) and found.rewards.shape == (3, 4)
    assert np.allclose(found.continues, goes_on[:, 1:], atol=1e-5) and np.allclose(found.actions, actions, atol=1e-5)
    shorter = model.imagine(obs, actions, 2)
    assert np.allclose(shorter.observations, found.observations[:, :3], atol=1e-6) and shorter.actions.shape == (3, 2, 2)
    single = model.imagine(obs[1], actions[1], 3)
    assert single.observations.shape == (4, 2) and single.rewards.shape == (3,)
    assert np.allclose(single.observations, found.observations[1, :4], atol=1e-5)


def test_imagined_samples_follow_a_generator() -> None:
    model, obs, actions = make(), sample(BOX), sample(ACTION, 4)
    runs = [model.imagine(obs, actions, 4, False, th.Generator().manual_seed(seed)).observations for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_imagining_from_states_keeps_gradients_and_samples() -> None:
    model = make()
    state = model.encode(sample(BOX, 3))
    first, other = (model.imagine(lambda feat: th.tanh(feat[:, :2]), state, 5) for _ in range(2))
    assert first.actions.shape == (3, 5, 2) and first.states.deter.requires_grad
    assert not th.equal(first.states.stoch, other.states.stoch)
    assert th.equal(
        model.unroll(first.actions, state, 5, True).states.feat, model.imagine(first.actions, state, 5, True).states.feat
    )


# ---- errors


def test_inputs_that_do_not_fit_are_named() -> None:
    model, obs, actions = make(), sample(BOX, 2), sample(ACTION, 8).reshape(2, 4, 2)
    state = model.encode(obs)
    wrong = obs.copy()
    wrong[1, 0] = np.nan
    too_far = actions.copy()
    too_far[1, 2, 0] = 3.5
    for call, message in (
        (lambda: model.encode(np.zeros(3)), r"Unexpected observation shape \(3,\)"),
        (lambda: model.encode(wrong), "observation 1 has NaN or infinity in key 'obs'"),
        (lambda: model.reconstruct(wrong), "observation 1 has NaN or infinity"),
        (lambda: model.encode(obs, state), "state and prev_action go together"),
        (lambda: model.encode(obs, None, actions[:, 0]), "state and prev_action go together"),
        (
            lambda: model.encode(obs, state, actions[0, 0]),
            r"prev_action has shape \(2,\) .* 2 observations need \(2, 2\) and 2",
        ),
        (lambda: model.encode(obs[0], state, actions[0, 0]), r"state 2 rows, but one observation needs \(2,\) and 1"),
        (lambda: model.encode(obs, state, too_far[:, 2]), "actions must lie in Box"),
        (
            lambda: model.imagine(obs, actions[0]),
            r"actions has shape \(4, 2\).* 2 observations and horizon=2 need \(2, 2, 2\)",
        ),
        (lambda: model.imagine(obs[0], actions[0], 5), r"one observation and horizon=5 need \(5, 2\)"),
        (lambda: model.imagine(obs, actions, 0), "horizon must be a whole number of at least 1, got 0"),
        (lambda: model.imagine(obs, actions, 1.5), "horizon must be a whole number"),
        (lambda: model.imagine(obs, too_far), r"(?s)actions must lie in Box.*3.5"),
        (lambda: model.imagine(obs, actions[:, :, 0]), "actions has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    mixed = make(RSSM, MIXED, CHOICE)
    with pytest.raises(ValueError, match="observation 0 has a choice that is not in the space in key 'turn'"):
        mixed.encode({**sample(MIXED), "turn": 7})
    with pytest.raises(ValueError, match=r"must be a dictionary with the keys"):
        mixed.encode(np.zeros(3))
    with pytest.raises(ValueError, match=r"actions must lie in Discrete\(3, start=-1\), got .*2.* \(number 1\)"):
        mixed.imagine(sample(MIXED), [0, 2, 1])


def test_spaces_and_arguments_that_no_model_has() -> None:
    for arguments, message in (
        ((spaces.Text(3), ACTION), "not supported"),
        ((BOX, spaces.Box(-np.inf, np.inf, (1,))), "infinite bounds"),
        ((BOX, ACTION, "huge"), "Unknown size='huge'"),
    ):
        with pytest.raises(ValueError, match=message):
            RSSM.from_spaces(*arguments)
    with pytest.raises(TypeError, match="depth"):
        RSSM.from_spaces(BOX, ACTION, depth=3)


# ---- making


def test_a_seed_makes_the_same_weights_and_leaves_the_random_numbers_alone() -> None:
    before = th.get_rng_state()
    first, again, other = (RSSM.from_spaces(BOX, ACTION, size="debug", seed=seed).state_dict() for seed in (1, 1, 2))
    assert th.equal(before, th.get_rng_state())
    assert all(th.equal(first[name], again[name]) for name in first)
    assert any(not th.equal(first[name], other[name]) for name in first)


def test_pictures_are_seen_by_convolutions_where_they_are_large_enough() -> None:
    for side, kind in ((16, "image"), (15, "vector")):
        space = spaces.Box(0, 255, (side, 20, 3), np.uint8)
        model = RSSM.from_spaces(space, ACTION, size="debug")
        assert model.observation_codec.keys[0].kind == kind and model.observation_space.shape == (3, side, 20)
    assert RSSM.from_spaces(MIXED, ACTION, size="debug", convolve=False).observation_codec.keys[2].kind == "vector"
    assert channels_first(BOX) == BOX and channels_first(MIXED)["number"] == MIXED["number"]
    first = spaces.Box(0, 255, (3, 16, 20), np.uint8)
    assert channels_first(first) == first == channels_first(MIXED["picture"])


# ---- files


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (RSSM, dict(latent="categorical", update_bias=(0.5, -2.0))),
        (VAEWorldModel, dict(dynamics="deterministic", latent_size=3)),
        (MLPWorldModel, dict(space=spaces.Dict(a=BOX, b=CHOICE), action_space=CHOICE)),
        (RSSM, dict(space=MIXED, size=SIZES["debug"], convolve=False)),
    ],
)
def test_a_file_gives_the_same_model_back(kind: type, kwargs: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = make(kind, **kwargs)
    model.update_statistics(*_rows(model))
    model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    obs, actions = sample(model.observation_space, 3), sample(model.action_space, 15)
    actions = actions.reshape(3, 5, *model.action_space.shape)
    wanted = model.imagine(obs, actions)
    for loaded in (kind.load(tmp_path / "model"), StandaloneWorldModel.load(str(tmp_path / "model.pt"))):
        assert type(loaded) is kind and not loaded.training
        assert loaded.observation_space == model.observation_space and loaded.action_space == model.action_space
        assert loaded.loss_scales == model.loss_scales
        found = loaded.imagine(obs, actions)
        assert np.array_equal(found.rewards, wanted.rewards) and np.array_equal(found.continues, wanted.continues)
        parts = found.observations if isinstance(found.observations, dict) else {"obs": found.observations}
        others = wanted.observations if isinstance(wanted.observations, dict) else {"obs": wanted.observations}
        assert all(np.array_equal(parts[name], others[name]) for name in others)
        loaded.save(tmp_path / "again")
        assert kind.load(tmp_path / "again").file_header() == model.file_header()


def _rows(model: Any) -> tuple[dict[str, th.Tensor], th.Tensor]:
    codec = model.observation_codec
    obs = codec.to_tensors(codec.to_arrays(sample(model.observation_space, 10, seed=3)), th.device("cpu"))
    return obs, th.arange(10.0)


def test_files_of_something_else_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.pt"
    make(VAEWorldModel).save(path)
    with pytest.raises(ValueError, match="holds a VAEWorldModel, not a RSSM"):
        RSSM.load(path)
    good = th.load(path, weights_only=True)
    header = json.loads(good["header"])
    fewer = {name: value for name, value in good["weights"].items() if not name.startswith("dynamics")}
    other = {**header, "arguments": {**header["arguments"], "items": {**header["arguments"]["items"], "size": "toy"}}}
    for content, message in (
        ({**good, "header": json.dumps({**header, "format": 99})}, "has the format 99, this version reads 1"),
        ({**good, "header": json.dumps({**header, "class": "Unknown"})}, "holds a Unknown, not a"),
        ({**good, "header": json.dumps({})}, "no world model's file, or damaged"),
        ({**good, "header": json.dumps(other)}, "does not fit this version's VAEWorldModel"),
        ({**good, "weights": fewer}, "does not fit this version's VAEWorldModel.*dynamics"),
        ({"header": good["header"]}, "does not fit this version's VAEWorldModel"),
        ([1, 2], "no world model's file, or damaged"),
    ):
        th.save(content, path)
        with pytest.raises(ValueError, match=f"(?s)model.pt.*{message}"):
            StandaloneWorldModel.load(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.pt"):
        RSSM.load(tmp_path / "missing")


def test_a_damaged_file_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.pt"
    make().save(path)
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no world model's file, or damaged"):
            RSSM.load(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    model.save(tmp_path / "model")
    whole = (tmp_path / "model.pt").read_bytes()

    def half(content: Any, path: pathlib.Path) -> None:
        path.write_bytes(whole[:100])
        raise OSError("disk full")

    monkeypatch.setattr(th, "save", half)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"] and (tmp_path / "model.pt").read_bytes() == whole


# ---- of an agent


def test_the_world_model_of_a_dreamer_is_one_as_well(tmp_path: pathlib.Path) -> None:
    dreamer = tiny_dreamer(Clock(length=6)).learn(50)
    model, data = dreamer.world_model, collect(Clock(length=6), dreamer, 12)
    assert isinstance(model, StandaloneWorldModel) and model.observation_space == dreamer.observation_space
    obs, plan = np.array([0.0, 0.0], dtype=np.float32), np.full((3, 1), 0.5, dtype=np.float32)
    assert isinstance(model.encode(obs), LatentState) and model.reconstruct(obs).shape == (2,)
    acting = dreamer.policy.acting_model(evaluation=True)  # with averaged weights
    dream = acting.imagine(obs, plan)
    assert np.allclose(dream.observations, dreamer.imagine(obs, 3, actions=plan).observations, atol=1e-5)
    assert model.evaluate(data, horizons=(1, 2), context=1).get("reward", 2).n == 2 * 5
    env = model.as_env(data, 2, seed=0)
    assert env.reset().shape == (2, 2) and env.step(np.zeros((2, 1)))[1].shape == (2,)
    with pytest.raises(ValueError, match="Only models made by from_spaces can be saved alone"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    dreamer.learn(20)  # and goes on learning


def test_dreams_by_keyword_and_from_the_middle_of_an_episode() -> None:
    model = RSSM.from_spaces(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (1,)), size="debug", seed=0)
    rng = np.random.default_rng(0)
    obs, actions = rng.normal(size=(4, 3)).astype(np.float32), rng.uniform(-2, 2, (6, 1)).astype(np.float32)
    by_keyword = model.imagine(obs=obs[0], actions=actions, horizon=2)
    assert np.array_equal(by_keyword.observations, model.imagine(obs[0], actions, 2).observations)
    state = model.encode(obs[0])
    for t in (1, 2):
        state = model.encode(obs[t], state, actions[t - 1])
    on = model.imagine(obs[3], actions[3:], before=state, prev_action=actions[2])
    start = model.encode(obs[3], state, actions[2])
    plan = th.as_tensor(actions[3:] / 2)[None]
    wanted = model.decode(model.imagine(plan, start, 3, True).states)["obs"][0].detach().numpy()
    assert np.allclose(on.observations, wanted, atol=1e-6)
    assert not np.allclose(on.observations, model.imagine(obs[3], actions[3:]).observations, atol=1e-4)


@pytest.mark.parametrize(("shape", "horizon"), [((2, 3, 1), 4), ((1, 3, 1), 3), ((2, 0, 1), 0)])
def test_plans_that_do_not_fit_the_states_are_refused(shape: tuple[int, ...], horizon: int) -> None:
    model = RSSM.from_spaces(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (1,)), size="debug", seed=0)
    with pytest.raises(ValueError, match=r"actions has shape|horizon must be"):
        model.imagine(th.zeros(shape), model.initial_state(2), horizon)
