"""The hierarchy: whose clock runs how, who learns from what, and what its dreams are made of."""

import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import Clock, tiny_director, weights_of
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_dreamer import Director
from sb3_dreamer.behaviour.goals import GoalAutoencoder
from sb3_dreamer.common.callbacks import looking
from sb3_dreamer.common.goals_callback import GoalCallback
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.director.losses import max_cosine, step_weights, worker_returns
from sb3_dreamer.world_models import ContextRSSM, MLPWorldModel

OBS = np.random.default_rng(0).normal(size=(12, 3, 3)).astype(np.float32)  # 12 steps of 3 environments
CODE, CLOCK = 2, 3


@pytest.fixture(scope="module")
def model() -> Director:
    return tiny_director(goal_steps=3, imagination_horizon=6).learn(60)


def gradients(loss: th.Tensor, module: th.nn.Module) -> float:
    grads = th.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return sum(float(grad.abs().sum()) for grad in grads if grad is not None)


def states_of(model: Director) -> Any:
    batch, _ = model.sample_replay(4, 8)
    return model.world_model.loss(batch)[0]


def dreams(model: Director) -> Any:
    starts, _ = model._imagination_starts(states_of(model))
    return model._dream(starts)


# ---- the manager's clock


def test_the_manager_chooses_every_third_step_and_keeps_to_it(model: Director) -> None:
    state, clocks, codes = None, [], []
    for obs in OBS:
        _, state = model.predict(obs, state)
        clocks.append(state[CLOCK][:, 0])
        codes.append(state[CODE])
    assert np.array_equal(clocks, np.tile([[2.0], [1.0], [0.0]], (4, 3)))
    changed = [bool((one != other).any()) for one, other in itertools.pairwise(codes)]
    assert changed == [False, False, True] * 3 + [False, False]
    assert all(np.array_equal(code.reshape(3, 8, 8).sum(-1), np.ones((3, 8))) for code in codes)


def test_each_environment_has_a_clock_of_its_own(model: Director) -> None:
    starts = np.zeros((12, 3), dtype=bool)
    starts[4, 1] = starts[5, 2] = True
    state, clocks, codes = None, [], []
    for obs, start in zip(OBS, starts, strict=True):
        _, state = model.predict(obs, state, start)
        clocks.append(state[CLOCK][:, 0])
        codes.append(state[CODE])
    assert np.array(clocks).T.tolist() == [
        [2, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 0],
        [2, 1, 0, 2, 2, 1, 0, 2, 1, 0, 2, 1],  # a new goal with the new episode, two steps early
        [2, 1, 0, 2, 1, 2, 1, 0, 2, 1, 0, 2],
    ]
    assert np.array_equal(codes[3][0], codes[4][0]) and not np.array_equal(codes[3][1], codes[4][1])


def test_environments_in_other_phases_do_not_mix(model: Director) -> None:
    """Goal and action of an environment are the same whoever is beside it, and whenever that one chooses."""
    starts = np.zeros((12, 3), dtype=bool)
    starts[[2, 4, 7], [1, 2, 1]] = True

    def run(columns: slice) -> list[np.ndarray]:
        state, found = None, []
        for obs, start in zip(OBS[:, columns], starts[:, columns], strict=True):
            action, state = model.predict(obs, state, start, deterministic=True)
            found.append(np.concatenate([action, state[CODE], state[CLOCK]], axis=1))
        return found

    together = np.stack(run(slice(0, 3)))
    for i in range(3):
        assert np.allclose(np.stack(run(slice(i, i + 1)))[:, 0], together[:, i], atol=1e-5)


def test_rollouts_begin_a_goal_with_every_episode() -> None:
    env = DummyVecEnv([lambda n=n: Clock(length=n) for n in (4, 5)])  # type: ignore[misc]
    model = tiny_director(env, goal_steps=3, imagination_horizon=3, learning_starts=20, random_warmup=False)
    seen: list[list[float]] = []

    def note(local: Any, _: Any) -> bool:
        seen.append(local["self"]._last_state[CLOCK][:, 0].tolist())
        return True

    model.learn(40, callback=note)
    clocks = np.array(seen).T.tolist()
    assert clocks[0] == [2, 1, 0, 2] * 5  # four steps an episode
    assert clocks[1] == [2, 1, 0, 2, 1] * 4


