"""Exploring by disagreement: rewards where they belong, no gradient where none is due, and a task learnt afterwards."""

import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch as th
from conftest import Clock, tiny_director, tiny_dreamer, weights_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule

from sb3_dreamer import Director, Dreamer
from sb3_dreamer.behaviour.curiosity import Disagreement
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.world_models import MLPWorldModel

EXPLORING = {"world_model", "actor", "critic", "exploration_actor", "exploration_critic", "exploration_task_critic"}
"""Parameter groups, beside that of what is explored."""


def explorer(env: Any = "envs:ContinuousPendulum-v0", **kwargs: Any) -> Dreamer:
    return tiny_dreamer(env, exploration="plan2explore", **kwargs)


def sequence(steps: int, is_first: list[int]) -> tuple[SequenceBatch, LatentState]:
    """One window whose states and actions are counted."""
    row = th.arange(1.0, steps + 1)
    first = th.tensor(is_first).float()[None]
    zeros = th.zeros(1, steps)
    batch = SequenceBatch(
        obs={},
        prev_action=row.view(1, steps, 1) / 100,
        reward=zeros,
        is_first=first,
        is_last=zeros,
        is_terminal=zeros,
        initial=LatentState(th.zeros(1, 1), th.zeros(1, 1)),
    )
    return batch, LatentState(row.view(1, steps, 1), 10 * row.view(1, steps, 1))


def test_it_learns_the_next_state_from_a_state_and_the_action_taken_there(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Disagreement(2, 1, 1, units=4, layers=1, members=3)
    batch, posterior = sequence(5, [1, 0, 0, 1, 0])
    seen = []
    monkeypatch.setattr(heads, "forward", lambda feat, action: seen.append((feat, action)) or th.zeros(3, len(feat), 1))
    loss = heads.loss(batch, posterior)
    feat, action = seen[0]
    assert feat[:, 0].tolist() == [1, 2, 4]  # not from row 3, where an episode ends, to row 4
    assert th.allclose(action[:, 0] * 100, th.tensor([2.0, 3.0, 5.0]))  # prev_action of the row it led to
    targets = np.array([20.0, 30.0, 50.0])
    scaled = (targets - targets.mean()) / targets.std()
    assert loss.item() == pytest.approx(3 * np.mean(scaled**2), rel=1e-4)


def test_neither_states_nor_targets_learn_from_the_disagreement() -> None:
    heads = Disagreement(2, 1, 1, units=4, layers=1)
    batch, posterior = sequence(5, [1, 0, 0, 0, 0])
    parts = [part.clone().requires_grad_() for part in (posterior.deter, posterior.stoch)]
    heads.loss(batch, LatentState(*parts)).backward()
    assert all(part.grad is None for part in parts)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in heads.hidden.parameters())


def test_a_window_without_a_step_has_no_loss() -> None:
    heads = Disagreement(2, 1, 1, units=4, layers=1)
    loss = heads.loss(*sequence(2, [1, 1]))
    assert loss.item() == 0.0
    loss.backward()


def test_the_reward_of_a_step_comes_with_the_state_it_leads_to() -> None:
    th.manual_seed(0)
    heads = Disagreement(2, 1, 3, units=8, layers=2, members=4)
    states = LatentState(th.randn(5, 4, 1), th.randn(5, 4, 1))
    actions = th.rand(5, 3, 1) * 2 - 1
    reward = heads.reward(ImaginedRollout(states, actions))
    assert reward.shape == (5, 4) and (reward[:, 0] == 0).all()
    for n in range(5):
        for t in range(3):
            opinions = heads(states.feat[n, t][None], actions[n, t][None])[:, 0]
            assert reward[n, t + 1].item() == pytest.approx(opinions.var(0, unbiased=False).mean().item(), rel=1e-4)


