"""How the toy tasks behave as a whole: checkers, seeds, time limits, saving and rendering."""

import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs

# Both checkers advise against spaces that the tasks have on purpose; anything else they warn of is a fault.
EXPECTED_ADVICE = ("symmetric and normalized", "infinity. This is probably too")


@pytest.fixture(params=envs.TASK_IDS + envs.META_TASK_IDS)
def task_id(request):
    return f"envs:{request.param}"


def play(env, steps, seed=0):
    """Results of random actions, beginning wherever the environment is."""
    rng = np.random.default_rng(seed)
    number = getattr(env.action_space, "n", None)
    results = []
    for _ in range(steps):
        action = int(rng.integers(number)) if number else rng.uniform(-2, 2, size=env.action_space.shape)
        observation, reward, terminated, truncated, _ = env.step(action)
        results.append((observation.tobytes(), reward, terminated, truncated))
        if terminated or truncated:
            results.append(env.reset()[0].tobytes())
    return results


@pytest.mark.parametrize("checker", [check_env, sb3_check_env])
def test_checkers(task_id, checker, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checker(gym.make(task_id, render_mode="rgb_array").unwrapped, skip_render_check=False)
    messages = [str(warning.message) for warning in caught if not issubclass(warning.category, ResourceWarning)]
    assert [m for m in messages if not any(advice in m for advice in EXPECTED_ADVICE)] == []


def test_observations_are_inside_their_space(task_id):
    env = gym.make(task_id)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(300):
        assert observation.dtype == env.observation_space.dtype in (np.float32, np.uint8)
        assert env.observation_space.contains(observation)
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert type(reward) is float and type(terminated) is bool
        if terminated or truncated:
            assert env.observation_space.contains(observation)
            observation, _ = env.reset()


def test_same_seed_same_course(task_id):
    courses = []
    for seed in (3, 3, 4):
        env = gym.make(task_id)
        first, _ = env.reset(seed=seed)
        courses.append([first.tobytes(), *play(env, 400)])
    assert courses[0] == courses[1] and courses[0] != courses[2]


def test_global_generators_are_not_used(task_id):
    courses = []
    for global_seed in (1, 2):
        np.random.seed(global_seed)
        env = gym.make(task_id)
        courses.append([env.reset(seed=0)[0].tobytes(), *play(env, 60)])
    assert courses[0] == courses[1]


@pytest.mark.parametrize(
    ("task_id", "steps"),
    [
        ("ContinuousPendulum-v0", 200),
        ("ContinuousPendulumNoVelocity-v0", 200),
        ("ContinuousPendulumSparse-v0", 200),
        ("ContinuousPendulumPixels-v0", 200),
        ("ContinuousCartPole-v0", 200),
        ("SequenceMemory-v0", 50),
        ("FourRooms-v0", 200),
        ("PinPad-v0", 200),
    ],
)
def test_time_limits_truncate(task_id, steps):
    env = gym.make(f"envs:{task_id}")
    balance = np.array([[0.2, 0.4, 8.0, 1.5]])  # a linear controller that keeps the pole up
    observation, _ = env.reset(seed=0)
    for step in range(1, steps + 1):
        action = balance @ observation if "CartPole" in task_id else np.zeros(env.action_space.shape, int)
        observation, _, terminated, truncated, _ = env.step(action)
        assert (terminated, truncated) == (False, step == steps)


def test_step_before_reset_and_wrong_actions(task_id):
    env = gym.make(task_id).unwrapped
    good = env.action_space.sample()
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before step\(\)"):
        env.step(good)
    env.reset(seed=0)
    before = env.get_state()["state"]
    for bad in (np.full((2,), np.nan), np.zeros((1, 1)), "left", np.full(env.action_space.shape, np.nan)):
        with pytest.raises(ValueError, match="action must"):
            env.step(bad)
    assert np.array_equal(before, env.get_state()["state"])
    env.step(good)


# --- saving


@pytest.mark.parametrize("fresh", [True, False])
def test_env_state_roundtrip_with_time_limit(task_id, fresh):
    env = gym.make(task_id)
    env.reset(seed=5)
    play(env, 7, seed=1)
    state = envs.get_env_state(env)
    expected = play(env, 450)
    if fresh:
        env = gym.make(task_id)
    for _ in range(2):  # twice: playing on must not have touched the saved state
        envs.set_env_state(env, state)
        assert play(env, 450) == expected


def test_plain_state_roundtrip(task_id):
    env, other = (gym.make(task_id).unwrapped for _ in range(2))
    env.reset(seed=5)
    other.set_state(env.get_state())
    assert play(env, 30) == play(other, 30)
    with pytest.raises(ValueError, match=r"state must come from get_state\(\)"):
        env.set_state({"position": 1})


def test_env_state_of_other_environments_is_refused():
    pendulum = gym.make("envs:ContinuousPendulum-v0")
    with pytest.raises(ValueError, match="env must be one of the toy tasks"):
        envs.get_env_state(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="env has 2 TimeLimit wrappers, but state comes from one with 1"):
        envs.set_env_state(TimeLimit(pendulum, 5), envs.get_env_state(pendulum))


# --- rendering


def test_rgb_frames(task_id, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make(task_id, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    width, height = env.unwrapped.task.screen_size
    assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) >= 2  # something was drawn
    env.action_space.seed(0)
    seen = []
    for _ in range(5):  # one step may move less than a pixel, or lead back
        env.step(env.action_space.sample())
        seen.append(env.render())
    assert not all(np.array_equal(frame, other) for other in seen)
    env.close()
    env.close()


def test_human_window(task_id, monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make(task_id, render_mode="human")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert pygame.display.get_init() and env.render() is None
    env.close()
    assert not pygame.display.get_init()


def test_pole_leans_where_the_angle_points():
    """A pole leaning right (positive angle) has its brown pixels right of the cart's middle."""
    env = envs.ContinuousCartPoleEnv(render_mode="rgb_array")
    env.reset(seed=0)
    for angle, side in ((0.2, 1), (-0.2, -1)):
        env.set_state({**env.get_state(), "state": np.array([0.0, 0.0, angle, 0.0])})
        columns = np.nonzero((env.render() == (202, 152, 101)).all(-1))[1]
        assert np.sign(columns.mean() - 300) == side


def test_rendering_without_pygame_says_what_to_install(task_id, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = gym.make(task_id, render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r'pip install "sb3-dreamer\[render\]"'):
        env.render()


def test_render_modes():
    with pytest.raises(ValueError, match=r"render_mode must be None or one of .*, got 'ansi'"):
        envs.ContinuousPendulumEnv(render_mode="ansi")
    env = envs.ContinuousPendulumEnv()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None
