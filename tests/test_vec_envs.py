"""SB3's vectorised environments and their wrappers, and environments that fail."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import FROM_WINDOWS, Clock, assert_equal_weights, weights_of
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_dreamer.common.vec_env import VectorEnvAdapter

Make = Callable[..., Any]


def clocks(*lengths: int) -> DummyVecEnv:
    return DummyVecEnv([functools.partial(Clock, length=length) for length in lengths])


def rows(model: Any, stream: int = 0, key: str = "obs") -> dict[str, np.ndarray]:
    buffer = model.replay_buffer
    count = int(buffer._count[stream])
    columns = {name: getattr(buffer, name)[stream, :count] for name in ("_reward", "_is_first", "_is_last", "_is_terminal")}
    return {**columns, "_obs": buffer._obs[key][stream, :count]}


def clock_rows(length: int, count: int) -> list[list[int]]:
    """The first observations (episode, clock) that a Clock gives, the last of every episode included."""
    return [[row // (length + 1), row % (length + 1)] for row in range(count)]


# ---- kinds of vectorised environments


def test_worker_processes_learn_the_same_as_one_process(make: Make) -> None:
    weights = []
    for kind, kwargs in ((DummyVecEnv, {}), (SubprocVecEnv, dict(start_method="fork"))):
        env = make_vec_env("envs:ContinuousPendulum-v0", 2, vec_env_cls=kind, vec_env_kwargs=kwargs)
        weights.append(weights_of(make(env).learn(80)))
        env.close()
    assert_equal_weights(*weights)


def test_batched_environments_of_gymnasium(make: Make) -> None:
    env = VecMonitor(VectorEnvAdapter(gym.make_vec("envs:ContinuousPendulum-v0", num_envs=3, max_episode_steps=20)))
    model = make(env).learn(150)
    assert model.num_timesteps == 150 and model._episode_num == len(model.ep_info_buffer) == 6
    for stream in range(3):
        data = rows(model, stream)
        assert np.flatnonzero(data["_is_last"]).tolist() == [20, 41] and not data["_is_terminal"].any()  # truncated
        speed = np.abs(np.diff(data["_obs"][:, 2]))  # a pendulum's speed changes a little at a step, not at a reset
        assert (speed[np.arange(len(speed)) % 21 != 20] < 4).all()
    assert evaluate_policy(model, env, n_eval_episodes=3)[0] < 0


def test_counting_with_several_environments(make: Make) -> None:
    model = make(clocks(3, 4, 5), learning_starts=None).learn(100)
    assert model.num_timesteps == 102 and model._episode_num == 34 // 3 + 34 // 4 + 34 // 5  # whole steps of all three
    for stream, length in enumerate((3, 4, 5)):
        data = rows(model, stream)
        assert data["_obs"].tolist() == clock_rows(length, len(data["_obs"]))
        assert len(data["_obs"]) == 34 + 34 // length


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 2)])
def test_another_number_of_environments_after_loading(make: Make, before: int, after: int, tmp_path: pathlib.Path) -> None:
    model = make(clocks(*[4] * before)).learn(60)
    model.save(tmp_path / "model")
    env = clocks(*[4] * after)
    loaded = type(model).load(tmp_path / "model", env=env, device="cpu")
    obs = np.zeros((5, 2), dtype=np.float32)
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 120 and loaded._n_updates > model._n_updates
    assert loaded.replay_buffer.n_envs == after and len(loaded._last_state[0]) == after
    with pytest.raises(AssertionError, match="number of environments"):
        loaded.set_env(clocks(*[4] * before))


# ---- wrappers


class Noting(VecNormalize):
    """Keeps what it gives to the model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown: list[Any] = []

    def reset(self) -> Any:
        self.shown.append(super().reset())
        return self.shown[-1]

    def step_wait(self) -> Any:
        result = super().step_wait()
        self.shown.append(result[0])
        return result


