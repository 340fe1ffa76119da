"""Bad input: a ValueError that says what and what to do, before anything is changed."""

import pathlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import FROM_WINDOWS, Clock, assert_equal_weights, tiny_dreamer, weights_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_dreamer.common.types import SequenceBatch

Make = Callable[..., Any]

BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    (dict(batch_length=5000), "batch_length=5000 needs 5001 rows .* buffer_size=2000"),
    (dict(learning_starts=8), "learning_starts=8 is too small .* at least 9"),
    (dict(batch_size=0), "batch_size must be at least 1, got 0"),
    (dict(batch_size="16"), "batch_size must be a whole number, got '16'"),
    (dict(buffer_size=float("inf")), "buffer_size must be a whole number, got inf"),
    (dict(learning_starts=40.5), "learning_starts must be a whole number or None"),
    (dict(learning_rate=float("nan")), "learning_rate must be a finite number, got nan"),
    (dict(imagination_starts=3.7), "imagination_starts must be a whole number or None"),
    (dict(gamma=None), "gamma must be a finite number, got None"),
    (dict(train_ratio=-1), "train_ratio must be at least 0, got -1"),
    (dict(train_ratio_decay=2), "train_ratio_decay is a share of train_ratio and must be at most 1, got 2"),
    (dict(prioritized_replay=1.5), "prioritized_replay must be a number, from 0 to 1, got 1.5"),
    (dict(train_ratio_steps=0.5), "train_ratio_steps must be a whole number, got 0.5"),
    (dict(gamma=1.5), r"gamma must lie in \(0, 1\], got 1.5"),
    (dict(gamma=0.0), "gamma must lie in"),
    (dict(batch_length=8.5), "batch_length must be a whole number"),
    (dict(pretrain_updates=-1), "pretrain_updates must be at least 0, got -1"),
    (dict(max_grad_norm=-1.0), "max_grad_norm must be at least 0, got -1.0"),
    (dict(actor_learning_rate=-1e-3), "actor_learning_rate must be at least 0"),
    (dict(actor_gradient="backprop"), "actor_gradient must be 'auto'"),
    (dict(ent_coef=-0.1), "ent_coef must be"),
    (dict(ent_coef="some"), "ent_coef must be"),
    (dict(train_ratio_decay=0, train_ratio_steps=0), "leaves nothing to train"),
    (dict(imagination_horizon=0), "imagination_horizon"),
    (dict(imagination_starts=0), "imagination_starts"),
    (dict(return_lambda=2.0), "return_lambda"),
    (dict(slow_critic_scale=-1.0), "slow_critic_scale"),
    (dict(policy_kwargs=dict(size="huge")), "Unknown size='huge'"),
    (dict(policy_kwargs=dict(latent="binary")), "latent must be"),
    (dict(policy_kwargs=dict(world_model_kwargs=dict(normalize_obs="yes"))), "normalize_obs must be"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD_ARGUMENTS, ids=lambda value: str(value)[:40])
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_dreamer(**kwargs)


def test_too_few_first_steps_for_many_environments() -> None:
    with pytest.raises(ValueError, match="at least 36"):
        tiny_dreamer(make_vec_env("envs:ContinuousPendulum-v0", 4), learning_starts=30)
    model = tiny_dreamer(make_vec_env("envs:ContinuousPendulum-v0", 30), learning_starts=None)
    assert model._first_update_at() == 270


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["observation", "last observation", "reset", "reward"])
def test_values_that_are_not_finite(value: float, place: str) -> None:
    class Broken(Clock):
        steps = 0

        def reset(self, **kwargs: Any) -> Any:
            obs, info = super().reset(**kwargs)
            return (obs * value if place == "reset" else obs), info

        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = super().step(action)
            self.steps += 1
            bad = np.full(2, value, dtype=np.float32)
            if place == "observation" and self.steps == 52:
                obs = bad
            if place == "last observation" and terminated and self.steps > 45:
                obs = bad
            if place == "reward" and self.steps == 52:
                reward = value
            return obs, reward, terminated, truncated, info

    model = tiny_dreamer(Broken())
    with pytest.raises(ValueError, match=r"from environment 0.*Nothing of this step was stored"):
        model.learn(100)
    buffer = model.replay_buffer
    assert buffer is not None
    count = int(buffer._count[0])
    # every counted step has its row, every ended episode one more; nothing of the refused step is there
    assert count == model.num_timesteps + model._episode_num
    assert np.isfinite(buffer._obs["obs"][0, :count]).all() and np.isfinite(buffer._reward[0, :count]).all()
    statistics = model.world_model.state_dict()
    assert all(np.isfinite(v.numpy()).all() for v in statistics.values())


