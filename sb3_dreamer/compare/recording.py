"""A video of what the algorithms have learnt: the best model of each, from the same start, side by side."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.common.video import save_gif
from sb3_dreamer.compare.environments import build_vec_env
from sb3_dreamer.compare.errors import ComparisonError, require
from sb3_dreamer.compare.evaluation import EVAL_SEED, preserved_random_state
from sb3_dreamer.compare.records import FinishedRun, read_runs, result_folders
from sb3_dreamer.compare.settings import load_algorithm

TILE = 240
"""Larger side of a picture of one algorithm, in pixels."""
LABEL_HEIGHT = 18
COLUMNS = 4
MAX_FRAMES = 800
"""Of a longer episode every second, fourth … step is shown."""
UNLIMITED = 1000
"""Steps to show of an episode without a limit."""


@dataclass(frozen=True)
class Performance:
    """One episode of one model."""

    run: FinishedRun
    stride: int  # steps from one frame to the next
    frames: tuple[np.ndarray, ...]  # (H, W, 3), uint8, beginning with the start
    returns: tuple[float, ...]  # until each frame, undiscounted
    episode_return: float

    def thinned(self, stride: int) -> "Performance":
        """
        :param stride: a multiple of this one's
        :return: the same with fewer frames
        """
        every = stride // self.stride
        return replace(self, stride=stride, frames=self.frames[::every], returns=self.returns[::every])


def record(
    folder: str | Path,
    out: str | Path | None = None,
    env: str | None = None,
    algos: Sequence[str] | None = None,
    start: int = 0,
    max_steps: int | None = None,
    fps: float | None = None,
) -> list[Path]:
    """
    Play one episode with the final model of each algorithm's best run, by its last evaluation, deterministically and all from
    the same start, and write them as one video.

    :param folder: the results of a comparison
    :param out: the file, ``.gif`` or ``.mp4`` (which needs moviepy); by default a GIF beside the results
    :param env: the environment to show, by default all that there are, a video each
    :param algos: names of those to show, by default all
    :param start: number of the start, as evaluations count their episodes
    :param max_steps: steps to show at most
    :param fps: frames per second, by default the environment's
    :return: the files
    :raises ComparisonError: there is nothing to show, or no way to show it
    """
    for name, value, minimum in (("start", start, 0), ("max_steps", max_steps, 1)):
        if value is not None and value < minimum:
            raise ComparisonError(f"{name} must be at least {minimum}, not {value}.")
    if fps is not None and not fps > 0:
        raise ComparisonError(f"fps must be positive, not {fps}.")
    if out is not None and Path(out).suffix not in (".gif", ".mp4"):
        raise ComparisonError(f"out={str(out)!r} must end with .gif or .mp4.")
    require("PIL")
    if out is not None and Path(out).suffix == ".mp4":
        require("moviepy", extra="video")
    found = {path: runs for path in result_folders(Path(folder)) if (runs := read_runs(path))}
    if env is not None:
        names = [runs[0].spec.env for runs in found.values()]
        found = {path: runs for path, runs in found.items() if runs[0].spec.env == env}
        if not found:
            raise ComparisonError(f"{folder} has no finished runs in {env!r}; there are: {', '.join(names) or 'none'}.")
    if not found:
        raise ComparisonError(f"{folder} has no finished runs.")
    if out is not None and len(found) > 1:
        there = ", ".join(runs[0].spec.env for runs in found.values())
        raise ComparisonError(f"out={str(out)!r} is one file, but there are several environments: choose an env of {there}.")
    written = []
    for path, runs in found.items():
        target = path / f"{runs[0].spec.env.replace('/', '-')}.gif" if out is None else Path(out)
        best = best_runs(runs, algos)
        performances, own_fps = _play_all(best, start, max_steps)
        _write(target, tiled(performances), own_fps if fps is None else fps)
        written.append(target)
    return written


def best_runs(runs: Sequence[FinishedRun], algos: Sequence[str] | None = None) -> list[FinishedRun]:
    """
    :param runs: finished runs in one environment
    :param algos: names of algorithms, by default all
    :return: of each the run whose last evaluation is best; the first seed of equals
    """
    there = list(dict.fromkeys(run.spec.algo for run in runs))
    missing = [algo for algo in algos or () if algo not in there]
    if missing:
        raise ComparisonError(f"There is no finished run of {', '.join(missing)}; there are: {', '.join(there)}.")
    return [
        max(sorted(of_algo, key=lambda run: run.spec.seed), key=lambda run: run.rows[-1].eval_return_mean)
        for of_algo in ([run for run in runs if run.spec.algo == algo] for algo in algos or there)
    ]


def _play_all(runs: Sequence[FinishedRun], start: int, max_steps: int | None) -> tuple[list[Performance], float]:
    """:return: an episode of each, frame by frame at the same times, and how many frames there are in a second"""
    played, fps = [], 30.0
    for run in runs:
        env, model = _load(run, EVAL_SEED + start)
        try:
            base: Any = env.unwrapped
            limit = getattr(base.envs[0].spec, "max_episode_steps", None) or UNLIMITED
            fps = base.envs[0].metadata.get("render_fps", fps)
            played.append(play(run, model, env, EVAL_SEED + start, min(limit, max_steps or limit)))
        finally:
            env.close()
    stride = max(performance.stride for performance in played)
    return [performance.thinned(stride) for performance in played], fps / stride


def _load(run: FinishedRun, seed: int) -> tuple[VecEnv, BaseAlgorithm]:
    """:return: an environment that shows pictures of itself, wrapped as the model knows it, and the model"""
    spec = run.spec
    if not spec.model_path.exists():
        raise ComparisonError(f"{spec.label} has left no model: {spec.model_path} is missing.")
    try:
        env: VecEnv = build_vec_env(spec.env_id, {**spec.env_kwargs, "render_mode": "rgb_array"}, 1, seed)
    except Exception as error:
        raise ComparisonError(f"{spec.env_id} cannot be made with render_mode='rgb_array': {error}") from error
    if spec.normalization_path.exists():
        normalized = VecNormalize.load(str(spec.normalization_path), env)
        normalized.training = normalized.norm_reward = False
        env = normalized
    model = load_algorithm(spec.implementation).load(spec.model_path, device="cpu")
    return model._wrap_env(env, verbose=0), model


def play(run: FinishedRun, model: BaseAlgorithm, env: VecEnv, seed: int, max_steps: int) -> Performance:
    """
    :param run: the run
    :param model: its model
    :param env: one environment with pictures
    :param seed: the environment is reset with it
    :param max_steps: steps to play at most
    :return: the episode; the step that ends it has no frame, as a ``VecEnv`` is at its next start by then
    """
    frames: list[np.ndarray] = []
    returns: list[float] = []
    total, stride = 0.0, 1
    with preserved_random_state():
        set_random_seed(EVAL_SEED)
        env.seed(seed)
        observations, state, starts = env.reset(), None, np.ones(1, dtype=bool)
        for step in range(max_steps):
            if step % stride == 0:
                frames.append(_picture(env.get_images()[0], run.spec.env))
                returns.append(total)
            if len(frames) > MAX_FRAMES:
                frames, returns, stride = frames[::2], returns[::2], 2 * stride
            actions, state = model.predict(
                observations,  # type: ignore[arg-type]
                state=state,
                episode_start=starts,
                deterministic=True,
            )
            observations, rewards, starts, _ = env.step(actions)
            total += float(rewards[0])
            if starts[0]:
                break
    return Performance(run, stride, tuple(frames), tuple(returns), total)


def _picture(frame: Any, env: str) -> np.ndarray:
    """:return: the frame, its larger side ``TILE`` pixels"""
    from PIL import Image

    if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
        raise ComparisonError(f"{env} gives no picture of itself with render_mode='rgb_array', but {type(frame).__name__}.")
    height, width = frame.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame.astype(np.uint8)).resize(size, Image.Resampling.BOX))


def tiled(performances: Sequence[Performance]) -> np.ndarray:
    """
    :param performances: one of each algorithm, in the same environment
    :return: frames ``(T, H, W, 3)``, uint8, both sides even: the pictures beside each other, at most ``COLUMNS`` in a row,
        each below its name and the return so far; who has reached the end stays there
    """
    length = max(len(performance.frames) for performance in performances)
    shapes = [frame.shape for performance in performances for frame in performance.frames[:1]]
    height, width = max(shape[0] for shape in shapes) + LABEL_HEIGHT, max(shape[1] for shape in shapes)
    height, width = height + height % 2, width + width % 2
    columns = min(COLUMNS, len(performances))
    rows = math.ceil(len(performances) / columns)
    video = np.zeros((length, rows * height, columns * width, 3), dtype=np.uint8)
    for index, performance in enumerate(performances):
        top, left = index // columns * height, index % columns * width
        for t in range(length):
            tile = _labelled(performance, t, height, width)
            video[t, top : top + height, left : left + width] = tile
    return video


def _labelled(performance: Performance, t: int, height: int, width: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    over = t >= len(performance.frames)
    frame = performance.frames[-1 if over else t]
    total = performance.episode_return if over else performance.returns[t]
    tile = Image.new("RGB", (width, height))
    tile.paste(Image.fromarray(frame), (0, LABEL_HEIGHT))
    spec = performance.run.spec
    text = f"{spec.algo} (seed {spec.seed})  {total:.1f}{' end' if over else ''}"
    ImageDraw.Draw(tile).text((4, 3), text, fill=(255, 255, 255))
    return np.asarray(tile)


def _write(path: Path, frames: np.ndarray, fps: float) -> None:
    if path.suffix == ".gif":
        save_gif(path, frames, min(fps, 50))
        return
    from moviepy.video.io.ImageSequenceClip import ImageSequenceClip

    with tempfile.TemporaryDirectory() as folder:  # the encoder knows the format by the file's suffix
        encoded = Path(folder) / "video.mp4"
        ImageSequenceClip(list(frames), fps=fps).write_videofile(str(encoded), codec="libx264", audio=False, logger=None)
        write_atomically(path, lambda temporary: temporary.write_bytes(encoded.read_bytes()))
