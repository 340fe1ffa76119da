"""What `step` accepts as an action, and what it says about the rest."""

import numpy as np
import pytest
from gymnasium import spaces

from envs.actions import check_action

TORQUE = spaces.Box(-2.0, 2.0, shape=(1,), dtype=np.float32)
CHOICE = spaces.Discrete(3)


@pytest.mark.parametrize(
    ("action", "expected"), [([0.5], 0.5), (np.float32([1.5]), 1.5), ([7], 2.0), ([-7.0], -2.0), ([np.inf], 2.0)]
)
def test_box_actions_are_clipped_into_the_box(action, expected):
    checked = check_action(action, TORQUE)
    assert checked.shape == (1,) and checked.dtype == np.float64
    assert checked[0] == expected


def test_the_callers_array_is_not_changed():
    action = np.array([9.0])
    check_action(action, TORQUE)
    assert action[0] == 9.0


@pytest.mark.parametrize("action", [0.5, [0.5, 0.5], [[0.5]], []])
def test_box_wrong_shape(action):
    with pytest.raises(ValueError, match=r"action must have shape \(1,\), got shape .*action_space.sample"):
        check_action(action, TORQUE)


def test_box_nan():
    with pytest.raises(ValueError, match=r"action must not contain NaN, got \[nan\]"):
        check_action([float("nan")], TORQUE)


@pytest.mark.parametrize("action", [None, ["fast"], [[1], [1, 2]]])
def test_box_not_numbers(action):
    with pytest.raises(ValueError, match="action must"):
        check_action(action, TORQUE)


@pytest.mark.parametrize("action", [2, np.int64(2), np.array(2), np.uint8(2)])
def test_discrete_actions_of_every_integer_kind(action):
    checked = check_action(action, CHOICE)
    assert checked == 2 and checked.dtype == np.int64


@pytest.mark.parametrize("action", [-1, 3])
def test_discrete_out_of_range(action):
    with pytest.raises(ValueError, match=rf"action must be an integer from 0 to 2, got {action}"):
        check_action(action, CHOICE)


@pytest.mark.parametrize("action", [1.0, float("nan"), True, "up", None])
def test_discrete_not_an_integer(action):
    with pytest.raises(ValueError, match="action must be an integer from 0 to 2"):
        check_action(action, CHOICE)


def test_discrete_wrong_shape():
    with pytest.raises(ValueError, match=r"action must be a single integer, got shape \(1,\)"):
        check_action([1], CHOICE)


def test_batches():
    assert check_action(np.zeros((4, 1)), TORQUE, (4,)).shape == (4, 1)
    assert check_action(np.zeros(4, dtype=np.int32), CHOICE, (4,)).shape == (4,)
    with pytest.raises(ValueError, match=r"shape \(4, 1\), got shape \(1,\)"):
        check_action([0.0], TORQUE, (4,))
    with pytest.raises(ValueError, match=r"integers of shape \(4,\), got shape \(3,\)"):
        check_action([0, 1, 2], CHOICE, (4,))
    with pytest.raises(ValueError, match="from 0 to 2"):
        check_action([0, 1, 2, 3], CHOICE, (4,))


def test_discrete_with_another_start():
    assert check_action(-1, spaces.Discrete(2, start=-1)) == -1


def test_other_spaces_are_not_known():
    with pytest.raises(TypeError, match="Box or a Discrete"):
        check_action([0], spaces.MultiBinary(1))
