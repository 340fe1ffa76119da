"""Videos of dreams: what is drawn where, which windows are chosen, and what comes to TensorBoard."""

import pathlib
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import TINY, assert_equal_weights, tiny_dreamer, weights_of
from oracle import Oracle, make_batch
from PIL import Image as PillowImage
from stable_baselines3 import PPO

from sb3_dreamer import Dreamer
from sb3_dreamer.common import video as video_module
from sb3_dreamer.common.callbacks import OpenLoopErrorCallback, looking
from sb3_dreamer.common.video import (
    BLANK,
    BORDER,
    IMAGINED,
    OBSERVED,
    OpenLoopVideoCallback,
    draw_whole_windows,
    film_strip,
    open_loop_video,
    save_gif,
    side_by_side,
)


class Cameras(gym.Env):
    """Two pictures of different sizes, in which a bright row moves down, and the number of the step."""

    action_space = gym.spaces.Box(-1.0, 1.0, (1,))
    observation_space = gym.spaces.Dict(
        grey=gym.spaces.Box(0, 255, (7, 7), np.uint8),
        rgb=gym.spaces.Box(0, 255, (8, 12, 3), np.uint8),
        step=gym.spaces.Box(0, np.inf, (1,)),
    )

    def __init__(self, length: int = 30) -> None:
        self.length, self.clock = length, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.clock = 0
        return self._obs(), {}

    def _obs(self) -> dict[str, np.ndarray]:
        obs = {name: np.zeros(self.observation_space[name].shape, np.uint8) for name in ("grey", "rgb")}
        obs["grey"][self.clock % 7] = obs["rgb"][self.clock % 8, :, 0] = 255
        return {**obs, "step": np.array([self.clock], np.float32)}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        self.clock += 1
        return self._obs(), 0.0, False, self.clock >= self.length, {}


def cameras(length: int = 30, **kwargs: Any) -> Dreamer:
    return Dreamer("MultiInputPolicy", Cameras(length), **{**TINY, "seed": 0, **kwargs})


def random_images(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randint(0, 256, shape, generator=th.Generator().manual_seed(seed), dtype=th.uint8)


def draw(truth: th.Tensor, predicted: th.Tensor, context: int, is_first: th.Tensor | None = None) -> np.ndarray:
    batch = make_batch({"camera": truth, "vector": th.zeros(*truth.shape[:2], 2)}, is_first)
    videos = open_loop_video(Oracle(batch, {"camera": predicted}, context), batch, context)  # type: ignore[arg-type]
    assert videos.keys() == {"camera"} and videos["camera"].dtype == np.uint8
    return videos["camera"]


def parts(video: np.ndarray) -> list[np.ndarray]:
    """Truth, model and error without their borders."""
    return [row[:, :, BORDER:-BORDER, BORDER:-BORDER] for row in np.split(video, 3, axis=2)]


def borders(video: np.ndarray) -> np.ndarray:
    """All pixels of the borders, ``(B, T, n, 3)``."""
    height, width = (size + 2 * BORDER for size in (video.shape[2] // 3 - 2 * BORDER, video.shape[3] - 2 * BORDER))
    mask = np.ones((height, width), dtype=bool)
    mask[BORDER:-BORDER, BORDER:-BORDER] = False
    return video[:, :, np.concatenate([mask] * 3)]


def test_truth_model_and_error_lie_below_each_other() -> None:
    truth, predicted = random_images(2, 6, 3, 64, 80), random_images(2, 6, 3, 64, 80, seed=1)
    video = draw(truth, predicted.float(), context=2)
    assert video.shape == (2, 6, 3 * (64 + 2 * BORDER), 80 + 2 * BORDER, 3)
    shown_truth, shown_model, shown_error = parts(video)
    assert np.array_equal(shown_truth, truth.movedim(2, -1).numpy())
    assert np.array_equal(shown_model, predicted.movedim(2, -1).numpy())
    expected = (predicted.float() - truth.float() + 255) / 2
    assert np.abs(shown_error - expected.movedim(2, -1).numpy()).max() <= 0.5
    assert (borders(video)[:, :2] == OBSERVED).all() and (borders(video)[:, 2:] == IMAGINED).all()


def test_error_of_a_perfect_model_is_grey() -> None:
    truth = random_images(1, 4, 1, 64, 64)
    assert np.isin(parts(draw(truth, truth.float(), context=1))[2], (127, 128)).all()


def test_rows_after_the_end_of_an_episode_are_blank() -> None:
    truth = random_images(2, 6, 1, 64, 64)
    is_first = th.zeros(2, 6)
    is_first[0, 1] = 1  # while it is observed: the model knows
    is_first[1, 4] = 1
    video = draw(truth, truth.float(), context=2, is_first=is_first)
    assert (video[1, 4:] == BLANK).all()
    assert (borders(video)[0, 2:] == IMAGINED).all() and (borders(video)[1, 2:4] == IMAGINED).all()
    assert np.array_equal(parts(video)[0][0, ..., 0], truth[0, :, 0].numpy())


@pytest.mark.parametrize("channels, shown", [(1, [0, 0, 0]), (2, [1, 1, 1]), (3, [0, 1, 2]), (4, [3, 3, 3]), (9, [6, 7, 8])])
def test_newest_of_stacked_channels(channels: int, shown: list[int]) -> None:
    truth = random_images(1, 2, channels, 64, 3)
    assert np.array_equal(parts(draw(truth, truth.float(), 1))[0], truth[:, :, shown].movedim(2, -1).numpy())


def test_small_images_are_enlarged() -> None:
    truth = random_images(1, 2, 3, 7, 5)
    shown = parts(draw(truth, truth.float(), 1))[0]
    assert shown.shape == (1, 2, 70, 50, 3)
    assert np.array_equal(shown[:, :, ::10, ::10], truth.movedim(2, -1).numpy())
    assert np.array_equal(shown[:, :, 9::10, 9::10], truth.movedim(2, -1).numpy())


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.25, 0.5)])
def test_float_images(low: float, high: float) -> None:
    truth = th.full((1, 2, 1, 64, 64), low)
    truth[..., 32:] = high
    shown_truth, shown_model, _ = parts(draw(truth, truth * 100, 1))  # the prediction leaves the range: it is cut
    expected = (64, 128) if high == 0.5 else (0, 255)
    assert (shown_truth[..., :32, :] == expected[0]).all() and (shown_truth[..., 32:, :] == expected[1]).all()
    assert shown_model.max() == 255


