"""One step of every task against numbers worked out apart from the code."""

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import envs
from envs.four_rooms import FourRoomsTask


def placed(env, *state):
    """The environment, put into a state."""
    env.reset(seed=0)
    env.set_state({**env.get_state(), "state": np.array(state, dtype=np.float64)})
    return env


def state_of(env):
    return env.get_state()["state"]


# --- pendulum


def test_pendulum_step_by_hand():
    # θ̈ = 3·10/2·sin(π/2) + 3·1 = 18, θ̇ = 0.05·18 = 0.9, θ = π/2 + 0.05·0.9 = π/2 + 0.045
    env = placed(envs.ContinuousPendulumEnv(), math.pi / 2, 0.0)
    observation, reward, terminated, truncated, _ = env.step([1.0])
    assert state_of(env) == pytest.approx([math.pi / 2 + 0.045, 0.9], abs=1e-14)
    assert observation == pytest.approx([-math.sin(0.045), math.cos(0.045), 0.9], abs=1e-7)
    assert reward == pytest.approx(-(2.6107978 + 0.081 + 0.001), abs=1e-6)  # 1.6157963² = 2.6107978
    assert not terminated and not truncated


def test_pendulum_hanging_down_stays_there():
    env = placed(envs.ContinuousPendulumEnv(), -math.pi, 0.0)
    _, reward, *_ = env.step([0.0])
    assert reward == pytest.approx(-(math.pi**2), abs=1e-9)


def test_pendulum_velocity_is_clipped_and_the_angle_wraps():
    env = placed(envs.ContinuousPendulumEnv(), 3.0, 7.99)  # 7.99 + 0.05·(15·sin 3 + 6) = 8.40
    observation, *_ = env.step([2.0])
    assert state_of(env) == pytest.approx([3.0 + 0.4 - 2 * math.pi, 8.0], abs=1e-12)
    assert observation[2] == 8.0


def test_pendulum_torque_is_clipped_also_in_the_reward():
    strong, full = (placed(envs.ContinuousPendulumEnv(), 0.1, 0.0) for _ in range(2))
    assert strong.step([50.0])[1] == full.step([2.0])[1]


def test_sparse_pendulum_hangs_at_first_and_is_rewarded_within_15_degrees_of_the_top():
    env = envs.ContinuousPendulumSparseEnv()
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        assert obs[0] < np.cos(np.pi - 0.1) + 1e-6 and abs(obs[2]) <= 0.1
    at = lambda degrees: np.array([np.radians(degrees), 0.0])  # noqa: E731
    rewards = [env.task.transition(at(degrees), np.zeros(1))[1] for degrees in (0.0, 14.0, -14.0, 16.0, -16.0, 180.0)]
    assert rewards == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    state, full = np.array([[0.3, -1.0], [3.0, 2.0]]), envs.ContinuousPendulumEnv().task
    assert np.array_equal(env.task.transition(state, np.ones((2, 1)))[0], full.transition(state, np.ones((2, 1)))[0])


def test_pendulum_without_velocity_shows_the_angle_of_the_same_motion():
    seeing, blind = envs.ContinuousPendulumEnv(), envs.ContinuousPendulumNoVelocityEnv()
    first, _ = seeing.reset(seed=3)
    assert np.array_equal(first[:2], blind.reset(seed=3)[0])
    for _ in range(5):
        full, partial = seeing.step([1.3]), blind.step([1.3])
        assert partial[0].shape == (2,) and np.array_equal(full[0][:2], partial[0])
        assert full[1] == partial[1]


# --- cart-pole


def test_cartpole_step_by_hand():
    # From rest under 10 N: push = 10/1.1, θ̈ = -push / (0.5·(4/3 - 0.1/1.1)) = -600/41,
    # ẍ = push + 0.05·(600/41)/1.1 = 400/41
    env = placed(envs.ContinuousCartPoleEnv(), 0.0, 0.0, 0.0, 0.0)
    observation, reward, terminated, truncated, _ = env.step([1.0])
    assert state_of(env) == pytest.approx([0.0, 8 / 41, 0.0, -12 / 41], abs=1e-14)
    assert observation == pytest.approx([0.0, 8 / 41, 0.0, -12 / 41], abs=1e-7)
    assert (reward, terminated, truncated) == (1.0, False, False)


def test_cartpole_moves_as_gymnasiums_under_full_force():
    theirs, ours = CartPoleEnv(), placed(envs.ContinuousCartPoleEnv(), 0.3, -0.7, 0.05, 0.9)
    theirs.reset(seed=0)
    theirs.state = state_of(ours)
    for push in (1, 0, 0, 1, 1, 0):
        theirs.step(push)
        ours.step([1.0 if push else -1.0])
        assert state_of(ours) == pytest.approx(theirs.state, abs=1e-14)


