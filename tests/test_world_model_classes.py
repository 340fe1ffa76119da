"""Dreamer with every world model of the family: learns, acts, saves, resumes and dreams as with its own."""

import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import tiny_dreamer

from sb3_dreamer import Dreamer
from sb3_dreamer.world_models import (
    RSSM,
    EnsembleWorldModel,
    LaplaceWorldModel,
    MLPWorldModel,
    StandaloneWorldModel,
    VAEWorldModel,
)

CLASSES: dict[str, dict[str, Any]] = {
    "rssm": dict(world_model_class=RSSM, latent="categorical"),
    "vae": dict(world_model_class=VAEWorldModel),
    "vae-deterministic": dict(world_model_class=VAEWorldModel, world_model_kwargs=dict(dynamics="deterministic")),
    "vae-frozen": dict(world_model_class=VAEWorldModel, world_model_kwargs=dict(joint=False, unroll_steps=2)),
    "mlp": dict(world_model_class=MLPWorldModel),
}


def make(name: str, env: Any = "envs:ContinuousPendulum-v0", **kwargs: Any) -> Dreamer:
    return tiny_dreamer(env, policy_kwargs=dict(size="debug", **CLASSES[name]), **kwargs)


@pytest.mark.parametrize("name", CLASSES)
def test_all_networks_learn(name: str) -> None:
    model = make(name)
    before = {key: part.clone() for key, part in model.policy.state_dict().items()}
    model.learn(120)
    assert model._n_updates > 5
    after = model.policy.state_dict()
    still = [name for name in model.policy.trained_modules() if _same(before, after, name)]
    assert not still
    assert all(th.isfinite(part).all() for part in after.values())


def _same(before: dict[str, th.Tensor], after: dict[str, th.Tensor], prefix: str) -> bool:
    names = [name for name in before if name.startswith(prefix + ".")]
    assert names
    return all(th.equal(before[name], after[name]) for name in names)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_saved_and_loaded_it_acts_the_same(name: str, trusted: bool, tmp_path: pathlib.Path) -> None:
    model = make(name).learn(60)
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model", device="cpu", trusted=trusted)
    assert type(loaded.world_model) is type(model.world_model)
    rng = np.random.default_rng(0)
    states: list[Any] = [None, None]
    for _ in range(3):
        obs = rng.normal(size=(2, 3)).astype(np.float32)
        actions = []
        for i, agent in enumerate((model, loaded)):
            action, states[i] = agent.predict(obs, states[i], deterministic=True)
            actions.append(action)
        assert np.array_equal(*actions)
    loaded.set_env(model.get_env())
    loaded.learn(50)


@pytest.mark.parametrize("name", CLASSES)
def test_resuming_is_never_having_stopped(name: str, tmp_path: pathlib.Path) -> None:
    from stable_baselines3.common.env_util import make_vec_env

    import envs

    whole = make(name, make_vec_env("envs:ContinuousPendulum-v0", seed=0)).learn(90)
    env = make_vec_env("envs:ContinuousPendulum-v0", seed=0)
    first = make(name, env).learn(60)
    first.save(tmp_path / "model")
    first.save_replay_buffer(tmp_path / "replay")
    state = envs.get_env_state(env.envs[0])  # type: ignore[attr-defined]
    other = make_vec_env("envs:ContinuousPendulum-v0", seed=1)
    envs.set_env_state(other.envs[0], state)  # type: ignore[attr-defined]
    second = Dreamer.load(tmp_path / "model", other, device="cpu", force_reset=False)
    second.load_replay_buffer(tmp_path / "replay")
    second.learn(30, reset_num_timesteps=False)
    for name_, part in whole.policy.state_dict().items():
        assert th.equal(part, second.policy.state_dict()[name_]), name_


@pytest.mark.parametrize("name", CLASSES)
def test_imagines_in_the_environments_units(name: str) -> None:
    model = make(name).learn(60)
    dream = model.imagine(np.zeros((2, 3), dtype=np.float32), 4)
    assert dream.observations.shape == (2, 5, 3) and dream.rewards.shape == (2, 4)
    assert isinstance(model.world_model, StandaloneWorldModel)
    plan = dream.actions
    same = model.world_model.imagine(np.zeros((2, 3), dtype=np.float32), plan)
    assert same.observations.shape == (2, 5, 3) and np.isfinite(same.rewards).all()


class Mixed(gym.Env):
    """A dictionary of numbers, choices and bits, and two discrete actions."""

    observation_space = gym.spaces.Dict(
        numbers=gym.spaces.Box(-1, 1, (3,)),
        choice=gym.spaces.MultiDiscrete([3, 2], start=[1, 5]),
        bits=gym.spaces.MultiBinary(2),
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(0)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(action), self.steps == 7, False, {}


@pytest.mark.parametrize("name", CLASSES)
def test_dictionaries_and_discrete_actions(name: str) -> None:
    model = make(name, Mixed(), policy="MultiInputPolicy").learn(60)
    obs = Mixed().reset(seed=0)[0]
    dream = model.imagine(obs, 3)
    assert all(Mixed.observation_space[key].contains(part[1]) for key, part in dream.observations.items() if key != "numbers")
    action, _ = model.predict(obs)
    assert Mixed.action_space.contains(int(action))


class Picture(gym.Env):
    """A grey level that an action changes."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.level = 100
        return np.full((16, 16, 3), self.level, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.level = int(np.clip(self.level + 20 * float(action[0]), 0, 255))
        return np.full((16, 16, 3), self.level, np.uint8), self.level / 255, False, False, {}


def test_images_go_through_the_vae_and_are_refused_by_the_mlp() -> None:
    env = gym.wrappers.TimeLimit(Picture(), 10)
    model = make("vae", env, policy="CnnPolicy").learn(60)
    assert model.imagine(env.reset()[0], 2).observations.shape == (3, 3, 16, 16)
    with pytest.raises(ValueError, match="not images"):
        make("mlp", env, policy="CnnPolicy")


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        (dict(world_model_class="mlp"), "must be a class of world models, a WorldModel, got 'mlp'"),
        (dict(world_model_class=Dreamer), "must be a class of world models"),
        (dict(world_model_class=EnsembleWorldModel), "=EnsembleWorldModel is fitted to single steps, .* use PETS or MBPO"),
        (dict(world_model_class=LaplaceWorldModel), "=LaplaceWorldModel is fitted to single steps"),
        (dict(world_model_kwargs=dict(size="1m", gamma=0.9)), "must not hold size, gamma"),
    ],
)
@pytest.mark.parametrize("make", ["dreamer", "planet"], indirect=True)
def test_wrong_classes_and_arguments(make: Any, policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(policy_kwargs=policy_kwargs)


def test_arguments_of_another_class_are_refused() -> None:
    with pytest.raises(ValueError, match="MLPWorldModel has no argument 'latent'"):
        tiny_dreamer(policy_kwargs=dict(world_model_class=MLPWorldModel, latent="gaussian"))
    with pytest.raises(ValueError, match="MLPWorldModel has no argument 'strided'"):
        tiny_dreamer(policy_kwargs=dict(world_model_class=MLPWorldModel, world_model_kwargs=dict(strided=True)))


@pytest.mark.parametrize("name", ["vae", "mlp"])
def test_in_bfloat16(name: str) -> None:
    kwargs = dict(size="debug", precision="bf16", **CLASSES[name])
    model = tiny_dreamer(policy_kwargs=kwargs).learn(60)
    assert model._n_updates > 0 and model._skipped_updates == 0
