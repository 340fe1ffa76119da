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


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(5),
        spaces.Box(0, 255, (8, 8, 3), dtype=np.uint8),
        spaces.Box(-1, 1, (0,)),
    ],
)
def test_unsupported_observations(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"bservation space .* (not supported|has no elements)"):
        ObservationCodec(space)


def test_non_finite_observations_are_found() -> None:
    codec = ObservationCodec(spaces.Box(-1, 1, (2,)))
    assert codec.find_non_finite(np.zeros((3, 2))) is None
    assert codec.find_non_finite(np.array([[0, 0], [0, np.nan], [np.inf, 0]])) == (1, "obs")


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


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (1,)), "infinite bounds"),
        (spaces.Box(np.array([0.0]), np.array([0.0])), "low < high"),
        (spaces.Tuple([spaces.Discrete(2)]), "not supported"),
    ],
)
def test_unsupported_actions(space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionCodec(space)
