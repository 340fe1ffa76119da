"""A run that was stopped, saved, loaded elsewhere and continued is the run that was never stopped."""

import pathlib
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import ALGORITHMS, Clock, assert_equal_weights, weights_of
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

import envs

STOP, END = 133, 190


class SaveAt(BaseCallback):
    """Saves model, replay and environments at one step."""

    def __init__(self, step: int, folder: pathlib.Path) -> None:
        super().__init__()
        self.step, self.folder = step, folder

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.model.save(self.folder / "model")
            self.model.save_replay_buffer(self.folder / "replay")  # type: ignore[attr-defined]
            states = [envs.get_env_state(env) for env in self.training_env.envs]  # type: ignore[attr-defined]
            (self.folder / "envs").write_bytes(pickle.dumps(states))
        return True


FALLING = LinearSchedule(1e-3, 1e-4, 1.0)
WINDOWS = dict(online_replay=True, policy_kwargs=dict(size="debug", world_model_kwargs=dict(latent="categorical")))
# 0.75 updates a step: what is owed at the moment of saving matters, and so does the schedule
DEBT = dict(train_ratio=24, learning_rate=FALLING)
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("dreamer", "plain", {}),
    ("dreamer", "debt", dict(**DEBT, actor_learning_rate=None)),
    ("dreamer", "queue", WINDOWS),
    ("dreamer", "wrapped", dict(buffer_size=100)),
    ("dreamer", "warmup", dict(learning_starts=150)),
    ("dreamer", "two", {}),
    # of who explores, which environments' episodes are its own
    ("dreamer", "two, exploring", dict(exploration="state_entropy", learning_starts=40)),
    # of Director, the goal of that moment and for how long it is pursued
    ("director", "goals", dict(**DEBT, actor_learning_rate=None, goal_steps=3, imagination_horizon=3)),
    ("director", "two", {}),
    ("director", "two, exploring", dict(explorer_share=0.5, learning_starts=40)),
    # of planners, how far the plan of that moment has been followed matters as well
    ("planet", "debt", dict(**DEBT, replan_every=3)),
    ("planet", "queue", dict(**WINDOWS, buffer_size=100)),
    ("planet", "two", dict(replan_every=1)),
    ("pets", "fits", dict(train_freq=7, learning_rate=FALLING, replan_every=3, buffer_size=100)),
    ("pets", "two", dict(replan_every=1)),
]


def resume(make: Any, folder: pathlib.Path, n_envs: int, **env_kwargs: Any) -> Any:
    env = make_vec_env("envs:ContinuousPendulum-v0", n_envs, env_kwargs=env_kwargs)
    for single, state in zip(env.envs, pickle.loads((folder / "envs").read_bytes()), strict=True):  # type: ignore[attr-defined]
        envs.set_env_state(single, state)
    model = make.algorithm.load(folder / "model", env, device="cpu", force_reset=False)
    model.load_replay_buffer(folder / "replay")
    return model


