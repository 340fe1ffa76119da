"""One update taken apart: which option reaches which number, and which gradient reaches which network."""

import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import tiny_dreamer
from gymnasium import spaces
from stable_baselines3.common.envs import FakeImageEnv

from sb3_dreamer import DREAMER_V3, Director, Dreamer
from sb3_dreamer.behaviour.losses import imagined_returns
from sb3_dreamer.common.optimizers import LaProp
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.dreamer.presets import PUBLISHED_WORLD_MODEL
from sb3_dreamer.world_models import RSSM


@pytest.fixture
def ready() -> Any:
    """Makes agents whose replay is filled and whose heads say something, after a first update."""

    def make(**kwargs: Any) -> Dreamer:
        model = tiny_dreamer(kwargs.pop("env", "envs:ContinuousPendulum-v0"), **kwargs).learn(60)
        with th.no_grad():
            for head in (model.world_model.reward_head, model.critic.net, model.policy.slow_critic.net):
                head.out.weight.normal_(std=0.3)
        return model

    return make


def losses(model: Dreamer, seed: int = 0) -> tuple[th.Tensor, th.Tensor, th.Tensor, dict[str, th.Tensor]]:
    """Actor loss, critic loss, returns and metrics of one batch, with fixed noise."""
    th.manual_seed(seed)
    model.replay_buffer.seed(seed)
    batch, _ = model.replay_buffer.sample(model.batch_size, model.batch_length)
    posterior = model.world_model.observe(batch)
    metrics: dict[str, th.Tensor] = {}
    starts, _ = model._imagination_starts(posterior)
    return *model._imagined_losses(starts, metrics), metrics


def scale_and_starts(model: Dreamer) -> tuple[th.Tensor, LatentState]:
    """The unit of the returns in the :func:`losses` just computed, and their starts again, with the same noise to follow."""
    scale = (model.policy.return_high - model.policy.return_low).clamp_min(1.0)  # moved by that very batch
    th.manual_seed(0)
    model.replay_buffer.seed(0)
    batch, _ = model.replay_buffer.sample(model.batch_size, model.batch_length)
    return scale, model._imagination_starts(model.world_model.observe(batch))[0]


def gradients(loss: th.Tensor, module: th.nn.Module) -> float:
    grads = th.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad], allow_unused=True, retain_graph=True)
    return sum(float(grad.abs().sum()) for grad in grads if grad is not None)


# ---- the published settings, value by value (DreamerV3's configs.yaml, dmc_proprio and size1m)


def test_published_values() -> None:
    expected = dict(
        learning_rate=4e-5,
        warmup_updates=1000,
        batch_size=16,
        batch_length=64,
        train_ratio=1024,
        train_ratio_decay=1.0,
        train_ratio_steps=0,
        gamma=1 - 1 / 333,
        return_lambda=0.95,
        imagination_horizon=15,
        imagination_starts=None,
        actor_gradient="reinforce",
        ent_coef=3e-4,
        slow_critic_scale=1.0,
        slow_critic_rate=0.02,
        replay_value_scale=0.3,
        online_replay=True,
        prioritized_replay=0.0,
        random_warmup=False,
        pretrain_updates=0,
        max_grad_norm=None,
        action_mean_penalty=0.0,
        evaluation_rate=None,
        actor_learning_rate=None,
        critic_learning_rate=None,
        buffer_size=5_000_000,
        learning_starts=1088,
    )
    assert {name: DREAMER_V3[name] for name in expected} == expected
    assert set(DREAMER_V3) == {*expected, "policy_kwargs"}
    kwargs = DREAMER_V3["policy_kwargs"]
    assert kwargs["size"] == "1m" and kwargs["latent"] == "categorical" and kwargs["optimizer_class"] is LaProp
    assert kwargs["optimizer_kwargs"] == dict(betas=(0.9, 0.999), eps=1e-20, agc=0.3)
    assert kwargs["actor_kwargs"] == dict(min_std=0.1, max_std=1.0, unimix=0.01)
    assert kwargs["world_model_kwargs"] == dict(
        normalize_obs="symlog",
        norm="rms",
        update_bias=-1.0,
        unimix=0.01,
        min_std=0.1,
        free_nats=1.0,
        reward_head="twohot",
        reconstruction_scale=1.0,
        reward_scale=1.0,
        continue_scale=1.0,
        kl_dynamics_scale=1.0,
        kl_representation_scale=0.1,
        image_scale=1.0,
        strided=False,
    )