def test_goals_wait_until_the_random_steps_are_over() -> None:
    model = tiny_director(Clock(length=100), goal_steps=3, imagination_horizon=3)
    clocks: list[float] = []
    model.learn(50, callback=lambda local, _: clocks.append(local["self"]._last_state[CLOCK][0, 0]) or True)
    assert clocks[:40] == [0.0] * 40 and clocks[40:46] == [2, 1, 0, 2, 1, 0]


def test_dreams_pursue_goals_as_the_awake_do(model: Director) -> None:
    """A dream that goes on from a state goes on with its goal: the worker's first action is that of predict."""
    _, before = model.predict(OBS[0], deterministic=True)
    action, after = model.predict(OBS[1], before, deterministic=True)
    assert after[CLOCK][0, 0] == 1.0
    dream = model.imagine(OBS[1], 3, state=before)
    assert np.allclose(dream.actions[:, 0], action, atol=1e-5)
    other = (*before[:CODE], np.roll(before[CODE], 1, axis=1), *before[CLOCK:])
    assert not np.allclose(model.imagine(OBS[1], 3, state=other).actions[:, 0], action, atol=1e-7)


# ---- what a dream is made of


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_blocks_follow_each_other(task: str, gradient: str) -> None:
    model = tiny_director(f"envs:{task}", goal_steps=3, imagination_horizon=6, actor_gradient=gradient).learn(50)
    blocks = dreams(model)
    n, size = 8, model.action_codec.size
    assert blocks.states.feat.shape[:3] == (n, 2, 4) and blocks.actions.shape == (n, 2, 3, size)
    assert th.equal(blocks.states.feat[:, 0, -1], blocks.states.feat[:, 1, 0])
    assert th.allclose(blocks.goals, model.policy.autoencoder.decode(blocks.codes))
    pursuing = th.cat([blocks.states.feat[:, 1, 2], blocks.goals[:, 1]], dim=-1)
    policy = model.policy.worker(pursuing.detach())
    assert th.allclose(policy.entropy, blocks.worker.entropy[:, 1, 2], atol=1e-5)
    assert th.allclose(blocks.weights, step_weights(model.world_model.predict_discount(blocks.states)), atol=1e-6)
    assert not blocks.codes.requires_grad and not blocks.goals.requires_grad
    assert blocks.states.feat.requires_grad == (gradient == "dynamics")


def test_a_block_does_not_serve_the_next_ones_goal() -> None:
    """What the worker gains in the second block has no gradient in what it did in the first."""
    model = tiny_director(goal_steps=3, imagination_horizon=6).learn(50)
    blocks = dreams(model)
    assert blocks.nudge is not None
    for block in range(2):
        reward = max_cosine(blocks.states.deter[:, block], blocks.goals[:, block].unsqueeze(1)).sum()
        (found,) = th.autograd.grad(reward, blocks.nudge, retain_graph=True)
        assert found.abs().sum((0, 2)).gt(0).tolist() == [block == 0] * 3 + [block == 1] * 3


# ---- who learns from what


@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_who_learns_from_what(task: str) -> None:
    model = tiny_director(f"envs:{task}").learn(60)
    policy = model.policy
    with th.no_grad():
        for critic in (policy.manager_critic, policy.novelty_critic, policy.worker_critic):
            critic.net.out.weight.normal_(std=0.3)
    blocks = dreams(model)
    worker_loss, worker_value = model._worker_losses(blocks, {})
    manager_loss, manager_value = model._manager_losses(blocks, {})
    reached = {
        "worker": worker_loss,
        "manager": manager_loss,
        "worker_critic": worker_value,
        "manager_critic": manager_value,
        "novelty_critic": manager_value,
    }
    for name, loss in reached.items():
        for other in policy.trained_modules():
            shared = reached.get(other) is loss
            assert (gradients(loss, policy.get_submodule(other)) > 0) == shared, (name, other)
    model.world_model.loss_scales = dict.fromkeys(model.world_model.loss_scales, 0.0)
    model.train(1)
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.world_model.parameters())


