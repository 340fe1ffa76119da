import dataclasses
from typing import Any

import pytest
import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.world_models import RSSM, SIZES, ModelSize
from sb3_dreamer.world_models.sizes import get_size

KEYS = [ObservationKey("obs", "vector", 3, (3,), "float32")]
SMALL = ModelSize(deter=16, hidden=8, units=8, groups=4, classes=3, blocks=4, depth=1, layers=2, bins=41)


def make(latent: str = "categorical", **kwargs) -> RSSM:
    th.manual_seed(0)
    return RSSM(KEYS, action_size=2, size=SMALL, latent=latent, **kwargs)  # type: ignore[arg-type]


def make_batch(model: RSSM, batch: int = 5, length: int = 7) -> SequenceBatch:
    generator = th.Generator().manual_seed(1)
    is_first = (th.rand(batch, length, generator=generator) < 0.25).float()
    zeros = th.zeros(batch, length)
    return SequenceBatch(
        obs={"obs": th.randn(batch, length, 3, generator=generator)},
        prev_action=th.randn(batch, length, 2, generator=generator),
        reward=th.randn(batch, length, generator=generator),
        is_first=is_first,
        is_last=zeros,
        is_terminal=zeros,
        initial=LatentState(
            th.randn(batch, model.deter_size, generator=generator),
            th.randn(batch, model.stoch_size, generator=generator),
        ),
    )


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_observe_equals_single_steps(latent: str) -> None:
    """Filtering a sequence at once, with all that can be done outside its loop, is filtering step by step."""
    model = make(latent)
    batch = make_batch(model)
    # the mode takes no random numbers, so both ways can be compared: sample() is replaced by it
    model.latents.sample = lambda params, noise: model.latents.mode(params)  # type: ignore[method-assign]
    states = model.observe(batch)
    state = batch.initial
    for t in range(7):
        state = model.observe_step(
            {"obs": batch.obs["obs"][:, t]}, batch.prev_action[:, t], batch.is_first[:, t], state, deterministic=True
        )
        assert th.allclose(states.deter[:, t], state.deter, atol=1e-6)
        assert th.allclose(states.stoch[:, t], state.stoch, atol=1e-6)


def test_posterior_equals_the_plain_network_on_state_and_embedding() -> None:
    model = make("gaussian")
    obs, deter = {"obs": th.randn(4, 3)}, th.randn(4, 16)
    split = model._posterior_params(deter, model._embed_term(obs))
    assert th.allclose(split, model.posterior_net(th.cat([deter, model.observation_model.encode(obs)], -1)), atol=1e-5)


def test_is_first_forgets_state_sample_and_action() -> None:
    model = make()
    obs, yes = {"obs": th.randn(2, 3)}, th.ones(2)
    wild = LatentState(100 * th.randn(2, 16), 100 * th.randn(2, 12))
    fresh = model.observe_step(obs, th.zeros(2, 2), yes, model.initial_state(2), deterministic=True)
    again = model.observe_step(obs, th.randn(2, 2), yes, wild, deterministic=True)
    assert th.equal(fresh.deter, again.deter) and th.equal(fresh.stoch, again.stoch)
    other = model.observe_step(obs, th.randn(2, 2), th.zeros(2), wild, deterministic=True)
    assert not th.allclose(fresh.deter, other.deter)


def test_what_comes_before_a_border_has_no_influence_after_it() -> None:
    model = make("gaussian")
    batch = make_batch(model)
    first = th.zeros(5, 7)
    first[:, 3] = 1
    batch = dataclasses.replace(batch, is_first=first)
    changed = dataclasses.replace(batch, initial=batch.initial.map(lambda x: x + 1), prev_action=batch.prev_action.clone())
    changed.prev_action[:, :4] += 1  # the action that leads into the reset row included
    results = []
    for given in (batch, changed):
        th.manual_seed(3)
        results.append(model.observe(given))
    assert not th.allclose(results[0].deter[:, :3], results[1].deter[:, :3])
    assert th.equal(results[0].deter[:, 3:], results[1].deter[:, 3:])


def test_a_window_that_does_not_start_an_episode_uses_its_context() -> None:
    model = make("gaussian")
    batch = dataclasses.replace(make_batch(model), is_first=th.zeros(5, 7))
    th.manual_seed(0)
    with_context = model.observe(batch)
    th.manual_seed(0)
    without = model.observe(dataclasses.replace(batch, initial=model.initial_state(5)))
    assert not th.allclose(with_context.deter[:, 0], without.deter[:, 0])


