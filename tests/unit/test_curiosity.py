"""What is far from the states seen: distances by hand, a sample that follows the replay, no harm from what is not finite."""

import math

import pytest
import torch as th
from conftest import tiny_director, tiny_dreamer, weights_of
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv

from sb3_dreamer import Director, Dreamer
from sb3_dreamer.behaviour.curiosity import StateEntropy, UsualValue
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch


def decode(state: LatentState) -> dict[str, th.Tensor]:
    """Observations are the deterministic states, number by number."""
    return {str(i): part for i, part in enumerate(state.deter.split(1, dim=-1))}


def states(*rows: float) -> LatentState:
    deter = th.tensor(rows).view(1, -1, 1)
    return LatentState(deter, th.zeros_like(deter))


def batch_of(windows: int, n_uniform: int | None = None) -> SequenceBatch:
    """Of which only its windows matter."""
    flag = th.zeros(windows, 1)
    return SequenceBatch({}, flag[..., None], flag, flag, flag, flag, LatentState(flag, flag), n_uniform)


def seen(*rows: float, neighbours: int = 2) -> StateEntropy:
    """A sample of numbers; the unit of distances is 1."""
    entropy = StateEntropy(decode, 1, particles=len(rows), neighbours=neighbours)
    entropy.particles.copy_(th.tensor(rows).view(-1, 1))
    return entropy


