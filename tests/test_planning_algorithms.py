"""What is particular to algorithms that plan: the plan in the state, what is tried and how often, and PETS' fits."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import PLAN, Clock, assert_equal_weights, note_training, tiny_pets, weights_of
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_dreamer.common.optimizers import LaProp
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.export import export_onnx
from sb3_dreamer.planning import NormalSequences, Planner
from sb3_dreamer.planning import policy as planning_policy
from sb3_dreamer.world_models import (
    DropoutWorldModel,
    EnsembleWorldModel,
    LaplaceWorldModel,
    MLPWorldModel,
    ModelSize,
    VAEWorldModel,
)

Make = Callable[..., Any]
HORIZON = PLAN["horizon"]
PENDULUM, MEMORY = "envs:ContinuousPendulum-v0", "envs:SequenceMemory-v0"
of_planners = pytest.mark.parametrize("make", ["planet", "pets"], indirect=True)
of_pets = pytest.mark.parametrize("make", ["pets"], indirect=True)


class Choosing(Clock):
    action_space = spaces.MultiDiscrete([2, 4])


def ensemble(**kwargs: Any) -> dict[str, Any]:
    return dict(world_model_kwargs=dict(n_members=2, units=8, layers=1, **kwargs))


# ---- the plan in the state


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What every plan starts from, and the distribution that it finds."""
    noted: list[tuple[Any, Any]] = []
    plan = Planner.plan

    def noting(self: Planner, score: Any, start: Any, *args: Any, **kwargs: Any) -> Any:
        found = plan(self, score, start, *args, **kwargs)
        noted.append((start, found.sequences))
        return found

    monkeypatch.setattr(Planner, "plan", noting)
    return noted


def table(sequences: Any) -> np.ndarray:
    """Means or probabilities, ``(n, H, A)``."""
    if isinstance(sequences, NormalSequences):
        return sequences.mode.numpy()
    return sequences.groups.join(sequences.probs).numpy()


OBS = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)  # 6 steps of 3 environments


@of_planners
@pytest.mark.parametrize("env", [Clock, Choosing])
def test_a_plan_starts_from_the_rest_of_the_one_before(make: Make, env: type[Clock], planned: list[tuple[Any, Any]]) -> None:
    model = make(env(), replan_every=1, exploration_noise=0.0)
    codec = model.action_codec
    _, state = model.predict(OBS[0])
    (start, found), fresh = planned[0], np.zeros(codec.size) if env is Clock else [1 / 2, 1 / 2, *[1 / 4] * 4]
    assert np.allclose(table(start), fresh)
    for t, starts in ((1, [False, False, False]), (2, [False, True, False]), (3, [True, True, True])):
        left = state[2].reshape(3, HORIZON, codec.size)
        assert np.array_equal(left, table(found.shift())) and (state[3] == 0).all()
        assert np.array_equal(state[-1], found.mode[:, 0])
        actions, state = model.predict(OBS[t], state, np.array(starts))
        start, found = planned[t]
        assert np.allclose(table(start), np.where(np.array(starts)[:, None, None], fresh, left))
        assert np.array_equal(actions, codec.to_env(found.mode[:, 0].numpy()))
    assert len(planned) == 4


@of_planners
def test_a_plan_is_forgotten_where_something_else_is_done(make: Make) -> None:
    model, given = make(Clock(), replan_every=2), np.full((3, 1), 0.5, dtype=np.float32)
    _, state = model.predict(OBS[0])
    assert state[2].any() and (state[3] == 1).all()
    state = model.policy.step({"obs": OBS[1]}, state, np.zeros(3, dtype=bool), actions=given)
    assert not state[2].any() and not state[3].any() and np.array_equal(state[-1], given)


@of_planners
def test_plans_are_followed_for_some_steps_by_each_environment(make: Make, planned: list[tuple[Any, Any]]) -> None:
    model, state, followed, age = make(Clock(), replan_every=3, exploration_noise=0.0), None, [None] * 3, np.zeros(3, int)
    when = []
    for t, obs in enumerate(OBS):
        starts = np.array([False, t == 1, t == 5])  # they get out of step
        actions, state = model.predict(obs, state, starts)
        due = [i for i in range(3) if t == 0 or starts[i] or age[i] == 3]
        when.append(due)
        for row, i in enumerate(due):
            assert len(planned[-1][1].mode) == len(due)
            followed[i], age[i] = planned[-1][1].mode[row].numpy(), 0
        for i in range(3):
            assert np.array_equal(actions[i], 2 * followed[i][age[i]])
        age += 1
    assert when == [[0, 1, 2], [1], [], [0, 2], [1], [2]] and len(planned) == 5


