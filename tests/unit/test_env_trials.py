"""Tasks of unknown physics, and the wrapper that keeps a task for a trial and tells of it."""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from envs.cartpole import CartPoleTask
from envs.meta_cartpole import MetaCartPoleTask
from envs.meta_pendulum import MetaPendulumTask
from envs.pendulum import PendulumTask

META = {"MetaPendulum-v0": dict(mass=(0.5, 2.0), length=(0.5, 1.5)), "MetaCartPole-v0": dict(half_length=(0.2, 1.5))}


@pytest.mark.parametrize(
    ("task", "plain", "constants"),
    [
        (MetaPendulumTask((1.0, 1.0), (1.0, 1.0)), PendulumTask(), [1.0, 1.0]),
        (MetaCartPoleTask((0.5, 0.5)), CartPoleTask(), [0.5]),
    ],
)
def test_with_the_usual_constants_it_is_the_usual_task(task, plain, constants):
    rng = np.random.default_rng(0)
    state = task.initial_state(np.random.default_rng(3))
    assert state[-len(constants) :].tolist() == constants
    for _ in range(60):
        action = rng.uniform(-1, 1, size=1)
        expected, reward, over = plain.transition(state[: -len(constants)], action)
        state, got, ended = task.transition(state, action)
        assert np.array_equal(state, [*expected, *constants]) and got == reward and ended == over
        assert np.array_equal(task.observe(state), plain.observe(expected))


def test_pendulum_step_by_hand():
    task = MetaPendulumTask()
    state = np.array([0.3, 0.5, 2.0, 0.5])  # 2 kg, half a metre
    after, _, _ = task.transition(state, np.array([1.5]))
    velocity = 0.5 + 0.05 * (3 * 10 / (2 * 0.5) * np.sin(0.3) + 3 / (2.0 * 0.25) * 1.5)
    assert after == pytest.approx([0.3 + 0.05 * velocity, velocity, 2.0, 0.5])


@pytest.mark.parametrize("task_id", META)
def test_resets_draw_constants_from_their_ranges_unless_told_to_keep_them(task_id):
    env = gym.make(f"envs:{task_id}").unwrapped
    env.reset(seed=0)
    drawn = []
    for _ in range(300):
        env.reset()
        drawn.append(env.constants)
    for values, (low, high) in zip(np.stack(drawn, axis=1), META[task_id].values(), strict=True):
        assert low <= values.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < values.max() <= high
    env.reset(options={"same_task": True})
    assert np.array_equal(env.constants, drawn[-1])
    env.reset(options={"same_task": False})
    assert not np.array_equal(env.constants, drawn[-1])


def test_buttons_are_drawn_evenly_and_kept_for_a_trial():
    env = gym.make("envs:MetaButtonsTrial-v0", episodes=3, buttons=5)
    env.reset(seed=0)
    drawn = []
    for episode in range(900):
        if episode:
            env.reset()
        drawn.append(int(env.unwrapped.constants[0]))
    trials = np.array(drawn).reshape(300, 3)
    assert (trials == trials[:, :1]).all() and (np.bincount(trials[:, 0], minlength=5) > 40).all()


@pytest.mark.parametrize("wrong", [(2.0, 1.0), (0.0, 1.0), 1.0, (1.0, np.inf), (1.0, 2.0, 3.0)])
def test_wrong_ranges(wrong):
    with pytest.raises(ValueError, match="mass must be two positive numbers"):
        envs.MetaPendulumEnv(mass=wrong)
    with pytest.raises(ValueError, match="half_length must be two positive numbers"):
        envs.MetaCartPoleEnv(half_length=wrong)


@pytest.mark.parametrize("checker", [check_env, sb3_check_env])
@pytest.mark.filterwarnings("ignore")
def test_checkers(checker):
    checker(envs.TrialWrapper(envs.MetaPendulumEnv(), show_action=True))
    checker(envs.TrialWrapper(gym.make("CartPole-v1"), show_action=True))


