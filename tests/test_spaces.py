"""Every kind of observation and action: it acts, learns, predicts, dreams, and is the same after loading."""

import io
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import FROM_WINDOWS
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_dreamer import PETS

Box, Space = spaces.Box, spaces.Space

SHORT: dict[str, Any] = dict(learning_starts=30, batch_length=4, train_ratio=1.5)
"""First update after 30 steps, then one about every tenth."""
SHORT_PETS: dict[str, Any] = dict(learning_starts=30, train_freq=10)
"""The same for what is fitted to single steps."""


def cases(dreamer: Iterable[str], planet: Iterable[str] = (), pets: Iterable[str] = ()) -> list[tuple[str, str]]:
    """
    Planners see spaces through the same code as Dreamer: some of the cases, and all kinds in one dictionary, meet every branch
    of it.

    :return: names of algorithm and case
    """
    return [("dreamer", name) for name in dreamer] + [("planet", name) for name in planet] + [("pets", name) for name in pets]


class Sampler(gym.Env):
    """
    Observations are drawn from their space; an episode has five steps. Keeps what it gives and takes, and refuses actions
    that are not in the space.
    """

    def __init__(self, observations: Space, actions: Space) -> None:
        self.observation_space, self.action_space = observations, actions
        self.observation_space.seed(1)
        self.clock = 0
        self.given: list[Any] = []
        self.taken: list[Any] = []

    def _observe(self) -> Any:
        self.given.append(self.observation_space.sample())
        return self.given[-1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.clock = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.taken.append(np.array(action))
        self.clock += 1
        return self._observe(), float(self.clock % 3), self.clock == 5, False, {}


def pixels(*shape: int) -> Box:
    return Box(0, 255, shape, np.uint8)


def whole_range(dtype: str) -> Box:
    limits = np.iinfo(dtype)
    return Box(limits.min, limits.max, (3,), dtype)


def parts_of(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict | spaces.Dict) else {"obs": value}


def stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {name: np.stack([obs[name] for obs in observations]) for name in observations[0]}
    return np.stack(observations)


def channels_first(obs: Any, space: Space, seen: Space) -> Any:
    """
    :param obs: one observation
    :param space: of the environment
    :param seen: of the model
    :return: the observation as SB3 shows it to models
    """
    if isinstance(obs, dict):
        return {name: channels_first(obs[name], space[name], seen[name]) for name in obs}
    return obs if space.shape == seen.shape else np.moveaxis(obs, -1, 0)


def check_replay(model: Any, env: Sampler) -> None:
    """Its rows are what the environment gave and took, in order; an episode of five steps has six."""
    buffer, codec, space = model.replay_buffer, model.observation_codec, env.observation_space
    count = int(buffer._count[0])
    assert count == len(env.given) - 1
    held = {name: array[0, :count] for name, array in buffer._obs.items()}
    back = parts_of(codec.from_tensors(codec.to_tensors(held, th.device("cpu"))))
    for name, part in parts_of(model.observation_space).items():
        given = [parts_of(channels_first(obs, space, model.observation_space))[name] for obs in env.given[:-1]]
        assert back[name].shape == (count, *part.shape), name
        np.testing.assert_allclose(back[name].astype(np.float64), np.stack(given).astype(np.float64), rtol=1e-6, err_msg=name)
    acted = ~buffer._is_last[0, :count]
    taken = model.action_codec.to_env(buffer._action[0, :count][acted])
    np.testing.assert_array_equal(taken, np.stack(env.taken))


def check_predictions(model: Any, env: Sampler) -> np.ndarray:
    """:return: actions at some observations"""
    observations = env.given[:3]
    batch, first = stack(observations), env.given[0]
    actions, state = model.predict(batch, deterministic=True)
    assert len(actions) == 3 and all(env.action_space.contains(action) for action in list(actions))
    assert np.array_equal(actions, model.predict(batch, deterministic=True)[0])
    single, _ = model.predict(first, deterministic=True)
    assert env.action_space.contains(single[()]) and single.shape == env.action_space.shape
    np.testing.assert_allclose(single.astype(np.float64), actions[0].astype(np.float64), rtol=1e-3, atol=1e-3)
    seen = channels_first(first, env.observation_space, model.observation_space)
    assert np.array_equal(single, model.predict(seen, deterministic=True)[0])
    random, _ = model.predict(batch, state, np.array([False, True, False]))
    assert all(env.action_space.contains(action) for action in list(random))
    return actions


def check_dream(model: Any, env: Sampler) -> None:
    dream = model.imagine(stack(env.given[:2]), 3)
    assert dream.rewards.shape == dream.continues.shape == (2, 3) and np.isfinite(dream.rewards).all()
    assert dream.actions.shape == (2, 3, *env.action_space.shape)
    assert all(env.action_space.contains(action) for action in list(dream.actions[0]))
    for name, part in parts_of(model.observation_space).items():
        array = parts_of(dream.observations)[name]
        assert array.shape == (2, 4, *part.shape) and np.isfinite(array).all(), name
        if not isinstance(part, Box):  # choices and bits are such, not probabilities
            assert all(part.contains(value.astype(part.dtype)[()]) for value in array[0]), name
            assert (array == array.astype(part.dtype)).all(), name
    single = model.imagine(env.given[0], 3)
    assert single.rewards.shape == (3,) and len(single.actions) == 3


def check_loading(model: Any, env: Sampler, actions: np.ndarray) -> None:
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = type(model).load(file, env=Sampler(env.observation_space, env.action_space), device="cpu")
    assert loaded.observation_space == model.observation_space and loaded.action_space == model.action_space
    assert np.array_equal(loaded.predict(stack(env.given[:3]), deterministic=True)[0], actions)


def check(make: Callable[..., Any], observations: Space, actions: Space, policy: str, steps: int = 60, **kwargs: Any) -> Any:
    env = Sampler(observations, actions)
    short = SHORT_PETS if make.algorithm is PETS else SHORT
    model = make(env, policy=policy, **{**short, **kwargs}).learn(steps)
    assert model._n_updates > 1 and model._skipped_updates == 0
    assert all(bool(th.isfinite(value).all()) for value in model.policy.state_dict().values())
    check_replay(model, env)
    chosen = check_predictions(model, env)
    check_dream(model, env)
    check_loading(model, env, chosen)
    return model


ONE_ACTION = Box(-2, 2, (1,))

VECTORS: dict[str, Space] = {
    "float16": Box(-1, 1, (3,), np.float16),
    "float32": Box(-np.inf, np.inf, (3,)),
    "float64": Box(-1e9, 1e9, (3,), np.float64),
    **{dtype: whole_range(dtype) for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16")},
    "bool": Box(0, 1, (3,), bool),
    "scalar": Box(-2, 2, ()),
    "matrix": Box(-1, 1, (2, 3)),
    "discrete": spaces.Discrete(4, start=-2),
    "discrete_one": spaces.Discrete(1, start=5),
    "multi_discrete": spaces.MultiDiscrete([3, 1, 5], start=[0, 7, -2]),
    "multi_discrete_square": spaces.MultiDiscrete([[3, 2], [2, 4]], start=[[0, 5], [-1, 0]]),
    "multi_discrete_matrix": spaces.MultiDiscrete([[3, 2, 2], [2, 4, 3]]),
    "multi_binary": spaces.MultiBinary(4),
    "multi_binary_matrix": spaces.MultiBinary((2, 3)),
}


@pytest.mark.parametrize(("make", "name"), cases(VECTORS, ["float64"], ["multi_discrete_square"]), indirect=["make"])
def test_vectors_choices_and_bits(make: Callable[..., Any], name: str) -> None:
    check(make, VECTORS[name], ONE_ACTION, "MlpPolicy")


PICTURES: dict[str, Space] = {
    "channels_last": pixels(16, 16, 3),
    "channels_first": pixels(3, 16, 16),
    "grey_channel": pixels(16, 16, 1),
    "grey": pixels(16, 16),
    "stack_last": pixels(16, 16, 12),
    "stack_first": pixels(4, 16, 16),
    "40x48": pixels(40, 48, 3),
    "64x64": pixels(64, 64, 3),
    "grid": pixels(7, 7, 3),
}


@pytest.mark.parametrize(("make", "name"), cases(PICTURES, ["channels_last"]), indirect=["make"])
def test_images(make: Callable[..., Any], name: str) -> None:
    model = check(make, PICTURES[name], ONE_ACTION, "CnnPolicy")
    assert model.replay_buffer._obs["obs"].dtype == np.uint8  # a byte a pixel


@pytest.mark.parametrize("make", ["dreamer"], indirect=True)
def test_a_large_image(make: Callable[..., Any]) -> None:
    check(make, pixels(256, 256, 3), ONE_ACTION, "CnnPolicy", steps=32, learning_starts=30, batch_size=1, pretrain_updates=2)


FLOAT_PICTURES: dict[str, Space] = {
    "float_channels_last": Box(0, 1, (12, 16, 3)),
    "float_channels_first": Box(0, 1, (3, 12, 16), np.float64),
    "float_grey": Box(0, 1, (12, 16), np.float16),
}


@pytest.mark.parametrize(("make", "name"), cases(FLOAT_PICTURES, ["float_grey"]), indirect=["make"])
def test_images_of_floats(make: Callable[..., Any], name: str) -> None:
    kwargs = dict(size="debug", normalize_images=False)
    model = check(make, FLOAT_PICTURES[name], ONE_ACTION, "CnnPolicy", policy_kwargs=kwargs)
    assert model.observation_codec.keys[0].kind == "image"


def test_pixels_as_a_vector(make: Callable[..., Any]) -> None:
    model = check(make, pixels(8, 8, 3), ONE_ACTION, "MlpPolicy")
    assert model.observation_codec.keys[0].kind == "vector"


def test_a_dictionary_of_everything_under_awkward_names(make: Callable[..., Any]) -> None:
    parts = {
        **{name: VECTORS[name] for name in VECTORS},
        **{
            "": pixels(7, 7, 3),
            "a.b": pixels(12, 16, 3),
            "keys": pixels(12, 16),
            "a/b": Box(-1, 1, (2,)),
            "obs": Box(0, 9, ()),
        },
        **{
            "0": pixels(12, 16, 1),
            "weight": spaces.Discrete(3),
            "forward": spaces.MultiBinary(2),
            "é ": Box(-1, 1, (1, 1, 1)),
        },
    }
    images = ["", "a.b", "keys", "0"]
    if make.algorithm is PETS:
        with pytest.raises(ValueError, match=r"predicts numbers, not images \(keys \['', '0', 'a\.b', 'keys'\]\)"):
            make(Sampler(spaces.Dict(parts), ONE_ACTION), policy="MultiInputPolicy")
        parts = {name: part for name, part in parts.items() if name not in images}
    model = check(make, spaces.Dict(parts), ONE_ACTION, "MultiInputPolicy")
    kinds = {key.name: key.kind for key in model.observation_codec.keys}
    assert [name for name in parts if kinds[name] == "image"] == ([] if make.algorithm is PETS else images)


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_channels_first_in_a_dictionary(make: Callable[..., Any]) -> None:
    check(make, spaces.Dict(near=pixels(3, 12, 16), far=pixels(1, 12, 16)), ONE_ACTION, "MultiInputPolicy")


def float32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


ACTIONS: dict[str, Space] = {
    "asymmetric": Box(float32(-3, 0), float32(1, 9)),
    "scalar": Box(-2, 2, ()),
    "matrix": Box(-1, 1, (2, 2)),
    "float16": Box(-1, 1, (2,), np.float16),
    "float64": Box(-1, 1, (2,), np.float64),
    "int32": Box(-2, 10, (2,), np.int32),
    "uint8": Box(0, 255, (2,), np.uint8),
    "narrow": Box(np.float32(0.1), np.float32(0.3), (1,)),
    "one_fixed": Box(float32(3, -1), float32(3, 1)),
    "all_fixed": Box(3, 3, (2,)),
    "discrete": spaces.Discrete(3, start=-1),
    "discrete_one": spaces.Discrete(1),
    "multi_discrete": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "multi_discrete_matrix": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "multi_binary": spaces.MultiBinary(3),
    "multi_binary_matrix": spaces.MultiBinary((2, 2)),
}


PLANNED = ["asymmetric", "int32", "one_fixed", "discrete_one", "multi_discrete_matrix", "multi_binary"]


@pytest.mark.parametrize(("make", "name"), cases(ACTIONS, ["asymmetric", "multi_discrete_matrix"], PLANNED), indirect=["make"])
def test_actions(make: Callable[..., Any], name: str) -> None:
    space = ACTIONS[name]
    model = check(make, Box(-1, 1, (2,)), space, "MlpPolicy")
    taken = np.stack(model.get_env().envs[0].unwrapped.taken)
    assert len(np.unique(taken, axis=0)) > (0 if name in ("all_fixed", "discrete_one") else 2)
    if isinstance(space, Box):
        free = space.low != space.high
        low, high = taken[:30].min(0)[free], taken[:30].max(0)[free]  # drawn at random from the whole box
        assert (high - low > 0.6 * (space.high - space.low)[free].astype(np.float64)).all()
        plan = np.stack([space.sample() for _ in range(4)])
        np.testing.assert_allclose(model.imagine(float32(0, 0), 4, actions=plan).actions, plan, rtol=1e-3, atol=1e-5)


Refused = tuple[str, Space, Space, type[Exception], str]
NESTED = spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)))
REFUSED: dict[str, Refused] = {
    "tuple": (
        "MlpPolicy",
        spaces.Tuple([spaces.Discrete(2)]),
        ONE_ACTION,
        ValueError,
        "observation space Tuple.* not supported",
    ),
    "text": ("MlpPolicy", spaces.Text(4), ONE_ACTION, ValueError, "observation space Text.* is not supported"),
    "nested": ("MultiInputPolicy", NESTED, ONE_ACTION, ValueError, "Nested observation spaces are not supported"),
    "text_in_dict": ("MultiInputPolicy", spaces.Dict(a=spaces.Text(4)), ONE_ACTION, ValueError, "key 'a'.* is not supported"),
    "dict_with_mlp": ("MlpPolicy", spaces.Dict(a=Box(-1, 1, (2,))), ONE_ACTION, ValueError, "must use `MultiInputPolicy`"),
    "dict_with_cnn": ("CnnPolicy", spaces.Dict(a=pixels(16, 16, 3)), ONE_ACTION, ValueError, "must use `MultiInputPolicy`"),
    "vector_with_cnn": ("CnnPolicy", Box(-1, 1, (3,)), ONE_ACTION, ValueError, "CnnPolicy is for images.*use MlpPolicy"),
    "floats_with_cnn": ("CnnPolicy", Box(0, 1, (16, 16, 3)), ONE_ACTION, ValueError, r"normalize_images=False"),
    "unbounded": ("MlpPolicy", Box(-1, 1, (2,)), Box(-np.inf, np.inf, (1,)), ValueError, "infinite bounds"),
    "half_bounded": ("MlpPolicy", Box(-1, 1, (2,)), Box(0, np.inf, (1,)), ValueError, "infinite bounds"),
    "tuple_of_actions": (
        "MlpPolicy",
        Box(-1, 1, (2,)),
        spaces.Tuple([ONE_ACTION]),
        ValueError,
        "Action space Tuple.* not supp",
    ),
    "dict_of_actions": ("MlpPolicy", Box(-1, 1, (2,)), spaces.Dict(a=ONE_ACTION), ValueError, "Action space Dict.* not supp"),
    "unknown_policy": ("RnnPolicy", Box(-1, 1, (2,)), ONE_ACTION, ValueError, "RnnPolicy unknown"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(make: Callable[..., Any], name: str) -> None:
    policy, observations, actions, error, message = REFUSED[name]
    env = gym.Env()
    env.observation_space, env.action_space = observations, actions
    if make.algorithm is PETS and policy == "CnnPolicy":
        message = "PETS has no CnnPolicy.*not images"
    with pytest.raises(error, match=message):
        make(env, policy=policy)


# ---- any space at all

VALUES = st.sampled_from(["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"])
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@st.composite
def boxes(draw: st.DrawFn, bounded: bool = False) -> Box:
    name, shape = draw(VALUES.filter(lambda name: not bounded or name != "bool")), draw(SHAPES)
    if name == "bool":
        return Box(0, 1, shape, bool)
    dtype = np.dtype(name)
    limits = (0, 200) if dtype.kind == "u" else (-100, 100)
    low, high = sorted(draw(st.tuples(st.integers(*limits), st.integers(*limits))))
    if dtype.kind == "f" and not bounded and draw(st.booleans()):
        return Box(-np.inf if draw(st.booleans()) else low, np.inf, shape, dtype.type)
    return Box(low, high, shape, dtype.type)


images = st.builds(
    lambda size, channels, last: pixels(*((*size, channels) if last else (channels, *size)) if channels else size),
    st.tuples(st.integers(5, 20), st.integers(5, 20)),
    st.sampled_from([0, 1, 3, 4]),
    st.just(True),  # SB3 refuses to mix channels first and last in one dictionary
)
discretes = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-3, 3))
choices = st.lists(st.integers(1, 5), min_size=1, max_size=4)
multi_discretes = choices.flatmap(
    lambda n: st.builds(lambda start: spaces.MultiDiscrete(n, start=[start] * len(n)), st.integers(-3, 3))
)
choice_matrices = st.builds(lambda n: spaces.MultiDiscrete([n, n]), choices)
multi_binaries = st.builds(
    spaces.MultiBinary, st.one_of(st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1, max_size=2))
)
parts = st.one_of(boxes(), images, discretes, multi_discretes, choice_matrices, multi_binaries)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5)
observation_spaces = st.one_of(
    parts,
    st.dictionaries(names, parts, min_size=1, max_size=4).map(spaces.Dict),
)
action_spaces = st.one_of(boxes(bounded=True), discretes, multi_discretes, choice_matrices, multi_binaries)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["dreamer"], indirect=True)
@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(observations=observation_spaces, actions=action_spaces)
def test_any_spaces(make: Callable[..., Any], observations: Space, actions: Space) -> None:
    policy = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    if isinstance(observations, Box) and observations.dtype == np.uint8 and len(observations.shape) >= 2:
        policy = "CnnPolicy" if (observations.high == 255).all() else policy
    check(make, observations, actions, policy, steps=100)
