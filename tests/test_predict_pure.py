"""Predicting is a function: of its arguments, the weights and, if stochastic, a seed. It leaves nothing behind."""

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import assert_equal_weights, weights_of
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import Dreamer

Make = Callable[..., Any]


@pytest.fixture(scope="module", params=["ContinuousPendulum-v0", "SequenceMemory-v0"])
def model(make: Make, request: pytest.FixtureRequest) -> Any:
    return make(f"envs:{request.param}").learn(60)


def observations(model: Any, n: int) -> np.ndarray:
    shape = (n, *model.observation_space.shape)
    return np.random.default_rng(n).normal(size=shape).astype(np.float32)


def randomness(model: Any) -> list[Any]:
    """Where all that training draws from stands."""
    _, keys, *position = np.random.get_state()
    return [
        random.getstate(),
        (keys.tolist(), position),
        th.get_rng_state().tolist(),
        model.action_space.np_random.bit_generator.state,
        model.env.action_space.np_random.bit_generator.state,
        model.replay_buffer.rng_state(),
    ]


@pytest.mark.parametrize("deterministic", [True, False])
def test_no_randomness_of_training_is_used(model: Any, deterministic: bool) -> None:
    before, state, obs = randomness(model), None, observations(model, 3)
    for _ in range(3):
        _, state = model.predict(obs, state, np.array([False, True, False]), deterministic=deterministic)
        model.predict(obs[0], deterministic=deterministic)
        model.imagine(obs, 2, deterministic=deterministic)
    assert randomness(model) == before
    th.rand(1)
    assert randomness(model) != before


def contents(model: Any) -> dict[str, str]:
    """All that the policy, its modules and what converts spaces hold beside their weights, and the names in the model."""
    holders = {**dict(model.policy.named_modules()), "obs": model.observation_codec, "action": model.action_codec}
    inside = {f"{at}.{name}": repr(value) for at, holder in holders.items() for name, value in vars(holder).items()}
    return {**inside, "model": str(sorted(vars(model)))}


def test_nothing_is_kept_in_the_object(model: Any) -> None:
    obs = observations(model, 4)
    first, state = model.predict(obs, deterministic=True)
    held, weights = contents(model), weights_of(model)
    model.predict(observations(model, 2), deterministic=False)
    model.predict(observations(model, 7) + 3, None, np.ones(7, dtype=bool), deterministic=True)
    assert contents(model) == held and not model.policy.training
    assert_equal_weights(weights_of(model), weights)
    again, same = model.predict(obs, deterministic=True)
    assert np.array_equal(first, again) and all(np.array_equal(a, b) for a, b in zip(state, same, strict=True))


@pytest.mark.parametrize("deterministic", [True, False])
def test_nothing_of_the_arguments_is_held_or_changed(model: Any, deterministic: bool) -> None:
    obs, start = observations(model, 3), np.array([False, True, False])
    _, state = model.predict(obs, deterministic=deterministic)
    arguments = [obs, start, *state]
    kept = [array.copy() for array in arguments]
    action, newer = model.predict(obs, state, start, deterministic=deterministic)
    assert all(np.array_equal(a, b) for a, b in zip(arguments, kept, strict=True))
    assert not any(np.shares_memory(a, b) for a in arguments for b in (action, *newer))
    references = [weakref.ref(array) for array in (*arguments, action, *newer)]
    del obs, start, state, arguments, action, newer
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)


def test_what_is_returned_can_be_written_to(model: Any) -> None:
    obs = observations(model, 3)
    first, state = model.predict(obs, deterministic=True)
    expected = first.copy(), [part.copy() for part in state]
    for array in (first, *state):
        array[...] = 1
    again, same = model.predict(obs, deterministic=True)
    assert np.array_equal(again, expected[0]) and all(np.array_equal(*pair) for pair in zip(same, expected[1], strict=True))


def test_random_actions_repeat_after_seeding(model: Any) -> None:
    obs = observations(model, 20)

    def actions(seed: int | None = None) -> np.ndarray:
        if seed is not None:
            model.set_random_seed(seed)
        first, state = model.predict(obs)
        return np.concatenate([first, model.predict(obs, state)[0]])

    assert np.array_equal(actions(5), actions(5))
    # of a planner, different candidates may well lead to the same few choices
    assert any(not np.array_equal(actions(5), actions(seed)) for seed in range(6, 11))
    assert any(not np.array_equal(actions(), actions()) for _ in range(5))


class Looking(BaseCallback):
    """Predicts, dreams and evaluates in the midst of training, from the warm-up on."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.eval_env = make_vec_env("envs:ContinuousPendulum-v0", 2, seed=9, env_kwargs=dict(max_episode_steps=10))

    def _on_step(self) -> bool:
        if self.n_calls % self.every:
            return True
        obs, random_obs = self.locals["new_obs"], self.np_random.normal(size=(5, 3)).astype(np.float32)
        for deterministic in (True, False):
            self.model.predict(obs, self.model._last_state, self.locals["dones"], deterministic=deterministic)
            self.model.predict(random_obs, deterministic=deterministic)
            self.model.imagine(random_obs, 2, deterministic=deterministic)
        if self.n_calls % 15 == 0:
            evaluate_policy(self.model, self.eval_env, n_eval_episodes=2, deterministic=False)
        return True

    def _on_training_start(self) -> None:
        self.np_random = np.random.default_rng(0)


def test_looking_while_it_trains_changes_nothing(make: Make) -> None:
    every = 1 if make.algorithm is Dreamer else 10  # a dream is long where every step of it is planned
    plain, watched = make(seed=1).learn(100), make(seed=1).learn(100, callback=Looking(every))
    assert plain._n_updates > 3
    assert_equal_weights(weights_of(plain), weights_of(watched))
    assert randomness(plain)[3:] == randomness(watched)[3:]
