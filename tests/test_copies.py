"""Copies in memory and by pickle: of a whole model, which takes its environment with it, and of a policy alone."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from conftest import Clock, assert_equal_weights, note_training, weights_of

Make = Callable[..., Any]

OBS = np.array([[0.0, 3.0], [2.0, 1.0]], dtype=np.float32)
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: pickle.loads(cloudpickle.dumps(thing)),
}


@pytest.fixture(scope="module")
def model(make: Make) -> Any:
    return make(Clock(length=7)).learn(60)


def seed_everything() -> None:
    random.seed(3)
    np.random.seed(3)
    th.manual_seed(3)


COPIED = [*[("dreamer", how) for how in COPIES], ("planet", "deepcopy"), ("pets", "pickle")]


@pytest.mark.parametrize(("make", "how"), COPIED, indirect=["make"])
def test_a_copied_model_learns_on_alone_and_alike(make: Make, how: str) -> None:
    model = make(Clock(length=7)).learn(60)
    copied = COPIES[how](model)
    assert copied.policy is not model.policy and copied.env is not model.env
    assert copied.replay_buffer.size() == model.replay_buffer.size()
    before, rows, updates = weights_of(model), model.replay_buffer.size(), model._n_updates
    seed_everything()
    noted = note_training(copied)
    copied.learn(40, reset_num_timesteps=False)
    assert copied.num_timesteps == 100 and noted == [64, 72, 80, 88, 96]
    # the original knows nothing of it
    assert model.num_timesteps == 60 and model.replay_buffer.size() == rows and model._n_updates == updates
    assert model.env.envs[0].unwrapped.episode < copied.env.envs[0].unwrapped.episode
    assert_equal_weights(before, weights_of(model))
    assert any(not th.equal(before[name], value) for name, value in weights_of(copied).items())
    seed_everything()
    model.learn(40, reset_num_timesteps=False)
    assert_equal_weights(weights_of(model), weights_of(copied))
    assert model._n_updates == copied._n_updates
    assert np.array_equal(*(m.predict(OBS, deterministic=True)[0] for m in (model, copied)))


@pytest.mark.parametrize("how", COPIES)
def test_a_new_model_can_be_copied(make: Make, how: str) -> None:
    model = make(Clock())
    copied = COPIES[how](model)
    assert_equal_weights(weights_of(model), weights_of(copied))
    assert copied.learn(50)._n_updates > 0 and model.num_timesteps == 0


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_policy_predicts_alike_and_alone(model: Any, how: str) -> None:
    copied = COPIES[how](model.policy)
    assert np.array_equal(*(policy.predict(OBS, deterministic=True)[0] for policy in (model.policy, copied)))
    assert np.array_equal(*(policy.predict(OBS)[0] for policy in (model.policy, copied)))  # the generator as well
    before = weights_of(model)
    parameters = {id(parameter) for parameter in copied.parameters()}
    assert {id(p) for group in copied.optimizer.param_groups for p in group["params"]} <= parameters
    with th.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    assert_equal_weights(before, weights_of(model))


def test_a_model_of_a_local_environment_needs_cloudpickle(make: Make) -> None:
    """As PPO's, whose pickle takes the environment along as well."""

    class Local(Clock):
        pass

    model = make(Local())
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"local object|Local"):
        pickle.dumps(model)
    assert COPIES["cloudpickle"](model).learn(20).num_timesteps == 20