def test_what_is_learnt_is_agreed_on_and_noise_is_not_curious() -> None:
    """The variance of the means falls where there are data, however noisy, and not elsewhere."""
    th.manual_seed(0)
    heads = Disagreement(2, 1, 1, units=32, layers=2, members=6)
    optimizer = th.optim.Adam(heads.parameters(), lr=3e-3)
    for _ in range(300):
        deter = th.rand(16, 9, 1)  # from 0 to 1
        noisy = (deter > 0.5).float()
        stoch = th.randn(16, 9, 1) * (0.05 + noisy.roll(1, 1))  # a state beyond a half makes the next one noise
        zeros = th.zeros(16, 9)
        initial = LatentState(th.zeros(16, 1), th.zeros(16, 1))
        action = th.zeros(16, 9, 1)
        batch = SequenceBatch({}, action, zeros, zeros, zeros, zeros, initial)
        optimizer.zero_grad()
        heads.loss(batch, LatentState(deter, stoch * 0 + stoch)).backward()
        optimizer.step()

    def curiosity(deter: float) -> float:
        states = LatentState(th.full((50, 2, 1), deter), th.randn(50, 2, 1) * 0.05)
        with th.no_grad():
            return float(heads.reward(ImaginedRollout(states, th.zeros(50, 1, 1)))[:, 1].mean())

    outside = curiosity(8.0)
    assert curiosity(0.25) < 0.05 * outside and curiosity(0.75) < 0.2 * outside


def test_curiosity_and_task_have_critics_and_ranges_of_their_own() -> None:
    model = explorer()
    before = weights_of(model)
    model.learn(120)
    after = model.policy.state_dict()
    networks = ("explorer.critic.net", "explorer.task_critic.net", "explorer.actor.trunk", "critic.net", "actor.trunk")
    for name in ("explorer.curiosity.hidden.0.weight", *networks):
        changed = [not th.equal(before[key], after[key]) for key in before if key.startswith(name) and "bins" not in key]
        assert changed and any(changed), name
    assert 0 < float(model.policy.explorer.range.high) < 1.0  # the range of curiosity has no floor of 1, as the task's has
    for name in ("critic", "task_critic"):
        fast, slow = (getattr(model.policy.explorer, prefix + name).state_dict() for prefix in ("", "slow_"))
        assert any(not th.equal(slow[key], fast[key]) for key in slow)
        assert any(not th.equal(before[f"explorer.slow_{name}.{key}"], slow[key]) for key in slow)
    assert {group["name"] for group in model.policy.optimizer.param_groups} == EXPLORING | {"disagreement"}


def test_curiosity_may_give_way_to_the_task(tmp_path: pathlib.Path) -> None:
    seen = []
    model = explorer("envs:ContinuousPendulum-v0", intrinsic_coef=LinearSchedule(2.0, 0.0, 1.0))

    def look(_: dict[str, Any], __: dict[str, Any]) -> bool:
        seen.append((model.num_timesteps, model._scheduled("intrinsic_coef")))
        return True

    model.learn(44, callback=look)
    assert [value for _, value in seen] == pytest.approx([2 - 2 * (steps - 1) / 44 for steps, _ in seen], abs=0.05)
    model.save(tmp_path / "model")
    again = Dreamer.load(tmp_path / "model")
    assert isinstance(again.intrinsic_coef, LinearSchedule) and again.intrinsic_coef(0.5) == 1.0
    model.intrinsic_coef = lambda remaining: -remaining
    with pytest.raises(ValueError, match="intrinsic_coef must be a number of at least 0, but its schedule gave -"):
        model.learn(60)


@pytest.mark.parametrize("env", ["envs:ContinuousPendulum-v0", "envs:SequenceMemory-v0"])  # both kinds of gradient
def test_without_curiosity_who_explores_learns_as_who_knows_the_task_alone(env: str) -> None:
    plain, curious = tiny_dreamer(env), explorer(env, intrinsic_coef=0.0)
    for model in (plain, curious):
        model.learn(44)
    curious.policy.load_state_dict(plain.policy.state_dict(), strict=False)
    exploring = curious.policy.explorer
    assert exploring is not None
    for own, tasks in ((exploring.actor, plain.actor), (exploring.task_critic, plain.critic)):
        own.load_state_dict(tasks.state_dict())
    batch, _ = plain.sample_replay(4, 8)
    found = []
    for model in (plain, curious, None):
        th.manual_seed(0)
        posterior, _, metrics = plain.world_model.loss(batch)
        starts = posterior.detach().map(lambda x: x.flatten(0, 1))
        if model is None:  # who explores
            loss, _ = curious._exploring_losses(starts, exploring, metrics)
            found.append(th.autograd.grad(loss, list(exploring.actor.parameters())))
        else:
            loss, _, _ = model._imagined_losses(starts, metrics)
            found.append(th.autograd.grad(loss, list(model.actor.parameters())))
    for one, same, other in zip(*found, strict=True):
        assert th.equal(one, same)  # whoever learns the task is not concerned
        assert th.allclose(one, other, atol=1e-5, rtol=1e-4)


