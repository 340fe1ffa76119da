"""Seeds decide everything; looking changes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import assert_equal_weights, weights_of
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_dreamer import Dreamer
from sb3_dreamer.common.callbacks import OpenLoopErrorCallback

Make = Callable[..., Any]


SEEDED = [
    *[("dreamer", task) for task in ("ContinuousPendulum-v0", "SequenceMemory-v0")],
    *[("director", "SequenceMemory-v0"), ("planet", "ContinuousPendulum-v0"), ("pets", "SequenceMemory-v0")],
]


@pytest.mark.parametrize(("make", "task"), SEEDED, indirect=["make"])
def test_same_seed_same_weights_and_actions(make: Make, task: str) -> None:
    models = [make(f"envs:{task}", seed=seed).learn(100) for seed in (1, 1, 2)]
    first, second, third = (weights_of(model) for model in models)
    assert_equal_weights(first, second)
    assert any(not th.equal(first[name], third[name]) for name in first)
    obs = models[0].env.reset().repeat(20, axis=0)
    for deterministic in (True, False):
        actions = [model.predict(obs, deterministic=deterministic)[0] for model in models]
        assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])


def test_evaluation_and_open_loop_callbacks_do_not_change_training(make: Make) -> None:
    plain = weights_of(make(seed=1).learn(120))
    steps = 200 if make.algorithm is Dreamer else 10  # each of which a planner has to plan
    env = make_vec_env("envs:ContinuousPendulum-v0", 2, seed=9, env_kwargs=dict(max_episode_steps=steps))
    callbacks = [
        EvalCallback(env, n_eval_episodes=1, eval_freq=50, verbose=0),
        OpenLoopErrorCallback(every=40, horizon=5, context=2, windows=8),
    ]
    assert_equal_weights(plain, weights_of(make(seed=1).learn(120, callback=callbacks)))


@pytest.mark.parametrize("make", ["dreamer", "pets"], indirect=True)
def test_a_run_in_two_parts_equals_a_run_in_one(make: Make) -> None:
    whole = make(seed=1, learning_rate=1e-3).learn(120)
    parts = make(seed=1, learning_rate=1e-3).learn(70)
    parts.learn(50, reset_num_timesteps=False)
    assert_equal_weights(weights_of(whole), weights_of(parts))
