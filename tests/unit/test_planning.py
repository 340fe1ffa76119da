"""Planners: against optima that are known, and against what they are defined by."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_dreamer.common.distributions import OneHotGroups
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.planning import CategoricalSequences, NormalSequences, Planner, coloured_noise, imagined_score

METHODS = ["cem", "icem", "mppi"]
CPU = th.device("cpu")


class LinearQuadratic:
    """``x' = A x + B u``, reward ``-(x'ᵀ x' + 0.1 uᵀ u)``: the best open loop is a least-squares problem."""

    horizon = 6
    a = np.array([[1.0, 0.1], [0.0, 1.0]])
    b = np.array([[0.0], [0.1]]) * 3

    def __init__(self) -> None:
        self.starts = np.array([[0.2, 0.0], [-0.1, 0.3], [0.0, -0.2]])

    def best(self) -> np.ndarray:
        """The actions ``(B, H, 1)`` that minimise the cost, from the normal equations."""
        size = self.horizon
        power = [np.linalg.matrix_power(self.a, k) for k in range(size + 1)]
        free = np.concatenate(power[1:])  # (2H, 2)
        forced = np.zeros((2 * size, size))
        for k in range(size):
            for j in range(k + 1):
                forced[2 * k : 2 * k + 2, j] = (power[k - j] @ self.b)[:, 0]
        gain = np.linalg.solve(forced.T @ forced + 0.1 * np.eye(size), -forced.T @ free)
        return (self.starts @ gain.T)[..., None]

    def score(self, actions: th.Tensor) -> th.Tensor:
        batch, n, horizon, _ = actions.shape
        a, b = (th.as_tensor(matrix, dtype=th.float32) for matrix in (self.a, self.b))
        x = th.as_tensor(self.starts, dtype=th.float32)[:, None].expand(batch, n, 2)
        total = th.zeros(batch, n)
        for t in range(horizon):
            x = x @ a.T + actions[:, :, t] @ b.T
            total -= x.square().sum(-1) + 0.1 * actions[:, :, t].square().sum(-1)
        return total


