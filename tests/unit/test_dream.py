"""Learned models as environments."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from stable_baselines3.common.vec_env import VecMonitor

from sb3_dreamer.world_models import RSSM, DreamEnv, DreamVecEnv, EpisodeDataset, MLPWorldModel
from sb3_dreamer.world_models.dataset import EpisodeRecorder
from sb3_dreamer.world_models.rows import Rows, filter_episodes
from sb3_dreamer.world_models.trajectories import continue_probability

BOX, ACTION = spaces.Box(-0.5, 0.5, (2,)), spaces.Box(-2.0, 2.0, (1,))
MIXED = spaces.Dict(
    turn=spaces.Discrete(3, start=4),
    bits=spaces.MultiBinary(2),
    picture=spaces.Box(0, 255, (16, 16, 3), np.uint8),
    count=spaces.Box(0, 9, (2,), np.int16),
    number=spaces.Box(-np.inf, np.inf, (1,), np.float64),
)


def random_data(space: spaces.Space, action_space: spaces.Space, lengths: list[int]) -> EpisodeDataset:
    recorder = EpisodeRecorder(space, action_space)
    space.seed(0)
    action_space.seed(0)
    for length in lengths:
        recorder.start(0, space.sample())
        for t in range(length):
            recorder.step(0, action_space.sample(), space.sample(), float(t), t == length - 1, False)
    return recorder.dataset()


DATA = random_data(BOX, ACTION, [4, 6, 3])
MIXED_DATA = random_data(MIXED, spaces.Discrete(3, start=-1), [2, 3])


def make(data: EpisodeDataset = DATA, ends: float = -20.0, kind: type = RSSM, **kwargs: Any) -> Any:
    """A model whose heads say something; ``ends``: log-odds that a dream ends at a step."""
    model = kind.from_spaces(data.observation_space, data.action_space, size="debug", seed=0, **kwargs)
    th.manual_seed(0)
    with th.no_grad():
        model.reward_head.out.weight.normal_()
        model.continue_head.out.weight.zero_()
        model.continue_head.out.bias.fill_(-ends)
    return model


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
    return np.array_equal(first, second)


@pytest.mark.parametrize(("data", "kind"), [(DATA, RSSM), (DATA, MLPWorldModel), (MIXED_DATA, RSSM)])
def test_both_checkers_of_environments_are_content(data: EpisodeDataset, kind: type) -> None:
    env = make(data, 0.0, kind).as_env(data, seed=1)
    assert isinstance(env, DreamEnv) and isinstance(env, gym.Env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # of the spaces, which are the data set's, and of gymnasium.make, which has not made it
        known = "symmetric and normalized|having a spec|is (-)?infinity|non-zero start|minimal resolution for an image"
        warnings.filterwarnings("ignore", message=f"(?s).*({known})")
        check_env(env)
        check_env_of_sb3(env)


def actions_of(env: DreamVecEnv, value: float = 1.0) -> np.ndarray:
    return np.full((env.num_envs, 1), value, dtype=np.float32)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_step_is_one_of_the_models_dream(deterministic: bool) -> None:
    model = make()
    env = model.as_env(DATA, 3, deterministic=deterministic, seed=5, max_episode_steps=100)
    env.reset()
    clipped = []
    for t in range(4):
        start, generator = env._state, th.Generator()
        generator.set_state(env._generator.get_state())
        actions = np.array([[0.5], [-2.0], [1.0 + t / 10]], dtype=np.float32)
        obs, rewards, dones, infos = env.step(actions)
        plan = th.as_tensor(actions)[:, None] / 2
        with th.no_grad():
            state = model.unroll(plan, start, 1, deterministic, generator).states.map(lambda part: part[:, -1])
            wanted, reward = model.decode(state)["obs"].numpy(), model.predict_reward(state)
        clipped.append(np.abs(wanted) > 0.5)
        assert np.allclose(obs, wanted.clip(-0.5, 0.5), atol=1e-6) and obs.dtype == np.float32 and obs.shape == (3, 2)
        assert np.allclose(rewards, reward, atol=1e-6) and rewards.dtype == np.float32 and np.abs(rewards).max() > 0
        assert not dones.any() and infos == [{}, {}, {}]
        assert th.allclose(env._state.feat, state.feat)
    assert 0 < np.mean(clipped) < 1


def test_dreams_start_from_filtered_rows_of_the_data() -> None:
    model = make(kind=MLPWorldModel)  # whose states are the observations
    first = model.as_env(DATA, 200, seed=0).reset()
    whole = model.as_env(DATA, 400, start_from="any", seed=0).reset()
    rows = DATA.observations["obs"]
    for found, where in ((first, DATA.is_first), (whole, ~DATA.is_last)):
        distances = np.abs(found[:, None] - rows[where]).sum(-1)
        assert distances.min(1).max() < 1e-5 and set(distances.argmin(1)) == set(range(where.sum()))
    model = make()  # with a memory: as filtering whole episodes gives them
    for modes in (False, True):
        env = model.as_env(DATA, 50, start_from="any", seed=3, deterministic=modes)
        th.manual_seed(3)
        rows_ = Rows(DATA, model)
        states = filter_episodes(rows_, model, deterministic=modes).feat[~DATA.is_last]
        env.reset()
        assert all((states - feat).abs().max(1).values.min() < 1e-6 for feat in env._state.feat)


def test_dreams_are_cut_after_their_time_and_start_again_each_alone() -> None:
    model = make()
    env = model.as_env(DATA, 3, max_episode_steps=3, seed=0)
    env.reset()
    env._steps[:] = [0, 1, 0]  # the second began earlier
    ends = []
    for _ in range(6):
        states = env._state
        obs, _, dones, infos = env.step(actions_of(env))
        ends.append(dones.tolist())
        for i in range(3):
            if dones[i]:
                assert infos[i]["TimeLimit.truncated"] is True and infos[i]["terminal_observation"].shape == (2,)
                with th.no_grad():
                    start = model.decode(env._state)["obs"][i].numpy().clip(-0.5, 0.5)
                assert np.allclose(obs[i], start, atol=1e-6)
                assert th.cdist(env._state.feat[i : i + 1], env._starts.feat).min() < 1e-6
                assert not np.array_equal(infos[i]["terminal_observation"], obs[i])
            else:
                assert infos[i] == {} and not th.equal(states.feat[i], env._state.feat[i])
                assert th.cdist(env._state.feat[i : i + 1], env._starts.feat).min() > 1e-6
    assert ends == [[0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert model.as_env(DATA, 1).max_episode_steps == 6  # steps of the longest episode


def test_the_last_observation_is_that_of_the_dream_that_ended() -> None:
    model = make()
    short, long = (model.as_env(DATA, 4, max_episode_steps=n, seed=2, deterministic=True) for n in (1, 9))
    assert equal(short.reset(), long.reset())
    _, rewards, dones, infos = short.step(actions_of(short))
    obs, other_rewards, _, _ = long.step(actions_of(long))
    assert dones.all() and equal(np.stack([info["terminal_observation"] for info in infos]), obs)
    assert equal(rewards, other_rewards)


def test_dreams_terminate_as_often_as_the_model_says() -> None:
    for ends, share in ((20.0, 1.0), (-20.0, 0.0), (0.0, None)):
        model = make(ends=ends)
        env = model.as_env(DATA, 2000, seed=0, sample_ends=True)
        env.reset()
        with th.no_grad():
            state = model.unroll(th.zeros(1, 1, 1), env._state.map(lambda part: part[:1]), 1).states.map(
                lambda part: part[:, 1]
            )
            goes_on = float(continue_probability(model, model.predict_discount(state)))
        _, _, dones, infos = env.step(actions_of(env))
        assert dones.mean() == pytest.approx(1 - goes_on if share is None else share, abs=0.04)
        assert all(infos[i]["TimeLimit.truncated"] is False for i in np.flatnonzero(dones))
    assert goes_on == pytest.approx(0.5 / model.gamma)  # not discounted
    env = make(ends=-np.log(0.8 / 0.2), gamma=0.8).as_env(DATA, 500, seed=0, sample_ends=True)
    env.reset()
    assert not env.step(actions_of(env))[2].any()  # its head has learnt that all goes on: discount and no end
    for ends in (0.1, -0.1):  # the more probable of the two
        env = make(ends=ends).as_env(DATA, 50)
        env.reset()
        assert env.step(actions_of(env))[2].tolist() == [ends > 0] * 50


def test_an_end_at_the_time_limit_is_a_termination() -> None:
    env = make(ends=20.0).as_env(DATA, max_episode_steps=1)
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (True, False)
    env = make(ends=-20.0).as_env(DATA, max_episode_steps=2)
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (False, False)
    last, reward, terminated, truncated, info = env.step(np.zeros(1))
    assert (terminated, truncated, info) == (False, True, {}) and isinstance(reward, float)
    assert not np.array_equal(last, env._dreams._decode(env._dreams._state)[0])  # not the next one's first


def test_a_seed_gives_the_same_dreams() -> None:
    model = make(ends=-2.0)

    def run(env: DreamVecEnv) -> list[np.ndarray]:
        seen = [env.reset()]
        for _ in range(10):
            obs, rewards, dones, _ = env.step(actions_of(env))
            seen += [obs, rewards, dones]
        return seen

    first, again, other = (run(model.as_env(DATA, 4, seed=seed)) for seed in (1, 1, 2))
    assert all(map(np.array_equal, first, again)) and not np.array_equal(first[1], other[1])
    env = model.as_env(DATA, 4, seed=1)
    run(env)
    assert env.seed(7) == [7] * 4
    third = run(env)
    env.seed(7)
    th.manual_seed(0)
    assert all(map(np.array_equal, third, run(env)))
    unseeded = [run(model.as_env(DATA, 4)) for _ in range(2)]
    assert not np.array_equal(unseeded[0][1], unseeded[1][1])
    before = th.get_rng_state()
    run(model.as_env(DATA, 4, seed=1))
    assert th.equal(before, th.get_rng_state())


def test_observations_lie_in_their_space_and_have_its_types() -> None:
    model = make(MIXED_DATA)
    with th.no_grad():
        for output in model.observation_model.outputs:
            output.weight.normal_(std=30.0)
    env = model.as_env(MIXED_DATA, 20, seed=0, max_episode_steps=2)
    space = env.observation_space
    assert space["picture"].shape == (3, 16, 16)  # channels first, as SB3 shows pictures
    obs = env.reset()
    for _ in range(3):
        for i in range(20):
            assert space.contains({name: part[i] for name, part in obs.items()})
        assert {name: part.dtype for name, part in obs.items()} == {
            "turn": np.int64, "bits": np.int8, "picture": np.uint8, "count": np.int16, "number": np.float64
        }  # fmt: skip
        obs, _, dones, infos = env.step(np.arange(20) % 3 - 1)
        assert all(space.contains(infos[i]["terminal_observation"]) for i in np.flatnonzero(dones))
    assert obs["count"].min() == 0 and obs["count"].max() == 9 and set(obs["turn"]) <= {4, 5, 6}
    counts = model.observation_model.outputs[1]  # after the bits
    with th.no_grad():
        counts.weight.zero_()
        counts.bias.copy_(th.tensor([2.7, 40.0]))
    assert env.reset()["count"].tolist() == [[3, 9]] * 20  # rounded and clipped
    assert make().as_env(DATA, 2).observation_space == BOX


def test_algorithms_of_sb3_learn_in_it() -> None:
    env = VecMonitor(make(ends=-1.0).as_env(DATA, 4, seed=0))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, policy_kwargs=dict(net_arch=[4]), device="cpu", seed=0)
    model.learn(64)
    assert model.num_timesteps == 64 and len(model.ep_info_buffer) > 0
    for space in (spaces.Discrete(4), spaces.Dict(turn=spaces.MultiDiscrete([2, 3]), number=BOX)):
        data = random_data(space, spaces.Discrete(2), [3, 2])
        env = make(data).as_env(data, 2, seed=0)
        policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
        PPO(policy, env, n_steps=4, batch_size=8, n_epochs=1, policy_kwargs=dict(net_arch=[4]), device="cpu").learn(8)
    kwargs = dict(policy_kwargs=dict(net_arch=[4]), device="cpu")
    assert (
        SAC("MlpPolicy", make().as_env(DATA, seed=0), learning_starts=5, batch_size=4, **kwargs).learn(10).num_timesteps == 10
    )


def test_actions_outside_the_space_are_refused() -> None:
    env = make().as_env(DATA, 2, seed=0)
    env.reset()
    for actions, message in (
        (np.array([[0.0], [2.5]]), r"(?s)actions must lie in Box\(-2.0, 2.0.*2.5.*number 1"),
        (np.array([[np.nan], [0.0]]), "actions must lie in Box"),
        (np.zeros((3, 1)), r"\(3, 1, 1\).* need \(2, 1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(actions)
    env.step(np.full((2, 1), np.nextafter(np.float32(2), np.float32(3))))  # a rounding error of SB3's scaling
    single = make(MIXED_DATA).as_env(MIXED_DATA)
    single.reset()
    with pytest.raises(ValueError, match=r"actions must lie in Discrete\(3, start=-1\), got .*2"):
        single.step(2)


def test_attributes_are_those_of_all_dreams() -> None:
    env = make().as_env(DATA, 3)
    assert isinstance(env, DreamVecEnv) and env.get_attr("max_episode_steps") == [6, 6, 6]
    env.set_attr("max_episode_steps", 2)
    assert env.max_episode_steps == 2 and env.get_attr("max_episode_steps", indices=[1]) == [2]
    assert env.env_method("seed", 5, indices=0) == [[5, 5, 5]] and env.env_is_wrapped(gym.Wrapper) == [False] * 3
    env.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(n_envs=0), "n_envs must be a whole number of at least 1, got 0"),
        (dict(n_envs=1, max_episode_steps=0), "max_episode_steps must be a whole number of at least 1"),
        (dict(n_envs=1, start_from="last"), "start_from must be 'first' or 'any', got 'last'"),
        (dict(starts=DATA.episodes([])), "The data set is empty"),
        (dict(starts=MIXED_DATA, n_envs=2), "The data set's observation_space is Dict"),
    ],
)
def test_arguments_that_cannot_work(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().as_env(**{**dict(starts=DATA), **kwargs})
