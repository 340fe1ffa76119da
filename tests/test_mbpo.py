"""MBPO as an algorithm of SB3: batches, dreams, terminations, saving, other agents."""

import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import Clock
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_dreamer import MBPO
from sb3_dreamer.mbpo.buffers import ImaginedBuffer, MixedReplay, real_transitions
from sb3_dreamer.world_models.transitions import Transitions

TINY: dict[str, Any] = dict(
    learning_starts=30,
    gradient_steps=2,
    batch_size=16,
    model_train_freq=20,
    rollouts_per_step=2,
    rollout_length=3,
    model_max_epochs=2,
    world_model_kwargs=dict(n_members=2, n_elites=2, units=8, layers=1),
    policy_kwargs=dict(net_arch=[8]),
    buffer_size=2000,
    device="cpu",
    seed=0,
)


def tiny(env: Any = "envs:ContinuousPendulum-v0", policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    return MBPO(policy, env, **{**TINY, **kwargs})


def rows(n: int, start: float = 0.0) -> Transitions:
    value = th.arange(n).float() + start
    return Transitions(value[:, None], value[:, None] / 100, value, value[:, None] + 1, th.zeros(n))


# ---- the replay of dreams


def test_the_ring_keeps_the_newest_steps_whole() -> None:
    buffer = ImaginedBuffer(5, 3)
    buffer.add(rows(3))
    assert len(buffer) == 3 and set(buffer.sample(200).reward.tolist()) == {0.0, 1.0, 2.0}
    buffer.add(rows(4, 10.0))
    drawn = buffer.sample(500)
    assert set(drawn.reward.tolist()) == {2.0, 10.0, 11.0, 12.0, 13.0}
    assert th.equal(drawn.x[:, 0], drawn.reward) and th.equal(drawn.next_x[:, 0], drawn.reward + 1)
    buffer.add(rows(9, 20.0))
    assert set(buffer.sample(500).reward.tolist()) == {24.0, 25.0, 26.0, 27.0, 28.0}


@pytest.mark.parametrize(("ratio", "real"), [(0.0, 0), (0.05, 1), (0.25, 4), (1.0, 16)])
def test_every_batch_has_its_share_of_real_steps(ratio: float, real: int) -> None:
    space = gym.spaces.Box(-np.inf, np.inf, (1,))
    replay = ReplayBuffer(10, space, gym.spaces.Box(-1, 1, (1,)), device="cpu")
    for _ in range(10):
        replay.add(np.array([[-7.0]]), np.array([[-8.0]]), np.array([[0.5]]), np.array([-1.0]), np.array([True]), [{}])
    dreams = ImaginedBuffer(10, 1)
    dreams.add(rows(10))
    batch = MixedReplay(replay, dreams, ratio, lambda x: x).sample(16)
    assert len(batch.rewards) == 16 and int((batch.observations == -7.0).sum()) == real
    told = batch.observations[:, 0] == -7.0
    assert (batch.rewards[told] == -1).all() and (batch.dones[told] == 1).all() and (batch.next_observations[told] == -8).all()
    assert (batch.rewards[~told, 0] == batch.observations[~told, 0]).all() and (batch.dones[~told] == 0).all()
    assert batch.rewards.shape == batch.dones.shape == (16, 1)


def test_only_the_steps_of_the_newest_fits_are_drawn_however_few_they_were() -> None:
    buffer = ImaginedBuffer(20, 2)
    for fit, n in enumerate((6, 2, 1, 3, 20)):
        buffer.begin()
        buffer.add(rows(n, 100.0 * fit))
        last = {0: 6, 1: 8, 2: 3, 3: 4, 4: 20}[fit]
        assert len(buffer) == last
        assert set((buffer.sample(400).reward // 100).tolist()) == ({fit - 1.0, float(fit)} if 0 < fit < 4 else {float(fit)})


def test_dreams_of_old_fits_are_dropped_where_all_end_at_once() -> None:
    model = tiny(rollout_length=5, retain_fits=1, termination_fn=lambda obs, action, next_obs: next_obs["obs"][:, 0] < 9.0)
    model.learn(100)
    assert len(model.imagined) == TINY["rollouts_per_step"] * TINY["model_train_freq"]  # one step each, of one fit


# ---- when the model learns


def note_fits(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    noted: list[int] = []
    fit = model._fit_model
    monkeypatch.setattr(model, "_fit_model", lambda: (noted.append(model.num_timesteps), fit()))
    return noted


def test_the_model_goes_on_learning_when_steps_are_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    fits = note_fits(model, monkeypatch)
    model.learn(80)
    model.learn(50)  # from 0 again, as SB3 does
    assert fits == [31, 51, 71, 31]


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_fit_waits_until_there_is_enough_to_learn_from(validation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(learning_starts=0, model_validation=validation)
    fits = note_fits(model, monkeypatch)
    model.learn(30)
    assert fits == ([5, 25] if validation == 0 else [7, 27])


def test_a_model_without_its_replay_keeps_what_it_knows_until_there_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    tiny().learn(50).save(tmp_path / "model")
    loaded = MBPO.load(tmp_path / "model", env=make_vec_env("envs:ContinuousPendulum-v0"))
    fits, before = note_fits(loaded, monkeypatch), loaded.world_model.input_std.clone()
    loaded.learn(29, reset_num_timesteps=False)
    assert fits == [] and th.equal(loaded.world_model.input_std, before) and loaded._n_updates > 0
    loaded.learn(10, reset_num_timesteps=False)
    assert fits == [80]


def test_the_log_has_its_own_name(tmp_path: pathlib.Path) -> None:
    tiny(tensorboard_log=str(tmp_path)).learn(10)
    assert [folder.name for folder in tmp_path.iterdir()] == ["MBPO_1"]


# ---- what the model learns from, and dreams


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("terminates", [True, False])
def test_the_model_learns_from_true_steps_and_true_terminations(n_envs: int, terminates: bool) -> None:
    env = make_vec_env(lambda: Clock(5, terminates), n_envs)
    model = tiny(env, learning_starts=100)
    model.learn(40)
    data = real_transitions(model.replay_buffer, model.observation_codec, model.world_model.layout, model.device)
    assert len(data) == 40
    assert th.equal(data.next_x[:, 1], data.x[:, 1] + 1) and th.equal(data.next_x[:, 0], data.x[:, 0])  # not the reset's
    assert th.equal(data.reward, data.next_x[:, 1])
    assert th.equal(data.terminal, ((data.next_x[:, 1] == 5) & terminates).float())


def test_dreams_start_where_one_has_been_follow_each_other_and_stop_at_terminations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(
        Clock(5),
        learning_starts=30,
        termination_fn=lambda obs, action, next_obs: next_obs["obs"][:, 1] > 3.5,
        reward_fn=lambda obs, action, next_obs: 10 * next_obs["obs"][:, 1],
    )
    model.learn(31)

    def tick(x: th.Tensor, action: th.Tensor, which: th.Tensor) -> Any:  # a model that knows the clock
        change = th.zeros(*x.shape[:-1], 3)
        change[..., 2] = 1.0
        return change, th.zeros_like(change)

    monkeypatch.setattr(model.world_model, "_opinions", tick)
    model.world_model.high.fill_(100.0)
    model.imagined = ImaginedBuffer(1, 1)
    model._dream()
    found = model.imagined.rows
    n = len(model.imagined)
    clock, after = found.x[:n, 1], found.next_x[:n, 1]
    assert th.allclose(after, clock + 1) and th.allclose(found.reward[:n], 10 * after)
    assert th.equal(found.terminal[:n], (after > 3.5).float())
    dreams = TINY["rollouts_per_step"] * TINY["model_train_freq"]
    first = clock[:dreams]
    assert set(first.tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0} and len(set(first.tolist())) > 2
    running = int((first + 1 <= 3.5).sum())  # only those went on
    assert th.equal(clock[dreams : dreams + running], (first + 1)[first + 1 <= 3.5])
    assert n == dreams + running + int((first + 2 <= 3.5).sum())


@pytest.mark.parametrize("probability", [0.3, 0.7])
def test_an_uncertain_end_counts_as_much_as_it_is_probable(probability: float) -> None:
    """A threshold would leave out all of the first, and the agent would learn from what never ends."""
    model = tiny(Clock(5), learning_starts=30, rollout_length=2)
    model.learn(31)
    with th.no_grad():
        model.world_model.termination_head.share.fill_(probability)  # and the head says nothing else
        model.world_model.termination_head.out.weight.zero_()
        model.world_model.termination_head.out.bias.zero_()
    model.imagined = ImaginedBuffer(1, 1)
    model._dream()
    dreams, n = TINY["rollouts_per_step"] * TINY["model_train_freq"], len(model.imagined)
    assert th.allclose(model.imagined.rows.terminal[:n], th.tensor(probability))
    assert n == (2 * dreams if probability < 0.5 else dreams)
    assert th.allclose(model.imagined.sample(8).terminal, th.tensor(probability))


def test_the_last_step_of_a_dream_is_no_end() -> None:
    model = tiny()
    model.learn(60)
    assert len(model.imagined) == 2 * 40 * 3 and float(model.imagined.rows.terminal.sum()) == 0.0


def test_longer_dreams_drop_those_of_before() -> None:
    model = tiny(rollout_length=(30, 70, 1, 4), retain_fits=1)
    lengths = []
    for steps in (30, 50, 70, 90):
        model.num_timesteps = steps
        lengths.append(model.rollout_length_now())
    assert lengths == [1, 2, 4, 4]
    model.num_timesteps = 0
    model.learn(31)
    assert model.imagined.capacity == 40 and model.imagined.count == 40
    model.learn(60, reset_num_timesteps=False)
    assert model.imagined.capacity == 40 * model.rollout_length_now() == len(model.imagined)


def test_fits_come_when_they_are_due_and_go_on_from_where_they_were() -> None:
    model = tiny()
    fitted: list[int] = []
    steps: list[int] = []  # of the model's optimizer, whose moments live on
    original = model._fit_model

    def count() -> None:
        original()
        fitted.append(model.num_timesteps)
        steps.append(int(next(iter(model.model_optimizer.state.values()))["step"]))

    model._fit_model = count
    model.learn(95)
    assert fitted == [31, 51, 71, 91] and steps == sorted(set(steps))
    assert model._n_updates == 2 * 65


# ---- as SB3's


def test_it_is_a_sac_and_predicts_and_evaluates_as_one() -> None:
    model = tiny()
    assert isinstance(model, SAC)
    model.learn(50)
    action, state = model.predict(model.observation_space.sample())
    assert action.shape == (1,) and state is None
    assert np.isfinite(evaluate_policy(model, model.get_env(), 1)[0])


def test_round_trip(tmp_path: pathlib.Path) -> None:
    model = tiny()
    model.learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.zip", "replay.pkl"]
    loaded = MBPO.load(tmp_path / "model", model.get_env(), device="cpu")
    for name, value in model.world_model.state_dict().items():
        assert th.equal(value, loaded.world_model.state_dict()[name]), name
    assert loaded.model_optimizer.state_dict()["state"].keys() == model.model_optimizer.state_dict()["state"].keys()
    obs = np.stack([model.observation_space.sample() for _ in range(5)])
    assert np.array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    loaded.load_replay_buffer(tmp_path / "replay")
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.num_timesteps == 90 and len(loaded.imagined) > 0


def test_a_loaded_model_dreams_before_it_learns_on(tmp_path: pathlib.Path) -> None:
    model = tiny(model_train_freq=1000)
    model.learn(40)
    model.save(tmp_path / "model")
    loaded = MBPO.load(tmp_path / "model", model.get_env(), device="cpu")
    loaded.replay_buffer = model.replay_buffer
    loaded.learn(5, reset_num_timesteps=False)
    assert len(loaded.imagined) > 0 and loaded._fitted_at == model._fitted_at


def test_same_seed_same_model() -> None:
    weights = []
    for _ in range(2):
        model = tiny()
        model.learn(60)
        weights.append(model.policy.state_dict())
    for name, value in weights[0].items():
        assert th.equal(value, weights[1][name]), name


@pytest.mark.parametrize("name", ["TD3", "DDPG", "TQC", "CrossQ"])
def test_other_agents(name: str, tmp_path: pathlib.Path) -> None:
    import stable_baselines3

    agent = getattr(stable_baselines3, name, None) or getattr(pytest.importorskip("sb3_contrib"), name)
    model = tiny(agent_class=agent)
    assert isinstance(model, agent) and not isinstance(model, SAC)
    model.learn(60)
    assert model._n_updates == 60 and len(model.imagined) > 0
    model.save(tmp_path / "model")
    loaded = MBPO.load(tmp_path / "model", model.get_env(), device="cpu")
    assert isinstance(loaded, agent)
    obs = model.observation_space.sample()
    assert np.array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


def test_the_same_agent_class_is_the_same_class() -> None:
    assert type(tiny(agent_class=TD3)) is type(tiny(agent_class=TD3))
    assert type(tiny(agent_class=SAC)) is MBPO


def test_dreams_of_a_deterministic_actor_explore() -> None:
    model = tiny(agent_class=TD3)
    model.learn(40)
    rows = model.imagined.rows
    with th.no_grad():
        chosen = model.policy._predict(rows.x[:40], deterministic=True)
    assert 0.02 < float((rows.action[:40] - chosen).abs().mean()) < 0.3


def test_normalised_observations_and_rewards() -> None:
    env = VecNormalize(make_vec_env("envs:ContinuousPendulum-v0", 2))
    model = tiny(env)
    model.learn(80)
    data = real_transitions(model.replay_buffer, model.observation_codec, model.world_model.layout, model.device)
    assert float((data.x[:, :2].square().sum(1) - 1).abs().max()) < 1e-4  # cosine and sine: as the environment gives them
    shown = model._policy_obs(data.x)
    assert np.allclose(shown.numpy(), env.normalize_obs(data.x.numpy()), atol=1e-5)
    batch = MixedReplay(model.replay_buffer, model.imagined, 0.0, model._policy_obs).sample(64, env)
    raw = model.imagined.rows.reward
    assert float(batch.rewards.abs().max()) <= float(raw.abs().max()) / float(np.sqrt(env.ret_rms.var)) * 1.01 + 1e-3


class Parts(gym.Env):
    """A dictionary of two vectors, one of them a matrix."""

    observation_space = gym.spaces.Dict(
        {"where": gym.spaces.Box(-np.inf, np.inf, (2, 2)), "alone": gym.spaces.Box(-np.inf, np.inf, (1,))}
    )
    action_space = gym.spaces.Box(-3.0, 1.0, (2,))

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observation_space.sample(), float(np.sum(action)), self.t % 7 == 0, False, {}


def test_dictionaries_of_vectors() -> None:
    model = tiny(Parts(), "MultiInputPolicy")
    model.learn(60)
    shown = model._policy_obs(model.imagined.rows.x[:4])
    assert {name: tuple(part.shape) for name, part in shown.items()} == {"where": (4, 2, 2), "alone": (4, 1)}
    assert model._n_updates == 60


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(real_ratio=1.5), "real_ratio"),
        (dict(model_validation=1.0), "model_validation"),
        (dict(rollout_length=0), "rollout_length"),
        (dict(rollout_length=(5, 5, 1, 2)), "rollout_length"),
        (dict(rollout_length=(0, 5, 0, 2)), r"rollout_length\[2\]"),
        (dict(model_train_freq=0), "model_train_freq"),
        (dict(optimize_memory_usage=True), "optimize_memory_usage"),
        (dict(n_steps=3), "n_steps"),
        (dict(world_model_kwargs=dict(heads=3)), "no argument 'heads'"),
        (dict(world_model_class=dict), "world_model_class"),
        (dict(agent_class=dict), "agent_class"),
        (dict(env="CartPole-v1"), "action space"),
        (dict(env="envs:ContinuousPendulumPixels-v0", policy="CnnPolicy", policy_kwargs={}), "vectors"),
    ],
)
def test_wrong_arguments_are_refused_by_name(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, AssertionError), match=message):
        tiny(**kwargs)
