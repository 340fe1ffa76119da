"""Trials in an agent: what is remembered from one episode of a task to the next, in acting, in the replay, in files."""

import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import Clock, tiny_dreamer, tiny_planet, weights_of
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from envs import MetaPendulumEnv, TrialWrapper
from sb3_dreamer import Dreamer
from sb3_dreamer.world_models import ContextRSSM

CONTEXT = 5
POLICY: dict[str, Any] = dict(
    size="debug", world_model_class=ContextRSSM, world_model_kwargs=dict(context_size=CONTEXT, context_hold=0.5)
)


def trials(length: int = 3, episodes: int = 2) -> gym.Env:
    return TrialWrapper(Clock(length), episodes)


def adaptive(env: Any = None, **kwargs: Any) -> Dreamer:
    return tiny_dreamer(trials() if env is None else env, "MultiInputPolicy", **{"policy_kwargs": POLICY, **kwargs})


def context(part: np.ndarray) -> np.ndarray:
    return part[..., -CONTEXT:]


def test_in_vectors_each_environment_keeps_and_loses_its_own_context() -> None:
    model = adaptive(DummyVecEnv([lambda: trials(2), lambda: trials(3)]), learning_starts=100)
    step, bits, forgot = model.policy.step, [], []

    def noting(obs: Any, state: Any, start: np.ndarray, **kwargs: Any) -> Any:
        assert np.array_equal(start, obs["trial"][:, 1])
        with th.no_grad():  # now, as the scales of observations change with every step
            nothing_known = model.policy.filter(obs, model.policy.initial_state(2), np.ones(2, dtype=bool), True, False)
        after = step(obs, state, start, **kwargs)
        bits.append(obs["trial"].copy())
        forgot.append(np.isclose(after[0], nothing_known.deter.numpy(), atol=1e-6).all(axis=1))
        return after

    model.policy.step = noting  # type: ignore[method-assign]
    model.learn(26)
    starts = [np.flatnonzero(np.stack(bits)[:, i, bit]).tolist() for i in range(2) for bit in range(2)]
    assert starts == [[0, 4, 8, 12], [0, 2, 4, 6, 8, 10, 12], [0, 6, 12], [0, 3, 6, 9, 12]]
    assert [np.flatnonzero(column).tolist() for column in np.stack(forgot, axis=1)] == [[0, 4, 8, 12], [0, 6, 12]]


def test_predict_equals_what_training_filters_from_the_replay() -> None:
    """The same course through predict and through a window of the replay, across episodes and trials."""
    model = adaptive(learning_starts=100).learn(20)  # 7 episodes of 3 steps, 4 rows each
    assert model.replay_buffer is not None
    (rows,) = model.replay_buffer.streams()
    state, predicted = None, []
    for t in np.flatnonzero(~rows.is_last):
        obs = {name: part[t][None] for name, part in rows.observations.items()}
        _, state = model.predict(obs, state, rows.is_first[t][None], deterministic=True)
        assert state is not None
        predicted.append(state[0][0])
        state = (*state[:2], rows.actions[t][None])  # what was done
    latents = [np.zeros((1, size), np.float32) for size in (model.world_model.deter_size, model.world_model.stoch_size)]
    model.replay_buffer._deter[0, 0], model.replay_buffer._stoch[0, 0] = predicted[0], 0
    stoch = model.policy.filter(
        {name: part[:1] for name, part in rows.observations.items()}, (*latents, np.zeros((1, 1))), np.ones(1), True, False
    ).stoch
    model.replay_buffer._stoch[0, 0] = stoch[0].detach().numpy()
    batch, index = model.replay_buffer.sample(1, len(rows.rewards) - 1)
    assert index.row[0, 0] == 1
    model.policy.set_training_mode(False)
    with th.no_grad():
        states = model.world_model.observe(batch, deterministic=True)
    acted = np.flatnonzero(~rows.is_last[1:])
    assert np.allclose(states.deter[0, acted].numpy(), np.stack(predicted[1:]), atol=1e-5)
    assert rows.observations["trial"][:, 0].sum() == 4 and rows.is_first.sum() == 7  # there was something to cross


def test_the_last_row_of_an_episode_keeps_the_context_for_windows_that_begin_behind_it() -> None:
    model = adaptive(learning_starts=100).learn(10)
    assert model.replay_buffer is not None
    deter, stoch = model.replay_buffer._deter[0], model.replay_buffer._stoch[0]
    (rows,) = model.replay_buffer.streams()
    for t in np.flatnonzero(rows.is_last):
        assert np.array_equal(context(deter[t]), context(deter[t - 1])) and context(deter[t]).any()
        assert not deter[t, :-CONTEXT].any() and not stoch[t].any()


