import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_dreamer.behaviour.networks import Actor, Critic
from sb3_dreamer.dreamer.policies import DreamerPolicy


def make_policy(**kwargs) -> DreamerPolicy:
    th.manual_seed(0)
    return DreamerPolicy(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,)), lambda _: 1e-3, **{"size": "debug", **kwargs})


def test_actor_starts_near_zero_mean_and_with_the_published_spread() -> None:
    th.manual_seed(0)
    actor = Actor(6, 2, classes=(), units=16, layers=3, norm="rms")
    policy = actor(th.randn(50, 6))
    assert policy.mean.abs().max() < 0.1
    assert policy.std.mean().item() == pytest.approx(0.1 + 0.9 / (1 + np.exp(-2)), abs=0.02)  # 0.893
    wide = Actor(6, 2, (), 16, 3, "rms", min_std=0.5, max_std=0.5)
    assert th.allclose(wide(th.randn(5, 6)).std, th.tensor(0.5))


def test_critic_starts_at_exactly_zero() -> None:
    assert Critic(6, 16, 3, 255, "rms")(th.randn(5, 6)).mean.abs().max() == 0


def test_return_range_updates_before_use_from_zero_with_a_floor() -> None:
    policy = make_policy()
    returns = th.linspace(0, 1000, 1001)
    assert policy.update_return_range(returns).item() == pytest.approx(0.01 * 900, rel=1e-4)
    assert policy.update_return_range(returns).item() == pytest.approx((1 - 0.99**2) * 900, rel=1e-4)
    assert make_policy().update_return_range(returns / 1e6).item() == 1.0


def test_slow_critic_moves_by_its_rate() -> None:
    policy = make_policy()
    before = copy.deepcopy(policy.slow_critic)
    for p in policy.critic.parameters():
        p.data.add_(1.0)
    policy.update_slow_critic(0.02)
    for slow, old in zip(policy.slow_critic.parameters(), before.parameters(), strict=True):
        assert th.allclose(slow, old + 0.02, atol=1e-6)


def test_only_trained_networks_are_in_the_optimizer_once() -> None:
    policy = make_policy()
    owned = [p for group in policy.optimizer.param_groups for p in group["params"]]
    trainable = [p for p in policy.parameters() if p.requires_grad]
    assert len(owned) == len({id(p) for p in owned}) == len(trainable)
    assert {id(p) for p in owned} == {id(p) for p in trainable}
    assert not any(p.requires_grad for p in policy.slow_critic.parameters())
    assert not any(p.requires_grad for p in policy.average_world_model.parameters())


def test_policy_save_and_load_alone(tmp_path) -> None:
    policy = make_policy(latent="categorical")
    policy.save(str(tmp_path / "policy.pt"))
    loaded = DreamerPolicy.load(str(tmp_path / "policy.pt"))
    obs = np.array([0.1, -0.2, 0.3], dtype=np.float32)
    first, second = (p.predict(obs, deterministic=True)[0] for p in (policy, loaded))
    assert np.array_equal(first, second)


def test_stateless_prediction_as_sb3_has_it() -> None:
    policy = make_policy()
    obs = np.zeros((4, 3), dtype=np.float32)
    assert np.allclose(policy._predict(obs, deterministic=True).numpy(), policy.predict(obs, deterministic=True)[0])


def test_mode_of_training_reaches_every_network() -> None:
    policy = make_policy()

    def modes() -> set[bool]:
        return {module.training for module in policy.modules()}

    policy.set_training_mode(False)
    assert modes() == {False}
    policy.set_training_mode(True)
    assert modes() == {True}
    policy.set_training_mode(False)
    policy.world_model.train()  # as who fits it alone does
    policy.set_training_mode(False)
    assert modes() == {False}
