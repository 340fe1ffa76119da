"""Dreams in the environment's own units."""

from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import ALGORITHMS, Clock, tiny_dreamer

from sb3_dreamer import PETS

MODELS = [
    *[("dreamer", task) for task in ("ContinuousPendulum-v0", "SequenceMemory-v0")],
    *[("director", "SequenceMemory-v0"), ("planet", "ContinuousPendulum-v0"), ("pets", "SequenceMemory-v0")],
]


@pytest.fixture(scope="module", params=MODELS, ids=str)
def model(request: pytest.FixtureRequest) -> Any:
    algorithm, task = request.param
    return ALGORITHMS[algorithm](f"envs:{task}").learn(100)


def test_shapes_and_spaces(model: Any) -> None:
    size = model.observation_space.shape[0]
    obs = np.zeros((3, size), dtype=np.float32)
    dream = model.imagine(obs, 6)
    assert dream.observations.shape == (3, 7, size)
    assert dream.rewards.shape == dream.continues.shape == (3, 6)
    assert dream.actions.shape == (3, 6, *model.action_space.shape)
    assert ((dream.continues >= 0) & (dream.continues <= 1)).all()
    assert all(model.action_space.contains(action) for action in dream.actions[0])
    single = model.imagine(obs[0], 6)
    assert single.observations.shape == (7, size) and single.rewards.shape == (6,)
    assert np.allclose(single.observations, dream.observations[0], atol=1e-5)


def test_given_actions_are_followed(model: Any) -> None:
    obs = np.zeros(model.observation_space.shape, dtype=np.float32)
    plans = [np.stack([model.action_space.sample() for _ in range(4)]) for _ in range(2)]
    dreams = [model.imagine(obs, 4, actions=plan) for plan in plans]
    assert np.allclose(dreams[0].actions, plans[0], atol=1e-6)
    if not np.array_equal(plans[0], plans[1]):
        assert not np.array_equal(dreams[0].observations, dreams[1].observations)
    assert np.array_equal(dreams[0].observations, model.imagine(obs, 4, actions=plans[0]).observations)


def test_state_of_predict_continues_in_the_dream(model: Any) -> None:
    obs = np.ones(model.observation_space.shape, dtype=np.float32)
    _, state = model.predict(obs, deterministic=True)
    remembers = not isinstance(model, PETS)  # whose state is the observation
    assert remembers != np.array_equal(model.imagine(obs, 3).observations, model.imagine(obs, 3, state=state).observations)


def test_dreaming_changes_nothing(model: Any) -> None:
    obs = np.ones(model.observation_space.shape, dtype=np.float32)
    before = model.predict(obs, deterministic=True)[0]
    noise = th.get_rng_state()
    model.imagine(obs, 3)
    assert th.equal(noise, th.get_rng_state())
    assert not np.array_equal(
        model.imagine(obs, 3, deterministic=False).rewards, model.imagine(obs, 3, deterministic=False).rewards
    )
    assert np.array_equal(before, model.predict(obs, deterministic=True)[0])


@pytest.mark.slow
def test_dreams_come_true_after_learning() -> None:
    """On a clock that only counts, the dream counts on, and expects the rewards."""
    model = tiny_dreamer(
        Clock(length=20, terminates=False),
        policy_kwargs=dict(size="toy"),
        batch_size=16,
        batch_length=8,
        train_ratio=128,
        learning_starts=60,
        learning_rate=3e-3,
    ).learn(330)
    state = None
    for clock in range(6):
        obs = np.array([16, clock], dtype=np.float32)
        _, state = model.predict(obs, state, np.array([clock == 0]), deterministic=True)
    dream = model.imagine(np.array([16, 6], dtype=np.float32), 5, state=state)
    assert np.abs(dream.observations[:, 1] - np.arange(6, 12)).mean() < 1.5
    assert np.abs(dream.rewards - np.arange(7, 12)).mean() < 1.5