def test_no_default_of_ours_leaks_into_the_published_settings() -> None:
    assert set(RSSM.small_task_kwargs) - {"latent"} <= set(PUBLISHED_WORLD_MODEL)
    general = {"self", "policy", "env", "stats_window_size", "tensorboard_log", "verbose", "seed", "device"}
    general |= {"replay_buffer_kwargs"}  # where rows lie, not what is learnt from them
    general |= {"exploration", "explorer_share", "intrinsic_coef", "extrinsic_coef"}  # None, and what has no effect without
    arguments = set(inspect.signature(Dreamer.__init__).parameters) - general - {"_init_setup_model"}
    assert arguments == set(DREAMER_V3)
    policy = set(inspect.signature(Dreamer.policy_aliases["MlpPolicy"].__init__).parameters)
    policy -= {"self", "observation_space", "action_space", "lr_schedule", "gamma", "world_model_class"}
    policy -= {"exploration", "curiosity_kwargs"}
    policy -= {"features_extractor_class", "features_extractor_kwargs", "normalize_images"}  # SB3's, None and True
    assert policy == set(DREAMER_V3["policy_kwargs"])


def test_loss_scales_of_both_presets() -> None:
    published = Dreamer(
        "MlpPolicy", "envs:ContinuousPendulum-v0", **{**DREAMER_V3, "buffer_size": 2000}, device="cpu"
    ).world_model.loss_scales
    assert published == {
        "reconstruction/obs": 1.0,
        "reward": 1.0,
        "continue": 1.0,
        "kl_dynamics": 1.0,
        "kl_representation": 0.1,
    }
    ours = tiny_dreamer().world_model.loss_scales
    for name, key in (("reconstruction/obs", "reconstruction_scale"), ("reward", "reward_scale")):
        assert ours[name] == RSSM.small_task_kwargs[key] != published[name]


# ---- learning rates and gradients


def test_learning_rates_warm_up_and_differ_by_network() -> None:
    model = tiny_dreamer(
        learning_rate=1e-3, actor_learning_rate=2e-3, critic_learning_rate=lambda p: 4e-3 * p, warmup_updates=10
    )
    model._setup_learn(10, None)
    for updates, share in ((0, 0.0), (5, 0.5), (10, 1.0), (500, 1.0)):
        model._n_updates = updates
        model._update_rates()
        rates = {group["name"]: group["lr"] for group in model.policy.optimizer.param_groups}
        assert rates == pytest.approx(dict(world_model=1e-3 * share, actor=2e-3 * share, critic=4e-3 * share))
    model._current_progress_remaining = 0.5
    model._update_rates()
    assert model.policy.optimizer.param_groups[2]["lr"] == pytest.approx(2e-3)


def test_gradient_norms_are_limited_by_network(ready: Any) -> None:
    model = ready(max_grad_norm=1e-3)
    model.train(1)
    for module in model.policy.trained_modules().values():
        norm = th.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
        assert 0 < norm <= 1.001e-3


