"""The batched environments against single ones in Gymnasium's SyncVectorEnv, to the last bit."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs


def singles(task_id, num_envs, **kwargs):
    """Single environments in a row, reset in the same step."""
    make = [lambda: gym.make(f"envs:{task_id}", **kwargs)] * num_envs
    return SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)


def assert_equal(left, right):
    """Equal nested dictionaries, tuples and arrays (also of objects), to the last bit."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, tuple | list) or (isinstance(left, np.ndarray) and left.dtype == object):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert left.tobytes() == right.tobytes()
    else:
        assert left == right


@pytest.mark.parametrize("task_id", envs.TASK_IDS + envs.META_TASK_IDS)
@pytest.mark.parametrize("num_envs", [1, 5])
def test_batch_equals_singles_across_episode_ends(task_id, num_envs):
    batched, sync = gym.make_vec(f"envs:{task_id}", num_envs=num_envs), singles(task_id, num_envs)
    assert batched.observation_space == sync.observation_space and batched.action_space == sync.action_space
    assert_equal(batched.reset(seed=11), sync.reset(seed=11))
    batched.action_space.seed(0)
    episodes = 0
    for _ in range(420):
        actions = batched.action_space.sample()
        one, other = batched.step(actions), sync.step(actions)
        assert_equal(one, other)
        episodes += int((one[2] | one[3]).sum())
    assert episodes >= 2 * num_envs
    assert_equal(batched.reset(), sync.reset())  # the generators went on alike


def test_seeds_as_a_list_and_resets_without_a_seed():
    batched, sync = gym.make_vec("envs:ContinuousCartPole-v0", num_envs=3), singles("ContinuousCartPole-v0", 3)
    for seed in ([5, 3, 9], None, [4, None, 4], 7):
        assert_equal(batched.reset(seed=seed), sync.reset(seed=seed))
    assert batched.np_random_seed == sync.np_random_seed == (7, 8, 9)
    with pytest.raises(ValueError, match="seed must be an integer or 3 of them, got 2"):
        batched.reset(seed=[1, 2])


def test_unseeded_copies_differ():
    observations, _ = gym.make_vec("envs:ContinuousPendulum-v0", num_envs=4).reset()
    assert len(np.unique(observations[:, 0])) == 4


def test_both_ends_in_one_step_count_as_both():
    task_id = "ContinuousCartPole-v0"
    lengths = gym.make_vec(f"envs:{task_id}", num_envs=1, max_episode_steps=None)
    lengths.reset(seed=0)
    length = 1
    while not lengths.step(np.ones((1, 1)))[2][0]:
        length += 1
    batched = gym.make_vec(f"envs:{task_id}", num_envs=1, max_episode_steps=length)
    sync = singles(task_id, 1, max_episode_steps=length)
    batched.reset(seed=0), sync.reset(seed=0)
    for _ in range(length):
        one, other = batched.step(np.ones((1, 1))), sync.step(np.ones((1, 1)))
        assert_equal(one, other)
    assert one[2][0] and one[3][0]


def test_time_limit_argument():
    vector_env = gym.make_vec("envs:ContinuousPendulum-v0", num_envs=2, max_episode_steps=3)
    vector_env.reset(seed=0)
    truncated = [vector_env.step(np.zeros((2, 1)))[3].tolist() for _ in range(6)]
    assert truncated == [[False] * 2, [False] * 2, [True] * 2] * 2


def test_no_time_limit():
    vector_env = envs.SequenceMemoryVectorEnv(num_envs=1, max_episode_steps=None)
    vector_env.reset(seed=0)
    assert not any(vector_env.step([1])[3][0] for _ in range(100))


def test_returned_arrays_are_not_written_to_later():
    vector_env = gym.make_vec("envs:SequenceMemory-v0", num_envs=2, max_episode_steps=4)
    kept = [vector_env.reset(seed=0)[0]]
    copies = [kept[0].copy()]
    for _ in range(9):
        observation, *_, infos = vector_env.step(np.array([0, 1]))
        new = [observation, *(o for o in infos.get("final_obs", []) if o is not None)]
        kept += new
        copies += [array.copy() for array in new]
    assert all(np.array_equal(one, other) for one, other in zip(kept, copies, strict=True))


def test_wrong_actions_and_arguments():
    vector_env = envs.ContinuousPendulumVectorEnv(num_envs=3)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        vector_env.step(np.zeros((3, 1)))
    vector_env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must have shape \(3, 1\), got shape \(3,\)"):
        vector_env.step(np.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        vector_env.step(np.full((3, 1), np.nan))
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        envs.ContinuousPendulumVectorEnv(num_envs=0)
    with pytest.raises(ValueError, match="max_episode_steps must be None or at least 1, got 0"):
        envs.ContinuousPendulumVectorEnv(max_episode_steps=0)
    with pytest.raises(ValueError, match=r"render_mode must be None or one of .*, got 'human'"):
        envs.ContinuousPendulumVectorEnv(render_mode="human")


def test_a_refused_action_leaves_the_state_alone():
    vector_env = envs.SequenceMemoryVectorEnv(num_envs=2)
    vector_env.reset(seed=0)
    before = vector_env.get_state()
    with pytest.raises(ValueError):
        vector_env.step([0, 2])
    assert_equal(before, vector_env.get_state())


@pytest.mark.parametrize("task_id", envs.TASK_IDS)
def test_state_roundtrip(task_id):
    def play(vector_env):
        rng = np.random.default_rng(1)
        number = getattr(vector_env.single_action_space, "n", None)
        for _ in range(150):
            actions = rng.integers(number, size=3) if number else rng.uniform(-2, 2, size=vector_env.action_space.shape)
            yield vector_env.step(actions)

    original, restored = (gym.make_vec(f"envs:{task_id}", num_envs=3) for _ in range(2))
    original.reset(seed=4)
    for _ in zip(range(37), play(original), strict=False):
        pass
    state = original.unwrapped.get_state()
    after = list(play(original))
    restored.unwrapped.set_state(state)
    assert_equal(after, list(play(restored)))
    restored.unwrapped.set_state(state)  # and the saved state was not touched by playing on
    assert_equal(after, list(play(restored)))
    with pytest.raises(ValueError, match="state must come from get_state"):
        gym.make_vec(f"envs:{task_id}", num_envs=2).unwrapped.set_state(state)


def test_render_gives_one_frame_a_copy():
    vector_env = gym.make_vec("envs:ContinuousPendulum-v0", num_envs=3, render_mode="rgb_array")
    vector_env.reset(seed=0)
    frames = vector_env.render()
    assert len(frames) == 3 and all(frame.shape == (400, 400, 3) and frame.dtype == np.uint8 for frame in frames)
    assert not np.array_equal(frames[0], frames[1])
    vector_env.close()
    vector_env.close()
    assert envs.ContinuousPendulumVectorEnv().render() is None
