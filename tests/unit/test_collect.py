"""Data sets against what the environments really did, noted down on the way."""

import sys
import types
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Clock, tiny_dreamer
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_dreamer.world_models import EpisodeDataset, collect, from_minari, from_replay_buffer


class Noting(gym.Wrapper):
    """Notes every episode: observations, actions, rewards, whether it terminated, whether it ended."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.episodes: list[dict[str, Any]] = []

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        self.episodes.append(dict(obs=[obs], actions=[], rewards=[], terminated=False, ended=False))
        return obs, info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        episode = self.episodes[-1]
        assert not episode["ended"]
        episode["obs"].append(obs)
        episode["actions"].append(action)
        episode["rewards"].append(reward)
        episode.update(terminated=terminated, ended=terminated or truncated)
        return obs, reward, terminated, truncated, info

    def shortened(self, whole: bool = False) -> list[dict[str, Any]]:
        """Its episodes that have steps; those that have not ended without their last step, which no replay of rows knows."""
        kept = []
        for episode in self.episodes:
            n = len(episode["actions"]) - (not (episode["ended"] or whole))
            if n > 0:
                cut = {name: episode[name][: n + (name == "obs")] for name in ("obs", "actions", "rewards")}
                kept.append({**episode, **cut})
        return kept


class Choices(Clock):
    """Choices that do not start at 0, and bits; the reward is the action."""

    action_space = spaces.Discrete(3, start=-1)
    observation_space = spaces.Dict(
        turn=spaces.Discrete(9, start=2), bits=spaces.MultiBinary(2), clock=spaces.Box(0.0, 99.0, (1,))
    )

    def _obs(self) -> Any:
        bits = np.array([self.clock % 2, self.episode % 2], dtype=np.int8)
        return {"turn": np.int64(2 + self.clock % 9), "bits": bits, "clock": np.array([self.clock], dtype=np.float32)}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        obs, _, *rest = super().step(action)
        return (obs, float(action), *rest)


class Turns(Choices):
    observation_space = Choices.observation_space["turn"]  # type: ignore[assignment]

    def _obs(self) -> Any:
        return super()._obs()["turn"]


def assert_is(data: EpisodeDataset, episodes: list[dict[str, Any]]) -> None:
    """The data set holds these episodes, in this order."""
    assert data.n_episodes == len(episodes)
    for found, wanted in zip(data, episodes, strict=True):
        n = len(wanted["actions"])
        assert found.is_first.tolist() == [1] + [0] * n and found.is_last.tolist() == [0] * n + [1]
        assert found.is_terminal.tolist() == [0] * n + [wanted["terminated"]]
        assert np.allclose(found.rewards, [0.0, *wanted["rewards"]], atol=1e-5)
        assert np.allclose(found.actions[:-1], np.array(wanted["actions"]), atol=1e-6)
        assert found.actions.shape == (n + 1, *(data.action_space.shape or ()))
        if isinstance(wanted["obs"][0], dict):
            stacked = {name: np.stack([obs[name] for obs in wanted["obs"]]) for name in wanted["obs"][0]}
        else:
            stacked = {"obs": np.stack(wanted["obs"])}
        assert found.observations.keys() == stacked.keys()
        assert all(np.array_equal(found.observations[name], array) for name, array in stacked.items())


# ---- collect


@pytest.mark.parametrize("terminates", [True, False])
def test_rows_by_hand(terminates: bool) -> None:
    seen = []

    def policy(obs: np.ndarray) -> list[float]:
        seen.append(obs.tolist())
        return [obs[1] / 10]

    data = collect(Clock(length=3, terminates=terminates), policy, n_steps=4)  # the second episode is finished
    assert data.observations["obs"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1], [1, 2], [1, 3]]
    assert np.allclose(data.actions[:, 0], [0, 0.1, 0.2, 0, 0, 0.1, 0.2, 0])
    assert data.rewards.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert data.is_first.tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert data.is_last.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert data.is_terminal.tolist() == ([0, 0, 0, 1] * 2 if terminates else [0] * 8)
    assert seen == [[e, t] for e in (0, 1) for t in (0, 1, 2)]  # never asked at an episode's end
    assert collect(Clock(length=3), n_steps=3).n_steps == 3 and collect(Clock(length=3), n_steps=1).n_steps == 3


def test_an_episode_that_goes_on_for_ever_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sb3_dreamer.world_models.collect"], "PATIENCE", 30)
    data = collect(Clock(length=10**9), n_steps=20)
    assert data.n_steps == 50 and data.is_last.sum() == 1 and not data.is_terminal.any()
    assert collect(Clock(length=25), n_steps=20).n_steps == 25


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_random_actions_of_a_seed_are_the_same_again(env: str) -> None:
    first, again, other = (collect(env, n_steps=30, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.observations["obs"], again.observations["obs"])
    assert np.array_equal(first.actions, again.actions) and first.n_steps >= 30
    assert not np.array_equal(first.observations["obs"][:20], other.observations["obs"][:20])
    assert first.action_space == gym.make(env).action_space


@pytest.mark.parametrize("env", [Choices, lambda: TimeLimit(gym.make("Pendulum-v1"), 7)])
def test_what_the_environment_gave_is_what_is_kept(env: Any) -> None:
    noting = Noting(env())
    data = collect(noting, n_steps=23, seed=0)
    assert_is(data, noting.episodes[:-1])
    assert noting.episodes[-1]["actions"] == []  # the reset after the last episode


def test_a_model_acts_by_predict() -> None:
    env = Noting(TimeLimit(gym.make("Pendulum-v1"), 7))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs=dict(net_arch=[4]), seed=0, device="cpu")
    env.episodes.clear()
    assert_is(collect(env, model, n_steps=10, deterministic=True), env.episodes[:-1])
    for episode in env.episodes[:-1]:
        wanted, _ = model.predict(np.stack(episode["obs"][:-1]), deterministic=True)
        assert np.allclose(np.stack(episode["actions"]), wanted, atol=1e-6)
    sampled = collect(env, model, n_steps=10)
    wanted, _ = model.predict(sampled.observations["obs"], deterministic=True)
    assert np.abs(sampled.actions - wanted)[~sampled.is_last].max() > 0.1


class Remembering:
    """A recurrent policy, which notes what it is given: its state counts the steps since the episode's start."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []

    def predict(self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        self.given.append((obs.copy(), state, episode_start.copy(), deterministic))
        counts = np.zeros(len(obs)) if state is None else state[0]
        counts = np.where(episode_start, 0, counts)
        return counts[:, None] / 10, (counts + 1,)


def test_the_state_of_a_policy_is_handed_on_with_the_starts_of_episodes() -> None:
    policy = Remembering()
    data = collect(Clock(length=3), policy, n_steps=6, deterministic=True)
    assert np.allclose(data.actions[~data.is_last, 0], [0, 0.1, 0.2, 0, 0.1, 0.2])
    assert policy.given[0][1] is None and all(given[1] is not None for given in policy.given[1:])
    assert [given[2].tolist() for given in policy.given] == [[1], [0], [0], [1], [0], [0]]
    assert all(given[0].shape == (1, 2) and given[3] is True for given in policy.given)
    dreamer = tiny_dreamer(Clock(length=3))
    assert collect(Clock(length=3), dreamer, n_steps=5).n_steps == 6


def test_environments_side_by_side() -> None:
    notes = [Noting(Clock(length=2)), Noting(TimeLimit(Clock(length=99), 3))]
    policy = Remembering()
    data = collect(DummyVecEnv([lambda: notes[0], lambda: notes[1]]), policy, n_steps=8)
    # time      1     2     3     4     5     6
    # first     .    end    .    end    (8 steps: done)
    # second    .     .    end    .     .    end
    first, second = notes[0].episodes, notes[1].episodes
    second = [{**episode, "terminated": False} for episode in second]
    assert_is(data, [first[0], first[1], second[0], second[1]])  # one environment after the other
    assert data.is_terminal[data.is_last].tolist() == [1, 1, 0, 0]
    assert [given[2].tolist() for given in policy.given] == [[1, 1], [0, 0], [1, 0], [0, 1], [1, 0], [0, 0]]
    assert np.allclose(policy.given[4][1][0], [2, 1])
    # dictionaries and choices, by random actions of a seed
    notes = [Noting(Choices(length=2)), Noting(Choices(length=3))]
    assert_is(collect(DummyVecEnv([lambda: notes[0], lambda: notes[1]]), None, 3, seed=3), [n.episodes[0] for n in notes])


class Reusing(Clock):
    """Gives the same array every time."""

    def __init__(self) -> None:
        super().__init__(length=3)
        self.array = np.zeros(2, dtype=np.float32)

    def _obs(self) -> np.ndarray:
        self.array[:] = self.episode, self.clock
        return self.array


def test_an_environment_may_reuse_its_arrays() -> None:
    assert collect(Reusing(), n_steps=3).observations["obs"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]


def test_actions_of_a_function_are_clipped_or_refused() -> None:
    assert collect(Clock(), lambda obs: np.array([5.0]), n_steps=1).actions[0] == [2.0]
    assert collect(Choices(), lambda obs: np.array([1]), n_steps=1).actions.tolist() == [1, 1, 1, 1, 1, 0]
    for env, action, message in (
        (Clock, [np.nan], r"(?s)actions must lie in Box\(-2.0, 2.0.*nan"),
        (Clock, [0.0, 0.0], r"shape \(2,\), those of Box.* have \(1,\)"),
        (Choices, 2, r"actions must lie in Discrete\(3, start=-1\), got .*2"),
        (Choices, 0.5, "actions must lie in Discrete"),
        (Choices, [0, 1], r"shape \(2,\), those of Discrete.* have \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            collect(env(), lambda obs, action=action: action, n_steps=1)


def test_arguments_that_cannot_work() -> None:
    for arguments, message in (
        (dict(env=Clock(), n_steps=0), "n_steps must be a whole number of at least 1, got 0"),
        (dict(env=Clock(), n_steps=1.5), r"n_steps must be .* got 1.5"),
        (dict(env=Clock(), policy="random"), "policy must be None, a model with predict, or a function"),
        (dict(env=5), "env must be a Gymnasium environment, its id, or an SB3 VecEnv, got 5"),
        (dict(env=gym.make_vec("CartPole-v1", 2)), "env must be a Gymnasium environment, its id, or an SB3 VecEnv"),
    ):
        with pytest.raises(ValueError, match=message):
            collect(**arguments)


def test_values_a_model_cannot_learn_from_are_named() -> None:
    class Broken(Clock):
        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            return (obs, np.nan if self.clock == 4 else reward, *rest)

    with pytest.raises(ValueError, match="Row 4 has the reward nan"):
        collect(Broken(), n_steps=3)


# ---- replay buffers


@pytest.mark.parametrize("env", [lambda: TimeLimit(Clock(length=9), 9), lambda: Choices(length=7, terminates=False)])
def test_the_replay_of_a_dreamer(env: Any) -> None:
    """Also when a second call of learn has broken an episode off."""
    noting = Noting(env())
    policy = "MultiInputPolicy" if isinstance(noting.observation_space, spaces.Dict) else "MlpPolicy"
    model = tiny_dreamer(noting, policy=policy, random_warmup=False)
    model.learn(25)
    assert_is(from_replay_buffer(model), noting.shortened())
    model.learn(20)
    data, episodes = from_replay_buffer(model), noting.shortened()
    assert [episode["ended"] for episode in episodes].count(False) == 2 and not episodes[-1]["ended"]
    assert_is(data, episodes)
    assert data.observation_space == noting.observation_space and data.action_space == noting.action_space


def test_a_dreamers_full_ring_and_environments_side_by_side() -> None:
    model = tiny_dreamer(Clock(length=5), buffer_size=40).learn(70)
    data = from_replay_buffer(model)
    # 70 steps: 14 episodes of 6 rows; the oldest 44 are gone, the reset after the last episode is not written yet
    assert len(data) == 40 and data.n_episodes == 7 and data.is_terminal.sum() == 7
    assert data.observations["obs"][:6].tolist() == [[7, 2], [7, 3], [7, 4], [7, 5], [8, 0], [8, 1]]
    assert data.rewards[:6].tolist() == [0, 3, 4, 5, 0, 1]  # an episode's first row has no reward
    notes = [Noting(Clock(length=2)), Noting(Clock(length=30))]
    model = tiny_dreamer(DummyVecEnv([lambda: notes[0], lambda: notes[1]]), learning_starts=None).learn(20)
    assert_is(from_replay_buffer(model), [*notes[0].shortened(), *notes[1].shortened()])


def tiny_off_policy(algorithm: Any, env: Any, **kwargs: Any) -> Any:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    defaults = dict(learning_starts=15, batch_size=4, buffer_size=1000, policy_kwargs=dict(net_arch=[4]), seed=0, device="cpu")
    return algorithm(policy, env, **{**defaults, **kwargs})


def test_the_replay_of_sac_has_the_actions_that_the_environment_got() -> None:
    noting = Noting(TimeLimit(gym.make("Pendulum-v1"), 12))
    model = tiny_off_policy(SAC, noting).learn(30)
    actions = np.concatenate([episode["actions"] for episode in noting.episodes])
    assert np.abs(actions).max() > 1.2  # beyond the scaled ones of the buffer
    assert_is(from_replay_buffer(model), noting.shortened(whole=True))
    model.learn(8)  # resets in the middle of an episode
    episodes = noting.shortened(whole=True)
    assert [len(episode["actions"]) for episode in episodes] == [12, 12, 6, 8]
    assert_is(from_replay_buffer(model), episodes)


@pytest.mark.parametrize("env", [Choices, Turns])
def test_the_replay_of_dqn(env: Any) -> None:
    notes = [Noting(env(length=4)), Noting(env(length=3, terminates=False))]
    vec_env = DummyVecEnv([lambda: notes[0], lambda: notes[1]])
    # SB3 refuses choices that do not start at 0 as actions
    for note in notes:
        note.unwrapped.action_space = spaces.Discrete(3)
    vec_env.action_space = spaces.Discrete(3)
    model = tiny_off_policy(DQN, vec_env).learn(18)
    assert_is(from_replay_buffer(model), sorted_by_end(notes))


def sorted_by_end(notes: list[Noting]) -> list[dict[str, Any]]:
    """As from_replay_buffer goes through them: one environment after the other, those that have not ended last."""
    episodes = [episode for note in notes for episode in note.shortened(whole=True)]
    return sorted(episodes, key=lambda episode: not episode["ended"])


def test_a_full_ring_of_sb3_begins_where_its_oldest_transition_does() -> None:
    model = tiny_off_policy(SAC, Clock(length=7), buffer_size=18, learning_starts=100).learn(24)
    data = from_replay_buffer(model)
    assert data.n_steps == 18 and data.n_episodes == 4  # steps 6 to 23
    assert data.observations["obs"][:3].tolist() == [[0, 6], [0, 7], [1, 0]]
    assert data.observations["obs"][-4:].tolist() == [[3, 0], [3, 1], [3, 2], [3, 3]]
    assert data.is_terminal[data.is_last].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("size", [100, 20])
def test_a_replay_that_saves_memory_has_no_ends(size: int) -> None:
    """The observation of an episode's end has made room for the reset's: those steps are left out, not made up."""
    noting = Noting(Clock(length=7))
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = tiny_off_policy(SAC, noting, buffer_size=size, learning_starts=100, **kwargs).learn(24)
    with pytest.warns(UserWarning, match="lacks the last step of every episode"):
        data = from_replay_buffer(model)
    wanted = [[e, t] for e in range(3) for t in range(7)] + [[3, 0], [3, 1], [3, 2], [3, 3]]
    assert data.observations["obs"].tolist() == (wanted if size == 100 else wanted[5:])
    actions = {tuple(obs): action for e in noting.episodes for obs, action in zip(e["obs"], e["actions"], strict=False)}
    acting = ~data.is_last
    assert np.allclose(data.actions[acting], [actions[tuple(obs)] for obs in data.observations["obs"][acting]], atol=1e-6)
    assert not data.is_terminal.any() and data.rewards[~data.is_first].min() >= 1


def test_a_replay_that_cannot_tell_truncation_says_so() -> None:
    kwargs = dict(replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = tiny_off_policy(SAC, Clock(length=5, terminates=False), learning_starts=100, **kwargs).learn(10)
    with pytest.warns(UserWarning, match="every end of an episode counts as its termination"):
        assert from_replay_buffer(model).is_terminal.sum() == 2


def test_models_without_a_replay() -> None:
    with pytest.raises(ValueError, match="PPO has no replay buffer"):
        from_replay_buffer(PPO("MlpPolicy", Clock(), n_steps=8, batch_size=8, device="cpu"))
    for model in (tiny_off_policy(SAC, Clock()), tiny_dreamer(Clock())):
        with pytest.raises(ValueError, match="replay buffer"):
            from_replay_buffer(model)


# ---- Minari


def fake_minari(env: gym.Env, episodes: list[dict[str, Any]]) -> Any:
    """What a minari.MinariDataset gives."""
    found = []
    for episode in episodes:
        n, obs = len(episode["actions"]), episode["obs"]
        stacked = {name: np.stack([o[name] for o in obs]) for name in obs[0]} if isinstance(obs[0], dict) else np.stack(obs)
        ends = np.arange(n) == n - 1
        found.append(
            types.SimpleNamespace(
                observations=stacked,
                actions=np.stack(episode["actions"]),
                rewards=np.array(episode["rewards"], dtype=np.float64),
                terminations=ends & episode["terminated"],
                truncations=ends & episode["ended"] & (not episode["terminated"]),
            )
        )
    return types.SimpleNamespace(
        observation_space=env.observation_space, action_space=env.action_space, iterate_episodes=lambda: iter(found)
    )


@pytest.mark.parametrize("env", [lambda: Choices(length=4), lambda: Clock(length=3, terminates=False)])
def test_episodes_of_minari(env: Any) -> None:
    noting = Noting(env())
    collect(noting, n_steps=12, seed=0)
    episodes = noting.shortened()
    del episodes[1]["actions"][2:], episodes[1]["rewards"][2:], episodes[1]["obs"][3:]
    episodes[1].update(terminated=False, ended=False)  # one that was cut off keeps its place
    assert_is(from_minari(fake_minari(noting, episodes)), episodes)


def test_minari_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match="pip install minari"):
        from_minari("D4RL/pointmaze/umaze-v2")


def test_what_a_vec_normalize_changes_is_refused() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Clock(length=5)]))
    with pytest.raises(ValueError, match="VecNormalize"):
        collect(env, None, 5)
    agent = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="VecNormalize"):
        collect(Clock(length=5), agent, 5)
    assert len(collect(env.venv, lambda obs: agent.predict(env.normalize_obs(obs))[0], 5)) == 6
