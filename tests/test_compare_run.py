"""One run of a comparison, in this process: the evaluations it makes and the training they must not disturb."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.vec_env import VecNormalize

import envs
from sb3_dreamer.compare import ComparisonError, evaluation
from sb3_dreamer.compare.environments import build_vec_env
from sb3_dreamer.compare.evaluation import EVAL_SEED, GridEvaluation, action_latency, build_eval_env, evaluate
from sb3_dreamer.compare.records import RunSpec, read_episodes, read_finished, read_rows
from sb3_dreamer.compare.runner import build_model, count_parameters, execute
from sb3_dreamer.compare.settings import load_algorithm

TINY: dict[str, dict[str, Any]] = {
    "dreamer": dict(
        learning_starts=40,
        batch_size=4,
        batch_length=8,
        train_ratio=4,
        pretrain_updates=1,
        policy_kwargs=dict(size="debug"),
        buffer_size=500,
    ),
    "sac": dict(learning_starts=50, batch_size=8, policy_kwargs=dict(net_arch=[8]), buffer_size=500),
    "ppo": dict(n_envs=2, n_steps=32, batch_size=32, n_epochs=2, policy_kwargs=dict(net_arch=[8])),
    "a2c": dict(n_envs=2, n_steps=8, normalize=True, policy_kwargs=dict(net_arch=[8])),
}


def spec(tmp_path: Path, algo: str, **changes: Any) -> RunSpec:
    arguments: dict[str, Any] = dict(
        env_id="Pendulum-v1",
        env_kwargs={},
        algo=algo,
        seed=3,
        total_timesteps=128,
        eval_every=48,
        n_eval_episodes=2,
        hyperparameters=TINY.get(algo, {}),
        device="cpu",
        out=tmp_path,
    )
    return RunSpec(**{**arguments, **changes})


def returns_of(rows: list[Any]) -> list[tuple[int, float, float]]:
    return [(row.timesteps, row.eval_return_mean, row.eval_return_std) for row in rows]


@pytest.mark.parametrize("algo", TINY)
def test_same_seed_gives_the_same_rows(tmp_path: Path, algo: str) -> None:
    first, second = execute(spec(tmp_path / "a", algo)), execute(spec(tmp_path / "b", algo))
    other = execute(spec(tmp_path / "c", algo, seed=4))
    assert [row.timesteps for row in first] == [0, 48, 96, 128]
    assert returns_of(first) == returns_of(second) != returns_of(other)
    assert read_rows(spec(tmp_path / "a", algo).rows_path) == first
    for before, after in itertools.pairwise(first):
        assert after.cpu_seconds >= before.cpu_seconds and after.wall_seconds >= before.wall_seconds


@pytest.mark.parametrize("algo", TINY)
def test_evaluation_does_not_disturb_training(tmp_path: Path, algo: str) -> None:
    run = spec(tmp_path, algo, eval_every=30)
    rows: list[Any] = []
    evaluated = build_model(run)  # which seeds the global generators, so the other one comes after this one's training
    evaluated.learn(run.total_timesteps, callback=GridEvaluation(run, rows.append, lambda timesteps: None))
    alone = build_model(run)
    alone.learn(run.total_timesteps)
    assert len(rows) == 6
    assert evaluated.num_timesteps == alone.num_timesteps
    weights = alone.policy.state_dict()
    for name, value in evaluated.policy.state_dict().items():
        assert th.equal(value, weights[name]), name


@pytest.mark.parametrize("algo", TINY)
def test_evaluation_is_repeatable_and_leaves_no_trace(tmp_path: Path, algo: str) -> None:
    run = spec(tmp_path, algo)
    model = build_model(run)
    env = build_eval_env(run, model)
    model.policy.set_training_mode(True)
    before = random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()
    first = evaluate(model, env)
    assert (random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()) == before
    assert model.policy.training
    random.random(), np.random.rand(), th.rand(1)
    np.testing.assert_array_equal(evaluate(model, env), first)
    assert first.shape == (2,) and first[0] != first[1]


@pytest.mark.parametrize("algo", ["dreamer", "ppo", "a2c"])
def test_episodes_of_training_are_recorded(tmp_path: Path, algo: str) -> None:
    run = spec(tmp_path, algo, env_id="CartPole-v1")
    execute(run)
    episodes = read_episodes(run.episodes_path)
    assert episodes and tuple(episodes) == getattr(read_finished(run), "episodes", None)
    # A reward of 1 a step, also where training sees it normalised; evaluations play episodes of their own.
    assert all(episode.episode_return == episode.length for episode in episodes)
    ends = [episode.timesteps for episode in episodes]
    assert ends == sorted(ends) and ends[-1] <= run.total_timesteps
    if algo == "dreamer":  # one environment: each begins where the last one ended
        assert ends == np.cumsum([episode.length for episode in episodes]).tolist()


def test_measuring_the_latency_leaves_no_trace(tmp_path: Path) -> None:
    run = spec(tmp_path, "ppo")
    model = build_model(run)
    before = random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()
    calls: list[int] = []
    predict = model.predict
    model.predict = lambda obs, **kwargs: (calls.append(len(obs)), predict(obs, **kwargs))[1]  # type: ignore[assignment]
    assert 0 < action_latency(run, model, max_calls=10) < 1000
    assert calls == [1] * 11
    assert (random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()) == before


@pytest.mark.parametrize("algo", ["sac", "a2c"])
def test_the_final_model_is_kept(tmp_path: Path, algo: str) -> None:
    run = spec(tmp_path, algo)
    execute(run, attempt=3)
    assert json.loads(run.done_path.read_text())["attempts"] == 3
    model = load_algorithm(algo).load(run.model_path, device="cpu")
    assert model.num_timesteps >= run.total_timesteps
    assert run.normalization_path.exists() == (algo == "a2c")  # SB3 does not keep these statistics with the model
    last = read_rows(run.rows_path)[-1]
    env = build_eval_env(run, build_model(run))
    if isinstance(env, VecNormalize):
        env = VecNormalize.load(str(run.normalization_path), env.venv)
        env.training = env.norm_reward = False
    assert evaluate(model, env).mean() == last.eval_return_mean


def test_evaluation_matches_episodes_played_one_by_one(tmp_path: Path) -> None:
    run = spec(tmp_path, "ppo", env_id="CartPole-v1", n_eval_episodes=6)  # episodes of different lengths
    model = build_model(run)
    env = gym.make("CartPole-v1")
    expected = []
    for episode in range(6):
        observation, _ = env.reset(seed=EVAL_SEED + episode)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        expected.append(total)
    np.testing.assert_array_equal(evaluate(model, build_eval_env(run, model)), expected)
    assert len(set(expected)) > 1


def test_evaluation_uses_the_training_statistics_and_the_raw_reward(tmp_path: Path) -> None:
    run = spec(tmp_path, "a2c")
    model = build_model(run)
    model.learn(64)
    training_env, env = model.get_vec_normalize_env(), build_eval_env(run, model)
    assert isinstance(training_env, VecNormalize) and isinstance(env, VecNormalize)
    count = training_env.obs_rms.count
    assert (evaluate(model, env) < -100).all()  # a pendulum's return; normalised rewards are clipped far above
    assert training_env.obs_rms.count == count and not env.training


class LengthPolicy:
    """Stands in for a recurrent model: acts on the number of steps that its own state has counted."""

    class policy:
        training = False

        @staticmethod
        def set_training_mode(mode: bool) -> None:
            assert not mode

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def predict(self, obs: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
        assert deterministic
        counts = np.zeros(len(obs), dtype=int) if state is None else state[0]
        counts = np.where(episode_start, 0, counts) + 1
        self.seen.append(counts.tolist())
        return np.ones(len(obs), dtype=int), (counts,)


def test_evaluation_carries_the_recurrent_state(tmp_path: Path) -> None:
    run = spec(tmp_path, "ppo", env_id="CartPole-v1")
    env = build_eval_env(run, build_model(run))
    model: Any = LengthPolicy()
    returns = evaluate(model, env)
    for index, total in enumerate(returns.astype(int)):  # one reward a step: the return is the length
        assert [seen[index] for seen in model.seen[:total]] == list(range(1, total + 1))
        assert all(seen[index] == 1 for seen in model.seen[total : total + 1])


class TrialPolicy:
    """Says nothing of itself but what it is shown of trials, and acts alike in all episodes."""

    policy = LengthPolicy.policy

    def __init__(self) -> None:
        self.bits: list[np.ndarray] = []

    def predict(self, obs: Any, state: Any, episode_start: np.ndarray, deterministic: bool) -> tuple[np.ndarray, Any]:
        assert np.array_equal(episode_start, obs["trial"][:, 1])
        self.bits.append(obs["trial"][:, 0])
        return np.zeros((len(obs["trial"]), 1), dtype=np.float32), None


def test_of_a_trial_the_last_episode_counts(tmp_path: Path) -> None:
    def evaluated(episodes: int) -> tuple[np.ndarray, int, int]:
        kwargs = dict(episodes=episodes, max_episode_steps=30)
        run = spec(tmp_path, "ppo", env_id="MetaPendulumTrial-v0", env_kwargs=kwargs, n_eval_episodes=3)
        env, model = build_vec_env(run.env_id, run.env_kwargs, 3, EVAL_SEED), TrialPolicy()
        found = evaluate(model, env)  # type: ignore[arg-type]
        np.testing.assert_array_equal(evaluate(model, env), found)  # type: ignore[arg-type]
        return found, len(model.bits) // 2, int(np.sum(model.bits[: len(model.bits) // 2]))

    def by_hand(seed: int, episodes: int) -> float:
        env = gym.make("MetaPendulum-v0", max_episode_steps=30)
        total = 0.0
        for episode in range(episodes):
            env.reset(seed=seed if episode == 0 else None, options={"same_task": True} if episode else None)
            total, over = 0.0, False
            while not over:
                _, reward, _, over, _ = env.step(np.zeros(1))
                total += float(reward)
        return total

    for episodes in (1, 2, 3):
        found, steps, starts = evaluated(episodes)
        assert steps == 30 * episodes and starts == 3
        assert found == pytest.approx([by_hand(EVAL_SEED + i, episodes) for i in range(3)], rel=1e-5)


def test_in_trials_each_environment_counts_its_own_episodes(tmp_path: Path) -> None:
    """Poles that fall after different times; whoever is through goes on beside the others, and does not count."""
    env, model = build_vec_env("MetaCartPoleTrial-v0", dict(episodes=2), 6, EVAL_SEED), TrialPolicy()
    found = evaluate(model, env)  # type: ignore[arg-type]
    expected = []
    for i in range(6):
        one = gym.make("MetaCartPole-v0")
        for options in (None, {"same_task": True}):
            one.reset(seed=EVAL_SEED + i if options is None else None, options=options)
            total, over = 0.0, False
            while not over:
                _, reward, over, _, _ = one.step(np.zeros(1, dtype=np.float32))
                total += float(reward)
        expected.append(total)
    assert found.tolist() == expected and len(set(expected)) > 2


def test_trial_ids_have_one_time_limit() -> None:
    env = gym.make("MetaPendulumTrial-v0", max_episode_steps=230, mass=(1.0, 1.0))
    assert env.spec is not None and env.spec.max_episode_steps == 230
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for one in (env, again, gym.make("MetaPendulumTrial-v0")):
        for bits in ([1, 1], [0, 1], [1, 1]):
            obs, _ = one.reset()
            assert obs["trial"].tolist() == bits
            steps, over = 0, False
            while not over:
                over, steps = one.step(np.zeros(1, dtype=np.float32))[3], steps + 1
            assert one.spec is not None and steps == one.spec.max_episode_steps


def test_trials_are_compared_like_any_task(tmp_path: Path) -> None:
    for env_id in envs.TRIAL_IDS:
        run = spec(tmp_path, "dreamer", env_id=env_id, env_kwargs=dict(max_episode_steps=10), n_eval_episodes=2)
        assert all(np.isfinite(row.eval_return_mean) for row in execute(run))


def test_an_episode_that_does_not_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_EPISODE_STEPS", 20)
    run = spec(tmp_path, "ppo", env_id="ContinuousPendulum-v0")
    model = build_model(run)
    model.policy.set_training_mode(True)
    with pytest.raises(ComparisonError, match="has not ended after 20 steps: give the environment a time limit"):
        evaluate(model, build_eval_env(run, model))
    assert model.policy.training
    monkeypatch.setattr(evaluation, "MAX_EPISODE_STEPS", 200)  # as long as they are
    assert len(evaluate(model, build_eval_env(run, model))) == 2


def test_long_rollouts_get_no_extra_steps_and_no_extra_update(tmp_path: Path) -> None:
    # Rollouts of 64 steps, a run of 100: one update, at 64. The second rollout ends unfinished.
    run = spec(tmp_path, "ppo", total_timesteps=100, eval_every=32)
    model = build_model(run)
    assert isinstance(model, PPO)
    updates_at: dict[int, int] = {}
    callback = GridEvaluation(run, lambda row: updates_at.update({row.timesteps: model._n_updates}), lambda _: None)
    model.learn(run.total_timesteps, callback=callback)
    # The evaluation at step 64 comes after the update from the steps until 64, and the next one shows the same policy.
    assert updates_at == {0: 0, 32: 0, 64: 2, 96: 2, 100: 2}
    assert model.num_timesteps <= 100 + model.n_envs


def test_last_evaluation_comes_after_the_last_update(tmp_path: Path) -> None:
    run = spec(tmp_path, "a2c", total_timesteps=32, eval_every=16)
    model = build_model(run)
    assert isinstance(model, A2C)
    updates_at: dict[int, int] = {}
    callback = GridEvaluation(run, lambda row: updates_at.update({row.timesteps: model._n_updates}), lambda _: None)
    model.learn(run.total_timesteps, callback=callback)
    assert updates_at == {0: 0, 16: 1, 32: 2}


def test_parameters_without_target_networks(tmp_path: Path) -> None:
    model = build_model(spec(tmp_path, "sac"))
    # Observation 3, action 1, one layer of 8: the actor has two heads of 1, each of two critics takes 4 inputs.
    actor, critic = (3 * 8 + 8) + 2 * (8 + 1), (4 * 8 + 8) + (8 + 1)
    assert count_parameters(model) == actor + 2 * critic


@pytest.mark.parametrize("algo", ["mbpo", "pets"])
def test_parameters_of_a_world_model_count_once(tmp_path: Path, algo: str) -> None:
    kwargs = dict(n_members=5, units=8, layers=1)
    given = dict(world_model_kwargs=kwargs) if algo == "mbpo" else dict(policy_kwargs=dict(world_model_kwargs=kwargs))
    model: Any = build_model(spec(tmp_path, algo, hyperparameters={**given, "buffer_size": 500}))
    own = sum(p.numel() for p in model.world_model.parameters() if p.requires_grad)
    rest = sum(p.numel() for name, p in model.policy.named_parameters() if p.requires_grad and "target" not in name)
    assert own > 100 and count_parameters(model) == own + (rest if algo == "mbpo" else 0)


def test_an_evaluation_that_is_no_number_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be said of it, and no file of results could hold it."""
    run = spec(tmp_path, "sac")
    returns = iter([-1000.0, float("nan")])
    monkeypatch.setattr("sb3_dreamer.compare.evaluation.evaluate", lambda model, env: np.full(2, next(returns)))
    with pytest.raises(FloatingPointError, match="sac seed 3: the evaluation after 48 steps returned nan"):
        execute(run)
    assert not run.done_path.exists()


@pytest.mark.parametrize(("algo", "expected"), [("ppo", 2 * 2 * 2), ("a2c", 8), ("sac", 128 - 50)])
def test_gradient_updates_are_steps_of_an_optimizer(tmp_path: Path, algo: str, expected: int) -> None:
    """To SB3's PPO, an epoch is one."""
    run = spec(tmp_path, algo)
    execute(run)
    assert json.loads(run.done_path.read_text())["gradient_updates"] == expected


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_pictures_are_seen_by_convolutions_also_where_observations_are_normalised(tmp_path: Path, algo: str) -> None:
    run = spec(tmp_path, algo, env_id="envs:ContinuousPendulumPixels-v0", hyperparameters=dict(n_steps=8, normalize=True))
    model = build_model(run)
    assert isinstance(model.policy, ActorCriticCnnPolicy)
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None and not normalizer.norm_obs and normalizer.norm_reward