@pytest.mark.parametrize(
    ("make", "case", "kwargs"), CASES, indirect=["make"], ids=[f"{name}-{case}" for name, case, _ in CASES]
)
def test_stopped_and_continued_equals_never_stopped(
    make: Any, case: str, kwargs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    n_envs = 2 if case.startswith("two") else 1
    stop = STOP + STOP % n_envs
    short = dict(max_episode_steps=25) if "exploring" in case else {}
    straight = make(make_vec_env("envs:ContinuousPendulum-v0", n_envs, seed=0, env_kwargs=short), **kwargs)
    straight.learn(END, callback=SaveAt(stop, tmp_path))
    th.manual_seed(999)  # whatever happened since
    continued = resume(make, tmp_path, n_envs, **short)
    if "exploring" in case:
        assert sorted(continued._explored.tolist()) == [False, True]  # one of each is on its way
    assert continued.num_timesteps == stop
    continued.learn(END - stop, reset_num_timesteps=False)
    assert continued.num_timesteps == straight.num_timesteps and continued._n_updates == straight._n_updates > 0
    assert_equal_weights(weights_of(straight), weights_of(continued))
    ours, theirs = (model.policy.optimizer.state_dict()["state"] for model in (straight, continued))
    assert all(th.equal(ours[i]["exp_avg"], theirs[i]["exp_avg"]) for i in ours)
    assert straight.replay_buffer is not None and continued.replay_buffer is not None
    for name in ("_action", "_reward", "_is_first", "_is_last", "_deter"):
        first, second = getattr(straight.replay_buffer, name), getattr(continued.replay_buffer, name)
        used = min(first.shape[1], second.shape[1])
        assert np.array_equal(first[:, :used], second[:, :used]), name
    assert straight._last_obs is not None and np.array_equal(straight._last_obs, continued._last_obs)  # type: ignore[arg-type]
    assert all(np.array_equal(*parts) for parts in zip(straight._last_state, continued._last_state, strict=True))


CHILD = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import torch as th
th.set_num_threads(1)
from conftest import ALGORITHMS
from test_resume import losses_of, resume
for name in ALGORITHMS:
    folder = pathlib.Path({folder!r}) / name
    th.save(losses_of(resume(ALGORITHMS[name], folder, 1)), folder / "losses")
    model = resume(ALGORITHMS[name], folder, 1)
    model.learn({steps}, reset_num_timesteps=False)
    th.save(model.policy.state_dict(), folder / "weights")
"""


def losses_of(model: Any) -> dict[str, th.Tensor]:
    batch, _ = model.sample_replay(4, 8)
    th.manual_seed(5)
    return {name: loss.detach() for name, loss in model.world_model.loss(batch)[1].items()}


def test_in_a_fresh_process(tmp_path: pathlib.Path) -> None:
    """One for all algorithms, as it takes seconds to start."""
    straight, losses = {}, {}
    for name, make in ALGORITHMS.items():
        straight[name] = make(make_vec_env("envs:ContinuousPendulum-v0", 1, seed=0))
        (tmp_path / name).mkdir()
        straight[name].learn(END, callback=SaveAt(STOP, tmp_path / name))
        losses[name] = losses_of(resume(make, tmp_path / name, 1))
    code = CHILD.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path), steps=END - STOP)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    for name, model in straight.items():
        there = th.load(tmp_path / name / "losses")
        assert all(th.equal(losses[name][key], there[key]) for key in losses[name])
        assert_equal_weights(weights_of(model), th.load(tmp_path / name / "weights"))


def test_the_episode_is_reset_unless_it_is_told_to_go_on(make: Any, tmp_path: pathlib.Path) -> None:
    make(Clock(length=100)).learn(30, callback=None).save(tmp_path / "model")
    loaded = make.algorithm.load(tmp_path / "model", env=Clock(length=100), device="cpu")
    assert loaded._last_obs is None
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.replay_buffer is not None and loaded.replay_buffer._is_first[0, 0]
    assert loaded.replay_buffer._obs["obs"][0, :5, 1].tolist() == [0, 1, 2, 3, 4]


def test_a_replay_of_another_moment_ends_the_open_episode(make: Any, tmp_path: pathlib.Path) -> None:
    env = gym.make("envs:ContinuousPendulum-v0")
    model = make(env)
    model.learn(30)
    model.save_replay_buffer(tmp_path / "early")
    model.learn(20, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    for truncate in (False, True):
        loaded = make.algorithm.load(tmp_path / "model", env, device="cpu", force_reset=False)
        assert loaded._last_state is not None
        model.save_replay_buffer(tmp_path / "late")
        loaded.load_replay_buffer(tmp_path / "late", truncate_last_traj=truncate)
        assert (loaded._last_state is None) == truncate
    loaded.load_replay_buffer(tmp_path / "early")
    assert loaded._last_state is None


def test_a_new_seed_gives_new_random_numbers(make: Any, tmp_path: pathlib.Path) -> None:
    make().learn(60).save(tmp_path / "model")
    env = make_vec_env("envs:ContinuousPendulum-v0", 1)
    assert make.algorithm.load(tmp_path / "model", env)._random_state is not None
    assert make.algorithm.load(tmp_path / "model", env, seed=5)._random_state is None


OTHERS = [*[("dreamer", *numbers) for numbers in ((1, 3), (3, 1), (2, 2))], ("planet", 3, 1), ("pets", 1, 3)]


@pytest.mark.parametrize(("make", "before", "after"), OTHERS, indirect=["make"])
def test_a_replay_of_another_number_of_environments(make: Any, before: int, after: int, tmp_path: pathlib.Path) -> None:
    model = make(make_vec_env(lambda: Clock(length=6), before)).learn(90)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = make.algorithm.load(tmp_path / "model", make_vec_env(lambda: Clock(length=6), after), device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay")
    old, new = model.replay_buffer, loaded.replay_buffer
    assert old is not None and new is not None
    assert new.n_envs == after and new.size() == old.size()
    batch, _ = new.sample(300, 8)
    clock, first = batch.obs["obs"][..., 1], batch.is_first.bool()
    assert ((clock[:, 1:] == clock[:, :-1] + 1) | first[:, 1:]).all()  # rows follow each other, or an episode begins
    assert th.equal(batch.reward, th.where(first & (clock > 0), batch.reward, clock))
    updates = loaded._n_updates
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded._n_updates > updates


class Choosing(Clock):
    action_space = gym.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("make", "seed"), [*[("dreamer", seed) for seed in range(4)], ("planet", 0), ("pets", 0)], indirect=["make"]
)
def test_a_replay_of_another_moment_is_noticed_though_the_last_actions_agree(
    make: Any, seed: int, tmp_path: pathlib.Path
) -> None:
    env = make_vec_env(lambda: Choosing(length=1000), 1)
    model = make(env, seed=seed).learn(60)
    model.save_replay_buffer(tmp_path / "early")
    model.learn(30, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "late")
    for name, goes_on in (("early", False), ("late", True)):
        loaded = make.algorithm.load(tmp_path / "model", env, device="cpu", force_reset=False)
        loaded.load_replay_buffer(tmp_path / name)
        assert (loaded._last_state is not None) == goes_on
    model.load_replay_buffer(tmp_path / "late")  # its own, nothing has happened since
    assert model._last_state is not None
    model.load_replay_buffer(tmp_path / "early")
    assert model._last_state is None


def test_a_step_that_failed_is_not_gone_on_from(make: Any, tmp_path: pathlib.Path) -> None:
    class Failing(Choosing):
        def step(self, action: Any) -> Any:
            if self.clock == 51:
                self.clock += 1
                raise OSError("lost")
            return super().step(action)

    env = make_vec_env(lambda: Failing(length=1000), 1)
    model = make(env)
    with pytest.raises(OSError, match="lost"):
        model.learn(100)
    model.save(tmp_path / "model")
    loaded = make.algorithm.load(tmp_path / "model", env, device="cpu", force_reset=False)
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.replay_buffer is not None
    assert loaded.replay_buffer._obs["obs"][0, :3, 1].tolist() == [0, 1, 2] and loaded.replay_buffer._is_first[0, 0]


def test_other_environments_cannot_go_on(make: Any, tmp_path: pathlib.Path) -> None:
    make().learn(50).save(tmp_path / "model")
    loaded = make.algorithm.load(tmp_path / "model", make_vec_env("envs:ContinuousPendulum-v0", 2), force_reset=False)
    loaded.learn(60)