@of_planners
def test_training_plans_every_few_steps_once_it_no_longer_acts_at_random(make: Make, planned: list[tuple[Any, Any]]) -> None:
    make(Clock(length=1000), replan_every=3).learn(40 + 11)
    assert len(planned) == 4


# ---- what is chosen

ALIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "planet": ("planet", {}),
    "planet-sampled": ("planet", dict(particles=2)),
    "tsinf": ("pets", {}),
    "ts1": ("pets", dict(policy_kwargs=ensemble(propagation="ts1"), particles=3)),
    "expectation": ("pets", dict(policy_kwargs=ensemble(propagation="expectation"))),
}


@pytest.mark.parametrize("env", [Clock, Choosing])
@pytest.mark.parametrize(("make", "kwargs"), ALIKE.values(), ids=ALIKE, indirect=["make"])
def test_one_is_chosen_for_as_if_it_were_alone(make: Make, kwargs: dict[str, Any], env: type[Clock]) -> None:
    model = make(env(length=9), replan_every=1, **kwargs).learn(50)
    together: Any = None
    alone: list[Any] = [None] * 3
    for obs in OBS[:3]:
        actions, together = model.predict(obs, together, deterministic=True)
        again, _ = model.predict(obs, together, np.ones(3, dtype=bool), deterministic=True)
        for i in range(3):
            action, alone[i] = model.predict(obs[i], alone[i], deterministic=True)
            assert np.allclose(action, actions[i], atol=1e-5)
            assert all(np.allclose(one[0], all_[i], atol=1e-5) for one, all_ in zip(alone[i], together, strict=True))
        fresh, _ = model.predict(obs, deterministic=True)
        assert np.array_equal(again, fresh)


