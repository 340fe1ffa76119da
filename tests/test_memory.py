"""What a replay takes of memory and disk."""

import errno
import os
import pathlib
import subprocess
import warnings
from typing import Any

import numpy as np
import pytest
from conftest import FROM_WINDOWS, Clock, assert_equal_weights, weights_of
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_dreamer.common import memory
from sb3_dreamer.common.bookkeeping import process_name


class Pictures(Clock):
    observation_space = spaces.Box(0, 255, (64, 64, 3), dtype=np.uint8)

    def _obs(self) -> np.ndarray:
        return np.full((64, 64, 3), self.clock, dtype=np.uint8)


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_images_are_stored_once_as_bytes(make: Any) -> None:
    model = make(Pictures(length=1000), policy="CnnPolicy", buffer_size=1000).learn(20)
    buffer = model.replay_buffer
    assert buffer is not None and buffer._obs["obs"].dtype == np.uint8
    picture = 64 * 64 * 3
    assert picture < buffer.row_bytes < picture + 200
    sb3 = ReplayBuffer(1000, Pictures.observation_space, Pictures.action_space, device="cpu")
    arrays = (sb3.observations, sb3.next_observations, sb3.actions, sb3.rewards, sb3.dones, sb3.timeouts)
    assert buffer.row_bytes < 0.51 * sum(array.nbytes for array in arrays) / 1000


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_the_warning_comes_with_the_first_row_and_not_when_loading(
    make: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(Pictures(), policy="CnnPolicy", buffer_size=1_000_000)
        model.save(tmp_path / "model")
        loaded = make.algorithm.load(tmp_path / "model", device="cpu")
        loaded.predict(np.zeros((64, 64, 3), dtype=np.uint8))
        assert loaded.replay_buffer is not None and loaded.replay_buffer._obs["obs"].nbytes == 0
    with pytest.warns(UserWarning, match=r"apparently enough memory .* 12\.\d\dGB > 1\.00GB"):
        model.learn(2)


def test_available_memory_is_plausible() -> None:
    available = memory.available_memory()
    assert available is not None and 2**24 < available < 2**50


@pytest.mark.parametrize("make", ["dreamer", "pets"], indirect=True)
def test_a_replay_on_disk_learns_the_same_and_leaves_nothing(make: Any, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "rows"
    in_memory = make(buffer_size=70).learn(120)
    on_disk = make(buffer_size=70, replay_buffer_kwargs=dict(storage_path=folder)).learn(120)
    assert_equal_weights(weights_of(in_memory), weights_of(on_disk))
    (replay,) = folder.iterdir()
    assert any(replay.iterdir()) and isinstance(on_disk.replay_buffer._obs["obs"], np.memmap)  # type: ignore[union-attr]
    on_disk.save(tmp_path / "model")
    on_disk.save_replay_buffer(tmp_path / "replay")
    loaded = make.algorithm.load(tmp_path / "model", device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay")
    assert isinstance(loaded.replay_buffer._action, np.memmap)  # type: ignore[union-attr]
    assert np.array_equal(loaded.replay_buffer._action, in_memory.replay_buffer._action)  # type: ignore[union-attr]
    del on_disk, loaded
    import gc

    gc.collect()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_a_disk_without_room_is_told(make: Any, tmp_path: pathlib.Path) -> None:
    model = make(Pictures(), policy="CnnPolicy", buffer_size=10**12, replay_buffer_kwargs=dict(storage_path=tmp_path))
    with pytest.warns(UserWarning, match=r"may grow to .*GB, but .*GB are free"), pytest.raises((OSError, ValueError)):
        model.learn(1)


def test_unknown_replay_arguments(make: Any) -> None:
    with pytest.raises(ValueError, match="replay_buffer_kwargs has no 'path': it takes 'storage_path'"):
        make(replay_buffer_kwargs=dict(path="x"))


@pytest.mark.parametrize("make", ["dreamer"], indirect=True)
def test_a_full_disk_is_an_error_and_no_end_of_the_process(
    make: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = dict(storage_path=tmp_path / "rows")
    model = make(Clock(length=20), buffer_size=5000, train_ratio=0.1, replay_buffer_kwargs=storage).learn(45)
    allocate, calls = os.posix_fallocate, []

    def full(*args: int) -> None:
        calls.append(args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"has no space for more rows of the replay.* can be saved") as error:
        model.learn(2000, reset_num_timesteps=False)
    assert error.value.errno == errno.ENOSPC and calls
    rows = model.replay_buffer.size()  # type: ignore[union-attr]
    assert 1000 < rows < 1100
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    loaded = make.algorithm.load(tmp_path / "model", device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay")
    assert loaded.replay_buffer is not None and loaded.replay_buffer.size() == rows


def test_folders_of_killed_processes_go(make: Any, tmp_path: pathlib.Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = process_name().partition("-")[0]
    left, alive = tmp_path / f"replay_{host}-{dead.pid}_abc", tmp_path / f"replay_{process_name()}_abc"
    elsewhere = tmp_path / f"replay_other{host}-{dead.pid}_abc"  # where a process of this number may well run
    for folder in (left, alive, elsewhere):
        folder.mkdir()
    make(replay_buffer_kwargs=dict(storage_path=tmp_path)).learn(3)
    assert not left.exists() and alive.exists() and elsewhere.exists()


def test_loading_makes_no_folders(make: Any, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "rows"
    make(replay_buffer_kwargs=dict(storage_path=folder), tensorboard_log=str(tmp_path / "log")).save(tmp_path / "model")
    assert not folder.exists()
    assert make.algorithm.load(tmp_path / "model").replay_buffer_kwargs == dict(storage_path=folder)
    stranger = make.algorithm.load(tmp_path / "model", trusted=False)
    assert stranger.replay_buffer_kwargs is None and stranger.tensorboard_log is None  # not for this machine
    assert not folder.exists()