@pytest.mark.parametrize("method", METHODS)
def test_the_optimum_of_a_linear_quadratic_problem_is_found(method: Any) -> None:
    problem = LinearQuadratic()
    best = th.as_tensor(problem.best(), dtype=th.float32)
    assert best.abs().max() < 0.9  # inside the bounds, so that the formula holds
    planner = Planner(method, problem.horizon, n_samples=600, n_iterations=15, n_elites=40, momentum=0.1, decay=1.05)
    start = NormalSequences.fresh(3, problem.horizon, 1, CPU, min_std=0.005)
    plan = planner.plan(problem.score, start, generator=th.Generator().manual_seed(0))
    assert th.allclose(plan.actions, best, atol=0.05)
    optimum = problem.score(best.unsqueeze(1))[:, 0]
    assert th.allclose(problem.score(plan.actions.unsqueeze(1))[:, 0], optimum, atol=2e-3)
    assert (plan.score <= optimum + 1e-6).all() and th.allclose(plan.score, optimum, atol=5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_an_optimum_at_the_bounds(method: Any) -> None:
    planner = Planner(method, 4, n_samples=200, n_iterations=8, n_elites=20)
    direction = th.tensor([1.0, -1.0])
    generator = th.Generator().manual_seed(0)
    start = NormalSequences.fresh(2, 4, 2, CPU)
    plan = planner.plan(lambda actions: (actions * direction).sum((-2, -1)), start, generator=generator)
    assert th.allclose(plan.actions, direction.expand(2, 4, 2), atol=0.15)
    assert plan.actions.abs().max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_choices(method: Any) -> None:
    """Two variables of 3 and of 2 choices; every plan of the batch has its own hidden sequence."""
    groups = OneHotGroups([3, 2])
    generator = th.Generator().manual_seed(0)
    hidden = CategoricalSequences.fresh(4, 5, groups).sample(1, generator=generator)[:, 0]
    planner = Planner(method, 5, n_samples=300, n_iterations=8, n_elites=20)
    plan = planner.plan(
        lambda actions: (actions * hidden.unsqueeze(1)).sum((-2, -1)),
        CategoricalSequences.fresh(4, 5, groups),
        generator=generator,
    )
    assert th.equal(plan.actions, hidden) and (plan.score == 10).all()


def test_samples_of_choices_are_one_hot_and_follow_the_probabilities() -> None:
    groups = OneHotGroups([3, 2])
    probs = th.tensor([[[[0.7, 0.2, 0.1], [0.25, 0.75, 0.0]]]])
    drawn = CategoricalSequences(probs, groups).sample(20_000, generator=th.Generator().manual_seed(0))[0, :, 0]
    assert (drawn[:, :3].sum(-1) == 1).all() and (drawn[:, 3:].sum(-1) == 1).all()
    assert th.allclose(drawn.mean(0), th.tensor([0.7, 0.2, 0.1, 0.25, 0.75]), atol=0.015)


def test_refit_by_hand() -> None:
    start = NormalSequences(th.full((1, 1, 1), 0.5), th.full((1, 1, 1), 0.4), min_std=0.05)
    candidates = th.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1)
    weights = th.tensor([[0.25, 0.25, 0.5]])
    mean, std = 0.5, np.sqrt(0.25 * 0.25 * 2)
    found = start.refit(candidates, weights, momentum=0.0)
    assert found.mean.item() == pytest.approx(mean) and found.std.item() == pytest.approx(std)
    slow = start.refit(candidates, weights, momentum=0.75)
    assert slow.std.item() == pytest.approx(0.25 * std + 0.75 * 0.4)
    same = start.refit(th.zeros(1, 3, 1, 1), weights, momentum=0.0)
    assert same.std.item() == pytest.approx(0.05)
    groups = OneHotGroups([2])
    choices = th.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).view(1, 3, 1, 2)
    probs = CategoricalSequences.fresh(1, 1, groups, min_prob=0.1).refit(choices, weights, momentum=0.0).probs
    assert th.allclose(probs.flatten(), 0.9 * th.tensor([0.25, 0.75]) + 0.1 * 0.5)


def test_shift_moves_the_plan_one_step_on() -> None:
    mean = th.arange(3.0).view(1, 3, 1)
    shifted = NormalSequences(mean, th.full_like(mean, 0.1), init_std=0.8).shift()
    assert shifted.mean.flatten().tolist() == [1.0, 2.0, 0.0] and (shifted.std == 0.8).all()
    groups = OneHotGroups([2])
    probs = th.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    assert CategoricalSequences(probs, groups).shift().probs.flatten().tolist() == [0.25, 0.75, 0.5, 0.5]


@pytest.mark.parametrize("steps", [2, 7, 12])
@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_coloured_noise_has_its_spectrum_and_unit_variance(steps: int, colour: float) -> None:
    noise = coloured_noise((40_000,), steps, colour, th.zeros(1), th.Generator().manual_seed(0))
    assert noise.shape == (40_000, steps)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.square().mean().item() == pytest.approx(1, abs=0.03)
    power = th.fft.rfft(noise).abs().square().mean(0).numpy()
    frequency = np.maximum(np.arange(len(power)), 1) / steps
    expected = frequency**-colour
    assert power / power[0] == pytest.approx(expected / expected[0], rel=0.08)


