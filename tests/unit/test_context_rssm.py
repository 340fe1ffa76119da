"""The context of a ContextRSSM: what it takes in, what it outlives, who reads it; by hand on rows of two trials."""

import dataclasses
import pathlib

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.world_models import RSSM, ContextRSSM, ModelSize, collect

KEYS = [
    ObservationKey("obs", "vector", 3, (3,), "float32"),
    ObservationKey("reward", "vector", 1, (1,), "float32"),
    ObservationKey("trial", "binary", 2, (2,), "uint8"),
]
SMALL = ModelSize(deter=16, hidden=8, units=8, groups=4, classes=3, blocks=4, depth=1, layers=2, bins=41)
# A trial of two episodes of two steps, and the start of the next trial. Rewards arrive with their rows; the reset row of an
# episode shows the reward before it.
FIRST, LAST = [1, 0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1, 0, 0]
NEW_TRIAL = [1, 0, 0, 0, 0, 0, 1, 0]
SEEN_REWARD = [0.0, 1.0, 2.0, 2.0, 3.0, 4.0, 0.0, 5.0]


def make(latent: str = "gaussian", **kwargs) -> ContextRSSM:
    th.manual_seed(0)
    return ContextRSSM(KEYS, action_size=2, size=SMALL, latent=latent, **{"context_size": 5, **kwargs}).eval()


def trials(model: RSSM, batch: int = 3) -> SequenceBatch:
    """The rows above, with other numbers in each line of the batch."""
    generator = th.Generator().manual_seed(1)
    first, last = (th.tensor(row).float().expand(batch, -1) for row in (FIRST, LAST))
    border = th.stack([th.tensor(NEW_TRIAL).float().expand(batch, -1), first], dim=-1)
    reward = th.tensor(SEEN_REWARD).expand(batch, -1)
    return SequenceBatch(
        obs={"obs": th.randn(batch, 8, 3, generator=generator), "reward": reward[..., None], "trial": border},
        prev_action=th.randn(batch, 8, 2, generator=generator),
        reward=reward * (1 - first),
        is_first=first,
        is_last=last,
        is_terminal=th.zeros_like(last),
        initial=LatentState(
            th.randn(batch, model.deter_size, generator=generator), th.randn(batch, model.stoch_size, generator=generator)
        ),
    )