def note_what_it_acts_on(model: Any) -> list[dict[str, np.ndarray]]:
    acted: list[dict[str, np.ndarray]] = []
    act = model._act
    model._act = lambda obs: (acted.append({name: array.copy() for name, array in obs.items()}), act(obs))[1]
    return acted


def test_vecnormalize_is_seen_by_the_model_and_undone_in_the_replay(make: Make) -> None:
    env = Noting(clocks(3, 5))
    model = make(env)
    acted = note_what_it_acts_on(model)
    model.learn(80)
    assert env.ret_rms.count > 70 and not np.allclose(env.obs_rms.mean, 0)
    assert np.allclose([obs["obs"] for obs in acted], env.shown[: len(acted)], atol=1e-6)
    for stream, length in ((0, 3), (1, 5)):
        data = rows(model, stream)
        expected = np.array(clock_rows(length, len(data["_obs"])))
        assert np.allclose(data["_obs"], expected, atol=1e-4)  # last observations of episodes included
        assert np.allclose(data["_reward"], expected[:, 1])
        assert data["_is_last"].tolist() == (expected[:, 1] == length).tolist()
    batch, index = model.sample_replay(6, 8)
    raw = np.array([clock_rows(3 if stream == 0 else 5, 100) for stream in index.stream])
    raw = np.take_along_axis(raw, index.row[:, :, None], axis=1)
    assert np.allclose(batch.obs["obs"], env.normalize_obs(raw), atol=1e-4)
    assert np.allclose(batch.reward, raw[:, :, 1])