@pytest.mark.parametrize(("make", "kwargs"), ALIKE.values(), ids=ALIKE, indirect=["make"])
def test_many_environments_are_planned_for_in_parts(
    make: Make, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(Clock(length=9), replan_every=1, **kwargs).learn(50)
    obs = np.concatenate(OBS[:3])
    whole, _ = model.predict(obs, deterministic=True)
    seen = []
    original = planning_policy.imagined_score

    def noting(world_model: Any, state: LatentState, *args: Any) -> Any:
        seen.append(len(state.deter))
        return original(world_model, state, *args)

    monkeypatch.setattr(planning_policy, "imagined_score", noting)
    monkeypatch.setattr(planning_policy, "MOST_ROWS", 4 * model.policy.planner.n_samples * model.policy.particles)
    parts, _ = model.predict(obs, deterministic=True)
    assert np.allclose(parts, whole, atol=1e-5) and sum(seen) == len(obs) and max(seen) <= 4
    model.predict(obs)
    assert sum(seen) == 2 * len(obs) and max(seen) <= 4


def test_particles_are_as_many_as_there_are_opinions() -> None:
    assert tiny_pets().policy.particles == 2 and tiny_pets(particles=3).policy.particles == 3
    assert tiny_pets(policy_kwargs=ensemble(n_elites=1)).policy.particles == 1
    assert tiny_pets(policy_kwargs=ensemble(propagation="expectation")).policy.particles == 1  # which are all alike


@of_pets
def test_noise_comes_on_top_unless_deterministic(make: Make) -> None:
    same, size = np.zeros((500, 2), dtype=np.float32), dict(planner_kwargs=dict(PLAN, n_samples=30, init_std=0.2))
    for noise in (0.0, 0.1):  # all dream and plan alike: with the same numbers, of the mean
        model = make(Clock(), exploration_noise=noise, particles=1, **size)
        assert np.ptp(model.predict(same, deterministic=True)[0]) == 0
        actions = model.predict(same)[0] / 2
        assert actions.std() == pytest.approx(noise, abs=0.01) and (np.ptp(actions) > 0) == (noise > 0)
        assert np.abs(make(Clock(), exploration_noise=100.0).predict(same)[0]).max() == 2  # within the bounds
    for noise in (0.0, 0.4, 1.0):
        model = make(Choosing(), exploration_noise=noise, particles=1, **size)
        assert np.ptp(model.predict(same, deterministic=True)[0], axis=0).max() == 0
        chosen = model.predict(same)[0]
        usual = [0, 0] if noise == 1 else [np.bincount(column).argmax() for column in chosen.T]
        assert (chosen != usual).mean(0) == pytest.approx(noise * np.array([1 / 2, 3 / 4]), abs=0.07)


class Tempting(gym.Env):
    """The second action gives twice the reward and ends the episode."""

    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def __init__(self, terminates: bool) -> None:
        self.terminates = terminates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        ends = bool(action == 1)
        obs = np.full(1, action, dtype=np.float32)
        return obs, 1.0 + float(action), ends and self.terminates, ends and not self.terminates, {}


@pytest.mark.parametrize(("make", "terminates"), [("planet", True), ("pets", True), ("pets", False)], indirect=["make"])
def test_a_termination_ends_what_a_plan_can_gain(make: Make, terminates: bool) -> None:
    kwargs: dict[str, Any] = dict(learning_starts=120, planner_kwargs=dict(PLAN, n_samples=30, n_elites=5))
    if make is tiny_pets:
        kwargs.update(max_epochs=40, patience=40, batch_size=16, learning_rate=1e-2)
    else:
        kwargs.update(pretrain_updates=80, learning_rate=1e-2)
    model = make(Tempting(terminates), **kwargs).learn(121)
    action, _ = model.predict(np.zeros(1, dtype=np.float32), deterministic=True)
    assert action == (0 if terminates else 1)  # a truncation is no end
    dream = model.imagine(np.zeros(1, dtype=np.float32), 3, actions=np.array([0, 1, 0]))
    assert np.allclose(dream.rewards[:2], [1, 2], atol=0.3)
    assert np.allclose(dream.continues[:2], [1, 0 if terminates else 1], atol=0.3)


# ---- what is learnt, and when


@pytest.mark.parametrize(
    ("n_envs", "first", "expected"), [(1, 40, [40, 70, 100]), (2, 40, [40, 70, 100]), (2, 41, [42, 72, 102])]
)
@of_pets
def test_fits_come_when_random_steps_end_and_then_every_few_steps(
    make: Make, n_envs: int, first: int, expected: list[int]
) -> None:
    model = make(make_vec_env(Clock, n_envs), learning_starts=first, train_freq=30)
    noted = note_training(model)
    model.learn(104)
    assert noted == expected and model._n_updates > 3


def steps_of(model: Any) -> list[tuple[list[float], list[float], float, float]]:
    data = model._transitions()
    columns = (data.x, data.next_x, data.reward, data.terminal)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("terminates", [True, False])
def test_all_steps_are_learnt_from(terminates: bool) -> None:
    """Of every environment, over the ends of episodes and of calls of learn; the newest rows are no steps yet."""
    lengths = (3, 5)
    env = DummyVecEnv([lambda length=length: Clock(length, terminates) for length in lengths])
    model = tiny_pets(env, learning_starts=100)
    model.learn(46)
    model.learn(20, reset_num_timesteps=False)  # 33 steps of both
    done = [[divmod(step, length) for step in range(33)] for length in lengths]
    expected = [
        ([episode, clock], [episode, clock + 1], float(clock + 1), float(terminates and clock + 1 == length))
        for steps, length in zip(done, lengths, strict=True)
        for episode, clock in steps
    ]
    expected.remove(([6, 2], [6, 3], 3.0, 0.0))  # of the second one: no row holds yet what it led to
    assert steps_of(model) == sorted(expected)
    model.learn(2)  # resets what was under way
    assert steps_of(model) == sorted(expected)


def test_a_full_replay_is_learnt_from_oldest_to_newest() -> None:
    model = tiny_pets(Clock(length=1000), buffer_size=60, learning_starts=100).learn(100)
    assert [x[1] for x, *_ in steps_of(model)] == list(range(40, 99))


@of_pets
def test_functions_of_observations_refuse_normalised_ones(make: Make) -> None:
    kwargs = ensemble(reward_fn=lambda obs, action, next_obs: next_obs["obs"][..., 0])
    env = VecNormalize(make_vec_env(PENDULUM, 1))
    with pytest.raises(ValueError, match=r"^reward_fn would be shown .* norm_obs=False"):
        make(env, policy_kwargs=kwargs).learn(1)
    env = VecNormalize(make_vec_env(PENDULUM, 1), norm_obs=False)
    assert make(env, policy_kwargs=kwargs).learn(1).num_timesteps == 1


def test_steps_are_learnt_as_a_vecnormalize_shows_them() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Clock(length=4)]))
    model = tiny_pets(env).learn(60)
    assert model._n_updates > 0
    found, raw = model._transitions(), [[step // 4, step % 4] for step in range(60)]
    assert np.allclose(found.x, env.normalize_obs(np.array(raw)), atol=1e-5)
    assert found.reward.tolist() == [clock + 1 for _, clock in raw]  # true ones


def test_a_fit_that_fails_spoils_nothing() -> None:
    model = tiny_pets(learning_rate=lambda progress: 1e30 if progress < 0.35 else 1e-3)
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        model.learn(100)
    assert all(th.isfinite(value).all() for value in weights_of(model).values())
    updates = model._n_updates
    model.learning_rate = 1e-3
    model._setup_lr_schedule()
    model.learn(20, reset_num_timesteps=False)
    assert model._n_updates > updates and all(th.isfinite(value).all() for value in weights_of(model).values())


@of_planners
def test_a_learning_rate_may_fall_to_zero(make: Make) -> None:
    model = make(Clock(), learning_rate=LinearSchedule(1e-3, 0.0, 0.5)).learn(90)
    noted, before = note_training(model), weights_of(model)
    model.learn(10, reset_num_timesteps=False)
    learnt = {name for name, _ in model.world_model.named_parameters(prefix="world_model")}
    assert noted and all(th.equal(value, before[name]) for name, value in weights_of(model).items() if name in learnt)


# ---- arguments


def height(obs: dict[str, th.Tensor], action: th.Tensor, after: dict[str, th.Tensor]) -> th.Tensor:
    return after["obs"][:, 0]


def never(obs: dict[str, th.Tensor], action: th.Tensor, after: dict[str, th.Tensor]) -> th.Tensor:
    return action[:, 0] > 2


OPTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cem": ("planet", PENDULUM, dict(planner="cem", planner_kwargs=dict(PLAN, momentum=0.1), particles=2)),
    "mppi": ("planet", MEMORY, dict(planner="mppi", max_grad_norm=None, online_replay=True)),
    "vae": ("planet", PENDULUM, dict(policy_kwargs=dict(size="debug", world_model_class=VAEWorldModel))),
    "mlp": ("planet", PENDULUM, dict(policy_kwargs=dict(size="debug", world_model_class=MLPWorldModel))),
    "dropout": ("pets", MEMORY, dict(policy_kwargs=dict(world_model_class=DropoutWorldModel, size="debug"), planner="mppi")),
    "laplace": ("pets", PENDULUM, dict(policy_kwargs=dict(world_model_class=LaplaceWorldModel, size="debug"), planner="cem")),
    "not_judged": ("pets", PENDULUM, dict(validation=0.0)),
    "known": ("pets", PENDULUM, dict(policy_kwargs=ensemble(reward_fn=height, termination_fn=never))),
    "short": (
        "pets",
        PENDULUM,
        dict(planner_kwargs=dict(PLAN, horizon=1, n_samples=6.0, n_iterations=1), particles=1, replan_every=1),
    ),
}


@pytest.mark.parametrize(("make", "task", "kwargs"), OPTIONS.values(), ids=OPTIONS, indirect=["make"])
def test_options(make: Make, task: str, kwargs: dict[str, Any]) -> None:
    model = make(task, **kwargs).learn(60)
    assert model._n_updates > 2 and model._skipped_updates == 0
    assert all(th.isfinite(value).all() for value in weights_of(model).values())
    actions, _ = model.predict(np.zeros((4, *model.observation_space.shape), dtype=np.float32), deterministic=True)
    assert all(model.action_space.contains(action) for action in list(actions))


PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "planet": (
        "planet",
        dict(
            learning_rate=LinearSchedule(1e-3, 1e-4, 0.5),
            replan_every=2,
            policy_kwargs=dict(size=ModelSize(16, 8, 8, 4, 4, 1, 2, layers=1, bins=5), optimizer_class=LaProp),
        ),
    ),
    "ensemble": ("pets", dict(policy_kwargs=dict(world_model_class=EnsembleWorldModel, **ensemble(propagation="ts1")))),
    "laplace": ("pets", dict(policy_kwargs=dict(world_model_class=LaplaceWorldModel, size="debug"))),
}