def test_imagine_follows_prior_and_actions() -> None:
    model = make("gaussian")
    start = LatentState(th.randn(6, 16), th.randn(6, 4))
    actions = th.rand(6, 3, 2)
    rollout = model.imagine(actions, start, 3, deterministic=True)
    assert rollout.states.deter.shape == (6, 4, 16) and th.equal(rollout.actions, actions)
    assert th.equal(rollout.states.deter[:, 0], start.deter)
    deter, stoch = start.deter, start.stoch
    weights = model.core.unroll_weights()
    for t in range(3):
        deter = model.core.step(deter, stoch, model.core.action_term(actions[:, t], weights), weights)
        stoch = model.prior_net(deter)[:, :4]
        assert th.allclose(rollout.states.deter[:, t + 1], deter, atol=1e-6)
        assert th.allclose(rollout.states.stoch[:, t + 1], stoch, atol=1e-6)
    by_policy = model.imagine(lambda feat: th.tanh(feat[:, :2]), start, 3, deterministic=True)
    assert th.allclose(by_policy.actions[:, 0], th.tanh(start.feat[:, :2]))


def test_losses_by_an_independent_formula() -> None:
    model = make(free_nats=0.0)
    with th.no_grad():  # so that the zero-initialised reward head has something to say
        model.reward_head.out.weight.normal_()
    batch = dataclasses.replace(make_batch(model), is_terminal=(th.arange(7) == 4).float().expand(5, 7))
    states, losses, _ = model.loss(batch)
    feat = th.cat([states.deter, states.stoch], -1)
    assert losses.keys() == model.loss_scales.keys()
    target = th.where(batch.is_terminal.bool(), 0.0, 1 - 1 / 333)  # the discount lives in the continue head
    logits = model.continue_head(feat)[..., 0]
    expected = -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits))
    assert th.allclose(losses["continue"], expected, atol=1e-5)
    prior = model.prior_net(states.deter)
    embed = model.observation_model.encode(model.observation_model.scale(batch.obs))
    posterior = model.posterior_net(th.cat([states.deter, embed], -1))
    p, q = (0.99 * th.softmax(x.view(5, 7, 4, 3), -1) + 0.01 / 3 for x in (posterior, prior))
    kl = (p * (p / q).log()).sum((-2, -1))
    assert th.allclose(losses["kl_dynamics"], kl, atol=1e-4)
    assert th.allclose(losses["kl_representation"], kl, atol=1e-4)


def test_free_nats_apply_to_the_summed_kl_of_every_row() -> None:
    """Under one nat in sum there is nothing to gain; a row above is not excused by rows below."""
    model = make(free_nats=1.0)
    batch = make_batch(model)
    plain = make(free_nats=0.0)
    plain.load_state_dict(model.state_dict())
    th.manual_seed(0)
    _, free, _ = model.loss(batch)
    th.manual_seed(0)
    _, full, _ = plain.loss(batch)
    assert (full["kl_dynamics"] < 1.0).any() and (full["kl_dynamics"] > 1.0).any()
    assert th.allclose(free["kl_dynamics"], full["kl_dynamics"].clamp_min(1.0))
    assert th.allclose(free["kl_representation"], full["kl_representation"].clamp_min(1.0))
    model.zero_grad()
    model.posterior_net.out.weight.data.zero_()
    model.prior_net.out.weight.data.zero_()
    _, losses, _ = model.loss(batch)
    losses["kl_dynamics"].sum().backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.prior_net.parameters())


def test_kl_gradients_reach_prior_and_posterior() -> None:
    model = make(free_nats=0.0)
    batch = make_batch(model)
    _, losses, _ = model.loss(batch)
    prior, posterior = model.prior_net.out.weight, model.posterior_net.out.weight
    grads = th.autograd.grad(losses["kl_dynamics"][:, 0].sum(), [prior], retain_graph=True)
    assert grads[0].abs().sum() > 0
    # the first row's KL has no path through earlier samples: the dynamics loss leaves its posterior alone
    first = th.autograd.grad(losses["kl_dynamics"][:, 0].sum(), [posterior], retain_graph=True, allow_unused=True)[0]
    assert first is None or first.abs().sum() == 0
    assert th.autograd.grad(losses["kl_representation"][:, 0].sum(), [posterior])[0].abs().sum() > 0


def test_reward_and_continue_gradients_reach_the_recurrent_core() -> None:
    model = make()
    with th.no_grad():
        model.reward_head.out.weight.normal_()
    batch = make_batch(model)
    for name in ("reward", "continue", "reconstruction/obs"):
        model.zero_grad()
        _, losses, _ = model.loss(batch)
        losses[name].sum().backward()
        assert model.core.gate_weight.grad.abs().sum() > 0, name


def test_every_row_is_trained_reset_rows_included() -> None:
    model = make()
    batch = dataclasses.replace(make_batch(model), is_first=th.ones(5, 7))
    seen = []
    model.reward_head.register_forward_hook(lambda module, inputs, output: (output.retain_grad(), seen.append(output))[0])
    _, losses, _ = model.loss(batch)
    losses["reward"].mean().backward()
    assert seen[0].grad.shape[:2] == (5, 7) and (seen[0].grad.abs().sum(-1) > 0).all()