def test_side_by_side_and_film_strip() -> None:
    video = np.arange(2 * 9, dtype=np.uint8).reshape(2, 9, 1, 1, 1) * np.ones((6, 5, 3), dtype=np.uint8)
    beside = side_by_side(video)
    assert beside.shape[:2] == (9, 6) and beside.shape[2] > 10
    assert np.array_equal(beside[:, :, :5], video[0]) and np.array_equal(beside[:, :, -5:], video[1])
    strip = film_strip(video, frames=5)
    assert strip.shape[1] == 5 * 5
    assert strip[0, ::5, 0].tolist() == [0, 2, 4, 6, 8] and strip[-1, ::5, 0].tolist() == [9, 11, 13, 15, 17]
    assert film_strip(video, frames=50).shape[1] == 9 * 5
    assert np.array_equal(side_by_side(video[:1]), video[0])


def test_gif(tmp_path: pathlib.Path) -> None:
    truth = random_images(2, 8, 3, 32, 32)
    frames = side_by_side(draw(truth, truth.float(), context=3))
    save_gif(tmp_path / "new" / "dream", frames, fps=4)
    (written,) = (tmp_path / "new").iterdir()  # nothing half written beside it
    assert written.name == "dream.gif"
    with PillowImage.open(written) as gif:
        assert gif.n_frames == 8 and gif.size == frames.shape[2:0:-1]
        assert gif.info["duration"] == 250 and gif.info["loop"] == 0
        for t, color in ((2, OBSERVED), (3, IMAGINED)):
            gif.seek(t)
            corner = np.array(gif.convert("RGB"), dtype=int)[0, 0]
            assert np.abs(corner - color).max() < 16, t


def test_windows_within_one_episode_are_preferred() -> None:
    model = cameras(length=30, learning_starts=1000).learn(200)  # 31 rows an episode
    before = model.replay_buffer.rng_state(), th.get_rng_state()
    batch = draw_whole_windows(model, windows=6, length=12, context=4)
    assert batch.reward.shape == (6, 12) and batch.obs["rgb"].shape == (6, 12, 3, 8, 12)
    assert (batch.is_first[:, 1:] == 0).all()
    assert len({tuple(steps) for steps in batch.obs["step"][..., 0].tolist()}) > 1
    assert model.replay_buffer.rng_state() == before[0] and th.equal(th.get_rng_state(), before[1])
    # no window of 40 rows lies in one episode: the border is as late as can be found
    batch = draw_whole_windows(model, windows=6, length=40, context=4)
    assert (batch.is_first[:, 4:].argmax(1) >= 18).all()


