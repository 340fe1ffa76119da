"""From the environment through the VecEnv's automatic reset into the replay: what is stored, row by row."""

import numpy as np
import pytest
from conftest import Clock, tiny_dreamer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize


def rows(model, stream: int = 0) -> dict[str, np.ndarray]:
    buffer = model.replay_buffer
    count = int(buffer._count[stream])
    names = ("_action", "_reward", "_is_first", "_is_last", "_is_terminal", "_deter", "_stoch")
    stored = {name: getattr(buffer, name)[stream, :count] for name in names}
    return {**stored, "_obs": buffer._obs["obs"][stream, :count]}


@pytest.mark.parametrize("terminates", [True, False])
def test_an_episode_takes_one_row_more_than_steps(terminates: bool) -> None:
    from gymnasium.wrappers import TimeLimit

    env = Clock(length=3) if terminates else TimeLimit(Clock(length=99), 3)
    data = rows(tiny_dreamer(env).learn(7))
    # observations (episode, clock): the last one of each episode is there, and so is every reset
    assert data["_obs"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1], [1, 2], [1, 3], [2, 0]]
    # the reward arrives with the observation it led to; a reset brings none
    assert data["_reward"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert data["_is_first"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert data["_is_last"].tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert data["_is_terminal"].tolist() == ([0, 0, 0, 1, 0, 0, 0, 1, 0] if terminates else [0] * 9)
    # nothing is chosen at an episode's last observation, and nothing was thought there
    assert (data["_action"][[3, 7]] == 0).all() and (data["_action"][[0, 1, 2, 4]] != 0).all()
    assert (data["_deter"][[3, 7]] == 0).all() and (data["_deter"][[1, 2, 5]] != 0).any(axis=1).all()


def test_environments_that_end_at_different_times_keep_their_own_streams() -> None:
    env = DummyVecEnv([lambda: Clock(length=2), lambda: Clock(length=3)])
    model = tiny_dreamer(env, learning_starts=None)
    model.learn(12)
    first, second = rows(model, 0), rows(model, 1)
    assert first["_obs"].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
    assert second["_obs"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1], [1, 2], [1, 3]]
    assert first["_is_last"].tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert second["_is_last"].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]


def test_actions_are_stored_raw_and_given_to_the_environment_clipped_and_scaled() -> None:
    given = []

    class Watching(Clock):
        def step(self, action):
            given.append(float(action[0]))
            return super().step(action)

    model = tiny_dreamer(Watching(length=50), random_warmup=False).learn(45)
    raw = rows(model)["_action"][:, 0]
    assert np.abs(raw).max() > 1  # the untrained policy has a standard deviation of 0.9
    assert np.allclose(given, 2 * np.clip(raw, -1, 1), atol=1e-6)


def test_latents_in_the_replay_are_those_of_acting_and_reset_with_the_episode() -> None:
    model = tiny_dreamer(Clock(length=4))
    states = []
    act = model._act
    model._act = lambda obs: (act(obs), states.append(model._last_state))[0]  # type: ignore[method-assign]
    model.learn(10)
    data = rows(model)
    acting = [i for i in range(len(data["_reward"])) if not data["_is_last"][i]]
    assert np.array_equal(data["_deter"][acting], np.concatenate([s[0] for s in states]))
    assert np.array_equal(data["_stoch"][acting], np.concatenate([s[1] for s in states]))
    assert np.array_equal(data["_action"][acting], np.concatenate([s[2] for s in states]))
    # the state on a reset depends on nothing before it
    fresh = model.policy.step(
        {"obs": data["_obs"][5:6]}, model.policy.initial_state(1), np.ones(1, dtype=bool), deterministic=True
    )
    assert np.allclose(fresh[0], data["_deter"][5:6], atol=1e-6)


def test_training_refreshes_the_stored_latents() -> None:
    model = tiny_dreamer(Clock(length=30), train_ratio=64).learn(41)
    before = rows(model)["_deter"].copy()
    model.train(3)
    assert (np.abs(rows(model)["_deter"] - before).max(axis=1) > 0).sum() >= 8


def test_learning_on_continues_the_episode_and_learning_anew_starts_one() -> None:
    model = tiny_dreamer(Clock(length=5))
    model.learn(3)
    model.learn(3, reset_num_timesteps=False)
    assert model.num_timesteps == 6
    assert rows(model)["_obs"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [1, 0]]
    assert rows(model)["_reward"].tolist() == [0, 1, 2, 3, 4, 5, 0]
    model.learn(2)
    assert model.num_timesteps == 2
    assert rows(model)["_obs"][7:].tolist() == [[2, 0], [2, 1]]
    assert rows(model)["_is_first"][7:].tolist() == [1, 0] and rows(model)["_reward"][7:].tolist() == [0, 1]
    batch, _ = model.replay_buffer.sample(50, 4)
    assert (batch.is_terminal <= batch.is_last).all()


def test_learning_on_resets_nothing_and_goes_on_with_the_latent_states() -> None:
    env = DummyVecEnv([lambda: Clock(length=5), lambda: Clock(length=7)])
    model = tiny_dreamer(env).learn(48)
    left, clocks = model._last_state, [clock.unwrapped for clock in env.envs]
    assert [(clock.episode, clock.clock) for clock in clocks] == [(4, 4), (3, 3)]
    assert left is not None and all(part.any(axis=1).all() for part in left[:2])
    given, step = [], model.policy.step

    def noting(obs, state, episode_start, **kwargs):
        given.append((state, episode_start))
        return step(obs, state, episode_start, **kwargs)

    model.policy.step = noting  # type: ignore[method-assign]
    model.learn(2, reset_num_timesteps=False)
    assert [(clock.episode, clock.clock) for clock in clocks] == [(5, 0), (3, 4)]
    assert given[0][0] is left and not given[0][1].any()
    model.learn(2)  # anew: reset, and nothing is remembered
    assert [(clock.episode, clock.clock) for clock in clocks] == [(6, 1), (4, 1)]
    assert not any(part.any() for part in given[1][0]) and given[1][1].all()


def test_observations_of_a_vecenv_that_overwrites_its_arrays_are_copied() -> None:
    class Overwriting(VecEnvWrapper):
        def reset(self):
            self.held = self.venv.reset().copy()
            return self.held

        def step_wait(self):
            obs, rewards, dones, infos = self.venv.step_wait()
            self.held[:] = obs  # the array given out before changes under its reader
            return self.held, rewards, dones, infos

    data = rows(tiny_dreamer(Overwriting(DummyVecEnv([lambda: Clock(length=3)]))).learn(9))
    assert data["_obs"][:, 1].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]


def test_the_replay_holds_true_rewards_also_under_vecnormalize() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Clock(length=3)]))
    data = rows(tiny_dreamer(env).learn(7))
    assert data["_reward"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