def test_the_workers_gradient_is_that_through_the_whole_dream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing the actions again, all at once, gives the gradient of dreams whose graph holds worker and model."""
    model = tiny_director(goal_steps=3, imagination_horizon=6, ent_coef=0.0, action_mean_penalty=0.0).learn(50)
    policy, imagine = model.policy, model.world_model.imagine
    monkeypatch.setattr(model.world_model, "imagine", lambda act, start, steps: imagine(act, start, steps, True))
    parameters = list(policy.worker.parameters())
    blocks = dreams(model)
    loss, _ = model._worker_losses(blocks, {})
    found = th.autograd.grad(loss, parameters)

    def dream(block: int) -> LatentState:
        chosen: list[th.Tensor] = []

        def act(feat: th.Tensor) -> th.Tensor:
            worker = policy.worker(th.cat([feat.detach(), blocks.goals[:, block]], dim=-1))
            chosen.append(worker.sample(blocks.noise[:, block, len(chosen)]))
            return chosen[-1]

        return imagine(act, blocks.states.map(lambda part: part[:, block, 0].detach()), 3, True).states

    states = LatentState.stack([dream(0), dream(1)], dim=1)
    goals = blocks.goals.unsqueeze(2).expand(-1, -1, 4, -1)
    value = policy.worker_critic(th.cat([states.feat, goals], dim=-1)).mean
    reward = max_cosine(states.deter, goals)
    returns = worker_returns(reward, th.full_like(reward, model.gamma), value, model.return_lambda)
    scale = (policy.worker_range.high - policy.worker_range.low).clamp_min(1.0)
    expected = th.autograd.grad(-(blocks.weights * returns / scale).mean(), parameters)
    assert max(float(grad.abs().max()) for grad in expected) > 1e-6
    assert all(th.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(found, expected, strict=True))


def test_the_worker_never_hears_of_the_reward(model: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = model._imagination_starts(states_of(model))[0]
    losses: list[list[float]] = []
    for factor in (0.0, 7.0):
        monkeypatch.setattr(model.world_model, "predict_reward", lambda s, factor=factor: factor * s.feat.sum(-1))
        for tracked in (model.policy.worker_range, model.policy.task_range):
            tracked.low.zero_()
            tracked.high.zero_()
        th.manual_seed(0)
        blocks = model._dream(starts)
        losses.append([loss(blocks, {})[0].item() for loss in (model._worker_losses, model._manager_losses)])
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


def test_the_manager_weighs_task_and_novelty(model: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a weight of 0 a reward has no part in the manager's gradient."""
    blocks = dreams(model)
    parameters = list(model.policy.manager.parameters())

    def gradient(reward: float) -> list[th.Tensor]:
        monkeypatch.setattr(model.world_model, "predict_reward", lambda s: reward * s.feat.sum(-1))
        for tracked in (model.policy.novelty_range, model.policy.task_range):
            tracked.low.zero_()
            tracked.high.zero_()
        model.policy.manager_ent.weight.fill_(0.01)
        return list(th.autograd.grad(model._manager_losses(blocks, {})[0], parameters, retain_graph=True))

    monkeypatch.setattr(model, "extrinsic_coef", 0.0)
    assert all(th.equal(*pair) for pair in zip(gradient(0.0), gradient(5.0), strict=True))
    monkeypatch.setattr(model, "extrinsic_coef", 1.0)
    assert any(not th.equal(*pair) for pair in zip(gradient(0.0), gradient(5.0), strict=True))