def test_first_predictions_of_reward_are_exactly_zero() -> None:
    model = make()
    state = LatentState(th.randn(4, 16), th.randn(4, 12))
    assert model.predict_reward(state).tolist() == [0.0] * 4
    assert ((model.predict_discount(state) > 0) & (model.predict_discount(state) < 1)).all()


def test_decode_is_in_the_units_of_the_observation() -> None:
    model = make(normalize_obs="running")
    model.update_statistics({"obs": 1000 + 5 * th.randn(500, 3)}, th.zeros(500))
    decoded = model.decode(LatentState(th.randn(4, 16), th.randn(4, 12)))["obs"]
    assert ((decoded - 1000).abs() < 50).all()


@pytest.mark.slow
def test_model_fits_a_small_system() -> None:
    """A linear system with a hidden velocity: open-loop predictions become far better than "no change"."""
    th.manual_seed(0)
    key = [ObservationKey("obs", "vector", 1, (1,), "float32")]
    size = dataclasses.replace(SIZES["toy"], deter=32, hidden=32, units=32)
    model = RSSM(key, 1, size, latent="gaussian", normalize_obs="none", norm="layer", reconstruction_scale=10.0)
    optimizer = th.optim.Adam(model.parameters(), lr=2e-3)

    def data(batch: int) -> SequenceBatch:
        length, position, velocity = 20, th.zeros(batch), th.randn(batch) * 0.2
        actions, positions = th.rand(batch, length, 1) * 2 - 1, []
        for t in range(length):
            velocity = 0.95 * velocity + 0.1 * actions[:, t, 0] * (t > 0)
            position = position + velocity
            positions.append(position)
        zeros, first = th.zeros(batch, length), th.zeros(batch, length)
        first[:, 0] = 1
        obs = th.stack(positions, 1)
        return SequenceBatch({"obs": obs[..., None]}, actions, obs, first, zeros, zeros, model.initial_state(batch))

    for _ in range(250):
        optimizer.zero_grad()
        _, losses, _ = model.loss(data(32))
        sum(model.loss_scales[name] * loss.mean() for name, loss in losses.items()).backward()
        optimizer.step()

    from sb3_dreamer.common.callbacks import open_loop_error

    with th.no_grad():
        batch = data(200)
        error = open_loop_error(model, batch, context=8)
        still = (batch.obs["obs"][:, 8:, 0] - batch.obs["obs"][:, 7:8, 0]).square().mean(0).sqrt()
        still = still / batch.obs["obs"].flatten().std()
    assert error["obs"][0] < 0.12 and error["obs"][-1] < 0.5 * still[-1]
    assert error["reward"][0] < 0.2


def test_squared_reward_head_predicts_in_the_units_of_the_reward() -> None:
    model = make(reward_head="squared")
    model.update_statistics({"obs": th.randn(4, 3)}, th.full((4,), 50.0))
    with th.no_grad():
        model.reward_head.out.bias.fill_(0.5)
    batch = make_batch(model)
    state = LatentState(th.randn(4, 16), th.randn(4, 12))
    assert model.predict_reward(state).tolist() == [25.0] * 4
    _, losses, _ = model.loss(batch)
    assert th.allclose(losses["reward"], (0.5 - batch.reward / 50).square())
    with pytest.raises(ValueError, match="reward_head"):
        make(reward_head="mse")


def test_sizes() -> None:
    assert get_size("1m") is SIZES["1m"] and get_size(SMALL) is SMALL
    with pytest.raises(ValueError, match="Unknown size='2m'"):
        get_size("2m")
    with pytest.raises(ValueError, match="latent"):
        make("binary")


def test_planets_kl_is_one_that_both_sides_follow_above_3_nats() -> None:
    """Two halves of weight 1, each with a gradient to one side only, are one KL with a gradient to both."""
    model: Any = make(**{**RSSM.planet_kwargs, "latent": "gaussian"})
    nets = [model.prior_net, model.posterior_net]
    batch = make_batch(model)
    for far in (0.0, 3.0):  # below the free nats there is no gradient at all
        with th.no_grad():
            for net in nets:
                net.out.weight.zero_()
            model.posterior_net.out.bias[:4] = far
        model.zero_grad()
        _, losses, _ = model.loss(batch)
        th.stack(
            [model.loss_scales[name] * losses[name].mean() for name in ("kl_dynamics", "kl_representation")]
        ).sum().backward()
        params = [net.out.bias.detach().clone().requires_grad_() for net in nets]
        prior, posterior = (th.distributions.Normal(p[:4], F.softplus(p[4:]) + 0.1) for p in params)
        th.distributions.kl_divergence(posterior, prior).sum().clamp_min(3.0).backward()
        for net, wanted in zip(nets, params, strict=True):
            assert th.allclose(net.out.bias.grad, wanted.grad, atol=1e-4)
        assert (model.posterior_net.out.bias.grad.abs().max() > 0.1) == (far > 0)