def test_cartpole_force_is_proportional_and_clipped():
    # The push is linear in the action while all else is at rest.
    for action, force in ((0.25, 0.25), (-0.5, -0.5), (3.0, 1.0)):
        env = placed(envs.ContinuousCartPoleEnv(), 0.0, 0.0, 0.0, 0.0)
        env.step([action])
        assert state_of(env)[1] == pytest.approx(force * 8 / 41, abs=1e-14)


@pytest.mark.parametrize(
    ("state", "terminated"),
    [
        ((2.39, 1.0, 0.0, 0.0), True),  # 2.39 + 0.02·1 = 2.41
        ((2.37, 1.0, 0.0, 0.0), False),
        ((-2.39, -1.0, 0.0, 0.0), True),
        ((0.0, 0.0, 0.2, 0.5), True),  # 0.2 + 0.02·0.5 = 0.21 rad = 12.03°
        ((0.0, 0.0, 0.2, 0.4), False),  # 0.208 rad = 11.92°
        ((0.0, 0.0, -0.2, -0.5), True),
    ],
)
def test_cartpole_ends_beyond_the_limits_without_a_reward(state, terminated):
    env = placed(envs.ContinuousCartPoleEnv(), *state)
    observation, reward, ended, truncated, _ = env.step([0.0])
    assert (reward, ended, truncated) == (0.0 if terminated else 1.0, terminated, False)
    assert env.observation_space.contains(observation)


# --- sequence


def test_sequence_steps_by_hand():
    env = placed(envs.SequenceMemoryEnv(), 0.1, 0.2, 0.3, 0.4, 0.95, 0, 0)
    observation, reward, *_ = env.step(1)  # 0.95 + 0.1 is cut at 1: 0.2 0.3 0.4 0.95 1
    assert observation == pytest.approx([1.0, 2.85 / 5, 1.0, 1 / 50], abs=1e-7)
    assert reward == pytest.approx(1 - 2 * abs(2.35 / 3 - 0.5), abs=1e-14)
    observation, reward, *_ = env.step(0)  # 0.3 0.4 0.95 1 0.9
    assert observation == pytest.approx([0.9, 3.55 / 5, 0.0, 2 / 50], abs=1e-7)
    assert reward == pytest.approx(1 - 2 * (2.85 / 3 - 0.5), abs=1e-14)


def test_sequence_is_cut_at_zero():
    env = placed(envs.SequenceMemoryEnv(), 0.5, 0.5, 0.5, 0.5, 0.04, 0, 0)
    assert env.step(0)[0][0] == 0.0


def test_sequence_shows_nothing_at_reset():
    for seed in range(3):
        assert np.array_equal(envs.SequenceMemoryEnv().reset(seed=seed)[0], np.zeros(4, np.float32))


def test_sequence_observation_stays_in_its_space_beyond_the_time_limit():
    env = envs.SequenceMemoryEnv()
    env.reset(seed=0)
    for _ in range(60):
        observation, *_ = env.step(1)
    assert env.observation_space.contains(observation) and observation[3] == 1.0


# --- delayed recall


@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("answer_is_right", [True, False])
def test_delayed_recall_time_line(delay, answer_is_right):
    env = envs.DelayedRecallEnv(num_cues=3, delay=delay)
    observation, _ = env.reset(seed=1)
    cue = int(state_of(env)[0])
    assert np.array_equal(observation, [*np.eye(3)[cue], 0.0])
    for _ in range(delay):
        observation, reward, terminated, truncated, _ = env.step(cue)  # naming it early is worth nothing
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert np.array_equal(observation, np.zeros(4))
    observation, reward, terminated, _, _ = env.step(cue)
    assert (reward, terminated) == (0.0, False)
    assert np.array_equal(observation, [0.0, 0.0, 0.0, 1.0])
    _, reward, terminated, truncated, _ = env.step(cue if answer_is_right else (cue + 1) % 3)
    assert (reward, terminated, truncated) == (float(answer_is_right), True, False)


@pytest.mark.parametrize("num_cues", [1, 0, 2.5, True, "4"])
def test_delayed_recall_needs_at_least_two_cues(num_cues):
    with pytest.raises(ValueError, match="num_cues must be an integer of at least 2, got"):
        envs.DelayedRecallEnv(num_cues=num_cues)


@pytest.mark.parametrize("delay", [-1, 1.5, None])
def test_delayed_recall_needs_a_delay_of_whole_steps(delay):
    with pytest.raises(ValueError, match="delay must be an integer of at least 0, got"):
        envs.DelayedRecallEnv(delay=delay)


def test_a_long_delay_is_not_cut_by_a_time_limit():
    env = gym.make("envs:DelayedRecall-v0", delay=700)
    env.reset(seed=0)
    for _ in range(701):
        _, _, terminated, truncated, _ = env.step(0)
        assert not terminated and not truncated
    assert env.step(0)[2:4] == (True, False)