@pytest.mark.parametrize("exploration", ["reconstruction", "state_entropy"])
def test_where_another_actor_explores_the_manager_is_for_the_task_alone(exploration: str, tmp_path: pathlib.Path) -> None:
    """And the coefficients are the explorer's, whose networks learn and are saved."""
    model = tiny_director(exploration=exploration, explorer_share=0.5, extrinsic_coef=0.0, intrinsic_coef=1.0).learn(60)
    policy, before = model.policy, weights_of(model)
    with th.no_grad():
        policy.manager_critic.net.out.weight.normal_(std=0.3)  # else it expects 0, and is surprised by nothing
    blocks = dreams(model)
    loss, value_loss = model._manager_losses(blocks, {})
    assert gradients(loss, policy.manager) > 0
    assert gradients(value_loss, policy.manager_critic) > 0 and gradients(value_loss, policy.novelty_critic) == 0
    model.train(2)
    after = weights_of(model)
    for name in ("actor.mean", "critic.net", "task_critic.net", "slow_critic.net", "slow_task_critic.net"):
        names = [key for key in before if key.startswith(f"explorer.{name}")]
        assert names and any(not th.equal(before[key], after[key]) for key in names), name
    kept = [key for key in before if key.startswith("novelty_critic.")]
    assert kept and all(th.equal(before[key], after[key]) for key in kept)
    groups = {group["name"]: group["lr"] for group in policy.optimizer.param_groups}
    assert groups["exploration_actor"] == groups["manager"] and groups["exploration_critic"] == groups["manager_critic"]
    model.save(tmp_path / "model")
    loaded = Director.load(tmp_path / "model", device="cpu", trusted=False)
    assert all(th.equal(value, loaded.policy.state_dict()[name]) for name, value in weights_of(model).items())
    assert tiny_director().policy.explorer is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("task", ["ContinuousPendulum-v0", "SequenceMemory-v0"])
def test_an_explorer_learns_beside_manager_and_worker(task: str, precision: str) -> None:
    """Whatever actions are, each network has a gradient of its own; the explorer's entropy weighs what a Dreamer's does."""
    model = tiny_director(
        f"envs:{task}", explorer_share=0.5, ent_coef=0.0, policy_kwargs=dict(size="debug", precision=precision)
    ).learn(60)
    assert model._ent_coef == 0.0 and model._explorers_ent_coef() == (2e-2 if task == "ContinuousPendulum-v0" else 3e-2)
    model.train(1)
    for group in model.policy.optimizer.param_groups:
        moved = [p.grad is not None and bool((p.grad != 0).any()) for p in group["params"]]
        assert any(moved) == (group["name"] != "novelty_critic"), group["name"]
    assert model._skipped_updates == 0