def test_icem_keeps_the_best_and_asks_for_fewer_candidates() -> None:
    asked: list[th.Tensor] = []

    def score(actions: th.Tensor) -> th.Tensor:
        asked.append(actions)
        return -(actions - 0.3).square().sum((-2, -1))

    planner = Planner("icem", 3, n_samples=100, n_iterations=4, n_elites=10, keep=0.3, decay=2.0)
    planner.plan(score, NormalSequences.fresh(1, 3, 1, CPU), generator=th.Generator().manual_seed(0))
    assert [actions.shape[1] for actions in asked] == [100, 50 + 3, 25 + 3, 20 + 3 + 1]
    for before, after in itertools.pairwise(list(asked)):
        best = before[0, score(before)[0].argmax()]
        assert (after[0] == best).flatten(1).all(1).any()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_counts_for_nothing_even_among_the_elites(method: Any) -> None:
    """Fewer candidates are good than there are to be elites."""

    def score(candidates: th.Tensor) -> th.Tensor:
        action = candidates[..., 0, 0]
        return th.where(action > 0.8, 1.0 - (action - 0.9).square(), -th.inf)

    planner = Planner(method, 1, n_samples=60, n_iterations=4, n_elites=30, momentum=0.0, keep=0.0)
    start = NormalSequences.fresh(1, 1, 1, CPU)
    plan = planner.plan(score, start, generator=th.Generator().manual_seed(0))
    assert 0.8 < plan.actions.item() <= 1.0


def test_proposals_are_candidates_and_bad_returns_the_worst() -> None:
    proposal = th.full((1, 1, 3, 1), 0.77)

    def score(actions: th.Tensor) -> th.Tensor:
        good = ((actions - 0.77).abs().amax((-2, -1)) < 1e-6).float()
        return th.where(good > 0, 5.0, float("nan"))

    planner = Planner("cem", 3, n_samples=10, n_iterations=2, n_elites=1)
    plan = planner.plan(score, NormalSequences.fresh(1, 3, 1, CPU), proposals=proposal)
    assert plan.score.item() == 5 and th.allclose(plan.actions, proposal[:, 0])


class Counter:
    """A model whose state counts what the actions add; reward 10 times the state, discount 0.5, or 0 above 2."""

    deter_size, stoch_size, gamma = 1, 0, 0.5

    def imagine(self, actions: th.Tensor, state: LatentState, horizon: int, deterministic: bool, generator: Any) -> Any:
        from sb3_dreamer.common.types import ImaginedRollout

        deter = th.cat([state.deter[:, None], state.deter[:, None] + actions.cumsum(1)], dim=1)
        return ImaginedRollout(LatentState(deter, deter[..., :0]), actions)

    def predict_reward(self, state: LatentState) -> th.Tensor:
        return 10 * state.deter[..., 0]

    def predict_discount(self, state: LatentState) -> th.Tensor:
        return th.where(state.deter[..., 0] > 2, 0.0, 0.5)


@pytest.mark.parametrize("particles", [1, 3])
def test_score_of_a_dream_by_hand(particles: int) -> None:
    state = LatentState(th.tensor([[0.0], [1.0]]), th.zeros(2, 0))
    candidates = th.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])[None, :, :, None].expand(2, 2, 3, 1)
    score = imagined_score(Counter(), state, value=lambda feat: 100 * feat[:, 0], particles=particles)  # type: ignore[arg-type]
    first = 10 * (1 + 0.5 * 1.5 + 0.25 * 1.5) + 0.125 * 150
    second = 10 * (1 + 0.5 * 2 + 0.25 * 3)  # ends at 3: nothing follows
    third = 10 * (2 + 0.5 * 2.5)  # from 1: at 2.5 it is over
    fourth = 10 * (2 + 0.5 * 3)
    assert th.allclose(score(candidates), th.tensor([[first, second], [third, fourth]]))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(method="random"), "method must be"),
        (dict(horizon=0), "horizon must be"),
        (dict(n_samples=10, n_elites=11), "cannot be more than n_samples"),
        (dict(momentum=1.5), "momentum must lie"),
        (dict(temperature=0.0), "temperature must be positive"),
        (dict(n_iterations=1.5), "n_iterations must be"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Planner(**kwargs)
    with pytest.raises(ValueError, match="particles must be"):
        imagined_score(Counter(), LatentState(th.zeros(1, 1), th.zeros(1, 0)), particles=0)  # type: ignore[arg-type]
