import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec

CPU = th.device("cpu")


def test_vectors_are_flattened_and_come_back() -> None:
    codec = ObservationCodec(spaces.Box(-1, 1, (2, 3), dtype=np.float64))
    obs = np.arange(12, dtype=np.float64).reshape(2, 2, 3)
    arrays = codec.to_arrays(obs)
    assert arrays["obs"].shape == (2, 2, 3) and arrays["obs"].dtype == np.float32
    tensors = codec.to_tensors(arrays, CPU)
    assert tensors["obs"].shape == (2, 6)
    assert np.array_equal(codec.from_tensors(tensors), obs.astype(np.float32))


def test_arrays_are_copies() -> None:
    codec = ObservationCodec(spaces.Box(-1, 1, (3,)))
    obs = np.zeros((1, 3), dtype=np.float32)
    arrays = codec.to_arrays(obs)
    obs += 1  # a VecEnv reuses its buffer
    assert arrays["obs"].sum() == 0


def test_discrete_observations_are_one_hot_with_their_start() -> None:
    codec = ObservationCodec(spaces.Discrete(4, start=3))
    tensors = codec.to_tensors(codec.to_arrays(np.array([3, 6])), CPU)
    assert tensors["obs"].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert codec.from_tensors(tensors).tolist() == [3, 6]


def test_several_choices_are_concatenated_one_hots() -> None:
    codec = ObservationCodec(spaces.MultiDiscrete([[3, 2], [2, 4]], start=[[0, 5], [-1, 0]]))
    obs = np.array([[[2, 5], [0, 3]], [[0, 6], [-1, 0]]])
    tensors = codec.to_tensors(codec.to_arrays(obs), CPU)
    assert tensors["obs"].tolist() == [[0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0]]
    assert codec.from_tensors(tensors).tolist() == obs.tolist()
    assert codec.keys[0].dtype == "uint8"


def test_bits() -> None:
    codec = ObservationCodec(spaces.MultiBinary((2, 2)))
    obs = np.array([[[1, 0], [0, 1]]], dtype=np.int8)
    tensors = codec.to_tensors(codec.to_arrays(obs), CPU)
    assert tensors["obs"].tolist() == [[1, 0, 0, 1]]
    assert codec.from_tensors({"obs": th.tensor([[0.9, 0.2, 0.4, 0.6]])}).tolist() == obs.tolist()


def test_images_stay_bytes_until_the_model_sees_them() -> None:
    space = spaces.Box(0, 255, (3, 8, 10), dtype=np.uint8)
    obs = np.stack([space.sample(), space.sample()])
    codec = ObservationCodec(space)
    arrays = codec.to_arrays(obs)
    assert arrays["obs"].dtype == np.uint8 and np.array_equal(arrays["obs"], obs)
    tensors = codec.to_tensors(arrays, CPU)
    assert tensors["obs"].dtype == th.uint8 and tensors["obs"].shape == (2, 3, 8, 10)
    assert codec.from_tensors({"obs": th.full((1, 3, 8, 10), 300.4)}).max() == 255
    flat = ObservationCodec(space, convolve=False)
    assert flat.keys[0].kind == "vector" and flat.to_tensors(flat.to_arrays(obs), CPU)["obs"].shape == (2, 240)
    assert flat.to_arrays(obs)["obs"].dtype == np.uint8
    grey = ObservationCodec(spaces.Box(0, 255, (8, 10), dtype=np.uint8))
    assert grey.keys[0].image_shape == (1, 8, 10)


def test_channels_last_images_are_transposed_as_sb3_does() -> None:
    codec = ObservationCodec(spaces.Dict(image=spaces.Box(0, 255, (3, 8, 10), np.uint8), rest=spaces.Discrete(2)))
    obs = {"image": np.arange(240, dtype=np.uint8).reshape(8, 10, 3), "rest": 1}
    first = codec.transpose(obs)
    assert first["image"].shape == (3, 8, 10) and np.array_equal(first["image"][1], obs["image"][:, :, 1])
    assert np.array_equal(codec.transpose(first)["image"], first["image"])


def test_dictionaries_have_one_array_a_key_in_sorted_order() -> None:
    codec = ObservationCodec(spaces.Dict(b=spaces.Box(-1, 1, ()), a=spaces.Discrete(3), c=spaces.MultiBinary(2)))
    assert [key.name for key in codec.keys] == ["a", "b", "c"]
    obs = {"a": np.array([2, 0]), "b": np.array([0.5, -0.5]), "c": np.ones((2, 2))}
    arrays = codec.to_arrays(obs)
    assert arrays["b"].shape == (2,) and codec.to_tensors(arrays, CPU)["b"].shape == (2, 1)
    back = codec.from_tensors(codec.to_tensors(arrays, CPU))
    assert all(np.allclose(back[name], obs[name]) for name in obs)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint16, np.int64, bool])
def test_vectors_of_every_type(dtype: type) -> None:
    codec = ObservationCodec(spaces.Box(0, 1, (2,), dtype=dtype))
    arrays = codec.to_arrays(np.array([[0, 1]], dtype=dtype))
    assert arrays["obs"].dtype.itemsize <= 4
    assert codec.to_tensors(arrays, CPU)["obs"].tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(5),
        spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))),
        spaces.Dict(a=spaces.Text(5)),
        spaces.Dict(),
        spaces.Box(-1, 1, (0,)),
    ],
)
def test_unsupported_observations(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"bservation space.* (not supported|has no elements|has no keys)"):
        ObservationCodec(space)