def test_only_the_task_ends_with_an_episode(model: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new, and a goal, are not kept away from because an episode ends there."""
    starts, _ = model._imagination_starts(states_of(model))
    found: list[dict[str, float]] = []
    for discount in (0.0, 0.99):
        th.manual_seed(0)
        blocks = model._dream(starts)
        metrics: dict[str, th.Tensor] = {}
        ended = blocks._replace(discount=th.full_like(blocks.discount, discount))
        monkeypatch.setattr(model.world_model, "predict_reward", lambda states: th.ones(states.deter.shape[:-1]))
        for tracked in (model.policy.novelty_range, model.policy.task_range, model.policy.worker_range):
            tracked.low.zero_()
            tracked.high.zero_()
        model._manager_losses(ended, metrics)
        model._worker_losses(ended, metrics)
        found.append({name: float(value.detach()) for name, value in metrics.items()})
    over, goes_on = found
    assert over["novelty_return"] == goes_on["novelty_return"]
    assert over["task_return"] == pytest.approx(1.0)  # the reward on arrival, and no more
    assert goes_on["task_return"] > 2.0
    assert over["worker_scale"] == goes_on["worker_scale"]


def test_pretraining_is_for_model_and_goals_alone() -> None:
    model = tiny_director(pretrain_updates=5, learning_starts=40)
    before = weights_of(model)
    model.learn(40)  # the first update waits for one that is not the model's alone
    model._n_updates, model.pretrain_updates = 0, 100
    model.train(3)
    after = weights_of(model)
    for name in ("manager.", "worker.", "worker_critic.", "novelty_critic."):
        same = [th.equal(before[key], after[key]) for key in before if key.startswith(name)]
        assert same, name
    assert any(not th.equal(before[key], after[key]) for key in before if key.startswith("autoencoder.decoder"))


# ---- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(goal_steps=3), "imagination_horizon=4 must be a multiple of goal_steps=3"),
        (dict(goal_steps=0), "goal_steps must be at least 1, got 0"),
        (dict(goal_steps=1.5), "goal_steps must be a whole number, got 1.5"),
        (dict(manager_entropy=1.0), r"manager_entropy .* must lie in \(0, 1\), got 1.0"),
        (dict(intrinsic_coef=-1), "intrinsic_coef must be at least 0, got -1"),
        (dict(explorer_share=1.5), "explorer_share must be a number, from 0 to 1, got 1.5"),
        (dict(policy_kwargs=dict(world_model_class=MLPWorldModel)), "world_model_class must be .* RSSM, got"),
        (dict(policy_kwargs=dict(world_model_class=ContextRSSM)), "world_model_class=ContextRSSM has a context"),
        (dict(policy_kwargs=dict(goal_steps=4)), "policy_kwargs must not hold goal_steps"),
        (dict(policy_kwargs=dict(goal_kwargs=dict(code=(8, 1)))), r"code must be two whole numbers.*got \(8, 1\)"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_director(**kwargs)


def test_it_cannot_be_exported(model: Director, tmp_path: Any) -> None:
    pytest.importorskip("onnx")
    from sb3_dreamer.export import export_onnx

    with pytest.raises(ValueError, match="Director pursues goals over several steps, which cannot be exported"):
        export_onnx(model, tmp_path / "director.onnx")


# ---- goals to look at


def test_goals_are_decoded(model: Director) -> None:
    _, state = model.predict(OBS[0])
    goals = model.decode_goals(state)
    assert goals["obs"].shape == (3, 3) and np.isfinite(goals["obs"]).all()
    again = model.decode_goals((*state[:CODE], np.roll(state[CODE], 1, axis=1), *state[CLOCK:]))
    assert not np.allclose(goals["obs"], again["obs"])


class Logged(BaseCallback):
    """What has been recorded for the log."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _on_step(self) -> bool:
        self.names |= set(self.logger.name_to_value)
        return True


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
def test_the_callback_shows_goals_and_changes_nothing(policy: str) -> None:
    env = "envs:ContinuousPendulumPixels-v0" if policy == "CnnPolicy" else "envs:FourRooms-v0"
    weights = []
    for callback in (None, GoalCallback(every=20, windows=3)):
        model = tiny_director(env, policy)
        logged = Logged()
        model.learn(60, callback=[logged] if callback is None else [callback, logged], log_interval=None)
        weights.append(weights_of(model))
        assert ("goals/obs" in logged.names) == (callback is not None)
    assert all(th.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert callback is not None
    seen, named, chosen = (callback.goals[name]["obs"] for name in ("state", "reconstruction", "goal"))
    assert seen.shape == named.shape == chosen.shape and len(seen) == 3


def test_the_callback_is_for_hierarchies_only() -> None:
    from conftest import tiny_dreamer

    with pytest.raises(ValueError, match="GoalCallback shows the goals of a Director: Dreamer has none"):
        tiny_dreamer().learn(10, callback=GoalCallback())
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        GoalCallback(every=0)


@pytest.mark.slow
def test_the_worker_learns_to_reach_replayed_states() -> None:
    """
    In dreams of K steps towards states of other windows, the cosine at the end exceeds 0.7, and that at the start, where an
    untrained worker stays. Codes name replayed states five times better than an untrained autoencoder does.
    """
    model = Director(
        "MlpPolicy",
        "envs:FourRooms-v0",
        seed=0,
        device="cpu",
        learning_starts=600,
        train_ratio=1.0,
        pretrain_updates=100,
        imagination_horizon=8,
        batch_length=16,
        batch_size=16,
    )

    def cosines() -> tuple[float, float]:
        with looking(model):
            batch, _ = model.sample_replay(64, 10, uniform=True)
            states = model.world_model.observe(batch)
            start, goal = states.map(lambda x: x[:, 1]), states.deter[:, -1].roll(7, 0)
            dream = model.world_model.imagine(
                lambda feat: model.policy.worker(th.cat([feat, goal], dim=-1)).mode, start, 8, deterministic=True
            )
            return max_cosine(start.deter, goal).mean().item(), max_cosine(dream.states.deter[:, -1], goal).mean().item()

    def goal_error(autoencoder: GoalAutoencoder) -> float:
        with looking(model):
            batch, _ = model.sample_replay(64, 10, uniform=True)
            return autoencoder.error(model.world_model.observe(batch).deter).mean().item()

    model.learn(600, log_interval=None)  # random steps, and the model's updates
    start, end = cosines()
    assert abs(end - start) < 0.05
    model.train(100)
    start, end = cosines()
    assert end > 0.7 and end > start + 0.1
    untrained = GoalAutoencoder(model.world_model.deter_size)
    assert goal_error(model.policy.autoencoder) < goal_error(untrained) / 5
