"""Averages to act with: how fast they follow, and when they count."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import tiny_director, tiny_dreamer, tiny_planet

from sb3_dreamer.common.averaging import AveragedModelPolicy, Followers, frozen_copy

OBS = np.array([[0.6, -0.8, 0.5]], dtype=np.float32)
AVERAGED: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "dreamer": (tiny_dreamer, ["world_model", "actor"]),
    "director": (tiny_director, ["world_model", "autoencoder", "manager", "worker"]),
    "planet": (tiny_planet, ["world_model"]),
}
over_all = pytest.mark.parametrize("name", AVERAGED)


def make_policy(name: str) -> AveragedModelPolicy:
    return AVERAGED[name][0]().policy


def pairs(policy: AveragedModelPolicy, name: str) -> list[tuple[Any, Any]]:
    return [(getattr(policy, f"average_{module}"), getattr(policy, module)) for module in AVERAGED[name][1]]


@over_all
def test_an_average_keeps_up_at_first_and_then_takes_its_rate(name: str) -> None:
    policy = make_policy(name)
    for average, network in pairs(policy, name):
        copied, parameter = next(average.parameters()), next(network.parameters())
        policy.averaged_updates.zero_()
        parameter.data.add_(1.0)
        policy.update_average(0.005)
        assert th.allclose(copied, parameter)  # 24 / 1 > 1: the first updates are taken whole
        for expected_rate, updates in ((24 / 100, 99), (0.005, 9_999)):
            policy.averaged_updates.fill_(updates)
            old = copied.clone()
            parameter.data.add_(1.0)
            policy.update_average(0.005)
            assert th.allclose(copied, old + expected_rate * (parameter - old), atol=1e-5)
        assert not any(p.requires_grad for p in average.parameters())


@over_all
def test_predict_acts_with_the_average_and_rollouts_do_not(name: str) -> None:
    policy = make_policy(name)
    assert policy.acting_model(evaluation=True) is policy.world_model  # before anything is averaged
    policy.update_average(0.005)
    before = policy.predict(OBS, deterministic=True)
    with th.no_grad():
        for _, network in pairs(policy, name):
            for parameter in network.parameters():
                parameter.add_(0.1)
    for first, second in zip(before[1], policy.predict(OBS, deterministic=True)[1], strict=True):
        assert np.array_equal(first, second)
    assert policy.acting_model(evaluation=True) is policy.average_world_model
    assert policy.acting_model(evaluation=False) is policy.world_model
    policy.update_average(None)
    assert policy.acting_model(evaluation=True) is policy.world_model
    after = policy.predict(OBS, deterministic=True)
    assert not np.allclose(before[1][0], after[1][0])


def test_an_average_has_the_newest_buffers() -> None:
    norm = th.nn.BatchNorm1d(3)
    copied = frozen_copy(norm)
    followers = Followers([(copied, norm)])
    norm(th.randn(8, 3))
    with th.no_grad():
        norm.weight.fill_(3.0)
    followers.follow(0.25)
    assert th.equal(copied.running_mean, norm.running_mean) and copied.num_batches_tracked == 1
    assert th.equal(copied.weight, th.full((3,), 1.5))


@over_all
def test_an_average_follows_where_modules_move(name: str) -> None:
    """A module that goes to another device or type has new tensors for its buffers, and they are what must be followed."""
    policy = make_policy(name)
    policy.to(th.float64).to(th.float32)
    for _, network in pairs(policy, name):
        with th.no_grad():
            for tensor in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
                tensor.add_(1.0)
    policy.update_average(0.005)
    for average, network in pairs(policy, name):
        for copied, original in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            assert th.equal(copied, original)


@pytest.mark.parametrize("make", [made for made, _ in AVERAGED.values()])
@pytest.mark.parametrize("rate", [-0.1, 1.5, "fast"])
def test_a_rate_that_is_no_share_is_refused(make: Callable[..., Any], rate: Any) -> None:
    with pytest.raises(ValueError, match="evaluation_rate must be a number, from 0 to 1, got"):
        make(evaluation_rate=rate)
