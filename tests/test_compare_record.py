"""Videos of trained models: the best of each algorithm, from the same start, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from sb3_dreamer.compare import ComparisonError, recording
from sb3_dreamer.compare.__main__ import main
from sb3_dreamer.compare.evaluation import EVAL_SEED
from sb3_dreamer.compare.recording import LABEL_HEIGHT, Performance, best_runs, record, tiled
from sb3_dreamer.compare.records import FinishedRun, Row, RunSpec, read_runs
from sb3_dreamer.compare.runner import execute

SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": dict(n_steps=16, batch_size=16, policy_kwargs=dict(net_arch=[8])),
    "scaled": dict(n_steps=16, normalize=True, policy_kwargs=dict(net_arch=[8])),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CartPole: episodes end early, each at another time."""
    out = tmp_path_factory.mktemp("results")
    for algo, seed in (("ppo", 0), ("ppo", 1), ("scaled", 0)):
        implementation = {"scaled": "a2c"}.get(algo, algo)
        execute(RunSpec("CartPole-v1", {}, algo, seed, 64, 64, 1, SETTINGS[algo], "cpu", out, implementation))
    return out


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def test_video_of_the_best(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", str(results)]) == 0
    (path,) = results.glob("*.gif")
    assert path.name == "CartPole-v1.gif" and capsys.readouterr().out == f"written: {path}\n"
    frames = frames_of(path)
    assert len(frames) > 5 and all(frame.shape == frames[0].shape for frame in frames)
    width = frames[0].shape[1] // 2
    left, right = frames[0][LABEL_HEIGHT:, :width].astype(int), frames[0][LABEL_HEIGHT:, width:].astype(int)
    assert left.std() > 10 and np.abs(left - right).mean() < 3  # the same start; colours of a GIF are a palette's
    assert len({frame.tobytes() for frame in frames}) > 5


def test_played_as_it_was_evaluated(results: Path) -> None:
    """The first start of the evaluations gives the return that was recorded, statistics of a normalisation included."""
    runs = best_runs(read_runs(results))
    played, fps = recording._play_all(runs, 0, None)
    assert fps == 50  # the environment's
    for run, performance in zip(runs, played, strict=True):
        assert performance.episode_return == run.rows[-1].eval_return_mean
        assert len(performance.frames) == len(performance.returns) == performance.episode_return  # a reward of 1 a step
        assert performance.returns[:3] == (0.0, 1.0, 2.0)


def test_another_start_and_fewer_steps(results: Path, tmp_path: Path) -> None:
    runs = best_runs(read_runs(results), ["ppo"])
    (first,), (other,) = (recording._play_all(runs, start, 3)[0] for start in (0, 1))
    assert len(first.frames) == 3 and first.episode_return == 3
    assert not np.array_equal(first.frames[0], other.frames[0])


def test_long_episodes_are_thinned_together(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_FRAMES", 4)
    (run,) = best_runs(read_runs(results), ["ppo"])
    env, model = recording._load(run, EVAL_SEED)
    longer, shorter = (recording.play(run, model, env, EVAL_SEED, steps) for steps in (9, 3))
    env.close()
    assert (longer.stride, longer.returns) == (4, (0.0, 4.0, 8.0)) and (shorter.stride, len(shorter.frames)) == (1, 3)
    assert shorter.thinned(4).returns == (0.0,) and np.array_equal(shorter.thinned(4).frames[0], longer.frames[0])
    _, fps = recording._play_all([run], 0, 9)
    assert fps == 50 / 4


def test_mp4(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "videos" / "both.mp4"
    assert record(results, path, max_steps=4, fps=10) == [path]
    assert path.read_bytes()[4:8] == b"ftyp" and [file.name for file in path.parent.iterdir()] == ["both.mp4"]


def finished(algo: str, seed: int, last: float) -> FinishedRun:
    spec = RunSpec("Task-v0", {}, algo, seed, 10, 10, 1, {}, "cpu", Path("out"))
    return FinishedRun(
        spec, (Row("Task-v0", algo, seed, 0, 99.0, 0, 0, 0), Row("Task-v0", algo, seed, 10, last, 0, 0, 0)), 1, {}, ""
    )


def test_best_is_the_last_evaluations_best() -> None:
    runs = [finished("b", 0, 1.0), finished("a", 0, 2.0), finished("a", 2, 3.0), finished("a", 1, 3.0)]
    assert [(run.spec.algo, run.spec.seed) for run in best_runs(runs)] == [("b", 0), ("a", 1)]
    assert [run.spec.algo for run in best_runs(runs, ["a", "b"])] == ["a", "b"]
    with pytest.raises(ComparisonError, match="no finished run of c; there are: b, a"):
        best_runs(runs, ["a", "c"])


def test_tiles() -> None:
    def shown(value: int, length: int) -> Performance:
        frames = tuple(np.full((31, 181, 3), value + t, dtype=np.uint8) for t in range(length))
        return Performance(finished(f"algo{value}", 0, 1.0), 1, frames, tuple(map(float, range(length))), float(length))

    video = tiled([shown(value, length) for value, length in ((50, 3), (100, 1), (150, 2), (200, 2), (250, 2))])
    height, width = 31 + LABEL_HEIGHT + 1, 182  # even sides, as encoders want
    assert video.shape == (3, 2 * height, 4 * width, 3)
    middle = (slice(None), LABEL_HEIGHT + 10, slice(10, None, width), 0)
    assert video[middle].tolist() == [[50, 100, 150, 200], [51, 100, 151, 201], [52, 100, 151, 201]]
    assert video[:, height + LABEL_HEIGHT + 10, 10, 0].tolist() == [250, 251, 251]
    assert video[0, :LABEL_HEIGHT, :width].max() > 200  # its name
    assert not np.array_equal(video[0, :LABEL_HEIGHT, width : 2 * width], video[1, :LABEL_HEIGHT, width : 2 * width])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "a.webm"}, "must end with .gif or .mp4"),
        ({"env": "Other-v0"}, "no finished runs in 'Other-v0'; there are: CartPole-v1"),
        ({"algos": ["sac"]}, "no finished run of sac"),
        ({"start": -1}, "start must be at least 0"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"fps": 0}, "fps must be positive"),
    ],
)
def test_wrong_requests_for_a_video(results: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        record(results, **options)


def test_nothing_to_show(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="holds no results"):
        record(tmp_path)
    (run, *_) = read_runs(results)
    with pytest.raises(ComparisonError, match="left no model"):
        recording._load(dataclasses.replace(run, spec=dataclasses.replace(run.spec, out=tmp_path)), 0)
