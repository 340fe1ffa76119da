"""
Open-loop video prediction: what happened, what the model dreamt under the same actions, and the difference, as arrays, as a
GIF, and through a callback in TensorBoard.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.logger import Image, TensorBoardOutputFormat, Video

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.common.callbacks import OpenLoopCallback, combine_batches, draw_windows, looking, open_loop_states
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.common.world_model import WorldModel

OBSERVED = (44, 160, 44)
"""Colour of the border of frames that the model has seen: green."""
IMAGINED = (214, 39, 40)
"""... that it imagined: red."""
BLANK = (127, 127, 127)
"""... and of frames after the end of the episode, of which a dream knows nothing: they are grey all over."""
BORDER = 2
"""Width of the border in pixels."""
SMALLEST_SIDE = 64
"""Pictures whose larger side has fewer pixels are enlarged."""
TRIES = 20
"""Windows to draw for one that lies in a single episode."""


@th.no_grad()
def open_loop_video(model: WorldModel, batch: SequenceBatch, context: int) -> dict[str, np.ndarray]:
    """
    Observe the first rows of replayed windows, imagine the others with the actions that were taken, and draw, from top to
    bottom: the truth, the model (reconstructions of the observed rows, then predictions), and the error
    ``(model - truth + 1) / 2``, grey where the model is right. Green borders are observed, red ones imagined; rows from an
    episode border in the imagined part on are blank.

    Grey and RGB images are shown as they are; of stacked ones the newest: the last three channels if there is a multiple of
    three, else the last. Small images are enlarged by whole factors. Float images are taken to lie between 0 and 1, or between
    the extremes of the true ones if they do not.

    :param model: the world model
    :param batch: B windows of T rows with an image ``(B, T, C, H, W)`` among the observations
    :param context: rows to observe, at least 1 and less than T
    :return: frames ``(B, T, 3 H', W', 3)``, uint8, a key of an image, where H' and W' are the enlarged size with the border
    """
    names = [name for name, value in batch.obs.items() if value.dim() == 5]
    if not names:
        raise ValueError(f"A video needs an image (B, T, C, H, W) among the observations, which are {_shapes(batch)}.")
    observed, imagined = open_loop_states(model, batch, context)
    states = LatentState(
        th.cat([observed.deter, imagined.deter], dim=1),
        th.cat([observed.stoch, imagined.stoch], dim=1),
    )
    decoded = model.decode(states)
    blank = F.pad(batch.is_first[:, context:].cumsum(1) > 0, (context, 0)).cpu().numpy()  # (B, T)
    colors = np.where(np.arange(blank.shape[1])[:, None] < context, OBSERVED, IMAGINED)  # (T, 3)
    borders = np.where(blank[..., None], BLANK, colors).astype(np.uint8)  # (B, T, 3)
    videos = {}
    for name in names:
        truth, prediction = unit_range(batch.obs[name], decoded[name])
        rows = []
        for images in (truth, prediction, (prediction - truth + 1) / 2):
            frames = to_rgb(images)
            frames[blank] = BLANK
            rows.append(_add_border(_enlarge(frames), borders))
        videos[name] = np.concatenate(rows, axis=2)
    return videos


def _shapes(batch: SequenceBatch) -> str:
    return ", ".join(f"{name!r} {tuple(value.shape)}" for name, value in batch.obs.items())


def unit_range(truth: th.Tensor, prediction: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """:return: both with values between 0 and 1"""
    low, high = 0.0, 255.0
    if truth.dtype != th.uint8:
        truth = truth.float()
        low, high = min(0.0, truth.min().item()), max(1.0, truth.max().item())
    scaled = [((x.float() - low) / (high - low)).clamp(0, 1) for x in (truth, prediction)]
    return scaled[0], scaled[1]


def to_rgb(images: th.Tensor) -> np.ndarray:
    """:return: the images ``(B, T, C, H, W)`` from 0 to 1 as bytes ``(B, T, H, W, 3)``"""
    images = images[..., -3:, :, :] if images.shape[-3] % 3 == 0 else images[..., -1:, :, :]
    images = images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    return (images * 255).round().to(th.uint8).movedim(-3, -1).cpu().numpy()


def _enlarge(frames: np.ndarray) -> np.ndarray:
    """:return: ``(..., H, W, 3)`` with every pixel repeated so often that the image can be seen"""
    factor = -(-SMALLEST_SIDE // max(frames.shape[-3:-1]))
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _add_border(frames: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """:return: frames ``(B, T, H, W, 3)`` in borders of the given colours ``(B, T, 3)``"""
    batch, time, height, width, _ = frames.shape
    framed = np.empty((batch, time, height + 2 * BORDER, width + 2 * BORDER, 3), dtype=np.uint8)
    framed[:] = colors[:, :, None, None]
    framed[:, :, BORDER:-BORDER, BORDER:-BORDER] = frames
    return framed


def side_by_side(video: np.ndarray) -> np.ndarray:
    """
    :param video: of B windows, ``(B, T, H, W, 3)``
    :return: one video with the windows beside each other, ``(T, H, W', 3)``, white between them
    """
    return np.concatenate(_spaced(list(video), axis=-2), axis=-2)


def film_strip(video: np.ndarray, frames: int = 12) -> np.ndarray:
    """
    :param video: of B windows, ``(B, T, H, W, 3)``
    :param frames: how many of the T to show, evenly spaced, the first and the last among them
    :return: one picture with time to the right and the windows below each other, ``(H', W', 3)``, white between them
    """
    shown = np.linspace(0, video.shape[1] - 1, min(frames, video.shape[1])).round().astype(int)
    strips = [np.concatenate(list(window[shown]), axis=-2) for window in video]
    return np.concatenate(_spaced(strips, axis=-3), axis=-3)


def _spaced(parts: list[np.ndarray], axis: int) -> list[np.ndarray]:
    """:return: the parts with white space of some pixels before each but the first"""
    width = [(0, 0)] * parts[0].ndim
    width[axis] = (4 * BORDER, 0)
    return [parts[0], *(np.pad(part, width, constant_values=255) for part in parts[1:])]


def save_gif(path: str | pathlib.Path, frames: np.ndarray, fps: float = 8) -> None:
    """
    Write a GIF that repeats for ever (needs Pillow, which matplotlib brings). Frames equal to the one before are kept as a
    longer duration of that.

    :param path: the file, written atomically; its folder is made
    :param frames: ``(T, H, W, 3)``, uint8
    :param fps: frames per second, at most 50
    """
    try:
        from PIL import Image as PillowImage
    except ImportError as missing:
        raise ImportError('GIFs need Pillow: pip install "sb3-dreamer[compare]".') from missing
    first, *others = [PillowImage.fromarray(frame) for frame in frames]
    duration = round(1000 / fps)
    write_atomically(
        path,
        lambda temporary: first.save(temporary, "GIF", save_all=True, append_images=others, duration=duration, loop=0),
        ".gif",
    )


def draw_whole_windows(model: Any, windows: int, length: int, context: int) -> SequenceBatch:
    """
    Draw windows that lie in one episode where such are found. Where episodes are too short or too rare for it, take of the
    windows that were drawn those that the dream can follow longest. Draws nothing from what training draws.

    :param model: an algorithm with a world model and a sequence replay
    :param windows: B
    :param length: T
    :param context: rows that will be observed
    :return: B windows of T rows
    """

    def quality(window: SequenceBatch) -> tuple[int, bool]:
        first = window.is_first[0].cpu().numpy() > 0
        return int((first[context:].cumsum() == 0).sum()), not first[1:context].any()

    chosen = []
    with looking(model):
        for _ in range(windows):
            best = draw_windows(model, 1, length)
            for _ in range(TRIES - 1):
                if quality(best) == (length - context, True):
                    break
                best = max(best, draw_windows(model, 1, length), key=quality)
            chosen.append(best)
    return combine_batches(th.cat, *chosen)


class OpenLoopVideoCallback(OpenLoopCallback):
    """
    Logs videos of what the model expects of replayed windows, see :func:`open_loop_video`, under ``open_loop/<key>`` for
    TensorBoard: the windows side by side, each from top to bottom truth, model, error. Windows that lie within one episode
    are preferred. TensorBoard's videos need moviepy of a version before 2; without it film strips are logged instead.

    :param every: environment steps between two looks
    :param horizon: steps to imagine
    :param context: rows to observe first
    :param windows: replayed windows to show
    :param fps: frames per second; moviepy drops frames unless it is a power of two
    :param verbose: as in SB3
    """

    def __init__(
        self,
        every: int = 5000,
        horizon: int = 45,
        context: int = 5,
        windows: int = 3,
        fps: float = 8,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, horizon, context, windows, verbose)
        if fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}.")
        self.fps = fps
        self.videos: dict[str, np.ndarray] = {}
        """The newest videos by key, ``(windows, context + horizon, 3 H', W', 3)``."""
        self._strips = False

    def _on_training_start(self) -> None:
        super()._on_training_start()
        keys = self.model.observation_codec.keys  # type: ignore[attr-defined]
        if all(key.kind != "image" for key in keys):
            found = ", ".join(f"{key.name!r} ({key.kind})" for key in keys)
            raise ValueError(
                f"OpenLoopVideoCallback needs an image among the observations, but the model sees only {found}: use CnnPolicy "
                "or MultiInputPolicy on an environment that gives pictures, or OpenLoopErrorCallback, which is for all."
            )
        has_tensorboard = any(isinstance(output, TensorBoardOutputFormat) for output in self.logger.output_formats)
        if has_tensorboard and not self._strips and not _can_encode_videos():
            self._strips = True
            warnings.warn('Videos in TensorBoard need moviepy (pip install "sb3-dreamer[video]"): film strips are logged.')

    def _look(self) -> None:
        batch = draw_whole_windows(self.model, self.windows, self.context + self.horizon, self.context)
        self.videos = open_loop_video(self.model.world_model, batch, self.context)  # type: ignore[attr-defined]
        for name, video in self.videos.items():
            logged: Image | Video
            if self._strips:
                logged = Image(film_strip(video), "HWC")
            else:
                frames = np.ascontiguousarray(side_by_side(video).transpose(0, 3, 1, 2))  # (T, 3, H, W)
                logged = Video(th.as_tensor(frames).unsqueeze(0), self.fps)
            self.logger.record(f"open_loop/{name}", logged, exclude=("stdout", "log", "json", "csv"))


def _can_encode_videos() -> bool:
    """Whether TensorBoard's writer, which says so only on the screen, can make a video of frames."""
    from torch.utils.tensorboard.summary import make_video

    with contextlib.redirect_stdout(io.StringIO()), _without_sound():
        try:
            return make_video(np.zeros((2, 8, 8, 3), dtype=np.uint8), 8) is not None
        except Exception:  # a moviepy that does not fit to its own dependencies
            return False


@contextlib.contextmanager
def _without_sound() -> Iterator[None]:
    """Importing moviepy starts pygame's sound, which complains at length where there is no sound card."""
    missing = "SDL_AUDIODRIVER" not in os.environ
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    try:
        yield
    finally:
        if missing:
            del os.environ["SDL_AUDIODRIVER"]