def test_bad_values_are_found() -> None:
    codec = ObservationCodec(spaces.Box(-1, 1, (2,)))
    assert codec.find_invalid(np.zeros((3, 2))) is None
    assert codec.find_invalid(np.array([[0, 0], [0, np.nan], [np.inf, 0]])) == (1, "obs", "NaN or infinity")
    assert codec.find_invalid(np.array([[0, 1e300]])) == (0, "obs", "NaN or infinity")  # in float32
    choice = ObservationCodec(spaces.Dict(a=spaces.Discrete(3, start=1)))
    assert choice.find_invalid({"a": np.array([1, 3])}) is None
    assert choice.find_invalid({"a": np.array([1, 4])}) == (1, "a", "a choice that is not in the space")


def test_box_actions_are_scaled_and_only_the_environment_sees_them_clipped() -> None:
    codec = ActionCodec(spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float32))
    assert codec.size == 2 and not codec.discrete
    assert codec.to_env(np.array([[-1.0, -1.0], [0.0, 0.0], [5.0, 0.5]])).tolist() == [[-2, 0], [0, 5], [2, 7.5]]
    back = codec.from_env(np.array([[-2.0, 0.0], [1.0, 7.5]]))
    assert back.tolist() == [[-1, -1], [0.5, 0.5]] and back.dtype == np.float32


def test_box_actions_keep_shape_and_dtype() -> None:
    space = spaces.Box(-3, 3, (2, 2), dtype=np.float64)
    codec = ActionCodec(space)
    action = codec.to_env(np.ones((5, 4), dtype=np.float32))
    assert action.shape == (5, 2, 2) and action.dtype == np.float64 and space.contains(action[0])
    assert codec.from_env(action).shape == (5, 4)


def test_discrete_actions_with_start() -> None:
    codec = ActionCodec(spaces.Discrete(3, start=-1))
    assert codec.from_env(np.array([-1, 1])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert codec.to_env(np.array([[0.0, 0.9, 0.1]])).tolist() == [0]


def test_box_actions_at_the_edges_of_what_a_box_can_be() -> None:
    whole = ActionCodec(spaces.Box(0, 10, (1,), dtype=np.int32))
    assert whole.to_env(np.array([[0.19]], dtype=np.float32)).tolist() == [[6]]  # rounded: 5.95
    fixed = ActionCodec(spaces.Box(np.array([3.0, -1.0]), np.array([3.0, 1.0]), dtype=np.float64))
    assert fixed.to_env(np.array([[0.7, 0.5]])).tolist() == [[3.0, 0.5]]
    assert fixed.from_env(np.array([[3.0, 0.5]])).tolist() == [[0.0, 0.5]]
    scalar = ActionCodec(spaces.Box(-2, 2, ()))
    assert scalar.to_env(np.array([[0.5], [1.0]])).tolist() == [1.0, 2.0]
    huge = spaces.Box(np.float32(-3e38), np.float32(3e38), (1,))
    assert all(huge.contains(ActionCodec(huge).to_env(np.array([[x]]))[0]) for x in (-1.0, 0.3, 1.0))
    narrow = spaces.Box(np.float32(0.1), np.float32(0.3), (1,))
    assert narrow.contains(ActionCodec(narrow).to_env(np.array([[1.0]]))[0])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8])
def test_whole_numbers_of_the_full_range(dtype: type) -> None:
    info = np.iinfo(dtype)
    space = spaces.Box(info.min, info.max, (1,), dtype=dtype)
    low, middle, high = ActionCodec(space).to_env(np.array([[-1.0], [0.0], [1.0]]))
    assert low == info.min and high == info.max and abs(float(middle[0]) - (info.max / 2 + info.min / 2)) <= 1024
    assert middle.dtype == dtype


def test_several_discrete_actions() -> None:
    codec = ActionCodec(spaces.MultiDiscrete([2, 3], start=[1, 0]))
    assert codec.classes == (2, 3) and codec.size == 5 and codec.discrete
    assert codec.from_env(np.array([[2, 0]])).tolist() == [[0, 1, 1, 0, 0]]
    assert codec.to_env(np.array([[0.2, 0.8, 0.1, 0.1, 0.8]])).tolist() == [[2, 2]]
    bits = ActionCodec(spaces.MultiBinary((1, 3)))
    assert bits.classes == (2, 2, 2)
    action = bits.to_env(np.array([[0.0, 1.0, 1.0, 0.0, 0.4, 0.6]]))
    assert action.tolist() == [[[1, 0, 1]]] and bits.space.contains(action[0])
    assert bits.from_env(action).tolist() == [[0, 1, 1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (1,)), "infinite bounds"),
        (spaces.Box(-1, 1, (0,)), "no elements"),
        (spaces.Dict(a=spaces.Discrete(2)), "not supported"),
        (spaces.Tuple([spaces.Discrete(2)]), "not supported"),
    ],
)
def test_unsupported_actions(space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionCodec(space)


def test_one_observation_or_a_batch() -> None:
    grid = ObservationCodec(spaces.MultiDiscrete([[2, 3], [4, 1]]))
    assert not grid.is_batch(np.zeros((2, 2))) and grid.is_batch(np.zeros((5, 2, 2)))
    scalar = ObservationCodec(spaces.Box(-1, 1, ()))
    assert not scalar.is_batch(0.5) and scalar.is_batch(np.zeros(3))
    with pytest.raises(ValueError, match=r"(?s)Unexpected observation shape \(3,\) for MultiDiscrete.* use \(2, 2\)"):
        grid.is_batch(np.zeros(3))
    both = ObservationCodec(spaces.Dict(a=spaces.Discrete(2), b=spaces.MultiBinary(2)))
    assert both.is_batch({"a": np.zeros(3), "b": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="batch axes of different lengths"):
        both.is_batch({"a": 1, "b": np.zeros((3, 2))})