@pytest.mark.parametrize(("make", "kwargs"), PLAIN.values(), ids=PLAIN, indirect=["make"])
def test_untrusted_loading_gives_the_same_model(make: Make, kwargs: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = make(Clock(), **kwargs).learn(50)
    model.save(tmp_path / "model")
    loaded = make.algorithm.load(tmp_path / "model", env=Clock(), trusted=False, device="cpu")  # type: ignore[attr-defined]
    assert_equal_weights(weights_of(model), weights_of(loaded))
    assert all(np.array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, loaded))) for obs in OBS[:2])
    assert loaded.policy_kwargs == model.policy_kwargs and loaded.planner_kwargs == model.planner_kwargs
    assert loaded.learn(60)._n_updates > model._n_updates


BAD_PLANS: list[tuple[dict[str, Any], str]] = [
    (dict(planner="random"), "planner must be one of 'cem', 'icem', 'mppi', got 'random'"),
    (dict(planner_kwargs=dict(horizons=3)), "planner_kwargs has no 'horizons': it takes colour, decay, horizon"),
    (dict(planner_kwargs=dict(horizon=0)), "horizon must be a whole number of at least 1, got 0"),
    (dict(planner_kwargs=dict(n_samples=9, n_elites=10)), "n_elites=10 cannot be more than n_samples=9"),
    (dict(planner_kwargs=dict(momentum="much")), "momentum must be a finite number, got 'much'"),
    (dict(planner_kwargs=dict(min_std=0)), "min_std must be a number, positive, got 0"),
    (dict(particles=0), "particles must be at least 1, got 0"),
    (dict(particles=1.5), "particles must be a whole number or None, got 1.5"),
    (dict(replan_every=0), "replan_every must be at least 1, got 0"),
    (dict(replan_every=4), "replan_every=4 cannot be more than the planner's horizon=3"),
    (dict(exploration_noise=-0.1), "exploration_noise must be at least 0, got -0.1"),
    (dict(exploration_noise=None), "exploration_noise must be a finite number, got None"),
    (dict(learning_rate=-1.0), "learning_rate must be at least 0, got -1.0"),
    (dict(gamma=1.5), r"gamma must lie in \(0, 1\], got 1.5"),
    (dict(policy_kwargs=dict(gamma=0.9, noise=1.0)), "policy_kwargs must not hold gamma, noise"),
    (dict(policy_kwargs=dict(world_model_kwargs=dict(gamma=0.5))), "world_model_kwargs must not hold gamma"),
    (dict(policy_kwargs=dict(world_model_class="best")), "must be a class of world models, a .*WorldModel, got 'best'"),
]
BAD: list[tuple[str, dict[str, Any], str]] = [
    *[(name, *bad) for bad in BAD_PLANS for name in ("planet", "pets")],
    ("planet", dict(train_ratio=0), "train_ratio must be positive"),
    ("planet", dict(max_grad_norm=0.0), "max_grad_norm must be positive"),
    ("planet", dict(particles=None), "particles must be a whole number"),
    ("pets", dict(train_freq=0), "train_freq must be at least 1, got 0"),
    ("pets", dict(train_freq=(1, "episode")), "train_freq must be a whole number"),
    ("pets", dict(max_epochs=1.5), "max_epochs must be a whole number, got 1.5"),
    ("pets", dict(patience=None), "patience must be a whole number, got None"),
    ("pets", dict(validation=1.0), "validation is a share of the rows and must be less than 1"),
    ("pets", dict(validation=-0.1), "validation must be at least 0"),
    ("pets", dict(learning_starts=10), "learning_starts=10 .* may leave 9 steps .* hold out validation=0.1"),
    ("pets", dict(buffer_size=20), "buffer_size=20 .* may leave 9 steps"),
    ("pets", dict(policy_kwargs=ensemble(n_elites=3)), "n_elites=3 cannot be more than n_members=2"),
    ("pets", dict(policy_kwargs=ensemble(propagation="mean")), "propagation must be"),
    ("pets", dict(policy_kwargs=dict(world_model_class=MLPWorldModel)), "a ProbabilisticWorldModel, got"),
]


