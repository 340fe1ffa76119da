"""Saving, loading, and going on."""

import inspect
import io
import pathlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import FROM_WINDOWS, Clock, assert_equal_weights, weights_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_dreamer.common.optimizers import LaProp

OBS = np.array([[0.3, 0.9, -1.0], [1.0, 0.0, 2.0]], dtype=np.float32)


@pytest.fixture(scope="module")
def trained(make: Any) -> Any:
    return make().learn(100)


def actions(model: Any) -> np.ndarray:
    first, state = model.predict(OBS, deterministic=True)
    second, _ = model.predict(OBS[::-1], state, np.array([False, True]), deterministic=True)
    return np.concatenate([first, second])


def test_round_trip(make: Any, trained: Any, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]  # nothing else is left behind
    loaded = make.algorithm.load(tmp_path / "model", device="cpu")
    assert_equal_weights(weights_of(trained), weights_of(loaded))
    assert np.array_equal(actions(trained), actions(loaded))
    assert loaded.num_timesteps == 100 and loaded._n_updates == trained._n_updates
    assert loaded.env is None and loaded.replay_buffer is not None and loaded.replay_buffer.size() == 0
    ours, theirs = (m.policy.optimizer.state_dict()["state"] for m in (trained, loaded))
    assert all(th.equal(ours[i]["exp_avg_sq"], theirs[i]["exp_avg_sq"]) for i in ours)
    arguments = [name for name in inspect.signature(make.algorithm).parameters if hasattr(trained, name)]
    assert {"gamma", "learning_starts", "batch_size", "seed"} <= set(arguments)
    for name in set(arguments) - {"policy", "env"}:
        assert getattr(loaded, name) == getattr(trained, name), name