def test_nothing_is_known_without_a_state() -> None:
    model = adaptive().learn(60)
    obs = {"obs": np.ones((1, 2), np.float32), "reward": np.ones((1, 1), np.float32), "trial": np.array([[0, 1]])}
    _, fresh = model.predict(obs, None, np.ones(1, dtype=bool), deterministic=True)
    later = {**obs, "trial": np.array([[0, 0]])}
    _, known = model.predict(later, fresh, deterministic=True)
    _, second = model.predict(obs, known, np.ones(1, dtype=bool), deterministic=True)
    _, again = model.predict({**obs, "trial": np.array([[1, 1]])}, known, np.ones(1, dtype=bool), deterministic=True)
    _, first = model.predict({**obs, "trial": np.array([[1, 1]])}, None, np.ones(1, dtype=bool), deterministic=True)
    assert fresh is not None and second is not None and again is not None and first is not None
    assert not np.allclose(second[0], fresh[0], atol=1e-4)  # the same border, with something known of the task
    assert all(np.array_equal(a, b) for a, b in zip(again, first, strict=True))


@pytest.mark.parametrize("trusted", [True, False])
def test_saved_and_loaded_it_goes_on_in_the_middle_of_a_trial(trusted: bool, tmp_path: pathlib.Path) -> None:
    model = adaptive().learn(50)
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model", device="cpu", trusted=trusted)
    assert type(loaded.world_model) is ContextRSSM and loaded.world_model.context_hold == 0.5
    states: list[Any] = [None, None]
    env = trials()
    obs, _ = env.reset()
    for _ in range(7):
        start = np.array([obs["trial"][1]], dtype=bool)
        (action, states[0]), (other, states[1]) = (
            agent.predict(obs, state, start, deterministic=True) for agent, state in zip((model, loaded), states, strict=True)
        )
        assert np.array_equal(action, other)
        obs, _, terminated, _, _ = env.step(action)
        obs = env.reset()[0] if terminated else obs


def test_it_learns_acts_and_imagines_like_any_other() -> None:
    env = DummyVecEnv([lambda: TrialWrapper(TimeLimit(MetaPendulumEnv(mass=(0.5, 1.0)), 10))] * 2)
    model = adaptive(env, batch_length=12)
    before = weights_of(model)
    model.learn(80)
    assert model._n_updates > 3
    after = model.policy.state_dict()
    still = [name for name in before if "context" in name and "average" not in name and th.equal(before[name], after[name])]
    assert not still
    assert evaluate_policy(model, env, n_eval_episodes=1)[0] < 0
    dream = model.imagine(env.reset(), 3)
    assert dream.observations["obs"].shape == (2, 4, 3)


def test_windows_are_long_enough_to_reach_into_the_next_episode_by_default() -> None:
    env = TrialWrapper(TimeLimit(MetaPendulumEnv(), 10))  # continuous actions: 8 rows for other models
    model = Dreamer("MultiInputPolicy", env, policy_kwargs=POLICY)
    assert (model.batch_length, model.batch_size) == (48, 10)
    assert Dreamer("MultiInputPolicy", env, policy_kwargs=dict(size="debug")).batch_length == 8
    assert adaptive(env, batch_length=6).batch_length == 6


def test_planet_can_have_a_context_too() -> None:
    model = tiny_planet(trials(), "MultiInputPolicy", policy_kwargs=POLICY).learn(50)
    assert type(model.world_model) is ContextRSSM and model._n_updates > 0


def test_vecnormalize_leaves_the_bits_alone_or_says_so() -> None:
    with pytest.raises(ValueError, match="norm_obs_keys"):
        VecNormalize(DummyVecEnv([trials]))
    model = adaptive(VecNormalize(DummyVecEnv([trials]), norm_obs_keys=["obs"])).learn(50)
    assert model.replay_buffer is not None
    (rows,) = model.replay_buffer.streams()
    assert set(np.unique(rows.observations["trial"])) == {0, 1}


def test_without_trials_in_the_observation_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"Wrap the environment: envs\.TrialWrapper"):
        tiny_dreamer(policy_kwargs=POLICY)


def test_adapting_to_the_newest_rows_learns_from_these_alone() -> None:
    model = tiny_dreamer(Clock(length=5), learning_starts=1000).learn(60)
    assert model.replay_buffer is not None
    seen: list[np.ndarray] = []
    write = model.replay_buffer.write_latents

    def noting(index: Any, states: Any) -> None:
        seen.append(index.row)
        write(index, states)

    model.replay_buffer.write_latents = noting  # type: ignore[method-assign]
    before, rows = weights_of(model), int(model.replay_buffer.rows_written()[0])
    model.adapt(12, last_rows=20)
    assert model._n_updates == 12 and min(row.min() for row in seen) == rows - 19  # the row before gives the state
    assert any(not th.equal(before[name], part) for name, part in model.policy.state_dict().items())
    seen.clear()
    model.adapt(20)
    assert min(row.min() for row in seen) < rows - 30
    for wrong in (8, 0, 2.5):
        with pytest.raises(ValueError, match="last_rows"):
            model.adapt(1, last_rows=wrong)  # type: ignore[arg-type]