@pytest.mark.parametrize(("make", "kwargs", "message"), BAD, indirect=["make"], ids=lambda value: str(value)[:40])
def test_wrong_arguments(make: Make, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@of_planners
def test_the_noise_of_choices_is_a_probability(make: Make) -> None:
    with pytest.raises(ValueError, match=r"a probability and must be at most 1, got 1\.5"):
        make(Choosing(), exploration_noise=1.5)


@of_planners
def test_a_search_is_not_exported(make: Make, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="plans its actions: a search cannot be exported"):
        export_onnx(make(), tmp_path / "model.onnx")


LOGGED = {
    "planet": ("model_loss", "reconstruction/obs_loss", "reward_loss", "continue_loss", "kl_dynamics_loss", "grad_norm"),
    "pets": ("model_loss", "validation_error"),
}


@pytest.mark.parametrize(("make", "names"), LOGGED.items(), indirect=["make"])
def test_what_is_logged(make: Make, names: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    model = make(Clock(length=10))
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(80, log_interval=2)
    last = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()][-1]
    for name in (*names, "learning_rate", "n_updates", "skipped_updates", "replay_ratio"):
        assert np.isfinite(last[f"train/{name}"]), name
    assert 0 < last["train/n_updates"] <= model._n_updates and last["rollout/ep_rew_mean"] == 55