def test_the_loss_scales_weigh_the_model_loss(ready: Any) -> None:
    model = ready()
    start = copy.deepcopy(model.policy.state_dict())
    changes = {}
    for scale in (10.0, 0.0):
        model.policy.load_state_dict(start)
        model.world_model.loss_scales = dict.fromkeys(model.world_model.loss_scales, 0.0) | {"reconstruction/obs": scale}
        model.replay_value_scale = 0.0
        model.train(1)
        changes[scale] = sum(float(p.grad.abs().sum()) for p in model.world_model.parameters() if p.grad is not None)
    assert changes[10.0] > 0 and changes[0.0] == 0


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_behaviour_reaches_actor_and_critic_only(ready: Any, gradient: str, task: str) -> None:
    model = ready(env=f"envs:{task}", actor_gradient=gradient)
    actor_loss, value_loss, _, _ = losses(model)
    assert gradients(actor_loss, model.actor) > 0
    assert gradients(value_loss, model.critic) > 0 and gradients(value_loss, model.actor) == 0
    assert gradients(value_loss, model.world_model) == 0
    assert gradients(actor_loss, model.world_model) == 0 and gradients(actor_loss, model.critic) == 0
    # ... and an update leaves no trace of it in the model
    model.world_model.loss_scales = dict.fromkeys(model.world_model.loss_scales, 0.0)
    model.replay_value_scale = 0.0
    model.train(1)
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.world_model.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.actor.parameters())


@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_reinforce_gradient_is_that_of_the_policy_evaluated_again(ready: Any, task: str) -> None:
    """The graph kept while imagining gives what evaluating the actor on the finished, detached rollout gives."""
    model = ready(env=f"envs:{task}", actor_gradient="reinforce", action_mean_penalty=0.0, imagination_starts=None)
    parameters = list(model.actor.parameters())
    loss, *_ = losses(model)
    found = th.autograd.grad(loss, parameters)

    scale, starts = scale_and_starts(model)
    rollout = model._dream(starts).rollout
    assert not rollout.actions.requires_grad and not rollout.states.feat.requires_grad
    with th.no_grad():
        reward = model.world_model.predict_reward(rollout.states)
        discount = model.world_model.predict_discount(rollout.states)
        value = model.critic(rollout.states.feat).mean
        returns, weights = imagined_returns(reward, discount, value, model.return_lambda)
    policy = model.actor(rollout.states.feat[:, :-1])
    advantage = (returns - value[:, :-1]) / scale
    expected = -weights * (policy.log_prob(rollout.actions) * advantage + model._ent_coef * policy.entropy)
    gradients_again = th.autograd.grad(expected.mean(), parameters)
    assert max(float(grad.abs().max()) for grad in gradients_again) > 1e-6
    assert all(th.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(found, gradients_again, strict=True))


@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_dynamics_gradient_is_that_through_the_whole_dream(ready: Any, task: str) -> None:
    """Choosing the actions again, all at once, gives the gradient of a dream whose graph holds actor and model."""
    model = ready(env=f"envs:{task}", actor_gradient="dynamics", imagination_starts=None)
    parameters = list(model.actor.parameters())
    loss, *_ = losses(model)
    found = th.autograd.grad(loss, parameters)

    scale, starts = scale_and_starts(model)
    noise = iter(model.actor.noise((len(starts.deter), model.imagination_horizon), starts.deter).unbind(1))
    policies = []

    def act(feat: th.Tensor) -> th.Tensor:
        policies.append(model.actor(feat.detach()))
        return policies[-1].sample(next(noise))

    rollout = model.world_model.imagine(act, starts, model.imagination_horizon)
    reward, discount = model.world_model.predict_reward(rollout.states), model.world_model.predict_discount(rollout.states)
    value = model.critic(rollout.states.feat).mean
    returns, weights = imagined_returns(reward, discount, value, model.return_lambda)
    entropy, saturation = (th.stack([getattr(p, name) for p in policies], 1) for name in ("entropy", "saturation"))
    expected = (-weights * (returns / scale + model._ent_coef * entropy)).mean()
    expected = expected + model._action_mean_penalty * saturation.mean()
    gradients_again = th.autograd.grad(expected, parameters)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert max(float(grad.abs().max()) for grad in gradients_again) > 1e-6
    assert all(th.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(found, gradients_again, strict=True))


