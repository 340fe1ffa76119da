"""The state that goes in and out of ``predict``."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import PLAN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import PETS, Director, Dreamer

OBS = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)  # 4 steps of 3 environments


@pytest.fixture(scope="module")
def model(make: Callable[..., Any]) -> Any:
    return make().learn(100)


def run(model: Any, obs: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
    state, actions = None, []
    for t, obs_t in enumerate(obs):
        start = None if starts is None else starts[t]
        action, state = model.predict(obs_t, state, start, deterministic=True)
        actions.append(action)
    return np.stack(actions)


def test_shapes(model: Any) -> None:
    action, state = model.predict(OBS[0], deterministic=True)
    assert action.shape == (3, 1) and isinstance(state, tuple)
    # latent state, for planners the rest of the plan, for Director the goal's code, and for how long it is followed, and the
    # action before
    plan = [] if isinstance(model, Dreamer) else [(3, 64 if isinstance(model, Director) else PLAN["horizon"] * 1), (3, 1)]
    latent = [(3, 2), (3, 3)] if isinstance(model, PETS) else [(3, 8), (3, 2)]
    assert [part.shape for part in state] == [*latent, *plan, (3, 1)]
    assert all(isinstance(part, np.ndarray) for part in state)
    single, one = model.predict(OBS[0, 0], deterministic=True)
    assert single.shape == (1,) and {len(part) for part in one} == {1} and len(one) == len(state)
    assert np.allclose(single, action[0])


def test_the_past_matters_and_environments_do_not_mix(model: Any) -> None:
    together = run(model, OBS)
    for i in range(3):
        assert np.allclose(run(model, OBS[:, i : i + 1]), together[:, i : i + 1], atol=1e-5)
    other = OBS.copy()
    other[0] += 1
    # of PETS, it is the plan that remembers, and a few candidates soon find the same
    later = slice(1, None) if isinstance(model, PETS) else slice(-1, None)
    assert not np.allclose(run(model, other)[later], together[later], atol=1e-7)


def test_episode_start_forgets_state_and_action_of_that_environment_only(model: Any) -> None:
    starts = np.zeros((4, 3), dtype=bool)
    starts[2, 1] = True
    mixed, plain = run(model, OBS, starts), run(model, OBS)
    assert np.array_equal(mixed[:, [0, 2]], plain[:, [0, 2]])
    assert np.allclose(mixed[2:, 1], run(model, OBS[2:])[:, 1], atol=1e-6)  # as if it had begun there


def test_inputs_are_neither_kept_nor_changed(model: Any) -> None:
    obs, start = OBS[0].copy(), np.ones(3, dtype=bool)
    _, state = model.predict(obs, None, start, deterministic=True)
    kept = [part.copy() for part in state]
    obs += 5
    start[:] = False
    _, newer = model.predict(OBS[1], state, start, deterministic=True)
    assert all(np.array_equal(a, b) for a, b in zip(state, kept, strict=True))
    assert not any(np.shares_memory(a, b) for a in state for b in newer)


def test_predicting_leaves_the_rollout_alone(model: Any) -> None:
    before = [part.copy() for part in model._last_state]
    run(model, OBS)
    assert all(np.array_equal(a, b) for a, b in zip(before, model._last_state, strict=True))


def test_evaluate_policy_with_any_number_of_environments(model: Any) -> None:
    steps = 200 if isinstance(model, Dreamer) else 10  # each of which a planner has to plan
    for n in (1, 4):
        env = make_vec_env("envs:ContinuousPendulum-v0", n, seed=0, env_kwargs=dict(max_episode_steps=steps))
        mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
        assert -2000 < mean < 0


@pytest.mark.parametrize("make", ["dreamer", "planet"], indirect=True)
def test_average_weights_act_only_when_asked_for(make: Callable[..., Any]) -> None:
    averaged, live = (make(seed=1, train_ratio=32, evaluation_rate=rate).learn(100) for rate in (0.01, None))
    assert not np.allclose(run(averaged, OBS), run(live, OBS), atol=1e-6)
    for module in ("world_model", "actor"):
        if hasattr(averaged.policy, module):
            setattr(averaged.policy, f"average_{module}", getattr(averaged.policy, module))
    assert np.allclose(run(averaged, OBS), run(live, OBS))  # training itself was the same
