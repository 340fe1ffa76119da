"""Results that SB3's own callbacks, wrappers and loggers wrote."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from recorded import write_run
from stable_baselines3.common import logger as sb3_logger
from stable_baselines3.common.monitor import Monitor

from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.judging import sb3_files
from sb3_dreamer.compare.judging.readers import EVALUATIONS, find_tasks


def write_evaluations(folder: Path, returns: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results = np.array(returns)[:, None] + np.array([-1.0, 1.0])  # two episodes
    steps = 100 * np.arange(1, len(returns) + 1)
    np.savez(folder / "evaluations.npz", timesteps=steps, results=results, ep_lengths=np.ones_like(results))


def write_monitor(folder: Path, episodes: int) -> list[float]:
    """:return: returns of the episodes, which are 200 steps long"""
    folder.mkdir(parents=True, exist_ok=True)
    env = Monitor(gym.make("Pendulum-v1"), str(folder / "0.monitor.csv"))
    returns = []
    env.reset(seed=0)
    for _ in range(200 * episodes):
        _, _, terminated, truncated, info = env.step(np.zeros(1, dtype=np.float32))
        if terminated or truncated:
            returns.append(info["episode"]["r"])
            env.reset()
    env.close()
    return returns


def write_tensorboard(folder: Path, tag: str, values: list[float]) -> None:
    logger = sb3_logger.configure(str(folder), ["tensorboard"])
    for index, value in enumerate(values):
        logger.record(tag, value)
        logger.dump(100 * (index + 1))
    logger.close()


def test_evaluations(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "Task-v0" / "sac-seed3", [5.0, 7.0])
    run = sb3_files.read_run(tmp_path / "Task-v0" / "sac-seed3")
    assert (run.env, run.label, run.seed, run.source) == ("Task-v0", "sac", 3, EVALUATIONS)
    assert run.timesteps.tolist() == [100, 200] and run.returns.tolist() == [5, 7]
    assert np.isnan(run.cpu_seconds).all() and np.isnan(run.wall_seconds).all()


def test_a_training_that_was_taken_up_again(tmp_path: Path) -> None:
    steps, results = np.array([100, 200, 200, 300]), np.array([[1.0], [2.0], [9.0], [3.0]])
    np.savez(tmp_path / "evaluations.npz", timesteps=steps, results=results)
    timesteps, returns = sb3_files.read_evaluations_npz(tmp_path / "evaluations.npz")
    assert timesteps.tolist() == [100, 200, 300] and returns.tolist() == [1, 9, 3]


def test_monitor(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "sac" / "whatever_2"
    returns = write_monitor(folder, 3)
    run = sb3_files.read_run(folder)
    assert run.env == "Pendulum-v1" and run.source == sb3_files.TRAINING
    assert run.timesteps.tolist() == [200, 400, 600]
    assert run.returns == pytest.approx([np.mean(returns[: i + 1]) for i in range(3)], abs=1e-5)
    assert (np.diff(run.wall_seconds) >= 0).all()


@pytest.mark.parametrize(("tag", "source"), [("eval/mean_reward", EVALUATIONS), ("rollout/ep_rew_mean", sb3_files.TRAINING)])
def test_tensorboard(tmp_path: Path, tag: str, source: str) -> None:
    write_tensorboard(tmp_path / "Task-v0" / "PPO_1", tag, [1.0, 2.5, 4.0])
    run = sb3_files.read_run(tmp_path / "Task-v0" / "PPO_1")
    assert (run.env, run.label, run.seed, run.source) == ("Task-v0", "ppo", 1, source)
    assert run.timesteps.tolist() == [100, 200, 300] and run.returns.tolist() == [1, 2.5, 4]
    assert (run.wall_seconds >= 0).all() and (run.wall_seconds < 60).all()


def test_evaluations_win_over_training_episodes(tmp_path: Path) -> None:
    folder = tmp_path / "sac" / "Pendulum-v1_4"  # as RL Baselines3 Zoo names it
    write_monitor(folder, 1)
    write_evaluations(folder, [5.0])
    run = sb3_files.read_run(folder)
    assert (run.env, run.label, run.seed, run.source) == ("Pendulum-v1", "sac", 4, EVALUATIONS)


def test_monitor_stands_in_for_tensorboard_files_without_returns(tmp_path: Path) -> None:
    write_tensorboard(tmp_path, "train/loss", [1.0])
    with pytest.raises(ComparisonError, match="train/loss"):
        sb3_files.read_run(tmp_path)
    write_monitor(tmp_path, 1)
    assert sb3_files.read_run(tmp_path).source == sb3_files.TRAINING


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("Task-v0/runs/sac-seed2", ("Task-v0", "sac", 2)),
        ("Task-v0/sac/3", ("Task-v0", "sac", 3)),
        ("Task-v0/sac/seed_3", ("Task-v0", "sac", 3)),
        ("sac/Task-v0_5", ("Task-v0", "sac", 5)),
        ("Task-v0/SAC_6", ("Task-v0", "sac", 6)),
        ("Task-v0/mine", ("Task-v0", "mine", 0)),
    ],
)
def test_what_a_place_says(tmp_path: Path, place: str, expected: tuple[str, str, int]) -> None:
    assert sb3_files.place(tmp_path / place)[1:] == expected


def test_names_can_be_given(tmp_path: Path) -> None:
    write_evaluations(tmp_path, [5.0])
    run = sb3_files.read_run(tmp_path, env="Task-v0", label="mine", seed=9)
    assert (run.env, run.label, run.seed) == ("Task-v0", "mine", 9)


def test_they_stand_beside_our_own_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "Task-v0", "Task-v0", "dreamer", 0, [1.0, 2.0])
    write_evaluations(tmp_path / "Task-v0" / "runs" / "sac-seed0", [5.0, 7.0])
    write_evaluations(tmp_path / "Task-v0" / "td3" / "1", [4.0])
    (tmp_path / "Task-v0" / "broken_1").mkdir()
    (tmp_path / "Task-v0" / "broken_1" / "evaluations.npz").write_bytes(b"no")
    (task,) = find_tasks(tmp_path)
    assert {run.name for run in task.runs} == {"dreamer seed 0", "sac seed 0", "td3 seed 1"}
    assert [(run.name, run.failed) for run in task.unfinished] == [("broken seed 1", True)]


@pytest.mark.parametrize("name", ["evaluations.npz", "0.monitor.csv"])
def test_files_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("something else\nx\n")
    with pytest.raises(ComparisonError, match="what SB3's"):
        sb3_files.read_run(tmp_path)


@pytest.mark.parametrize("size", [0, 30, 200])
def test_a_file_that_was_cut_off(tmp_path: Path, size: int) -> None:
    write_evaluations(tmp_path / "Task-v0" / "sac-seed3", [5.0, 7.0])
    path = tmp_path / "Task-v0" / "sac-seed3" / "evaluations.npz"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ComparisonError, match="not what SB3's EvalCallback writes"):
        sb3_files.read_run(path.parent)


def test_empty_folders_and_monitors(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="none of"):
        sb3_files.read_run(tmp_path)
    write_monitor(tmp_path, 0)
    with pytest.raises(ComparisonError, match="No episode"):
        sb3_files.read_run(tmp_path)