def test_the_reward_is_the_distance_to_the_nearest() -> None:
    entropy = seen(0.0, 1.0, 5.0, 7.0)
    assert entropy.distance(th.tensor([[[0.5], [6.5], [9.0]]]))[0].tolist() == pytest.approx([0.5, 1.0, 3.0], abs=1e-4)
    entropy.usual_distance.mean.fill_(2.0)
    rollout = ImaginedRollout(states(0.5, 6.5, 9.0), th.zeros(1, 2, 1))
    expected = [math.log(1.25), math.log(1.5), math.log(2.5)]
    assert entropy.reward(rollout)[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_distances_in_many_dimensions_are_those_of_cdist_in_units_of_the_deviations() -> None:
    th.manual_seed(0)
    entropy = StateEntropy(decode, 7, particles=40, neighbours=5)
    units = th.arange(1.0, 8.0)
    entropy.scaling.update(units * th.randn(50, 7))
    entropy.particles.copy_(units * th.randn(40, 7))
    obs = units * th.randn(3, 4, 7)
    deviation = entropy.scaling.deviation()
    expected = th.cdist(obs.flatten(0, 1) / deviation, entropy.particles / deviation).sort(-1).values[:, :5].mean(-1)
    assert th.allclose(entropy.distance(obs).flatten(), expected, atol=1e-4)
    rollout = ImaginedRollout(LatentState(obs, obs), th.zeros(3, 3, 1))
    assert th.allclose(entropy.reward(rollout).flatten(), th.log1p(expected), atol=1e-4)


def test_an_actor_can_climb_it() -> None:
    entropy = seen(0.0, 0.0, 0.0, 0.0)
    deter = th.tensor([[[0.5]], [[-2.0]]], requires_grad=True)
    entropy.reward(ImaginedRollout(LatentState(deter, deter), th.zeros(2, 0, 1))).sum().backward()
    assert deter.grad is not None and deter.grad[0, 0, 0] > 0 > deter.grad[1, 0, 0]
    known = th.zeros(1, 1, 1, requires_grad=True)
    entropy.reward(ImaginedRollout(LatentState(known, known), th.zeros(1, 0, 1))).sum().backward()
    assert known.grad is not None and th.isfinite(known.grad).all()


def test_the_sample_is_one_row_of_each_window_of_the_last_batches() -> None:
    th.manual_seed(0)
    entropy = StateEntropy(decode, 1, particles=8, neighbours=1)
    for number in range(1, 7):
        deter = (10 * number + th.tensor([[1.0] * 5, [2.0] * 5])).unsqueeze(-1)  # two windows
        assert entropy.loss(batch_of(2), LatentState(deter, deter)).item() == 0.0
        present = sorted(set(entropy.particles.flatten().tolist()))
        assert present == [10.0 * n + window for n in range(max(1, number - 3), number + 1) for window in (1, 2)]
    rows = th.arange(400.0).view(1, 400, 1)
    few = StateEntropy(decode, 1, particles=400, neighbours=1)
    for _ in range(400):
        few.loss(batch_of(1), LatentState(rows, rows))
    assert 200 < len(few.particles.unique()) and float(few.particles.mean()) == pytest.approx(200, abs=25)  # any row


def test_starts_are_judged_before_they_are_in_the_sample() -> None:
    """A start among its own past and future would be known, and any way from there a discovery."""
    model = Dreamer(
        "MlpPolicy",
        "envs:ContinuousPendulum-v0",
        exploration="state_entropy",
        policy_kwargs=dict(size="debug"),
        pretrain_updates=0,
        learning_starts=40,
        device="cpu",
    )
    explorer, order = model.policy.explorer, []
    assert explorer is not None
    curiosity = explorer.curiosity
    with pytest.MonkeyPatch.context() as patch:
        for name in ("loss", "reward"):
            found = getattr(type(curiosity), name)
            patch.setattr(type(curiosity), name, lambda *args, name=name, found=found: (order.append(name), found(*args))[1])
        model.learn(42)
    assert order[:4] == ["reward", "loss"] * 2


@pytest.mark.parametrize(("n_uniform", "kept"), [(None, [1.0, 2.0, 9.0]), (2, [1.0, 2.0]), (0, [1.0, 2.0, 9.0])])
def test_the_sample_holds_states_as_often_as_they_occur(n_uniform: int | None, kept: list[float]) -> None:
    """Not those which a replay shows more often because they were predicted badly, unless there are no others."""
    th.manual_seed(0)
    entropy = StateEntropy(decode, 1, particles=400, neighbours=1)
    deter = th.tensor([1.0, 2.0, 9.0]).view(3, 1, 1)
    entropy.loss(batch_of(3, n_uniform), LatentState(deter, deter))
    assert entropy.particles.unique().tolist() == kept


def test_the_unit_is_the_usual_distance_of_what_is_not_yet_in_the_sample() -> None:
    th.manual_seed(0)
    entropy = StateEntropy(decode, 1, particles=400, neighbours=1)
    for _ in range(500):
        entropy.loss(batch_of(32), LatentState(100 * th.rand(32, 8, 1), th.zeros(32, 8, 1)))
    fresh = entropy.distance(100 * th.rand(4000, 1)).mean()
    assert float(entropy.usual_distance.mean) == pytest.approx(float(fresh), rel=0.1)


def test_what_is_not_finite_is_not_kept() -> None:
    entropy = StateEntropy(decode, 1, particles=4, neighbours=1)
    entropy.loss(batch_of(1), states(math.nan))
    assert int(entropy.scaling.count) == 0 and entropy.particles.abs().sum() == 0
    entropy.loss(batch_of(1), states(3.0))
    entropy.loss(batch_of(1), states(math.inf))
    assert entropy.particles.flatten().tolist() == [3.0] * 4 and float(entropy.usual_distance.mean) == 1.0


def test_a_running_mean_by_hand() -> None:
    usual = UsualValue()
    found = [float(usual.update(th.tensor(value))) for value in (4.0, math.nan, 8.0, 0.0)]
    assert found == [4.0, 4.0, 6.0, 4.0]


@pytest.mark.parametrize("kwargs", [dict(particles=2), dict(particles=0), dict(neighbours=0), dict(particles=4, neighbours=5)])
def test_sizes_that_make_no_sense(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="particles"):
        StateEntropy(decode, 3, **kwargs)


@pytest.mark.parametrize("env", ["envs:ContinuousPendulum-v0", "envs:SequenceMemory-v0"])
def test_dreamer_explores_with_it(env: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("entropy") / "model"
    model = tiny_dreamer(
        env, exploration="state_entropy", policy_kwargs=dict(size="debug", curiosity_kwargs=dict(particles=16))
    )
    model.learn(60)
    names = {group["name"] for group in model.policy.optimizer.param_groups}
    exploring = {"exploration_actor", "exploration_critic", "exploration_task_critic"}
    assert names == {"world_model", "actor", "critic"} | exploring  # it has nothing to train
    assert model.policy.explorer is not None and float(model.policy.explorer.curiosity.particles.abs().sum()) > 0
    model.save(path)
    loaded = Dreamer.load(path, device="cpu", trusted=False)
    assert all(th.equal(value, loaded.policy.state_dict()[name]) for name, value in weights_of(model).items())
    model.adapt(2)
    assert model.exploration is None and model.policy.explorer is None


@pytest.mark.parametrize("exploration", ["plan2explore", "state_entropy"])
def test_a_managers_novelty_may_be_another(exploration: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("novelty") / "model"
    model = tiny_director(exploration=exploration)
    before = weights_of(model)
    model.learn(60)
    curiosity = model.policy.curiosity
    assert curiosity.name == {"plan2explore": "disagreement"}.get(exploration, exploration)
    changed = [
        name
        for name, value in weights_of(model).items()
        if name.startswith("own_curiosity") and not th.equal(value, before[name])
    ]
    assert changed
    metrics = model._metrics.take()
    assert float(metrics["novelty_reward"]) > 0 and f"{curiosity.name}_loss" in metrics
    model.save(path)
    loaded = Director.load(path, device="cpu", trusted=False)
    assert type(loaded.policy.curiosity) is type(curiosity)
    assert all(th.equal(value, loaded.policy.state_dict()[name]) for name, value in weights_of(model).items())


@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
def test_any_observation_can_be_far_from_others(policy: str) -> None:
    env = FakeImageEnv(screen_height=16, screen_width=16) if policy == "CnnPolicy" else SimpleMultiObsEnv(channel_last=False)
    model = tiny_dreamer(env, policy=policy, exploration="state_entropy")
    model.learn(60)
    assert float(model._metrics.take()["curiosity"]) > 0


def test_the_worker_goes_for_what_is_new_only_if_asked_to() -> None:
    given = dict(exploration="state_entropy", goal_steps=3, imagination_horizon=6, learning_starts=40)
    model = tiny_director(**given, worker_intrinsic_coef=0.5).learn(60)
    assert float(model.policy.usual_novelty.count) > 0
    batch, _ = model.sample_replay(4, 8)
    blocks = model._dream(model._imagination_starts(model.world_model.loss(batch)[0])[0])
    blocks = blocks._replace(nudge=None)  # to be judged twice
    rewards = []
    for coef in (0.0, 0.5):
        model.worker_intrinsic_coef = coef
        metrics: dict[str, th.Tensor] = {}
        model._worker_losses(blocks, metrics)
        rewards.append(metrics["goal_reward"].item())
    novelty = model._novelty(blocks)
    expected = 0.5 * (novelty / model.policy.usual_novelty.mean).mean().item()
    assert rewards[1] - rewards[0] == pytest.approx(expected, rel=1e-4) and expected > 0
    assert float(tiny_director(**given).learn(60).policy.usual_novelty.count) == 0
    with pytest.raises(ValueError, match="worker_intrinsic_coef"):
        tiny_director(worker_intrinsic_coef=-1.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(exploration="curiosity"), "exploration must be one of 'plan2explore', 'reconstruction', 'state_entropy', got"),
        (dict(policy_kwargs=dict(size="debug", curiosity_kwargs=dict(particles=8))), "goal_kwargs"),
        (
            dict(exploration="state_entropy", policy_kwargs=dict(size="debug", curiosity_kwargs=dict(members=3))),
            "'members', but 'state_entropy' takes particles, neighbours",
        ),
    ],
)
def test_a_manager_with_wrong_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_director(**kwargs)
