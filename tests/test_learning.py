"""It learns: minutes long, run with ``pytest -m slow``. Bars leave room for the seed; README has the measured numbers."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_dreamer import DREAMER_V3, Dreamer
from sb3_dreamer.world_models import RSSM, ContextRSSM, MLPWorldModel, StandaloneWorldModel, VAEWorldModel, collect

pytestmark = pytest.mark.slow


def evaluate(model: Dreamer, task: str, n: int = 20) -> float:
    """Mean return of n deterministic episodes from fixed starts."""
    env = make_vec_env(task, n, seed=10_000)
    obs, state, starts = env.reset(), None, np.ones(n, dtype=bool)
    returns, over = np.zeros(n), np.zeros(n, dtype=bool)
    while not over.all():
        action, state = model.predict(obs, state, starts, deterministic=True)
        obs, reward, starts, _ = env.step(action)
        returns += reward * ~over
        over |= starts
    return float(returns.mean())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    th.set_num_threads(1)


def test_pendulum_is_swung_up_within_1500_steps() -> None:
    task = "envs:ContinuousPendulum-v0"
    assert evaluate(Dreamer("MlpPolicy", task, seed=0, device="cpu").learn(1500), task) > -200


def test_pendulum_without_velocity_needs_memory_and_gets_it() -> None:
    task = "envs:ContinuousPendulumNoVelocity-v0"
    assert evaluate(Dreamer("MlpPolicy", task, seed=0, device="cpu").learn(2500), task) > -300


@pytest.mark.parametrize("world_model_class", [MLPWorldModel, VAEWorldModel])
def test_agents_with_models_without_memory_swing_up_what_they_see(world_model_class: type[StandaloneWorldModel]) -> None:
    task, policy_kwargs = "envs:ContinuousPendulum-v0", dict(world_model_class=world_model_class)
    model = Dreamer("MlpPolicy", task, policy_kwargs=policy_kwargs, seed=0, device="cpu").learn(1500)
    assert evaluate(model, task) > -250


@pytest.mark.parametrize("world_model_class", [MLPWorldModel, VAEWorldModel, RSSM])
def test_models_alone_understand_the_pendulum(world_model_class: type[StandaloneWorldModel]) -> None:
    train, test = (collect("envs:ContinuousPendulum-v0", None, steps, seed=steps) for steps in (3000, 1000))
    model = world_model_class.from_spaces(train.observation_space, train.action_space, size="toy", seed=0)
    model.fit(train, updates=600)
    found = model.evaluate(test, horizons=(1, 10), likelihood_samples=0)
    assert found.mean("r2", 1) > 0.98 and found.get("reward", 1).r2 > 0.95
    assert found.mean("nrmse", 10) < 0.3 < found.mean("no_change_nrmse", 10)


def test_a_context_remembers_which_button_pays() -> None:
    """Who forgets with every episode cannot have more than 4.5, looking for it without a fault."""
    task = "envs:MetaButtonsTrial-v0"
    settings = dict(batch_length=32, batch_size=16, train_ratio=256, policy_kwargs=dict(world_model_class=ContextRSSM))
    model = Dreamer("MultiInputPolicy", make_vec_env(task, 4, seed=0), **settings, seed=0, device="cpu").learn(2500)
    env = make_vec_env(task, 60, seed=10_000)
    obs, state, starts, returns = env.reset(), None, np.ones(60, dtype=bool), np.zeros((2, 60))
    for step in range(12):
        action, state = model.predict(obs, state, starts, deterministic=True)
        obs, reward, starts, _ = env.step(action)
        returns[step // 6] += reward
    first, second = returns.mean(1)
    assert first > 3.0 and second > 5.2


def test_discrete_actions_learn_the_sequence() -> None:
    task = "envs:SequenceMemory-v0"
    assert evaluate(Dreamer("MlpPolicy", task, seed=0, device="cpu").learn(1250), task) > 44


def test_published_algorithm_improves_on_the_cart_pole() -> None:
    """REINFORCE, categorical latents and LaProp at a learning rate for a short run: far beyond a random 27."""
    task = "envs:ContinuousCartPole-v0"
    settings = {**DREAMER_V3, "learning_rate": 4e-4, "warmup_updates": 100, "batch_length": 16, "train_ratio": 256}
    settings.update(learning_starts=300, imagination_starts=128, buffer_size=10_000)
    settings["policy_kwargs"] = {**settings["policy_kwargs"], "size": "toy"}
    model = Dreamer("MlpPolicy", task, **settings, seed=0, device="cpu").learn(1500)
    assert evaluate(model, task) > 80