def test_vecnormalize_of_some_keys(make: Make) -> None:
    class Parts(Clock):
        observation_space = spaces.Dict(a=spaces.Box(-np.inf, np.inf, (2,)), b=spaces.Discrete(20), c=spaces.Box(0, 99, (1,)))

        def _obs(self) -> Any:
            values = super()._obs()
            return {"a": values, "b": self.clock + 3, "c": values[1:]}

    env = VecNormalize(DummyVecEnv([functools.partial(Parts, length=4)]), norm_obs_keys=["a"])
    model = make(env, policy="MultiInputPolicy").learn(60)
    expected = np.array(clock_rows(4, 75))[:, 1]
    assert np.allclose(rows(model, key="a")["_obs"][:, 1], expected, atol=1e-4)
    assert rows(model, key="b")["_obs"].tolist() == (expected + 3).tolist()
    assert rows(model, key="c")["_obs"][:, 0].tolist() == expected.tolist()
    batch, index = model.sample_replay(4, 8)
    raw = np.stack([index.row // 5, index.row % 5], -1)
    assert np.allclose(batch.obs["a"], env.normalize_obs({"a": raw})["a"], atol=1e-4)
    assert np.array_equal(batch.obs["b"].argmax(-1), raw[:, :, 1] + 3) and np.array_equal(
        batch.obs["c"][:, :, 0], raw[:, :, 1]
    )


OTHER_TYPES = [*[("dreamer", dtype) for dtype in (np.float64, np.int32, np.int8)], ("planet", np.int8), ("pets", np.float64)]


@pytest.mark.parametrize(("make", "dtype"), OTHER_TYPES, indirect=["make"])
def test_vecnormalize_of_other_types(make: Make, dtype: type) -> None:
    class Typed(Clock):
        observation_space = spaces.Box(-100, 100, (2,), dtype)

        def _obs(self) -> np.ndarray:
            return super()._obs().astype(dtype)

    env = Noting(DummyVecEnv([functools.partial(Typed, length=7)]))
    model = make(env)
    acted = note_what_it_acts_on(model)
    model.learn(60)
    data = rows(model)
    assert np.allclose(data["_obs"], clock_rows(7, len(data["_obs"])), atol=1e-4)
    assert np.allclose([obs["obs"] for obs in acted], env.shown[: len(acted)], atol=1e-6)
    first, second = (model.predict(np.array([x, x]), deterministic=True)[1][1] for x in (0.2, 0.8))
    assert not np.array_equal(first, second)


def test_frozen_statistics_and_loading_them(make: Make, tmp_path: pathlib.Path) -> None:
    env = VecNormalize(clocks(5, 7))
    model = make(env).learn(80)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics.pkl"))
    frozen = VecNormalize.load(str(tmp_path / "statistics.pkl"), clocks(5, 7))
    frozen.training, frozen.norm_reward = False, False
    loaded = type(model).load(tmp_path / "model", env=frozen, device="cpu")
    assert loaded.get_vec_normalize_env() is frozen
    before = frozen.obs_rms.mean.copy(), frozen.ret_rms.var
    raw = np.array([[1.0, 2.0], [0.0, 4.0]])
    seen = [m.get_vec_normalize_env().normalize_obs(raw) for m in (model, loaded)]
    assert np.array_equal(*(m.predict(obs, deterministic=True)[0] for m, obs in zip((model, loaded), seen, strict=True)))
    loaded.learn(80, reset_num_timesteps=False)
    assert np.array_equal(frozen.obs_rms.mean, before[0]) and frozen.ret_rms.var == before[1]
    assert np.allclose(rows(loaded)["_obs"], clock_rows(5, len(rows(loaded)["_obs"])), atol=1e-4)
    assert loaded._n_updates > model._n_updates


def test_below_other_wrappers_what_they_give_is_kept_but_rewards_are_true(make: Make, tmp_path: pathlib.Path) -> None:
    env = VecFrameStack(VecNormalize(clocks(4, 6)), 3)
    model = make(env)
    acted = note_what_it_acts_on(model)
    model.learn(80)
    data = rows(model, 0)
    assert data["_obs"].shape[1] == 6 and data["_reward"].tolist() == [row % 5 for row in range(len(data["_reward"]))]
    going_on = ~data["_is_last"]
    assert np.allclose(data["_obs"][going_on], [obs["obs"][0] for obs in acted], atol=1e-6)
    assert np.abs(data["_obs"]).max() <= 10  # normalised
    batch, index = model.sample_replay(4, 8)
    streams = [rows(model, int(stream))["_obs"] for stream in index.stream]
    assert np.array_equal(batch.obs["obs"], np.stack([obs[row] for obs, row in zip(streams, index.row, strict=True)]))
    del model._act
    model.save(tmp_path / "model")
    obs = np.ones((2, 6), dtype=np.float32)
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


def test_monitored_above_vecnormalize(make: Make) -> None:
    model = make(VecMonitor(VecNormalize(clocks(4))), stats_window_size=1).learn(60)
    assert rows(model)["_reward"].tolist() == [row % 5 for row in range(75)]
    assert len(model.ep_info_buffer) == 1 and model.ep_info_buffer[0]["l"] == 4


def test_frames_are_stacked_within_an_episode(make: Make) -> None:
    model = make(VecFrameStack(clocks(3), 2)).learn(8)
    data = rows(model)["_obs"].tolist()
    # (episode, clock) of the step before and of this one; nothing before an episode's first, all of it at its last
    assert data[:5] == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 2], [0, 2, 0, 3], [0, 0, 1, 0]]