def adds_up_rewards(model: ContextRSSM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context becomes the sum of the rewards it is shown, and 100 for every episode's start."""
    monkeypatch.setattr("sb3_dreamer.world_models.context_rssm.symlog", lambda x: x)
    monkeypatch.setattr(
        model,
        "_next_context",
        lambda c, h, z, evidence: c + evidence[:, -3:-2] + 100 * evidence[:, -1:] + 1000 * evidence[:, -2:-1],
    )


def test_context_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(context_size=1)
    adds_up_rewards(model, monkeypatch)
    context = model.context(model.observe(trials(model)))[..., 0]
    # a trial's start: all is forgotten, and both bits are seen; an episode's last row adds nothing, as who acts never sees it;
    # the next episode goes on with what there was, and with the reward that ended the one before
    expected = [1100.0, 1101.0, 1101.0, 1203.0, 1206.0, 1206.0, 1100.0, 1105.0]
    assert th.allclose(context, th.tensor(expected).expand(3, -1), atol=1e-3)


def test_a_window_that_begins_inside_a_trial_goes_on_with_the_stored_context(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(context_size=1)
    adds_up_rewards(model, monkeypatch)
    batch = trials(model)
    tail = dataclasses.replace(
        batch,
        obs={name: part[:, 3:] for name, part in batch.obs.items()},
        **{name: getattr(batch, name)[:, 3:] for name in ("prev_action", "reward", "is_first", "is_last", "is_terminal")},
        initial=batch.initial.map(lambda part: th.full_like(part, 7.0)),
    )
    context = model.context(model.observe(tail))[..., 0]
    assert th.allclose(context, th.tensor([109.0, 112.0, 112.0, 1100.0, 1105.0]).expand(3, -1), atol=1e-3)


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_observe_equals_acting_step_by_step(latent: str) -> None:
    """Also where the last rows of episodes, which who acts never sees, are left out."""
    model = make(latent)
    batch = trials(model)
    states = model.observe(batch, deterministic=True)
    state = batch.initial
    for t in range(8):
        now = {name: part[:, t] for name, part in batch.obs.items()}
        stepped = model.observe_step(now, batch.prev_action[:, t], batch.is_first[:, t], state, deterministic=True)
        if LAST[t]:
            assert th.allclose(model._parts(states.deter)[0][:, t], model._parts(stepped.deter)[0], atol=1e-5)
            continue
        state = stepped
        assert th.allclose(states.deter[:, t], state.deter, atol=1e-5)
        assert th.allclose(states.stoch[:, t], state.stoch, atol=1e-5)


def test_what_an_episodes_start_resets_in_each_line_of_a_batch() -> None:
    model = make()
    obs = {"obs": th.ones(4, 3), "reward": th.ones(4, 1), "trial": th.tensor([[0.0, 1], [0, 1], [1, 1], [0, 0]])}
    first = th.tensor([1.0, 1, 1, 1])  # the last line: a border the environment does not know of

    def after(context: float, physical: float) -> th.Tensor:
        deter = th.cat([th.full((4, 16), physical), th.full((4, 5), context)], -1)
        state = LatentState(deter, th.full((4, model.stoch_size), physical))
        return model.observe_step(obs, th.full((4, 2), physical), first, state, deterministic=True).feat

    here, other_body, other_context = after(0.5, 1.0), after(0.5, -2.0), after(-0.5, 1.0)
    assert th.allclose(here, other_body)  # h, z and the action are forgotten in all lines
    differs = (here - other_context).abs().amax(-1) > 1e-3
    assert differs.tolist() == [True, True, False, False]
    known = model.observe_step(obs, th.zeros(4, 2), th.zeros(4), LatentState(th.ones(4, 21), th.zeros(4, model.stoch_size)))
    unknown = model.observe_step(obs, th.zeros(4, 2), th.zeros(4), LatentState(th.zeros(4, 21), th.zeros(4, model.stoch_size)))
    assert (known.deter - unknown.deter).abs().amax(-1).min() > 1e-3  # nothing starts: all goes on


def test_gradients_cross_the_episodes_of_a_trial_and_no_trial() -> None:
    model = make()
    with th.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * th.randn_like(weight))
    batch = trials(model)
    shown = batch.obs["obs"].clone().requires_grad_()
    batch = dataclasses.replace(batch, obs={**batch.obs, "obs": shown})
    states = model.observe(batch, deterministic=True)

    def reached(row: int) -> list[bool]:
        (gradient,) = th.autograd.grad(
            model.decode(states.map(lambda part: part[:, row]))["obs"].sum(), shown, retain_graph=True
        )
        return (gradient.abs().sum((0, 2)) > 0).tolist()

    assert reached(4) == [True, True, False, True, True, False, False, False]  # through the border, past the last row
    assert reached(7) == [False] * 6 + [True, True]  # not through the trial's


def test_a_dream_holds_the_context_and_predictions_do_not_read_it() -> None:
    model = make()
    start = model.observe(trials(model)).map(lambda part: part[:, 1])
    rollout = model.imagine(lambda feat: feat[:, 16:18], start, 4)  # an action made of the context: policies see it
    assert th.equal(model.context(rollout.states), model.context(start)[:, None].expand(-1, 5, -1))
    assert th.equal(rollout.actions, start.deter[:, None, 16:18].expand(-1, 4, -1))
    other = LatentState(th.cat([start.deter[:, :16], -start.deter[:, 16:]], -1), start.stoch)
    for name, part in model.decode(start).items():
        assert th.equal(part, model.decode(other)[name])
    assert th.equal(model.predict_discount(start), model.predict_discount(other))
    for name, part in model.decode(model.expected_state(start.deter)).items():
        assert th.equal(part, model.decode(model.expected_state(other.deter))[name])
    ahead, other_ahead = (model.imagine(th.zeros(3, 1, 2), state, 1, deterministic=True).states for state in (start, other))
    assert not th.allclose(ahead.deter[:, 1, :16], other_ahead.deter[:, 1, :16], atol=1e-4)  # but the dynamics do


def test_decoded_observations_say_that_no_border_is_dreamt_and_which_reward_is_expected() -> None:
    model = make()
    with th.no_grad():
        model.reward_head.out.bias.normal_()
    state = model.observe(trials(model))
    decoded = model.decode(state)
    assert {name: tuple(part.shape) for name, part in decoded.items()} == {
        "obs": (3, 8, 3),
        "reward": (3, 8, 1),
        "trial": (3, 8, 2),
    }
    assert not decoded["trial"].any() and th.equal(decoded["reward"][..., 0], model.predict_reward(state))


def test_losses_are_those_of_what_is_seen_alone() -> None:
    model = make()
    _, losses, _ = model.loss(trials(model))
    assert losses.keys() == model.loss_scales.keys()
    assert [name for name in losses if name.startswith("reconstruction")] == ["reconstruction/obs"]


def test_training_holds_the_context_back_inside_an_episode_and_acting_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    model = make(context_size=1, context_hold=1.0).train()
    adds_up_rewards(model, monkeypatch)
    step = model.core.step
    monkeypatch.setattr(model.core, "step", lambda h, z, *rest: (used.append(z[0, -1].item()), step(h, z, *rest))[1])
    batch = trials(model)
    model.loss(batch)
    assert used == pytest.approx([0, 0, 0, 1101, 1101, 1101, 0, 0])  # always what was known where the episode began
    used.clear()
    model.eval().loss(batch)
    assert used == pytest.approx([0, 1100, 1101, 1101, 1203, 1206, 0, 1100])


def test_observations_that_do_not_tell_of_trials_and_other_wrong_arguments() -> None:
    for keys in (KEYS[:1], KEYS[1:], [KEYS[0], KEYS[1], ObservationKey("trial", "vector", 2, (2,), "float32")]):
        with pytest.raises(ValueError, match="TrialWrapper"):
            ContextRSSM(keys, action_size=1, size=SMALL)
    for wrong in (dict(context_size=0), dict(context_hold=1.5), dict(encoder=th.nn.Identity())):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(**wrong)  # type: ignore[arg-type]


def test_alone_it_is_fitted_to_trials_saved_and_loaded(tmp_path: pathlib.Path) -> None:
    from gymnasium.wrappers import TimeLimit

    import envs

    data = collect(envs.TrialWrapper(TimeLimit(envs.MetaPendulumEnv(), 5)), None, 60, seed=0)
    model = ContextRSSM.from_spaces(data.observation_space, data.action_space, size=SMALL, context_size=3, seed=0)
    model.fit(data, updates=3, batch_size=4, batch_length=8)
    model.save(tmp_path / "model.pt")
    loaded = RSSM.load(tmp_path / "model.pt")
    assert type(loaded) is ContextRSSM and loaded.context_size == 3
    obs = {name: part[:4] for name, part in data.observations.items()}
    assert th.equal(model.encode(obs).feat, loaded.encode(obs).feat)
    dream = loaded.imagine(obs, np.zeros((4, 6, 1), np.float32))
    assert dream.observations["reward"].shape == (4, 7, 1) and not dream.observations["trial"].any()
    assert loaded.evaluate(data) is not None


def test_splitting_episodes_keeps_trials_whole() -> None:
    from gymnasium.wrappers import TimeLimit

    import envs

    def make_env() -> gym.Env:
        return envs.TrialWrapper(TimeLimit(envs.MetaPendulumEnv(), 3), episodes=3)

    aside = collect(DummyVecEnv([make_env] * 2), None, 3 * 3 * 4, seed=0)
    assert aside.observations["trial"][aside.is_first][:, 0].tolist() == [1, 0, 0] * 4  # each environment's in order
    data = collect(make_env(), None, 3 * 3 * 6, seed=0)
    assert data.n_episodes == 18
    for part, expected in zip(data.split(0.3, seed=1), (12, 6), strict=True):
        bits = part.observations["trial"][part.is_first]
        assert len(bits) == expected and bits[:, 0].tolist() == [1, 0, 0] * (expected // 3)
    assert isinstance(data.observation_space, gym.spaces.Dict)