def test_a_refused_reset_stays_refused() -> None:
    class Spoiling(Clock):
        def reset(self, **kwargs: Any) -> Any:
            obs, info = super().reset(**kwargs)
            return (obs if self.episode == 0 else obs * np.nan), info

    model = tiny_dreamer(Spoiling(length=1000)).learn(50)
    for again in (True, False):  # going on afterwards must not slip the NaN in
        with pytest.raises(ValueError, match="Observation with NaN"):
            model.learn(20, reset_num_timesteps=again)


def test_bad_environment_is_named_by_its_index() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Broken(Clock):
        def _obs(self) -> np.ndarray:
            return np.full(2, np.nan if self.clock == 2 else 0.0, dtype=np.float32)

    model = tiny_dreamer(DummyVecEnv([Clock, Broken]))
    with pytest.raises(ValueError, match="from environment 1, key 'obs'"):
        model.learn(100)


def test_imagine_refuses_what_does_not_fit(make: Make) -> None:
    model = make()
    obs = np.zeros(3, dtype=np.float32)
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 1, got 0"):
        model.imagine(obs, 0)
    with pytest.raises(ValueError, match=r"actions has shape \(4, 1\).* need \(5, 1\)"):
        model.imagine(obs, 5, actions=np.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"need \(2, 5, 1\)"):
        model.imagine(np.zeros((2, 3), dtype=np.float32), 5, actions=np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"actions must lie in Box\(-2.0, 2.0"):
        model.imagine(obs, 2, actions=np.full((2, 1), 3.0, dtype=np.float32))


