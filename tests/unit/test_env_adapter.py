"""Gymnasium's batched environments as SB3's VecEnv: equal to SB3's own DummyVecEnv of the single environments."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import envs
from sb3_dreamer.common.vec_env import VectorEnvAdapter, split_infos


class Telling(gym.Env):
    """Counts steps in a dictionary observation and tells much in its infos."""

    observation_space = spaces.Dict({"count": spaces.Box(0, 99, (1,), np.float32), "odd": spaces.Discrete(2)})
    action_space = spaces.Discrete(2)
    render_mode = None
    colour = "red"

    def __init__(self, limit=3):
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.options = 0, options
        return self._observe(), {"start": float(self.np_random.uniform())}

    def step(self, action):
        self.count += 1
        info = {"count": self.count, "deep": {"twice": 2 * self.count}}
        if self.count % 2:
            info["odd"] = np.array([self.count, 1.0])
        return self._observe(), float(action), self.count == self.limit, self.count == 4, info

    def _observe(self):
        return {"count": np.array([self.count], np.float32), "odd": self.count % 2}

    def add(self, number):
        return self.count + number


def sync(env_fns):
    return VectorEnvAdapter(SyncVectorEnv(env_fns, autoreset_mode=AutoresetMode.SAME_STEP))


def batched(task_id="ContinuousPendulum-v0", num_envs=2, **kwargs):
    return VectorEnvAdapter(gym.make_vec(f"envs:{task_id}", num_envs=num_envs, **kwargs))


def assert_same(one, other):
    """Equal nested containers of numbers."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    else:
        assert one == other


def assert_equal_play(one, other, steps):
    """Same seed, same actions: the same observations, rewards, dones and infos. Returns the number of episodes."""
    assert one.observation_space == other.observation_space and one.action_space == other.action_space
    assert list(one.seed(21)) == list(other.seed(21))
    assert_same(one.reset(), other.reset())
    assert_same(one.reset_infos, other.reset_infos)
    one.action_space.seed(0)
    episodes = 0
    for _ in range(steps):
        actions = np.stack([one.action_space.sample() for _ in range(one.num_envs)])
        left, right = one.step(actions), other.step(actions)
        assert_same(left, right)
        assert_same(one.reset_infos, other.reset_infos)
        assert all(type(info["TimeLimit.truncated"]) is bool for info in left[3])
        episodes += int(left[2].sum())
    assert_same(one.reset(), other.reset())
    return episodes


@pytest.mark.parametrize("task_id", envs.TASK_IDS)
def test_toy_tasks_equal_dummy_vec_env(task_id):
    dummy = DummyVecEnv([lambda: gym.make(f"envs:{task_id}")] * 3)
    assert assert_equal_play(batched(task_id, 3), dummy, steps=410) >= 6


@pytest.mark.parametrize("limit", [3, 4, 9])  # termination, both at once, truncation
def test_sync_vector_env_equals_dummy_vec_env(limit):
    make = [lambda: Telling(limit), lambda: Telling(2)]
    assert assert_equal_play(sync(make), DummyVecEnv(make), steps=14) >= 6


def test_other_autoreset_modes_are_refused():
    with pytest.raises(ValueError, match=r"vector_env must reset in AutoresetMode.SAME_STEP, got .*NEXT_STEP.*make_vec"):
        VectorEnvAdapter(gym.make_vec("envs:ContinuousPendulum-v0", num_envs=1, vectorization_mode="sync"))
    with pytest.raises(TypeError, match=r"vector_env must be a gymnasium.vector.VectorEnv, got ContinuousPendulumEnv"):
        VectorEnvAdapter(envs.ContinuousPendulumEnv())


def test_an_environment_that_only_claims_the_mode_is_found_out():
    env = batched(max_episode_steps=1)
    env.reset()
    env.vector_env._add_info = lambda infos, *_: infos
    with pytest.raises(ValueError, match="final_obs"):
        env.step(np.zeros((2, 1)))