def test_callback_shows_every_camera_in_tensorboard_and_changes_no_training(tmp_path: pathlib.Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = cameras().learn(130)
    model = cameras(tensorboard_log=str(tmp_path), verbose=0)
    callback = OpenLoopVideoCallback(every=60, horizon=8, context=3, windows=2)
    model.learn(130, callback=[callback, OpenLoopErrorCallback(every=60, horizon=8, windows=4)], log_interval=1)
    assert_equal_weights(weights_of(plain), weights_of(model))
    assert callback.videos["grey"].shape == (2, 11, 3 * (70 + 2 * BORDER), 70 + 2 * BORDER, 3)
    assert callback.videos["rgb"].shape == (2, 11, 3 * (48 + 2 * BORDER), 72 + 2 * BORDER, 3)
    events = EventAccumulator(str(tmp_path / "Dreamer_1")).Reload()
    for name in ("grey", "rgb"):
        shown = events.Images(f"open_loop/{name}")
        assert [event.step for event in shown] == [60, 120]
        magic = b"\x89PNG" if callback._strips else b"GIF8"
        assert shown[0].encoded_image_string.startswith(magic)
    assert "open_loop/step" not in events.Tags()["images"] and "open_loop/rgb_8" in events.Tags()["scalars"]


def test_film_strips_without_moviepy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(video_module, "_can_encode_videos", lambda: False)
    model = cameras(tensorboard_log=str(tmp_path), learning_starts=1000)
    callback = OpenLoopVideoCallback(every=25, horizon=6, context=2, windows=2)
    with pytest.warns(UserWarning, match="moviepy") as caught:
        model.learn(30, callback=callback, log_interval=1)
        model.learn(30, callback=callback, log_interval=1, reset_num_timesteps=False)
    assert sum("moviepy" in str(warning.message) for warning in caught) == 1
    shown = EventAccumulator(str(tmp_path / "Dreamer_1")).Reload().Images("open_loop/grey")
    strip = film_strip(callback.videos["grey"])
    assert (shown[0].height, shown[0].width) == strip.shape[:2]


def test_text_outputs_of_the_log_are_spared(tmp_path: pathlib.Path) -> None:
    from stable_baselines3.common.logger import configure

    model = cameras(learning_starts=1000)
    model.set_logger(configure(str(tmp_path), ["stdout", "log", "csv", "json"]))
    callback = OpenLoopVideoCallback(every=20, horizon=6, context=2, windows=1)
    model.learn(60, callback=callback, log_interval=1)
    assert callback.videos and "open_loop" not in (tmp_path / "progress.json").read_text()


def test_looking_leaves_no_trace_even_if_it_fails() -> None:
    model = cameras(learning_starts=1000).learn(60)
    model.policy.set_training_mode(True)
    before = model.replay_buffer.rng_state(), th.get_rng_state()
    with pytest.raises(ZeroDivisionError), looking(model):
        assert not model.policy.training
        th.rand(3), model.replay_buffer.sample(2, 5)
        raise ZeroDivisionError
    assert model.policy.training
    assert model.replay_buffer.rng_state() == before[0] and th.equal(th.get_rng_state(), before[1])


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"needs an image .* only 'obs' \(vector\): use CnnPolicy"):
        tiny_dreamer().learn(10, callback=OpenLoopVideoCallback())
    for callback in (OpenLoopVideoCallback(), OpenLoopErrorCallback(figure=False)):
        with pytest.raises(ValueError, match="world model: PPO has none"):
            PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(8, callback=callback)
    batch = make_batch({"obs": th.zeros(1, 3, 2)})
    with pytest.raises(ValueError, match=re.escape("which are 'obs' (1, 3, 2)")):
        open_loop_video(Oracle(batch, {}, 1), batch, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"context must lie in \[1, 2\]"):
        draw(random_images(1, 3, 1, 8, 8), random_images(1, 3, 1, 8, 8), 3)


@pytest.mark.parametrize("bad", [dict(every=0), dict(horizon=0), dict(context=0), dict(windows=0), dict(fps=0)])
def test_arguments(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        OpenLoopVideoCallback(**bad)