def test_loaded_model_learns_on_from_its_replay(make: Any, trained: Any, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "replay")
    loaded = make.algorithm.load(tmp_path / "model", env=make_vec_env("envs:ContinuousPendulum-v0", 1), device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    assert loaded.replay_buffer is not None and trained.replay_buffer is not None
    assert loaded.replay_buffer.size() == trained.replay_buffer.size()
    # the same batch, the same noise: the same losses
    index = []
    for model in (trained, loaded):
        model.replay_buffer._rng = np.random.default_rng(5)
        th.manual_seed(5)
        batch, _ = model.replay_buffer.sample(4, 8)
        index.append({name: loss.detach() for name, loss in model.world_model.loss(batch)[1].items()})
    assert all(th.equal(index[0][name], index[1][name]) for name in index[0])
    before = loaded._n_updates
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded.num_timesteps == 150 and loaded._n_updates > before


def test_load_with_another_number_of_environments(make: Any, trained: Any, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path / "model")
    env = make_vec_env("envs:ContinuousPendulum-v0", 3)
    loaded = make.algorithm.load(tmp_path / "model", env=env, device="cpu")
    loaded.learn(90)
    assert loaded.replay_buffer is not None and loaded.replay_buffer.n_envs == 3


def test_streams_and_parameters(make: Any, trained: Any) -> None:
    file = io.BytesIO()
    trained.save(file)
    file.seek(0)
    loaded = make.algorithm.load(file, device="cpu")
    assert_equal_weights(weights_of(trained), weights_of(loaded))
    other = make(seed=3)
    other.set_parameters(trained.get_parameters())
    assert_equal_weights(weights_of(trained), weights_of(other))
    assert set(trained.get_parameters()) == {"policy", "policy.optimizer"}


def test_a_failed_save_leaves_the_old_file(trained: Any, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path / "model")
    content = (tmp_path / "model.zip").read_bytes()
    trained.get_parameters, original = (lambda: 1 / 0), trained.get_parameters  # type: ignore[method-assign]
    try:
        with pytest.raises(ZeroDivisionError):
            trained.save(tmp_path / "model")
    finally:
        trained.get_parameters = original  # type: ignore[method-assign]
    assert (tmp_path / "model.zip").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_replays_that_do_not_fit_are_refused(make: Any, trained: Any, tmp_path: pathlib.Path) -> None:
    trained.save_replay_buffer(tmp_path / "replay.pkl")
    other = make("envs:ContinuousCartPole-v0")
    with pytest.raises(ValueError, match="other spaces or sizes"):
        other.load_replay_buffer(tmp_path / "replay.pkl")
    assert other.replay_buffer is not None and other.replay_buffer.size() == 0  # what was there stays
    (tmp_path / "other.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match=r"other\.pkl cannot be loaded: it is damaged or not a replay"):
        other.load_replay_buffer(tmp_path / "other.pkl")


def test_a_loaded_replay_ends_the_open_episode(make: Any, tmp_path: pathlib.Path) -> None:
    model = make(Clock(length=100)).learn(30)
    model.save_replay_buffer(tmp_path / "replay.pkl")
    model.learn(5, reset_num_timesteps=False)
    model.load_replay_buffer(tmp_path / "replay.pkl")
    model.learn(5, reset_num_timesteps=False)
    buffer = model.replay_buffer
    assert buffer is not None and buffer.size() == 35
    # the clock went on from 35 without us, so row 30 cannot follow row 29
    assert buffer._obs["obs"][0, 29:31, 1].tolist() == [29, 35] and buffer._is_first[0, 30]


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_a_loaded_replay_keeps_the_models_own_settings(make: Any, tmp_path: pathlib.Path) -> None:
    make(Clock(length=100), online_replay=True).learn(30).save_replay_buffer(tmp_path / "replay.pkl")
    plain = make(Clock(length=100))
    plain.load_replay_buffer(tmp_path / "replay.pkl")
    assert plain.replay_buffer is not None and not plain.replay_buffer.online
    long = make(Clock(length=100), buffer_size=60).learn(10)
    long.save_replay_buffer(tmp_path / "short.pkl")
    with pytest.raises(ValueError, match="room for 60 rows"):
        make(Clock(), batch_length=70, learning_starts=100).load_replay_buffer(tmp_path / "short.pkl")


def test_a_loaded_model_without_its_replay_collects_before_it_trains(make: Any, tmp_path: pathlib.Path) -> None:
    make(Clock()).learn(100).save(tmp_path / "model")
    loaded = make.algorithm.load(tmp_path / "model", env=Clock(), device="cpu")
    before = loaded._n_updates
    loaded.learn(25, reset_num_timesteps=False)
    assert loaded._n_updates == before
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded._n_updates > before


@pytest.mark.parametrize("make", ["dreamer"], indirect=True)
def test_switching_the_average_off_when_loading(make: Any, tmp_path: pathlib.Path) -> None:
    make().learn(100).save(tmp_path / "model")
    loaded = make.algorithm.load(tmp_path / "model", env=make_vec_env("envs:ContinuousPendulum-v0", 1), evaluation_rate=None)
    first = loaded.predict(OBS, deterministic=True)[0]
    loaded.learn(100, reset_num_timesteps=False)
    assert not np.array_equal(first, loaded.predict(OBS, deterministic=True)[0])


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_other_optimizers_survive(make: Any, tmp_path: pathlib.Path) -> None:
    optimizer = dict(optimizer_class=LaProp, optimizer_kwargs=dict(agc=0.1))
    model = make(policy_kwargs=dict(size="debug", world_model_kwargs=dict(latent="categorical"), **optimizer)).learn(60)
    model.save(tmp_path / "model")
    assert isinstance(make.algorithm.load(tmp_path / "model", device="cpu").policy.optimizer, LaProp)


def test_custom_objects_replace_what_the_file_holds(make: Any, tmp_path: pathlib.Path) -> None:
    make(learning_rate=lambda progress: 1e-3 * progress).learn(60).save(tmp_path / "model")
    loaded = make.algorithm.load(tmp_path / "model", custom_objects={"learning_rate": 1e-4}, device="cpu")
    assert loaded.learning_rate == 1e-4 and loaded.lr_schedule(1) == 1e-4


def test_set_env_and_construction_without_learning(make: Any, tmp_path: pathlib.Path) -> None:
    assert make(None, _init_setup_model=False).env is None
    trained = make().learn(50)
    trained.set_env(make_vec_env("envs:ContinuousPendulum-v0", 1))
    trained.learn(20)
    assert trained.num_timesteps == 20


def test_a_missing_vecnormalize_is_told(make: Any, trained: Any, tmp_path: pathlib.Path) -> None:
    plain = make_vec_env("envs:ContinuousPendulum-v0", 1)
    normalized = VecNormalize(make_vec_env("envs:ContinuousPendulum-v0", 1))
    trained.save(tmp_path / "plain")
    make(normalized).save(tmp_path / "normalized")
    with pytest.warns(UserWarning, match=r"normalized\.zip was trained with VecNormalize, but the environment has none"):
        make.algorithm.load(tmp_path / "normalized", plain)
    with pytest.warns(UserWarning, match=r"plain\.zip was trained without VecNormalize, but the environment has one"):
        make.algorithm.load(tmp_path / "plain", normalized)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make.algorithm.load(tmp_path / "normalized", normalized)
        make.algorithm.load(tmp_path / "normalized")