def test_vec_monitor_reports_episodes():
    env = VecMonitor(batched("SequenceMemory-v0", 2))
    env.seed(0)
    env.reset()
    total = np.zeros(2)
    for _ in range(50):
        _, rewards, dones, infos = env.step(np.array([0, 1]))
        total += rewards
    assert dones.all()
    assert [info["episode"]["l"] for info in infos] == [50, 50]
    assert [info["episode"]["r"] for info in infos] == pytest.approx(total, rel=1e-5)
    assert all(info["TimeLimit.truncated"] for info in infos)


def test_ppo_learns_and_is_evaluated_on_it():
    th.set_num_threads(1)
    env = VecMonitor(batched("ContinuousCartPole-v0", 4))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=2, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(256)
    assert model.num_timesteps == 256 and len(model.ep_info_buffer) > 0
    mean_return, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert 1 <= mean_return <= 200


def test_seeds_and_options_are_used_once():
    env = sync([Telling, Telling])
    assert list(env.seed(np.int64(5))) == [5, 6]
    env.set_options({"hard": True})
    env.reset()
    first = env.reset_infos
    assert env.get_attr("options") == [{"hard": True}] * 2
    env.reset()
    assert env.reset_infos != first and env.get_attr("options") == [None, None]
    env.set_options([{"hard": True}, {"hard": False}])
    with pytest.raises(ValueError, match="options must be the same"):
        env.reset()
    assert all(isinstance(seed, int) for seed in env.seed(None))


def test_attributes_and_methods_of_sub_environments():
    env = sync([lambda: Monitor(Telling(3)), lambda: Telling(4)])
    env.reset()
    env.step(np.array([0, 1]))
    assert env.get_attr("limit") == [3, 4] and env.get_attr("limit", indices=1) == [4]
    assert env.env_method("add", 10) == [11, 11] and env.env_method("add", number=5, indices=[0]) == [6]
    env.set_attr("colour", "blue", indices=0)
    assert env.get_attr("colour") == ["blue", "red"]
    assert env.env_is_wrapped(Monitor) == [True, False] and env.env_is_wrapped(Monitor, indices=[1]) == [False]
    assert env.has_attr("limit") and not env.has_attr("limits")


def test_attributes_and_methods_of_a_batch():
    env = batched(num_envs=3, max_episode_steps=7)
    env.reset()
    assert env.get_attr("max_episode_steps") == [7, 7, 7] and env.get_attr("max_episode_steps", [0, 2]) == [7, 7]
    assert not env.has_attr("limits")
    env.set_attr("max_episode_steps", 5)
    assert env.vector_env.max_episode_steps == 5
    states = env.env_method("get_state")
    assert len(states) == 3 and states[0] is states[2] and states[0]["states"].shape == (3, 2)
    with pytest.raises(ValueError, match=r"indices must name all 3 sub-environments in set_attr\(\), got 1"):
        env.set_attr("max_episode_steps", 9, indices=1)
    with pytest.raises(ValueError, match=r"env_method\(\)"):
        env.env_method("get_state", indices=[0, 1])
    assert env.env_is_wrapped(Monitor) == [False] * 3
    env.close()
    assert env.vector_env.closed


def test_images():
    env = batched(render_mode="rgb_array")
    env.reset()
    images = env.get_images()
    assert len(images) == 2 and images[0].shape == (400, 400, 3) and images[0].dtype == np.uint8
    assert env.render().shape == (800, 400, 3)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert batched().get_images() == [None, None]


def test_split_infos():
    infos = {
        "speed": np.array([1.0, 0.0]),
        "_speed": np.array([True, False]),
        "deep": {"level": np.array([0, 3]), "_level": np.array([False, True])},
        "_deep": np.array([False, True]),
        "all": np.array([7, 8]),
        "_private": np.array([1, 2]),
    }
    assert split_infos(infos, 2) == [
        {"speed": 1.0, "all": 7, "_private": 1},
        {"deep": {"level": 3}, "all": 8, "_private": 2},
    ]
