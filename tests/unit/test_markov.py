"""World models without a memory: alignment, dreams, losses of the MLP and the VAE."""

import dataclasses

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.world_models import RSSM, MLPWorldModel, ModelSize, VAEWorldModel
from sb3_dreamer.world_models.markov import MarkovWorldModel

KEYS = [ObservationKey("obs", "vector", 2, (2,), "float32")]
MIXED = [
    ObservationKey("choice", "discrete", 5, (2,), "uint8", classes=(2, 3), start=(0, 0)),
    ObservationKey("flags", "binary", 2, (2,), "uint8"),
    ObservationKey("numbers", "vector", 2, (2,), "float32"),
]
SMALL = ModelSize(deter=8, hidden=8, units=8, groups=3, classes=3, blocks=1, depth=1, layers=2, bins=41)
KINDS = {
    "mlp": lambda **kw: MLPWorldModel(KEYS, 2, SMALL, **kw),
    "gaussian": lambda **kw: VAEWorldModel(KEYS, 2, SMALL, **kw),
    "deterministic": lambda **kw: VAEWorldModel(KEYS, 2, SMALL, dynamics="deterministic", **kw),
    "frozen": lambda **kw: VAEWorldModel(KEYS, 2, SMALL, joint=False, **kw),
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> MarkovWorldModel:
    th.manual_seed(0)
    return KINDS[request.param]()


def walk(batch: int = 4, length: int = 9, border: int | None = None, latents: int = 2) -> SequenceBatch:
    """``x_{t+1} = x_t + a_t``, ``r_{t+1} = sum(x_t) + 10 sum(a_t)``; at a border everything jumps."""
    generator = th.Generator().manual_seed(0)
    action = 0.1 * th.randn(batch, length, 2, generator=generator)
    x = [th.randn(batch, 2, generator=generator)]
    rewards = [th.full((batch,), 77.0)]
    for t in range(1, length):
        rewards.append(x[-1].sum(-1) + 10 * action[:, t].sum(-1))
        x.append(x[-1] + action[:, t] + (5.0 if t == border else 0.0))
    first = th.zeros(batch, length)
    first[:, 0] = 1
    if border is not None:
        first[:, border] = 1
        rewards[border] = th.full((batch,), 55.0)
    zeros = th.zeros(batch, length)
    initial = LatentState(th.zeros(batch, 1), th.zeros(batch, latents))
    return SequenceBatch({"obs": th.stack(x, 1)}, action, th.stack(rewards, 1), first, zeros, zeros, initial)


def exact(unroll_steps: int) -> MLPWorldModel:
    """A model that knows that world."""
    model = MLPWorldModel(KEYS, 2, SMALL, normalize_obs="none", unroll_steps=unroll_steps).eval()
    model.transition = lambda x, action: x + action  # type: ignore[method-assign]
    model._expected_reward = (  # type: ignore[method-assign]
        lambda x, action: (x.sum(-1) + 10 * action.sum(-1)).unsqueeze(-1)
    )
    return model


@pytest.mark.parametrize("border", [None, 4])
@pytest.mark.parametrize("unroll_steps", [1, 3, 50])
def test_a_model_that_knows_the_world_has_no_loss_at_any_step_ahead(unroll_steps: int, border: int | None) -> None:
    """Actions, rewards and observations are aligned, and no dream crosses an episode's border."""
    _, losses, _ = exact(unroll_steps).loss(walk(border=border))
    assert losses["dynamics"].abs().max() < 1e-8
    assert losses["reward"].abs().max() < 1e-6


def test_what_is_not_aligned_costs() -> None:
    batch = walk()
    shifted = dataclasses.replace(batch, prev_action=batch.prev_action.roll(1, 1))
    _, losses, _ = exact(1).loss(shifted)
    assert (losses["dynamics"][:, 1:] > 1e-5).all() and (losses["reward"][:, 1:] > 1e-5).all()
    assert (losses["dynamics"][:, 0] == 0).all()  # nothing leads to an episode's first row


def test_losses_ahead_are_means_over_the_steps() -> None:
    """A model that is wrong by 1 in each number at each step is off by k after k steps."""
    model = exact(3)
    model.transition = lambda x, action: x + action + 1.0  # type: ignore[method-assign]
    _, losses, _ = model.loss(walk(length=5))
    after = {k: 2.0 * k**2 for k in (1, 2, 3)}  # two numbers
    all_three = (after[1] + after[2] + after[3]) / 3
    expected = [0.0, after[1], (after[1] + after[2]) / 2, all_three, all_three]
    assert th.allclose(losses["dynamics"], th.tensor(expected).expand(4, 5), rtol=1e-4)
    # the reward of a step is that of the state it starts from
    all_three = ((2.0 * 1) ** 2 + (2.0 * 2) ** 2) / 3
    wrong = [0.0, 0.0, (2.0 * 1) ** 2 / 2, all_three, all_three]
    assert th.allclose(losses["reward"], th.tensor(wrong).expand(4, 5), rtol=1e-4, atol=1e-5)


def test_continue_flag_is_learnt_discounted_at_the_row_where_it_ends(model: MarkovWorldModel) -> None:
    batch = walk(latents=model.stoch_size)
    terminal = th.zeros(4, 9)
    terminal[:, 8] = 1
    model.unroll_steps = 1
    model.continue_head = th.nn.Linear(model.stoch_size, 1)  # type: ignore[assignment]
    th.nn.init.zeros_(model.continue_head.weight)
    th.nn.init.zeros_(model.continue_head.bias)
    model.continue_head.bias.data += 2.0
    _, losses, _ = model.loss(dataclasses.replace(batch, is_terminal=terminal))
    logit = th.tensor(2.0)
    goes_on = F.binary_cross_entropy_with_logits(logit, th.tensor(model.gamma))
    ends = F.binary_cross_entropy_with_logits(logit, th.tensor(0.0))
    # once of the state seen, once of the state predicted
    assert th.allclose(losses["continue"][:, 3], 2 * goes_on) and th.allclose(losses["continue"][:, 8], 2 * ends)
    assert th.allclose(losses["continue"][:, 0], goes_on)  # which nothing predicts


def test_observe_is_step_by_step_filtering(model: MarkovWorldModel) -> None:
    batch = walk(border=4)
    batch = dataclasses.replace(batch, initial=LatentState(th.randn(4, 1), th.randn(4, model.stoch_size)))
    model.posterior.sample = lambda params, noise: model.posterior.mode(params)  # type: ignore[method-assign]
    states, state = model.observe(batch), batch.initial
    for t in range(9):
        obs = {"obs": batch.obs["obs"][:, t]}
        state = model.observe_step(obs, batch.prev_action[:, t], batch.is_first[:, t], state, deterministic=True)
        assert th.allclose(states.deter[:, t], state.deter, atol=1e-6)
        assert th.allclose(states.stoch[:, t], state.stoch, atol=1e-6)
    assert (states.deter[:, [0, 4]] == 0).all()  # no reward arrives with a reset


def test_dream_follows_the_transition_and_carries_its_reward(model: MarkovWorldModel) -> None:
    start = LatentState(th.randn(3, 1), th.randn(3, model.stoch_size))
    actions = th.rand(3, 4, 2) * 2 - 1
    rollout = model.imagine(actions, start, 4, True)
    x = start.stoch
    for t in range(4):
        expected = model.reward_head(th.cat([x, actions[:, t]], -1))
        x = model.prior.mode(model.transition(x, actions[:, t]))
        assert th.allclose(rollout.states.stoch[:, t + 1], x, atol=1e-6)
        assert th.allclose(rollout.states.deter[:, t + 1], expected, atol=1e-6)
    by_policy = model.imagine(lambda feat: feat[:, :2].tanh(), start, 3, True)
    again = model.imagine(by_policy.actions, start, 3, True)
    assert th.allclose(by_policy.states.feat, again.states.feat, atol=1e-6)
    future = rollout.states.map(lambda part: part[:, 1:])
    model.reward_magnitude.update(th.full((10,), 3.0))
    assert th.allclose(model.predict_reward(future), 3.0 * future.deter.squeeze(-1))


def test_actions_beyond_the_bounds_count_as_the_bounds(model: MarkovWorldModel) -> None:
    start = LatentState(th.zeros(1, 1), th.randn(1, model.stoch_size))
    wild, bound = th.tensor([[[3.0, -7.0]]]), th.tensor([[[1.0, -1.0]]])
    assert th.equal(model.imagine(wild, start, 1, True).states.feat, model.imagine(bound, start, 1, True).states.feat)


def test_losses_have_the_keys_and_shapes_of_the_scales(model: MarkovWorldModel) -> None:
    states, losses, metrics = model.loss(walk(latents=model.stoch_size))
    assert losses.keys() == model.loss_scales.keys()
    assert all(loss.shape == (4, 9) and th.isfinite(loss).all() for loss in losses.values())
    assert all(metric.dim() == 0 for metric in metrics.values())
    assert states.feat.shape == (4, 9, model.feat_size)
    model.total_loss(losses).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing


def test_memory_of_what_came_before_is_the_reward_alone(model: MarkovWorldModel) -> None:
    obs, action = {"obs": th.randn(2, 2)}, th.rand(2, 2)
    one, other = (
        model.observe_step(obs, action, th.zeros(2), LatentState(th.randn(2, 1), th.randn(2, model.stoch_size)), True)
        for _ in range(2)
    )
    assert th.equal(one.stoch, other.stoch)


# ---- the MLP


def test_changes_are_predicted_in_units_of_their_deviation() -> None:
    model = MLPWorldModel(KEYS, 2, SMALL, normalize_obs="none", unroll_steps=1)
    batch = walk(batch=64, border=5)
    model.train()
    model.loss(batch)
    x = batch.obs["obs"]
    kept = batch.is_first[:, 1:] == 0  # a reset is no change
    changes = (x[:, 1:] - x[:, :-1])[kept]
    assert th.allclose(model.changes.deviation(), changes.std(0, unbiased=False), rtol=1e-4)
    model.eval()
    before, mean = model.changes.deviation(), model.changes.mean.float()
    assert th.allclose(mean, changes.mean(0), atol=1e-6)
    model.loss(walk(batch=2, length=40))
    assert th.equal(model.changes.deviation(), before)  # judging changes nothing
    x, action = th.randn(3, 2), th.rand(3, 2)
    output = model.dynamics(th.cat([x, action], -1))
    assert th.allclose(model.transition(x, action), x + mean + before * output, atol=1e-6)


def test_a_clock_is_predicted_exactly() -> None:
    """What changes at a constant rate has no deviation to measure changes with, but their mean."""
    model = MLPWorldModel(KEYS, 2, SMALL, normalize_obs="none").train()
    batch = walk(batch=8)
    clock = th.arange(9.0).expand(8, 9)
    batch = dataclasses.replace(batch, obs={"obs": th.stack([clock, 0.1 * clock], -1)})
    model.loss(batch)
    model.eval()
    start = model.observe(batch).map(lambda part: part[:, 0])
    dream = model.imagine(batch.prev_action[:, 1:], start, 8, True)
    assert th.allclose(dream.states.stoch[:, -1], batch.obs["obs"][:, -1], atol=1e-2)


@pytest.mark.parametrize("scaling", ["none", "symlog"])
def test_large_numbers_are_not_cut_off_where_they_are_not_normalised(scaling: str) -> None:
    model = MLPWorldModel(KEYS, 2, SMALL, normalize_obs=scaling)  # type: ignore[arg-type]
    obs = {"obs": th.tensor([[5e4, -300.0]])}
    start = model.observe_step(obs, th.zeros(1, 2), th.ones(1), model.initial_state(1), deterministic=True)
    dream = model.imagine(th.zeros(1, 3, 2), start, 3, True)
    model.changes.mean.zero_()
    assert th.allclose(model.decode(dream.states)["obs"][0, -1], obs["obs"][0], rtol=0.9)


def test_nothing_but_its_loss_teaches_the_reward(model: MarkovWorldModel) -> None:
    """A critic that learns from the states of replayed rows would, as the reward is one of their features."""
    th.nn.init.normal_(model.reward_head.out.weight)  # type: ignore[union-attr]
    states, _, _ = model.loss(walk(latents=model.stoch_size))
    assert states.deter.abs().max() > 0 and not states.deter.requires_grad


def test_choices_and_bits_are_drawn_from_their_probabilities() -> None:
    model = MLPWorldModel(MIXED, 1, SMALL)
    layout = model.layout
    n = 20_000
    logits = th.tensor([0.5, -0.5, 2.0, 0.0, 1.0, 0.0, 1.5, -1.0])  # choices of 2 and of 3, bits... numbers first
    params = th.cat([th.tensor([0.3, -0.2]), logits[:5], th.tensor([1.5, -1.0])]).expand(n, -1)
    generator = th.Generator().manual_seed(0)
    drawn = layout.sample(params, layout.noise((n,), params, generator))
    parts = layout.split(drawn)
    assert (parts["numbers"] == th.tensor([0.3, -0.2])).all()
    choice = parts["choice"]
    assert set(choice.unique().tolist()) == {0.0, 1.0}
    expected = th.cat([th.softmax(logits[:2], -1), th.softmax(logits[2:5], -1)])
    assert th.allclose(choice.mean(0), expected, atol=0.015)
    assert th.allclose(parts["flags"].mean(0), th.sigmoid(th.tensor([1.5, -1.0])), atol=0.015)
    mode = layout.split(layout.mode(params[:1]))
    assert mode["choice"].tolist() == [[1.0, 0.0, 1.0, 0.0, 0.0]] and mode["flags"].tolist() == [[1.0, 0.0]]


def test_cross_entropy_of_choices_and_bits_by_hand() -> None:
    model = MLPWorldModel(MIXED, 1, SMALL, unroll_steps=1)
    params = th.tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.5, -0.5]])
    target = th.tensor([[1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    by_hand = (
        -th.log_softmax(th.tensor([1.0, 0.0]), -1)[0]
        - th.log_softmax(th.tensor([0.0, 2.0, 0.0]), -1)[2]
        - F.logsigmoid(th.tensor(0.5))
        - F.logsigmoid(th.tensor(-0.5))
    )
    assert th.allclose(model.layout.cross_entropy(params, target), by_hand)
    # and the numbers' squared error, in units of the changes' deviation, which is 1 before any
    assert th.allclose(model.divergence(params, target), by_hand + 1.0 + 4.0)


def test_decode_gives_the_observation_back() -> None:
    model = MLPWorldModel(MIXED, 1, SMALL, normalize_obs="running")
    obs = {"numbers": th.randn(50, 2) * 3 + 1, "choice": th.eye(5)[th.arange(50) % 5], "flags": th.ones(50, 2)}
    model.update_statistics(obs, th.zeros(50))
    state = model.observe_step(obs, th.zeros(50, 1), th.ones(50), model.initial_state(50), deterministic=True)
    for name, part in model.decode(state).items():
        assert th.allclose(part, obs[name], atol=1e-5), name


# ---- the VAE


def test_kl_and_divergence_against_torch_distributions() -> None:
    model = VAEWorldModel(KEYS, 2, SMALL, free_nats=0.0)
    params, predicted = th.randn(7, 12), th.randn(7, 12)
    q, p = (th.distributions.Normal(*model.latents.mean_std(part)) for part in (params, predicted))
    standard = th.distributions.Normal(0.0, 1.0)
    kl = th.distributions.kl_divergence
    assert th.allclose(model.latents.kl_to_standard_normal(params), kl(q, standard).sum(-1), atol=1e-5)
    assert th.allclose(model.divergence(predicted, params), kl(q, p).sum(-1), atol=1e-4)
    certain = VAEWorldModel(KEYS, 2, SMALL, dynamics="deterministic")
    mean = predicted[:, :6]
    assert th.allclose(certain.divergence(mean, params), kl(q, th.distributions.Normal(mean, q.stddev)).sum(-1), atol=1e-4)


def grads(model: VAEWorldModel, loss: str) -> set[str]:
    """Components that a loss changes."""
    model.zero_grad()
    model.loss(walk(latents=6))[1][loss].mean().backward()
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_frozen_latents_are_changed_by_the_vae_alone() -> None:
    th.manual_seed(0)
    model = VAEWorldModel(KEYS, 2, SMALL, joint=False)
    th.nn.init.normal_(model.reward_head.out.weight)  # type: ignore[union-attr]
    assert grads(model, "dynamics") == {"dynamics"}
    assert grads(model, "continue") == {"continue_head", "dynamics"}
    assert grads(model, "reward") == {"reward_head", "dynamics"}
    assert grads(model, "reconstruction/obs") == grads(model, "kl") | {"observation_model"}
    assert "representation" not in model.loss_scales


def test_joint_learning_pulls_latents_towards_what_is_predicted() -> None:
    th.manual_seed(0)
    model = VAEWorldModel(KEYS, 2, SMALL)
    assert grads(model, "representation") == {"observation_model", "posterior_net"}  # not the dynamics
    assert {"dynamics", "observation_model"} <= grads(model, "dynamics")  # through the state it starts from
    _, losses, _ = model.loss(walk(border=4, latents=6))
    assert (losses["representation"][:, [0, 4]] == 0).all() and (losses["representation"][:, 1:4] > 0).all()
    assert (losses["kl"][:, [0, 4]] > 0).all() and (losses["kl"][:, 1:4] == 0).all()  # only where nothing predicts them


def test_images() -> None:
    keys = [ObservationKey("picture", "image", 3 * 16 * 16, (3, 16, 16), "uint8", scale=255.0)]
    model = VAEWorldModel(keys, 1, SMALL, strided=True)
    batch = walk(batch=2, length=3)
    images = th.randint(0, 256, (2, 3, 3, 16, 16)).to(th.uint8)
    batch = dataclasses.replace(batch, obs={"picture": images}, prev_action=th.zeros(2, 3, 1), initial=model.initial_state(2))
    states, losses, _ = model.loss(batch)
    decoded = model.decode(states)["picture"]
    assert decoded.shape == images.shape and 0 <= decoded.min() and decoded.max() <= 255
    by_hand = ((decoded - images.float()) / 255).square().sum((-3, -2, -1))
    assert th.allclose(losses["reconstruction/picture"], by_hand, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAEWorldModel(KEYS, 2, SMALL, dynamics="linear"), "dynamics must be"),
        (lambda: VAEWorldModel(KEYS, 2, SMALL, latent_size=0), "latent_size must be"),
        (lambda: VAEWorldModel(KEYS, 2, SMALL, latent_size=2.5), "latent_size must be"),
        (lambda: VAEWorldModel(KEYS, 2, SMALL, unroll_steps=0), "unroll_steps must be"),
        (lambda: VAEWorldModel(KEYS, 2, SMALL, min_std=-1), "min_std must be a number, positive, got -1"),
        (lambda: VAEWorldModel(KEYS, 2, SMALL, beta=-5), "beta must be a number, at least 0"),
        (lambda: VAEWorldModel(KEYS, 2, SMALL, gamma=1.5), r"gamma must lie in \(0, 1\]"),
        (lambda: MLPWorldModel(KEYS, 2, SMALL, reward_scale=float("nan")), "reward must be a number, at least 0"),
        (lambda: RSSM(KEYS, 2, SMALL, unimix=3), "unimix must be a number, from 0 to 1"),
        (lambda: RSSM(KEYS, 2, SMALL, gamma=0), r"gamma must lie in \(0, 1\]"),
        (lambda: MLPWorldModel(KEYS, 2, SMALL, unroll_steps=1.5), "unroll_steps must be"),
        (lambda: MLPWorldModel([ObservationKey("o", "image", 4, (1, 2, 2), "uint8")], 2, SMALL), "not images"),
        (lambda: MLPWorldModel(KEYS, 2, SMALL, normalize_obs="max"), "normalize_obs must be"),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_world_is_learnt(kind: str) -> None:
    """One-step errors of a world that a network can hold fall by far."""
    th.manual_seed(0)
    model = KINDS[kind](normalize_obs="none", unroll_steps=2, norm="layer")
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    batch = walk(batch=64, length=6)
    batch = dataclasses.replace(batch, reward=batch.reward.clamp(-5, 5), initial=model.initial_state(64))

    def error() -> float:
        with th.no_grad():
            start = model.observe(batch).map(lambda part: part[:, 0])
            dream = model.imagine(batch.prev_action[:, 1:2], start, 1, True)
            return float((model.decode(dream.states)["obs"][:, 1] - batch.obs["obs"][:, 1]).square().mean().sqrt())

    before = error()
    for _ in range(300):
        _, losses, _ = model.loss(batch)
        optimizer.zero_grad()
        (sum(10.0 * loss.mean() if "rec" in name else loss.mean() for name, loss in losses.items())).backward()
        optimizer.step()
    assert np.isfinite(before) and error() < 0.5 * before