def test_replay_value_loss_reaches_the_world_model(ready: Any) -> None:
    model = ready()
    batch, _ = model.replay_buffer.sample(4, 8)
    posterior = model.world_model.observe(batch)
    loss = model._replay_value_loss(batch, posterior, None)
    assert gradients(loss, model.world_model.core) > 0 and gradients(loss, model.critic) > 0


def test_replay_value_loss_bootstraps_with_imagined_returns_where_there_are_all(ready: Any) -> None:
    model = ready(imagination_starts=None)
    batch, _ = model.replay_buffer.sample(4, 8)
    posterior = model.world_model.observe(batch)
    low, high = (model._replay_value_loss(batch, posterior, th.full((32,), value)) for value in (0.0, 50.0))
    assert not th.allclose(low, high)


@pytest.mark.parametrize("name", ["replay_value_scale", "action_mean_penalty", "slow_critic_scale", "ent_coef"])
def test_every_weight_changes_the_update(ready: Any, name: str) -> None:
    results = []
    for value in (0.0, 3.0):
        model = ready(replay_value_scale=0.0)
        setattr(model, name, value)
        if name in ("ent_coef", "action_mean_penalty"):
            setattr(model, f"_{name}", value)
        th.manual_seed(0)
        model.replay_buffer.seed(0)
        model.train(1)
        results.append(th.cat([p.grad.flatten() for p in (*model.actor.parameters(), *model.critic.parameters())]))
    assert not th.allclose(results[0], results[1])


# ---- targets, starts and slow copies


def test_targets_come_from_the_online_critic(ready: Any) -> None:
    """Changing the slow critic changes what the critic is pulled to, not the returns."""
    model = ready()
    _, value_loss, returns, _ = losses(model)
    for parameter in model.policy.slow_critic.parameters():
        parameter.data.normal_()
    _, other_loss, same_returns, _ = losses(model)
    assert th.equal(returns, same_returns) and not th.allclose(value_loss, other_loss)
    for parameter in model.critic.parameters():
        parameter.data.normal_()
    assert not th.allclose(returns, losses(model)[2])


def test_slow_critic_follows_after_the_step(ready: Any) -> None:
    model = ready(slow_critic_rate=0.25)
    before = [p.clone() for p in model.policy.slow_critic.parameters()]
    model.train(1)
    for slow, old, online in zip(model.policy.slow_critic.parameters(), before, model.critic.parameters(), strict=True):
        assert th.allclose(slow, old + 0.25 * (online - old), atol=1e-6)


def test_pretraining_updates_the_world_model_alone() -> None:
    model = tiny_dreamer(pretrain_updates=5, train_ratio=1e-6)
    before = {name: [p.clone() for p in module.parameters()] for name, module in model.policy.trained_modules().items()}

    def changed() -> dict[str, bool]:
        modules = model.policy.trained_modules().items()
        return {
            name: any(not th.equal(a, b) for a, b in zip(module.parameters(), before[name], strict=True))
            for name, module in modules
        }

    model.learn(39)
    assert model._n_updates == 0
    model._update_debt, model.num_timesteps = 5.0, 40
    model._train_if_due()
    assert model._n_updates == 5 and changed() == {"world_model": True, "actor": False, "critic": False}
    assert "model_loss" in (means := model._metrics.take()) and "actor_loss" not in means
    model.train(2)
    assert all(changed().values()) and model._metrics.take().keys() >= {"model_loss", "actor_loss", "replay_value_loss"}


