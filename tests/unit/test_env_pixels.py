"""The pictures of the pendulum: what is where in them, and that they tell the angle and nothing else."""

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.drawing import BLUE, RED, WHITE
from envs.pendulum_pixels import BOB_RADIUS, ROD_LENGTH, ROD_RADIUS, PendulumPixelsTask

ANGLES = np.linspace(-math.pi, math.pi, 629)  # 0.01 rad apart, both ends hang down


def pictures(*angles, velocity=0.0):
    """One picture an angle, shape ``(n, 64, 64, 3)``."""
    return PendulumPixelsTask().observe(np.array([(angle, velocity) for angle in angles]))


def picture(angle):
    """The picture of a single state."""
    return PendulumPixelsTask().observe(np.array([angle, 0.0]))


def pixels(image, color):
    """Mean position ``(row, column)`` of the pixels of exactly this colour, and how many they are."""
    rows, columns = (image == color).all(-1).nonzero()
    return rows.mean(), columns.mean(), len(rows)


def drawn_pixel_by_pixel(angle):
    """The picture worked out by plain Python, unrounded: over white a rod, over that a bob."""
    tip = (-ROD_LENGTH * math.sin(angle), ROD_LENGTH * math.cos(angle))
    image = np.zeros((64, 64, 3))
    for row in range(64):
        for column in range(64):
            x, y = column - 31.5, 31.5 - row  # of the pixel's centre, from the axle
            share = min(max((x * tip[0] + y * tip[1]) / ROD_LENGTH**2, 0.0), 1.0)  # the nearest point of the rod's middle
            rod_distance = math.dist((x, y), (share * tip[0], share * tip[1]))
            color = np.array(WHITE, dtype=float)
            for distance, radius, layer in ((rod_distance, ROD_RADIUS, RED), (math.dist((x, y), tip), BOB_RADIUS, BLUE)):
                cover = min(max(radius + 0.5 - distance, 0.0), 1.0)
                color = (1 - cover) * color + cover * np.array(layer)
            image[row, column] = color
    return image


# --- what is where


def test_shapes_and_dtype():
    task = PendulumPixelsTask()
    assert task.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    for batch in ((), (1,), (5,), (2, 3), (0,)):
        image = task.observe(np.zeros((*batch, 2)))
        assert image.shape == (*batch, 64, 64, 3) and image.dtype == np.uint8 and image.flags.writeable


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, 2.0, math.pi, -0.7, -math.pi / 2, -2.6])
def test_picture_equals_one_drawn_pixel_by_pixel(angle):
    # Half a level of rounding; float32 may round the other way.
    assert np.abs(picture(angle) - drawn_pixel_by_pixel(angle)).max() <= 0.501


@pytest.mark.parametrize(
    ("angle", "up", "right"),
    [
        (0.0, 1, 0),
        (math.pi, -1, 0),
        (-math.pi, -1, 0),
        (math.pi / 2, 0, -1),  # positive angles lean left
        (-math.pi / 2, 0, 1),
        (math.pi / 4, 0.707, -0.707),
    ],
)
def test_bob_and_rod_lie_where_the_angle_points(angle, up, right):
    image = picture(angle)
    row, column, number = pixels(image, BLUE)
    assert (31.5 - row, column - 31.5) == pytest.approx((ROD_LENGTH * up, ROD_LENGTH * right), abs=0.25)
    assert 50 <= number <= math.pi * BOB_RADIUS**2  # those that it covers in full
    row, column, number = pixels(image, RED)
    middle = (ROD_LENGTH - BOB_RADIUS - ROD_RADIUS) / 2 + 0.5  # of the part that the bob leaves to be seen
    assert (31.5 - row, column - 31.5) == pytest.approx((middle * up, middle * right), abs=1.0)
    assert number >= 50


def test_upright_and_hanging_by_hand():
    upright, hanging = pictures(0.0, math.pi)
    # The rod ends 2.5 pixels beside the middle: in the middle of the third pixel, which is half red, half white.
    half = (230, 166, 166)
    assert upright[20, 28:36].tolist() == [list(color) for color in (WHITE, half, RED, RED, RED, RED, half, WHITE)]
    assert (upright[35:] == 255).all()  # nothing below the axle but the rod's round end
    assert (hanging[:29] == 255).all()
    assert np.array_equal(hanging, upright[::-1])


def test_edges_are_smooth():
    image = picture(0.5).reshape(-1, 3)
    between = ~np.any([(image == color).all(-1) for color in (WHITE, RED, BLUE)], axis=0)
    assert between.sum() >= 40 and len(np.unique(image[between], axis=0)) >= 20