def test_curiosity_alone_knows_no_reward() -> None:
    """With extrinsic_coef=0, the gradient of the actor that collects data does not depend on the rewards."""
    gradients = []
    model = explorer(extrinsic_coef=0.0)
    model.learn(44)
    batch, _ = model.sample_replay(4, 8)
    posterior, _, _ = model.world_model.loss(batch)
    starts = posterior.detach().map(lambda x: x.flatten(0, 1))
    exploring = model.policy.explorer
    assert exploring is not None
    for factor in (1.0, 50.0):
        for parameter in exploring.task_critic.parameters():
            parameter.data.mul_(factor)
        th.manual_seed(0)
        low, high = exploring.range.low.clone(), exploring.range.high.clone()
        loss, _ = model._exploring_losses(starts, exploring, {})
        exploring.range.low.copy_(low)
        exploring.range.high.copy_(high)
        gradients.append(th.autograd.grad(loss, list(exploring.actor.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert th.allclose(one, other, atol=1e-6)


def test_replayed_returns_are_those_of_who_explored() -> None:
    model = explorer()
    model.learn(60)
    batch, _ = model.sample_replay(4, 8)
    exploring = model.policy.explorer
    assert exploring is not None
    model.policy.optimizer.zero_grad(set_to_none=True)
    model._replay_value_loss(batch, model.world_model.observe(batch), None).backward()
    assert all(parameter.grad is not None for parameter in exploring.task_critic.parameters())
    assert all(parameter.grad is None for parameter in model.critic.parameters())


def test_an_explorers_entropy_keeps_its_weight() -> None:
    model = explorer()
    model.learn(60)
    exploring = model.policy.explorer
    assert exploring is not None
    starts, _ = model._imagination_starts(model.world_model.observe(model.sample_replay(4, 8)[0]))

    def loss(name: str, value: float) -> float:
        setattr(model, name, value)
        for tracked in (exploring.range, exploring.task_range):
            tracked.low.zero_()
            tracked.high.zero_()
        th.manual_seed(0)
        return model._exploring_losses(starts, exploring, {})[0].item()

    assert loss("_ent_coef", 0.0) == loss("_ent_coef", 5.0) != loss("_first_ent_coef", 5.0)


def test_one_actor_collects_and_another_predicts() -> None:
    model = explorer(evaluation_rate=None)
    exploring = model.policy.explorer
    assert exploring is not None
    for actor, favourite in ((model.actor, 3.0), (exploring.actor, -3.0)):
        th.nn.init.zeros_(actor.mean.weight)
        th.nn.init.constant_(actor.mean.bias, favourite)
    obs = {"obs": np.zeros((1, 3), dtype=np.float32)}
    action, _ = model.predict(obs["obs"], deterministic=True)
    assert action[0, 0] == pytest.approx(2 * np.tanh(3.0), rel=1e-5)
    th.nn.init.constant_(exploring.actor.std.bias, -20.0)
    state = model.policy.step(obs, model.policy.initial_state(1), np.ones(1, dtype=bool), deterministic=True)
    collected = model.policy.let_explorer_act(state, np.array([True]))
    assert state[-1][0, 0] == pytest.approx(np.tanh(3.0), rel=1e-5) and collected[0, 0] == pytest.approx(-1.0, abs=0.1)


def favouring(model: Any) -> Any:
    """:return: the model, whose behaviour for the task does what is above 0, and whose explorer what is below"""
    exploring = model.policy.explorer
    assert exploring is not None
    own = model.policy.worker if isinstance(model, Director) else model.actor
    for actor, favourite in ((own, 3.0), (exploring.actor, -3.0)):
        th.nn.init.zeros_(actor.mean.weight)
        th.nn.init.constant_(actor.mean.bias, favourite)
        th.nn.init.constant_(actor.std.bias, -20.0)
    return model


@pytest.mark.parametrize(
    ("make", "kwargs", "expected"),
    [
        (explorer, {}, 0.5),
        (explorer, dict(explorer_share=0.0), 0.0),
        (explorer, dict(explorer_share=1.0), 1.0),
        (explorer, dict(extrinsic_coef=0.0), 1.0),
        (tiny_director, dict(explorer_share=0.5), 0.5),
        (tiny_director, dict(explorer_share=1.0, exploration="state_entropy"), 1.0),
    ],
)
def test_episodes_are_shared_between_who_explores_and_the_task(make: Any, kwargs: dict[str, Any], expected: float) -> None:
    """Each is one actor's from its start to its end, in every environment by itself; the replay holds what was done."""
    env = make_vec_env(lambda: Clock(5), n_envs=4)
    model = favouring(make(env, learning_starts=40, train_ratio=1e-6, seed=1, **kwargs))
    model.learn(1000)
    episodes = []
    for rows in model.replay_buffer.streams():
        ends = np.flatnonzero(rows.is_last)[3:]  # those before were random
        actions = rows.actions[:, 0]
        episodes += [actions[end - 5 : end] > 0 for end in ends]
    assert all(len(set(episode.tolist())) == 1 for episode in episodes) and len(episodes) > 150
    explored = 1 - np.mean([episode[0] for episode in episodes])
    assert explored == (pytest.approx(expected, abs=0.15) if expected == 0.5 else expected)


def test_the_log_tells_the_tasks_episodes_from_the_explorers(tmp_path: pathlib.Path) -> None:
    """A step is worth what its action is, which tells who acted."""

    class Worth(Clock):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            obs, _, *rest = super().step(action)
            return obs, float(np.sign(action[0])), *rest

    model = favouring(explorer(make_vec_env(lambda: Worth(5), n_envs=2), learning_starts=40, train_ratio=1e-6))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(400, log_interval=10)
    last = pd.read_csv(tmp_path / "progress.csv").iloc[-1]
    assert last["rollout/task_ep_rew_mean"] == 5.0 and -4.0 < last["rollout/ep_rew_mean"] < 4.0
    model.learn(30, log_interval=1)  # at random again: nobody's
    assert pd.read_csv(tmp_path / "progress.csv").iloc[-1].isna()["rollout/task_ep_rew_mean"]
    model.learn(400, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model")
    marks = [info["explored"] for info in loaded.ep_info_buffer if "explored" in info]
    assert set(marks) == {True, False} and loaded.ep_info_buffer == model.ep_info_buffer
    plain = tiny_dreamer(Worth(5)).learn(100)
    assert not any("explored" in info for info in plain.ep_info_buffer)


@pytest.mark.parametrize("make", [explorer, tiny_director])
def test_the_explorer_acts_alone_until_there_is_a_task(make: Any, tmp_path: pathlib.Path) -> None:
    class Worth(Clock):
        worth = 0.0

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            obs, _, *rest = super().step(action)
            return obs, self.worth if rest[0] else 0.0, *rest  # with the last observation, as a goal's

    env = Worth(5)
    model = favouring(make(env, learning_starts=40, train_ratio=1e-6, explorer_share=0.0))
    model.learn(100)
    assert model._explored is None and not model.policy.explorer.found_reward
    (rows,) = model.replay_buffer.streams()
    assert (rows.actions[60:-1][~rows.is_last[60:-1]] < 0).all()
    env.worth = -1.0
    model.learn(20, reset_num_timesteps=False)
    assert not model._explored.any()
    model.save(tmp_path / "model")
    for trusted in (True, False):
        assert type(model).load(tmp_path / "model", trusted=trusted).policy.explorer.found_reward


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_who_acts_where_is_forgotten_with_the_environments(n_envs: int, adapted: bool, tmp_path: pathlib.Path) -> None:
    model = favouring(explorer(make_vec_env(lambda: Clock(5), n_envs=2), learning_starts=40, explorer_share=0.0))
    model.learn(100)
    assert model._explored.tolist() == [False, False]
    if adapted:
        model.adapt(1)
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model", make_vec_env(lambda: Clock(5), n_envs=n_envs))
    loaded.learn(30, reset_num_timesteps=not adapted)
    assert loaded._explored is None  # random steps, or nobody who explores


@pytest.mark.parametrize("another", [False, True])
def test_adapting_keeps_the_world_and_begins_the_behaviour_anew_for_another_task(
    another: bool, tmp_path: pathlib.Path
) -> None:
    model = explorer(extrinsic_coef=0.0)
    model.learn(80)
    before, rows, steps = weights_of(model), model.replay_buffer.rows_written(), model.num_timesteps
    updates = model._n_updates
    model.adapt(3, (lambda obs, action, next_obs: obs[:, 0]) if another else None)
    after = model.policy.state_dict()
    assert model.exploration is None and model.policy.explorer is None and not any("explorer" in name for name in after)
    assert model._n_updates == updates + 3 and model.num_timesteps == steps
    assert np.array_equal(model.replay_buffer.rows_written(), rows)

    def moved(prefix: str) -> float:
        return max(float((after[n] - before[n]).abs().max()) for n in before if n.startswith(prefix) and n in after)

    assert moved("world_model.core") < 0.05 and 0 < moved("critic")  # three updates from where it was
    assert (moved("actor.trunk") > 0.05) == another
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model", model.get_env(), device="cpu")
    assert loaded.exploration is None
    loaded.learn(20, reset_num_timesteps=False)
    model.learn(20, reset_num_timesteps=False)


def test_predict_follows_what_is_fine_tuned_at_once() -> None:
    """An average over all that was learnt before would keep most of it."""
    model = tiny_dreamer(train_ratio=64)
    model.learn(120)
    assert int(model.policy.averaged_updates) > 50
    model.adapt(1, last_rows=30)
    assert int(model.policy.averaged_updates) == 1
    for one, other in zip(model.policy.average_actor.parameters(), model.actor.parameters(), strict=True):
        assert th.equal(one, other)


def test_a_task_given_afterwards_becomes_the_replays_reward() -> None:
    env = make_vec_env(lambda: Clock(5, terminates=True), 2)
    model = explorer(env)
    model.learn(60)
    seen: list[int] = []

    def task(obs: np.ndarray, action: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
        assert (next_obs[:, 1] == obs[:, 1] + 1).all() and action.shape == (len(obs), 1) and np.abs(action).max() <= 2.0
        seen.append(len(obs))
        return 100 + obs[:, 1]

    model.adapt(1, task)
    assert sum(seen) == 60
    for rows in model.replay_buffer.streams():
        clock = rows.observations["obs"][:, 1]
        assert (rows.rewards[rows.is_first] == 0).all()
        assert np.array_equal(rows.rewards[~rows.is_first], 99 + clock[~rows.is_first])


def test_adapting_learns_the_task_also_where_the_learning_rate_has_fallen_to_nothing() -> None:
    model = explorer(learning_rate=lambda remaining: 1e-3 * remaining)
    model.learn(100)
    before = weights_of(model)
    model.adapt(3, lambda obs, action, next_obs: 5.0 + obs[:, 0])
    heads = [name for name in before if name.startswith("world_model.reward_head") and name.endswith("weight")]
    assert heads and not any(th.equal(before[name], weights_of(model)[name]) for name in heads)
    assert model._current_progress_remaining < 0.05


@pytest.mark.parametrize("kwargs", [{}, dict(policy_kwargs=dict(size="debug", world_model_class=MLPWorldModel))])
def test_the_unit_of_rewards_is_that_of_the_new_task(kwargs: dict[str, Any]) -> None:
    model = explorer(Clock(5), **kwargs)
    model.learn(60)
    model.adapt(1, lambda obs, action, next_obs: 1000.0 * next_obs[:, 1])
    rewards = np.concatenate([rows.rewards[~rows.is_first] for rows in model.replay_buffer.streams()])
    wanted = float(np.sqrt((rewards.astype(np.float64) ** 2).mean()))
    assert model.policy.world_model.reward_magnitude().item() == pytest.approx(wanted, rel=1e-4) and wanted > 1000


def test_adapting_leaves_the_callers_arguments_alone() -> None:
    given = dict(size="debug", curiosity_kwargs=dict(units=8))
    model = explorer(policy_kwargs=given)
    model.learn(60)
    model.adapt(1)
    assert given == dict(size="debug", curiosity_kwargs=dict(units=8)) and "curiosity_kwargs" not in model.policy_kwargs


def test_what_is_not_finite_does_not_spoil_the_scales() -> None:
    heads = Disagreement(2, 1, 1, units=4, layers=1)
    batch, posterior = sequence(5, [1, 0, 0, 0, 0])
    heads.loss(batch, posterior)
    before = {name: value.clone() for name, value in heads.scaling.state_dict().items()}
    heads.loss(batch, posterior.map(lambda part: part / 0))
    assert all(th.equal(value, before[name]) for name, value in heads.scaling.state_dict().items())


def test_a_task_that_gives_something_else_changes_nothing() -> None:
    model = explorer()
    model.learn(60)
    before = [rows.rewards.copy() for rows in model.replay_buffer.streams()]
    for wrong in (lambda o, a, n: np.full(len(o), np.nan), lambda o, a, n: 1.0, lambda o, a, n: np.zeros((len(o), 1))):
        with pytest.raises(ValueError, match="reward_fn must give"):
            model.adapt(1, wrong)
    assert all(np.array_equal(a, rows.rewards) for a, rows in zip(before, model.replay_buffer.streams(), strict=True))
    assert model.exploration == "plan2explore"


def test_round_trip(tmp_path: pathlib.Path) -> None:
    model = explorer(policy_kwargs=dict(size="debug", curiosity_kwargs=dict(members=3, units=5)))
    model.learn(60)
    model.save(tmp_path / "model")
    for trusted in (True, False):
        loaded = Dreamer.load(tmp_path / "model", device="cpu", trusted=trusted)
        assert loaded.policy.explorer.curiosity.members == 3
        for name, value in model.policy.state_dict().items():
            assert th.equal(value, loaded.policy.state_dict()[name]), name


@pytest.mark.parametrize("env", ["envs:ContinuousPendulum-v0", "envs:SequenceMemory-v0"])
def test_what_is_reconstructed_badly_is_another_curiosity(env: str, tmp_path: pathlib.Path) -> None:
    model = tiny_dreamer(env, exploration="reconstruction")
    before = weights_of(model)
    model.learn(60)
    names = {group["name"] for group in model.policy.optimizer.param_groups}
    assert names == EXPLORING | {"autoencoder"}
    for name in ("explorer.curiosity.encoder", "explorer.curiosity.decoder", "explorer.critic.net"):
        changed = [not th.equal(before[key], value) for key, value in weights_of(model).items() if key.startswith(name)]
        assert changed and any(changed), name
    assert {"autoencoder_loss", "curiosity"} <= model._metrics.take().keys()
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model", device="cpu", trusted=False)
    assert all(th.equal(value, loaded.policy.state_dict()[name]) for name, value in weights_of(model).items())
    model.adapt(2)
    assert model.exploration is None and model.policy.explorer is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(exploration="curiosity"), "exploration"),
        (dict(explorer_share=1.5), "explorer_share must be a number, from 0 to 1, got 1.5"),
        (
            dict(exploration="reconstruction", policy_kwargs=dict(size="debug", world_model_class=MLPWorldModel)),
            "exploration='reconstruction' is about deterministic states, of which MLPWorldModel has none",
        ),
        (
            dict(exploration="reconstruction", policy_kwargs=dict(size="debug", curiosity_kwargs=dict(members=2))),
            "curiosity_kwargs",
        ),
        (dict(intrinsic_coef=-1.0), "intrinsic_coef"),
        (dict(extrinsic_coef=float("nan")), "extrinsic_coef"),
        (dict(exploration=None, policy_kwargs=dict(size="debug", curiosity_kwargs=dict(members=2))), "curiosity_kwargs"),
    ],
)
def test_wrong_arguments_are_refused_by_name(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explorer(**kwargs) if "exploration" not in kwargs else tiny_dreamer(**kwargs)


def test_there_must_be_something_to_adapt_from() -> None:
    with pytest.raises(ValueError, match="adapt"):
        explorer().adapt(10)
    with pytest.raises(ValueError, match="gradient_steps"):
        explorer().adapt(0)


def test_curiosity_does_not_end_with_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would keep away from whatever ends it, be it the goal."""
    model = explorer()
    model.learn(60)
    batch, _ = model.sample_replay(4, 8)
    posterior = model.world_model.observe(batch)
    seen: list[th.Tensor] = []
    assert model.policy.explorer is not None
    tracked = model.policy.explorer.range
    monkeypatch.setattr(tracked, "update", lambda returns, floor: seen.append(returns.detach()) or th.ones(()))
    for discount in (0.0, 0.99):
        monkeypatch.setattr(model.world_model, "predict_discount", lambda s, d=discount: th.full(s.deter.shape[:-1], d))
        th.manual_seed(0)
        model._behaviour_losses(batch, posterior, {})
    assert th.equal(*seen) and float(seen[0].min()) > 0