# --- four rooms


def test_four_rooms_step_by_hand():
    env = placed(envs.FourRoomsEnv(), -0.5, -0.5)
    observation, reward, terminated, truncated, _ = env.step([0.5, -1.0])  # length √1.25, so a whole step of 0.04
    assert state_of(env) == pytest.approx([-0.5 + 0.02 / math.sqrt(1.25), -0.5 - 0.04 / math.sqrt(1.25)], abs=1e-14)
    assert observation == pytest.approx(state_of(env), abs=1e-7)
    assert (reward, terminated, truncated) == (0.0, False, False)
    env = placed(envs.FourRoomsEnv(), -0.5, -0.5)
    env.step([0.25, 0.0])  # a quarter of a step
    assert state_of(env) == pytest.approx([-0.49, -0.5], abs=1e-14)


@pytest.mark.parametrize(
    ("position", "action", "after"),
    [
        ((-0.07, -0.85), (1, 0), (-0.05, -0.85)),  # no door between the first room and the last
        ((0.07, -0.5), (-1, 0), (0.05, -0.5)),
        ((-0.07, 0.3), (1, 0), (-0.05, 0.3)),  # beside the door, which is from 0.35 to 0.65
        ((-0.07, 0.36), (1, 0), (-0.03, 0.36)),  # into it
        ((0.03, 0.36), (1, 0), (0.07, 0.36)),  # and out of it
        ((-0.36, -0.07), (0, 1), (-0.36, -0.03)),
        ((0.64, 0.07), (0, -1), (0.64, 0.03)),
        ((0.66, 0.07), (0, -1), (0.66, 0.05)),
        ((0.0, 0.36), (0, -1), (0.0, 0.35)),  # a door has sides
        ((0.0, 0.64), (0, 1), (0.0, 0.65)),
        ((-0.36, 0.0), (1, 0), (-0.35, 0.0)),
        ((0.36, 0.0), (-1, 0), (0.35, 0.0)),
        ((0.0, 0.35), (-1, 0), (-0.04, 0.35)),  # along which one can go
        ((0.65, 0.0), (0, 1), (0.65, 0.04)),
        ((-0.05, -0.85), (1, 0), (-0.05, -0.85)),  # at a wall it stays on its side
        ((-0.05, -0.85), (-1, 0), (-0.09, -0.85)),
        ((0.99, 0.99), (1, 1), (1.0, 1.0)),
    ],
)
def test_four_rooms_walls_and_doors(position, action, after):
    env = placed(envs.FourRoomsEnv(), *position)
    _, reward, terminated, _, _ = env.step(np.array(action))
    assert state_of(env) == pytest.approx(after, abs=1e-12) and reward == 0.0 and not terminated


def test_four_rooms_nobody_is_ever_inside_a_wall():
    task = FourRoomsTask()
    rng = np.random.default_rng(0)
    position = np.full((200, 2), -0.5)
    direction, crossed = rng.uniform(-1, 1, (200, 2)), 0
    for step in range(600):
        if step % 20 == 0:
            direction = rng.uniform(-1, 1, (200, 2))
        before, position = position, task.transition(position, direction)[0]
        x, y = position.T
        door_above = np.abs(y - 0.5) < 0.15 + 1e-5
        doors = np.abs(np.abs(x) - 0.5) < 0.15 + 1e-5
        assert (door_above | (np.abs(x) > 0.05 - 1e-5)).all() and (doors | (np.abs(y) > 0.05 - 1e-5)).all()
        crossed += int((before * position < 0).any(1).sum())
    assert crossed > 50


def test_four_rooms_ends_at_the_goal():
    env = placed(envs.FourRoomsEnv(), 0.85, -0.66)
    assert env.step([0.0, -0.5])[1:3] == (0.0, False)  # 0.17 from it
    assert env.step([0.0, -1.0])[1:3] == (1.0, True)  # 0.13


def test_four_rooms_takes_about_eighty_steps():
    env = gym.make("envs:FourRooms-v0")
    observation, _ = env.reset(seed=0)
    way, steps, reward = [(-0.5, -0.1), (-0.5, 0.1), (-0.1, 0.5), (0.1, 0.5), (0.5, 0.1), (0.5, -0.1), (0.85, -0.85)], 0, 0.0
    while reward == 0.0:
        towards = np.array(way[0]) - observation
        if np.abs(towards).max() < 0.03:
            way.pop(0)
            continue
        observation, reward, *_ = env.step(towards / np.linalg.norm(towards))
        steps += 1
    assert 75 <= steps <= 90