# --- what the pictures tell


@pytest.mark.parametrize("velocity", [-8.0, 0.3, 8.0])
def test_velocity_is_not_shown(velocity):
    assert np.array_equal(pictures(0.4, -2.0, velocity=velocity), pictures(0.4, -2.0))


def test_opposite_angles_are_mirrored():
    assert np.array_equal(pictures(*-ANGLES), pictures(*ANGLES)[:, :, ::-1])
    above, below = pictures(0.4, math.pi - 0.4)
    assert np.abs(above[::-1].astype(int) - below).max() <= 1  # π - 0.4 is rounded


def test_nearby_angles_differ_a_little_everywhere():
    images = pictures(*ANGLES).astype(int)
    change = np.abs(images[2:] - images[:-2])  # 0.02 rad apart
    assert (change.max((1, 2, 3)) >= 30).all() and (change.max((1, 2, 3)) <= 140).all()  # no angle at which it jumps
    assert ((change.max(-1) > 2).sum((1, 2)) >= 20).all()
    assert np.array_equal(images[0], images[-1])


def test_no_two_angles_look_alike():
    reds = pictures(*ANGLES[:-1:4])[..., 0].astype(np.int16)  # 0.04 rad apart
    for index, red in enumerate(reds):
        others = np.delete(reds, index, axis=0)
        assert (np.abs(others - red) > 30).sum((1, 2)).min() >= 10


def test_batch_equals_singles():
    images = pictures(*ANGLES)
    for angle, image in zip(ANGLES, images, strict=True):
        assert np.array_equal(picture(angle), image)
    grid = np.stack((ANGLES, ANGLES), axis=-1)[:600].reshape(20, 30, 2)
    assert np.array_equal(PendulumPixelsTask().observe(grid).reshape(600, 64, 64, 3), images[:600])


# --- the environment


def test_it_moves_as_the_pendulum_of_numbers():
    numbers, shown = gym.make("envs:ContinuousPendulum-v0"), gym.make("envs:ContinuousPendulumPixels-v0")
    numbers.reset(seed=3)
    first, _ = shown.reset(seed=3)
    assert np.array_equal(first, PendulumPixelsTask().observe(numbers.unwrapped.get_state()["state"]))
    for step in range(1, 201):
        _, *expected = numbers.step([1.3])
        image, *others = shown.step([1.3])
        state = numbers.unwrapped.get_state()["state"]
        assert others == expected and np.array_equal(shown.unwrapped.get_state()["state"], state)
        assert np.array_equal(image, PendulumPixelsTask().observe(state))
        assert others[2] == (step == 200)


def test_a_state_that_is_set_is_shown_in_the_next_picture():
    env = envs.ContinuousPendulumPixelsEnv()
    env.reset(seed=0)
    env.set_state({**env.get_state(), "state": np.array([0.0, 0.0])})
    assert np.array_equal(env.step([0.0])[0], picture(0.0))  # upright and at rest, it stays so


def test_last_pictures_of_ended_episodes():
    batched = gym.make_vec("envs:ContinuousPendulumPixels-v0", num_envs=2, max_episode_steps=3)
    make = [lambda: gym.make("envs:ContinuousPendulumPixels-v0", max_episode_steps=3)] * 2
    sync = SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
    batched.reset(seed=0), sync.reset(seed=0)
    for _ in range(3):
        observations, *_, infos = batched.step(np.ones((2, 1)))
        expected, *_, expected_infos = sync.step(np.ones((2, 1)))
    assert observations.dtype == np.uint8 and np.array_equal(observations, expected)
    assert batched.observation_space.contains(observations)
    for index in range(2):
        final = infos["final_obs"][index]
        assert final.dtype == np.uint8 and np.array_equal(final, expected_infos["final_obs"][index])
        assert not np.array_equal(final, observations[index])


def test_rendering_looks_like_the_pendulum(monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    frames = []
    for env_class in (envs.ContinuousPendulumEnv, envs.ContinuousPendulumPixelsEnv):
        env = env_class(render_mode="rgb_array")
        env.reset(seed=0)
        env.set_state({**env.get_state(), "state": np.array([0.5, 0.0])})
        frames.append(env.render())
        env.close()
    assert np.array_equal(*frames)
    # Both lean to the same side.
    assert pixels(frames[1], RED)[1] < 199.5 and pixels(picture(0.5), RED)[1] < 31.5