def test_predict_refuses_what_does_not_fit(make: Make) -> None:
    model = make()
    obs = np.zeros((2, 3), dtype=np.float32)
    for arguments, message in (
        (dict(observation=obs * np.nan), "observation 0 has NaN or infinity in key 'obs'"),
        (dict(observation=obs, episode_start=np.zeros(3, dtype=bool)), "episode_start has 3 entries, but there are 2"),
        (dict(observation=obs, state=5), "state must hold arrays of 2 rows"),
        (dict(observation=obs[:, :2]), r"Unexpected observation shape \(2, 2\)"),
        (dict(observation=(obs, {})), "did you pass what env.reset"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(**arguments)
    mixed = make(Mixed(), policy="MultiInputPolicy")
    with pytest.raises(ValueError, match=r"must be a dictionary with the keys \['a', 'b'\]"):
        mixed.predict({"a": 1})
    with pytest.raises(ValueError, match="has a choice that is not in the space in key 'a'"):
        mixed.predict({"a": 4, "b": np.zeros(2, dtype=np.float32)})


class Mixed(Clock):
    observation_space = gym.spaces.Dict(a=gym.spaces.Discrete(3), b=gym.spaces.Box(-1, 1, (2,)))

    def _obs(self) -> Any:
        return {"a": 0, "b": np.zeros(2, dtype=np.float32)}


def test_schedules_that_give_nonsense_are_named(make: Make) -> None:
    for rate in (float("nan"), -1.0):
        model = make(learning_rate=lambda progress, rate=rate: rate)
        before = weights_of(model)
        with pytest.raises(ValueError, match=r"learning rate of the world_model must be .* gave (nan|-1)"):
            model.learn(60)
        for name, value in weights_of(model).items():  # PETS knows no bounds of dreams before the first fit
            assert th.isfinite(value).all() or th.equal(value, before[name]), name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("where", ["reward", "observation"])
def test_values_that_a_vecnormalize_would_hide(training: bool, where: str) -> None:
    class Infinite(Clock):
        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            bad = self.episode == 2 and self.clock == 3
            obs[1] = np.inf if bad and where == "observation" else obs[1]
            return obs, np.inf if bad and where == "reward" else reward, *rest

    env = VecNormalize(DummyVecEnv([Infinite]), training=training)
    model = tiny_dreamer(env)
    with pytest.raises(ValueError, match=r"environment 0.* Correct the environment"), np.errstate(invalid="ignore"):
        model.learn(60)
    assert model.replay_buffer is not None
    count = int(model.replay_buffer.rows_written()[0])
    assert np.isfinite(model.replay_buffer._reward[0, :count]).all()
    assert np.isfinite(model.replay_buffer._obs["obs"][0, :count]).all()


class Poisoned:
    """Makes a loss NaN at some updates."""

    def __init__(self, model: Any, when: Callable[[int], bool]) -> None:
        self.loss, self.when, self.calls = model.world_model.loss, when, 0
        model.world_model.loss = self

    def __call__(self, batch: SequenceBatch) -> Any:
        posterior, losses, metrics = self.loss(batch)
        self.calls += 1
        if self.when(self.calls):
            losses["reward"] = losses["reward"] * float("nan")
        return posterior, losses, metrics


def but_ranges(weights: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
    """Ranges of imagined returns and weights that adapt follow what is finite, also in a skipped update."""
    follow = ("return_low", "return_high", "range.low", "range.high", "kl_weight.weight", "manager_ent.weight")
    return {name: value for name, value in weights.items() if not name.endswith(follow)}


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_updates_that_are_not_finite_are_skipped_and_counted(make: Make) -> None:
    model = make().learn(48)
    poisoned = Poisoned(model, lambda call: call % 2 == 1)
    updates, before = model._n_updates, weights_of(model)
    model.train(1)
    assert model._n_updates == updates and model._skipped_updates == 1
    assert_equal_weights(but_ranges(before), but_ranges(weights_of(model)))  # averages and slow critic as well
    model.train(5)
    assert model._n_updates == updates + 3 and model._skipped_updates == 3 and poisoned.calls == 6
    assert all(th.isfinite(value).all() for value in weights_of(model).values())
    model.dump_logs()
    assert model.logger.name_to_value == {}


@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_too_many_skipped_updates_are_an_error_and_leave_a_savable_model(make: Make, tmp_path: pathlib.Path) -> None:
    model = make().learn(48)
    before = weights_of(model)
    Poisoned(model, lambda call: True)
    with pytest.raises(FloatingPointError, match="20 updates in a row had a loss or gradient with NaN"):
        model.train(100)
    assert_equal_weights(but_ranges(before), but_ranges(weights_of(model)))
    assert model._skipped_updates == 20
    del model.world_model.loss
    model.save(tmp_path / "model")
    assert make.algorithm.load(tmp_path / "model")._skipped_updates == 20


def test_returns_that_are_not_finite_do_not_enter_the_running_range() -> None:
    policy = tiny_dreamer().policy
    policy.update_return_range(th.tensor([0.0, 100.0]))
    low, high = float(policy.return_low), float(policy.return_high)
    policy.update_return_range(th.tensor([float("nan"), 1.0]))
    policy.update_return_range(th.tensor([float("inf"), float("-inf")]))
    assert np.isfinite([float(policy.return_low), float(policy.return_high)]).all()
    assert abs(float(policy.return_low) - low) < 1 and abs(float(policy.return_high) - high) < 1