def test_a_trial_row_by_row(clock):
    env = envs.TrialWrapper(clock(length=2), episodes=2, show_action=True)
    rows, actions = [env.reset()[0]], iter([0.5, 1.0, 1.5, -1.0, -1.5])
    for _ in range(2):
        for _ in range(2):
            rows.append(env.step(np.array([next(actions)]))[0])
        rows.append(env.reset()[0])
    rows.append(env.step(np.array([next(actions)]))[0])
    assert [row["obs"].tolist() for row in rows] == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert [row["trial"].tolist() for row in rows] == [[1, 1], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [1, 1], [0, 0]]
    assert [row["reward"].item() for row in rows] == [0, 1, 2, 2, 1, 2, 0, 1]
    assert [row["action"].item() for row in rows] == [0, 0.5, 1.0, 1.0, 1.5, -1.0, 0, -1.5]
    assert all(env.observation_space.contains(row) for row in rows)


def test_the_task_changes_with_the_trial_alone():
    env = envs.TrialWrapper(TimeLimit(envs.MetaPendulumEnv(), 3), episodes=3)
    env.reset(seed=0)
    constants, starts = [env.unwrapped.constants], []
    for _ in range(6):
        obs, _ = env.reset()
        constants.append(env.unwrapped.constants)
        starts.append(bool(obs["trial"][0]))
    assert starts == [False, False, True, False, False, True]
    changed = [not np.array_equal(a, b) for a, b in pairwise(constants)]
    assert changed == starts
    for begins in (dict(seed=5), dict(options={"new_trial": True})):
        env.reset()
        assert env.reset(**begins)[0]["trial"].tolist() == [1, 1]
        assert env.reset()[0]["trial"].tolist() == [0, 1]


def test_saving_in_the_middle_of_a_trial():
    def play(env):
        rows = []
        for _ in range(12):
            obs, reward, _, truncated, _ = env.step(np.ones(1))
            rows.append((obs["obs"].tolist(), obs["reward"].item(), reward))
            if truncated:
                obs = env.reset()[0]
                rows.append((obs["obs"].tolist(), obs["reward"].item(), obs["trial"].tolist()))
        return rows

    first, second = (envs.TrialWrapper(TimeLimit(envs.MetaPendulumEnv(), 4), episodes=3) for _ in range(2))
    first.reset(seed=0)
    for _ in range(4):
        first.step(np.ones(1))
    first.reset()
    state = envs.get_env_state(first)
    expected = play(first)
    envs.set_env_state(second, state)
    assert play(second) == expected
    with pytest.raises(ValueError, match="env has 0 TrialWrappers, but state comes from one with 1"):
        envs.set_env_state(TimeLimit(envs.MetaPendulumEnv(), 4), state)


def test_dictionaries_and_choices():
    class Several(gym.Env):
        observation_space = gym.spaces.Dict(a=gym.spaces.Box(0, 1, (2,)), b=gym.spaces.Discrete(3))
        action_space = gym.spaces.Discrete(3, start=1)

        def reset(self, *, seed=None, options=None):
            return {"a": np.zeros(2, np.float32), "b": 1}, {}

        def step(self, action):
            return {"a": np.ones(2, np.float32), "b": 2}, 0.5, False, False, {}

    env = envs.TrialWrapper(Several(), show_action=True)
    assert list(env.observation_space) == sorted(["a", "b", "trial", "reward", "action"])
    assert env.reset()[0]["action"].tolist() == [0, 0, 0]
    obs = env.step(2)[0]
    assert obs["action"].tolist() == [0, 1, 0] and obs["a"].tolist() == [1, 1] and obs["reward"].tolist() == [0.5]


def test_wrong_arguments(clock):
    for episodes in (0, 1.5, True):
        with pytest.raises(ValueError, match="episodes must be a whole number of at least 1"):
            envs.TrialWrapper(clock(), episodes=episodes)
    with pytest.raises(ValueError, match=r"keys \['reward', 'trial'\] already"):
        envs.TrialWrapper(envs.TrialWrapper(clock()))
    several = clock()
    several.action_space = gym.spaces.MultiBinary(2)
    with pytest.raises(ValueError, match="show_action needs a Box or a Discrete"):
        envs.TrialWrapper(several, show_action=True)