@pytest.mark.parametrize(("action", "length"), [("ContinuousPendulum-v0", 8), ("SequenceMemory-v0", 32)])
def test_windows_of_default_length(action: str, length: int) -> None:
    def rows(**kwargs: Any) -> tuple[int, int]:
        model = Dreamer("MlpPolicy", f"envs:{action}", policy_kwargs=dict(size="debug"), **kwargs)
        return model.batch_size, model.batch_length

    assert rows() == (512 // length, length)
    assert rows(batch_length=64) == (8, 64)
    assert rows(batch_length=1000) == (1, 1000)
    assert rows(batch_size=5) == (5, length)
    with pytest.raises(ValueError, match="batch_length must be at least 1, got 0"):
        rows(batch_length=0)


def test_batches_and_updates_a_step_by_what_is_seen(tmp_path: Path) -> None:
    """Twice the rows cost convolutions twice the time."""

    def usual(policy: str, env: gym.Env | str, **kwargs: Any) -> tuple[int, float]:
        model = Dreamer(policy, env, policy_kwargs=dict(size="debug", **kwargs))
        return model.batch_size * model.batch_length, model.train_ratio

    pictures = FakeImageEnv(discrete=False, screen_height=64, screen_width=64)
    scaled = gym.wrappers.TransformObservation(
        pictures, lambda obs: np.float32(obs / 255), spaces.Box(0, 1, (64, 64, 1), np.float32)
    )
    assert usual("MlpPolicy", "envs:ContinuousPendulum-v0") == (512, 768)
    assert usual("CnnPolicy", pictures) == usual("MultiInputPolicy", pictures) == (256, 384)
    assert usual("MlpPolicy", pictures) == (512, 768)  # a vector like any other
    assert usual("CnnPolicy", scaled, normalize_images=False) == (256, 384)
    model = Dreamer("MlpPolicy", "envs:ContinuousPendulum-v0", train_ratio=8, policy_kwargs=dict(size="debug"))
    assert model.train_ratio == 8 and model.batch_size == 64
    model.save(tmp_path / "model")
    assert Dreamer.load(tmp_path / "model").train_ratio == 8
    assert Dreamer.load(tmp_path / "model", train_ratio=None).train_ratio == 768
    assert Director("MlpPolicy", "envs:ContinuousPendulum-v0", policy_kwargs=dict(size="debug")).batch_size == 32


@pytest.mark.parametrize(("starts", "expected"), [(None, 32), (5, 5), (32, 32), (500, 32)])
def test_number_of_imagination_starts(ready: Any, starts: int | None, expected: int) -> None:
    model = ready(imagination_starts=starts)
    batch, _ = model.replay_buffer.sample(4, 8)
    posterior = model.world_model.observe(batch)
    states, chosen = model._imagination_starts(posterior)
    assert len(states.deter) == expected and not states.deter.requires_grad
    assert (chosen is None) == (expected == 32)
    flat = posterior.deter.flatten(0, 1).detach()
    picked = flat if chosen is None else flat[chosen]
    assert th.equal(states.deter, picked) and (chosen is None or len(chosen.unique()) == expected)


def test_horizon_and_actions_beyond_the_start(ready: Any) -> None:
    model = ready(imagination_horizon=6)
    batch, _ = model.replay_buffer.sample(4, 8)
    rollout, policies, *_ = model._dream(model._imagination_starts(model.world_model.observe(batch))[0])
    assert rollout.states.deter.shape[1] == 7 and rollout.actions.shape[1] == 6 and policies.entropy.shape[1] == 6


@pytest.mark.parametrize(("task", "dynamics"), [("ContinuousPendulum-v0", True), ("SequenceMemory-v0", False)])
def test_auto_resolves_by_the_kind_of_action(task: str, dynamics: bool) -> None:
    model = tiny_dreamer(f"envs:{task}")
    assert model._through_dynamics is dynamics
    assert model._ent_coef == (2e-2 if dynamics else 3e-2)
    assert tiny_dreamer(f"envs:{task}", ent_coef=0.5)._ent_coef == 0.5
    assert tiny_dreamer(f"envs:{task}", actor_gradient="dynamics")._through_dynamics


@pytest.mark.parametrize(
    ("name", "steps", "falls"),
    [
        ("ent_coef", (1, 2000, 4000, 20_000, 10**6), [2e-2, 2e-2, 1e-2, 2e-3, 2e-3]),
        ("action_mean_penalty", (1, 1000, 2000, 10_000, 10**6), [1e-2, 1e-2, 2.5e-3, 2e-4, 2e-4]),
    ],
)
@pytest.mark.parametrize("given", ["auto", 0.5, 0.0])
def test_weights_fall_where_they_are_left_open(
    ready: Any, name: str, steps: tuple[int, ...], falls: list[float], given: Any
) -> None:
    expected = falls if given == "auto" else [given] * 5
    model = ready(**{name: given})
    assert getattr(model, f"_{name}") == expected[0]
    found = []
    for steps_in_all in steps:
        model._steps_in_all = steps_in_all
        model.train(1)
        found.append(getattr(model, f"_{name}"))
        assert model.logger.name_to_value[f"train/{name}"] == found[-1]
    assert found == pytest.approx(expected)


def test_a_late_start_is_a_start_for_what_falls(ready: Any) -> None:
    model = ready(learning_starts=5000)
    for began, steps, penalty, entropy in ((0, 5800, 1e-2, 2e-2), (0, 6800, 2.5e-3, 2e-2), (8000, 12_000, 6.25e-4, 1e-2)):
        model._behaviour_began, model._steps_in_all = began, steps
        model._update_rates()
        assert (model._action_mean_penalty, model._ent_coef) == pytest.approx((penalty, entropy))


@pytest.mark.parametrize("name", ["action_mean_penalty", "ent_coef"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), True, "automatic", None])
def test_weights_that_fall_are_numbers_or_auto(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        tiny_dreamer(**{name: value})
    assert tiny_dreamer(**{name: np.float32(0.5)})._action_mean_penalty is not None


@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_short_numbers_reach_every_weight_of_the_actor(ready: Any, task: str) -> None:
    """The actor acts without a graph first: what autocast keeps of that must not cut its gradient."""
    policy_kwargs = dict(size="debug", precision="bf16")
    model = ready(env=f"envs:{task}", actor_gradient="dynamics", policy_kwargs=policy_kwargs)
    with model.policy.autocast():
        loss, *_ = losses(model)
    found = th.autograd.grad(loss, list(model.actor.parameters()))
    assert all(float(grad.abs().max()) > 0 for grad in found)


def test_dreams_that_do_not_follow_the_actions_are_named(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready(actor_gradient="dynamics")
    imagine = model.world_model.imagine
    monkeypatch.setattr(model.world_model, "imagine", lambda act, starts, horizon: _cut(imagine(act, starts, horizon)))
    with pytest.raises(RuntimeError, match="use 'reinforce'"):
        model.train(1)


def _cut(rollout: Any) -> Any:
    return dataclasses.replace(rollout, states=rollout.states.detach())


def test_dynamics_gradient_finds_the_better_action() -> None:
    """In a model whose reward IS the action just taken, one look tells the actor which way to go."""
    model = tiny_dreamer(learning_starts=40, ent_coef=0.0, action_mean_penalty=0.0, imagination_horizon=1).learn(60)

    def imagine(policy: Any, state: Any, horizon: int) -> Any:
        from sb3_dreamer.common.types import ImaginedRollout, LatentState

        action = policy(state.feat)
        after = LatentState(state.deter, action.expand(-1, model.world_model.stoch_size))
        return ImaginedRollout(LatentState.stack([state, after], 1), action[:, None])

    model.world_model.imagine = imagine  # type: ignore[method-assign]
    model.world_model.predict_reward = lambda states: states.stoch[..., 0]  # type: ignore[method-assign]
    model.critic.net.out.weight.data.zero_()
    batch, _ = model.replay_buffer.sample(4, 8)
    starts, _ = model._imagination_starts(model.world_model.observe(batch))
    actor_loss, _, _ = model._imagined_losses(starts, {})
    slope = th.autograd.grad(actor_loss, model.actor.mean.bias)[0]
    assert (slope < 0).all()  # descending the loss raises the action