class Pixels(Clock):
    """Every pixel's red is ten times the episode, its green the clock."""

    observation_space = spaces.Box(0, 255, (8, 10, 3), np.uint8)

    def _obs(self) -> np.ndarray:
        return np.broadcast_to(np.array([10 * self.episode, self.clock, 7], dtype=np.uint8), (8, 10, 3)).copy()


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
@pytest.mark.parametrize("wrapped", [False, True])
def test_images_are_transposed_once(make: Make, wrapped: bool) -> None:
    env: VecEnv = VecFrameStack(DummyVecEnv([functools.partial(Pixels, length=3)]), 2)
    env = VecTransposeImage(env) if wrapped else env
    model = make(env, policy="CnnPolicy").learn(50)
    assert model.observation_space.shape == (6, 8, 10)
    data = rows(model)["_obs"]
    assert data[:, 3:, 0, 0].tolist() == [[10 * (i // 4) % 256, i % 4, 7] for i in range(len(data))]  # terminal ones included
    assert (data == data[:, :, :1, :1]).all()
    obs = env.reset()
    last = np.moveaxis(obs, 1, -1) if wrapped else obs
    actions = [model.predict(x, deterministic=True)[0] for x in (last, np.moveaxis(last, -1, 1))]
    assert np.array_equal(*actions)


# ---- environments that fail


class Dying(Clock):
    """Its process ends at the 50th step."""

    def __init__(self, dies: bool) -> None:
        super().__init__(length=10)
        self.dies, self.steps = dies, 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.dies and self.steps == 50:
            os._exit(1)
        return super().step(action)


@pytest.fixture(params=[0, 1], ids=["first", "second"])
def dying(request: pytest.FixtureRequest) -> Iterator[SubprocVecEnv]:
    env = SubprocVecEnv([functools.partial(Dying, i == request.param) for i in range(2)], start_method="fork")
    yield env
    for process in env.processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("make", ["dreamer", "pets"], indirect=True)
def test_a_worker_that_dies_is_named_and_leaves_a_whole_model(
    make: Make, dying: SubprocVecEnv, tmp_path: pathlib.Path
) -> None:
    model = make(dying)
    with pytest.raises(RuntimeError, match=r"worker process of .*SubprocVecEnv.* died.*can be saved.*set_env"):
        model.learn(200)
    assert model.num_timesteps == 98 and model.replay_buffer.size() == 2 * (49 + 4)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    env = clocks(4, 4)
    loaded = type(model).load(tmp_path / "model", env=env, device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay")
    assert loaded.replay_buffer.size() == 106
    updates = model._n_updates
    for going_on in (model, loaded):
        going_on.set_env(clocks(4, 4))
        going_on.learn(40, reset_num_timesteps=False)
        assert going_on.num_timesteps == 138 and going_on._n_updates > updates
        # nothing followed the last observation before the failure
        assert rows(going_on)["_is_first"][53] and rows(going_on)["_obs"][53].tolist() == [0, 0]


class Raising(Clock):
    """Raises once, at the 50th step."""

    def __init__(self, error: type[BaseException] | None, length: int = 10) -> None:
        super().__init__(length)
        self.error, self.steps = error, 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 50 and self.error is not None:
            raise self.error("broken")
        return super().step(action)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_the_environment_leaves_a_whole_model(
    make: Make, error: type[BaseException], tmp_path: pathlib.Path
) -> None:
    """The first environment has stepped already when the second one raises."""
    env = DummyVecEnv([functools.partial(Raising, None), functools.partial(Raising, error)])
    model = make(env)
    with pytest.raises(error):
        model.learn(200)
    assert model.num_timesteps == 98 and model.replay_buffer.size() == 106
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert_equal_weights(weights_of(model), weights_of(loaded))
    assert loaded.num_timesteps == 98
    updates = model._n_updates
    model.learn(40, reset_num_timesteps=False)  # what the environments were doing is unknown: they start an episode
    assert model.num_timesteps == 138 and model._n_updates > updates
    for stream in range(2):
        assert rows(model, stream)["_is_first"][53] and not rows(model, stream)["_is_last"][52]


class Reusing(VecEnvWrapper):
    """Gives its ends in one and the same array."""

    def reset(self) -> Any:
        self._dones = np.zeros(self.num_envs, dtype=bool)
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        self._dones[:] = dones
        return obs, rewards, self._dones, infos


def test_an_environment_may_use_its_arrays_again(make: Make) -> None:
    rows = []
    for wrap in (lambda env: env, Reusing):
        model = make(wrap(make_vec_env(lambda: Clock(length=8), 2)))
        model.learn(60)
        rows.append([(stream.is_first.tolist(), stream.is_last.tolist()) for stream in model.replay_buffer.streams()])
    assert rows[0] == rows[1]