def test_four_rooms_are_not_found_by_chance():
    env = gym.make_vec("envs:FourRooms-v0", num_envs=500)
    observations, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(199):
        observations, rewards, *_ = env.step(rng.uniform(-1, 1, (500, 2)))
        assert rewards.sum() == 0
    assert (observations < 0).all(1).mean() > 0.95  # hardly anybody has left the first room


# --- pin pad


@pytest.mark.parametrize(
    ("state", "action", "after", "reward"),
    [
        ((3, 1, 0), 1, (2, 1, 1), 0.0),  # on to the first pad
        ((2, 1, 1), 0, (2, 1, 1), 0.0),  # resting on it
        ((3, 1, 1), 1, (2, 1, 1), 0.0),  # back on to it: nothing is lost
        ((10, 12, 1), 2, (11, 12, 2), 0.0),  # the second
        ((10, 1, 2), 2, (11, 1, 0), 1.0),  # the third and last
        ((11, 1, 0), 4, (11, 2, 0), 0.0),  # resting on that, after the reward
        ((10, 1, 1), 2, (11, 1, 0), 0.0),  # a wrong one undoes
        ((3, 1, 2), 1, (2, 1, 1), 0.0),  # the first one instead is a new beginning
        ((6, 1, 2), 3, (6, 0, 2), 0.0),  # with three pads there is none here
        ((0, 5, 0), 1, (0, 5, 0), 0.0),  # a wall
        ((6, 13, 0), 4, (6, 13, 0), 0.0),
    ],
)
def test_pin_pad_step_by_hand(state, action, after, reward):
    env = placed(envs.PinPadEnv(), *state)
    observation, given, terminated, truncated, _ = env.step(action)
    assert np.array_equal(state_of(env), after) and (given, terminated, truncated) == (reward, False, False)
    x, y, done = after
    assert observation == pytest.approx([x * 2 / 13 - 1, y * 2 / 13 - 1, *np.eye(3)[done]], abs=1e-7)


@pytest.mark.parametrize("pads", [2, 3, 6])
def test_pin_pad_in_order_pays_every_round(pads):
    """Walk from pad to pad; on the way between two no other one may be touched."""
    env = placed(envs.PinPadEnv(pads=pads), 6, 7, 0)
    middles = [(1, 1), (12, 12), (12, 1), (1, 12), (6, 1), (6, 12)][:pads]
    total = 0.0
    for target in middles * 2:
        x, y, _ = state_of(env)
        for cell in ((x, 7), (target[0], 7), target):  # by the corridor in the middle
            while tuple(state_of(env)[:2]) != cell:
                (x, y, _), (to_x, to_y) = state_of(env), cell
                total += env.step(1 if to_x < x else 2 if to_x > x else 3 if to_y < y else 4)[1]
    assert total == 2.0


@pytest.mark.parametrize("pads", [1, 7, 2.5, True, "3"])
def test_pin_pad_has_two_to_six_pads(pads):
    with pytest.raises(ValueError, match="pads must be an integer from 2 to 6, got"):
        envs.PinPadEnv(pads=pads)


# ---- buttons


def test_buttons_by_hand():
    env = placed(envs.MetaButtonsEnv(), -1.0, 2.0)
    assert env.task.observe(state_of(env)).tolist() == [0, 0, 0, 0, 0]
    for button in (1, 2, 2, 0):
        obs, reward, terminated, truncated, _ = env.step(button)
        pays = button == 2
        assert obs.tolist() == [*(float(i == button) for i in range(4)), float(pays)]
        assert reward == pays and not terminated and not truncated


def test_buttons_are_worth_remembering():
    env, searched = gym.make("envs:MetaButtons-v0"), []
    for seed in range(400):
        env.reset(seed=seed)
        button, collected, over = 0, 0.0, False
        while not over:
            _, reward, _, over, _ = env.step(button)
            button += reward == 0
            collected += reward
        searched.append(collected)
    assert set(searched) == {3.0, 4.0, 5.0, 6.0} and np.mean(searched) == pytest.approx(4.5, abs=0.15)


def test_a_picture_of_buttons_shows_what_was_pressed_alone():
    env = envs.MetaButtonsEnv(render_mode="rgb_array")
    frames = {}
    for pressed, pays in ((-1, 0), (-1, 1), (1, 0), (1, 1), (1, 2)):
        placed(env, float(pressed), float(pays))
        frames[pressed, pays] = env.render()
    assert np.array_equal(frames[-1, 0], frames[-1, 1]) and np.array_equal(frames[1, 0], frames[1, 2])
    assert not np.array_equal(frames[1, 0], frames[1, 1]) and not np.array_equal(frames[1, 0], frames[-1, 0])


@pytest.mark.parametrize("buttons", [1, 2.5, True])
def test_buttons_refused(buttons):
    with pytest.raises(ValueError, match="buttons must be a whole number of at least 2"):
        envs.MetaButtonsEnv(buttons=buttons)
