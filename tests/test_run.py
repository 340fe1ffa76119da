"""Every kind of task and every option: it learns a few updates, and predicts."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import Clock, tiny_dreamer
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_dreamer import DREAMER_V3, Dreamer
from sb3_dreamer.common.optimizers import LaProp

TASKS = [
    "ContinuousPendulum-v0",
    "ContinuousCartPole-v0",
    "SequenceMemory-v0",
    "ContinuousPendulumNoVelocity-v0",
    "DelayedRecall-v0",
]


def is_finite(model: Dreamer) -> bool:
    return all(bool(th.isfinite(value).all()) for value in model.policy.state_dict().values())


@pytest.mark.parametrize("task", TASKS)
def test_all_toy_tasks(task: str) -> None:
    model = tiny_dreamer(f"envs:{task}").learn(120)
    assert model.num_timesteps == 120 and model._n_updates == 11 and is_finite(model)
    mean, _ = evaluate_policy(model, make_vec_env(f"envs:{task}", 2), n_eval_episodes=2)
    assert np.isfinite(mean)


OPTIONS: dict[str, dict[str, Any]] = {
    "categorical": dict(policy_kwargs=dict(size="debug", latent="categorical")),
    "symlog": dict(policy_kwargs=dict(size="debug", world_model_kwargs=dict(normalize_obs="symlog", norm="rms"))),
    "laprop": dict(policy_kwargs=dict(size="debug", optimizer_class=LaProp), max_grad_norm=None, warmup_updates=5),
    "squared": dict(policy_kwargs=dict(size="debug", world_model_kwargs=dict(reward_head="squared"))),
    "pretrain": dict(pretrain_updates=20),
    "reinforce": dict(actor_gradient="reinforce"),
    "dynamics": dict(actor_gradient="dynamics"),
    "all_starts": dict(imagination_starts=None, replay_value_scale=0.3),
    "some_starts": dict(imagination_starts=5, replay_value_scale=0.3),
    "no_average": dict(evaluation_rate=None, slow_critic_scale=0.0, action_mean_penalty=0.0),
    "policy_warmup": dict(random_warmup=False, online_replay=True),
    "rates": dict(actor_learning_rate=1e-4, critic_learning_rate=lambda progress: 1e-3 * progress),
    "actor": dict(policy_kwargs=dict(size="debug", actor_kwargs=dict(min_std=0.2, max_std=0.5))),
    "bf16": dict(policy_kwargs=dict(size="debug", precision="bf16")),
}


@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
@pytest.mark.parametrize("option", OPTIONS)
def test_all_options(task: str, option: str) -> None:
    kwargs = dict(OPTIONS[option])
    if option == "actor" and task == "SequenceMemory-v0":
        kwargs = dict(policy_kwargs=dict(size="debug", actor_kwargs=dict(unimix=0.05)))
    model = tiny_dreamer(f"envs:{task}", **kwargs).learn(100)
    assert model._n_updates == (28 if option == "pretrain" else 8) and is_finite(model)


def test_published_settings_and_their_parameter_count() -> None:
    """640,867 weights at 24 observations and 6 actions, as the pinned JAX preset has."""
    env = gym.Env()
    env.observation_space, env.action_space = spaces.Box(-np.inf, np.inf, (24,)), spaces.Box(-1, 1, (6,))
    model = Dreamer("MlpPolicy", env, **{**DREAMER_V3, "buffer_size": 2000}, device="cpu")
    assert sum(p.numel() for p in model.policy.parameters() if p.requires_grad) == 640_867


@pytest.mark.parametrize(
    ("size", "count"),
    [("12m", 9_738_019), ("25m", 21_782_947), ("50m", 38_612_003), ("100m", 86_622_499), ("200m", 153_769_507)],
)
def test_published_sizes(size: str, count: int) -> None:
    from sb3_dreamer.dreamer import DreamerPolicy
    from sb3_dreamer.dreamer.presets import PUBLISHED_WORLD_MODEL

    with th.device("meta"):  # shapes without memory
        policy = DreamerPolicy(
            spaces.Box(-np.inf, np.inf, (24,)),
            spaces.Box(-1, 1, (6,)),
            lambda _: 1e-3,
            size=size,
            latent="categorical",
            world_model_kwargs=PUBLISHED_WORLD_MODEL,
        )
    assert sum(p.numel() for p in policy.parameters() if p.requires_grad) == count


def test_published_algorithm_learns_a_little() -> None:
    settings = {**DREAMER_V3, "batch_length": 8, "learning_starts": 40, "train_ratio": 8, "buffer_size": 2000}
    settings["policy_kwargs"] = {**settings["policy_kwargs"], "size": "debug"}
    model = Dreamer("MlpPolicy", "envs:ContinuousPendulum-v0", **settings, device="cpu", seed=0).learn(120)
    assert model._n_updates > 3 and is_finite(model)


def test_one_step_episodes_and_constant_observations() -> None:
    model = tiny_dreamer(Clock(length=1)).learn(100)
    assert is_finite(model) and model._episode_num == 100

    class Constant(Clock):
        def _obs(self) -> np.ndarray:
            return np.full(2, 3.0, dtype=np.float32)

    assert is_finite(tiny_dreamer(Constant()).learn(100))


def test_episodes_longer_than_the_replay() -> None:
    model = tiny_dreamer(TimeLimit(Clock(length=10_000), 5_000), buffer_size=60).learn(150)
    assert model.replay_buffer is not None and model.replay_buffer.full and is_finite(model)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_extreme_rewards(factor: float) -> None:
    model = tiny_dreamer(gym.wrappers.TransformReward(Clock(), lambda reward: factor * reward)).learn(150)
    assert is_finite(model)


def test_updates_follow_the_train_ratio() -> None:
    """One update at the start, then replayed rows over batch rows an environment step; no debt from before."""
    for n_envs, ratio, expected in ((1, 32.0, 1 + 60), (1, 16.0, 1 + 30), (2, 16.0, 1 + 30), (1, 80.0, 1 + 150)):
        env = make_vec_env("envs:ContinuousPendulum-v0", n_envs)
        model = tiny_dreamer(env, train_ratio=ratio, pretrain_updates=0)  # a batch has 32 rows
        calls: list[int] = []

        def train(steps: int, model: Dreamer = model, calls: list = calls) -> None:
            model._n_updates += steps
            calls.append(steps)

        model.train = train  # type: ignore[method-assign]
        model.learn(100)  # the first update after 40 steps
        assert sum(calls) == expected, (n_envs, ratio)


def test_train_ratio_falls_to_a_share_in_inverse_proportion_to_the_steps() -> None:
    model = tiny_dreamer(train_ratio=32.0, train_ratio_decay=0.25, train_ratio_steps=100, pretrain_updates=0)
    when: list[int] = []  # an update a step at first

    def train(steps: int) -> None:
        model._n_updates += steps
        when.extend([model.num_timesteps] * steps)

    model.train = train  # type: ignore[method-assign]
    model.learn(600)  # the first update after 40 steps
    first, middle, late = np.histogram(when, [0, 101, 401, 601])[0]
    assert first == 61
    assert middle == pytest.approx(sum(100 / step for step in range(101, 401)), abs=1)
    assert late == 50
    model.learn(100)  # steps are counted from 0 again, but the ratio stays where it is
    assert len(when) - first - middle - late == pytest.approx(60 * 0.25, abs=1)


@pytest.mark.parametrize("make", ["dreamer", "planet", "director", "pets"], indirect=True)
def test_modules_are_in_training_mode_only_while_they_train(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, modes = make(Clock()), []
    act, train = model._act, model.train
    monkeypatch.setattr(model, "_act", lambda obs: (modes.append(("act", model.policy.training)), act(obs))[1])
    monkeypatch.setattr(model, "train", lambda steps: (train(steps), modes.append(("train", True)))[0])
    model.learn(60)
    assert {mode for name, mode in modes if name == "act"} == {False} and ("train", True) in modes


def test_whole_numbers_may_be_floats() -> None:
    model = tiny_dreamer(Clock(), buffer_size=2e3, batch_size=2.0, batch_length=4.0, imagination_horizon=2.0)
    model.learn(60)
    assert model._n_updates > 0 and isinstance(model.buffer_size, int)
