"""Seeds decide everything; looking changes nothing."""

import numpy as np
import pytest
import torch as th
from conftest import assert_equal_weights, tiny_dreamer, weights_of
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_dreamer.common.callbacks import OpenLoopErrorCallback


@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_same_seed_same_weights_and_actions(task: str) -> None:
    models = [tiny_dreamer(f"envs:{task}", seed=seed).learn(100) for seed in (1, 1, 2)]
    first, second, third = (weights_of(model) for model in models)
    assert_equal_weights(first, second)
    assert any(not th.equal(first[name], third[name]) for name in first)
    obs = models[0].env.reset().repeat(20, axis=0)
    for deterministic in (True, False):
        actions = [model.predict(obs, deterministic=deterministic)[0] for model in models]
        assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])


def test_evaluation_and_open_loop_callbacks_do_not_change_training() -> None:
    plain = weights_of(tiny_dreamer(seed=1).learn(120))
    env = make_vec_env("envs:ContinuousPendulum-v0", 2, seed=9)
    callbacks = [
        EvalCallback(env, n_eval_episodes=1, eval_freq=50, verbose=0),
        OpenLoopErrorCallback(every=40, horizon=5, context=2, windows=8),
    ]
    assert_equal_weights(plain, weights_of(tiny_dreamer(seed=1).learn(120, callback=callbacks)))


def test_a_run_in_two_parts_equals_a_run_in_one() -> None:
    whole = tiny_dreamer(seed=1, learning_rate=1e-3).learn(120)
    parts = tiny_dreamer(seed=1, learning_rate=1e-3).learn(70)
    parts.learn(50, reset_num_timesteps=False)
    assert_equal_weights(weights_of(whole), weights_of(parts))
