"""The goal autoencoder and the weights that adapt."""

import math

import pytest
import torch as th

from sb3_dreamer.behaviour.goals import AdaptiveWeight, GoalAutoencoder


def states(n: int, seed: int = 0, low: float = -1.0, high: float = 1.0) -> th.Tensor:
    """Points of a curved surface in 16 dimensions, as two numbers move."""
    generator = th.Generator().manual_seed(seed)
    mixing = th.randn(2, 16, generator=th.Generator().manual_seed(9))
    return th.tanh(2 * (th.rand(n, 2, generator=generator) * (high - low) + low) @ mixing)


@pytest.fixture(scope="module")
def trained() -> GoalAutoencoder:
    th.manual_seed(0)
    model = GoalAutoencoder(16, code=(4, 8), units=32, layers=2)
    with th.no_grad():
        model.first_error = float(model.error(states(500, seed=1)).mean())
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(300):
        optimizer.zero_grad()
        model.state_loss(states(64, seed=100 + step)).backward()
        optimizer.step()
    return model


def test_weights_move_towards_their_target_within_limits() -> None:
    penalty = AdaptiveWeight(0.5, target=10.0, rises_above=True, limits=(0.45, 0.55))
    assert penalty.update(th.tensor(20.0)).item() == pytest.approx(0.5)  # the one of now, then it moves
    assert penalty.weight.item() == pytest.approx(0.55)
    penalty.update(th.tensor(20.0))
    assert penalty.weight.item() == pytest.approx(0.55)
    for value in (10.9, 9.2):  # within a tenth
        penalty.update(th.tensor(value))
        assert penalty.weight.item() == pytest.approx(0.55)
    penalty.update(th.tensor(5.0))
    assert penalty.weight.item() == pytest.approx(0.5)
    bonus = AdaptiveWeight(0.5, target=10.0, rises_above=False)
    bonus.update(th.tensor(5.0))
    assert bonus.weight.item() == pytest.approx(0.55)
    bonus.update(th.tensor(float("nan")))
    assert bonus.weight.item() == pytest.approx(0.55)


def test_reconstruction_improves_five_times(trained: GoalAutoencoder) -> None:
    with th.no_grad():
        assert trained.error(states(500, seed=1)).mean() < trained.first_error / 5


def test_the_kl_stays_near_its_share(trained: GoalAutoencoder) -> None:
    assert trained.max_entropy == pytest.approx(4 * math.log(8))
    with th.no_grad():
        kl = trained.max_entropy - trained.encode(states(500, seed=2)).entropy.mean()
    assert kl.item() == pytest.approx(0.6 * trained.max_entropy, rel=0.25)


def test_any_code_decodes_to_a_state_like_those_seen(trained: GoalAutoencoder) -> None:
    codes = trained.groups.join(th.eye(8)[th.randint(8, (200, 4), generator=th.Generator().manual_seed(0))])
    with th.no_grad():
        goals = trained.decode(codes)
    nearest = th.cdist(goals, states(4000, seed=3)).min(1).values
    typical = states(200, seed=4).norm(dim=-1).mean()
    assert nearest.mean() < 0.5 * typical


def test_what_has_not_been_seen_is_novel(trained: GoalAutoencoder) -> None:
    with th.no_grad():
        known, new = (trained.error(x).mean() for x in (states(500, seed=5), -states(500, seed=5).flip(-1)))
    assert new > 5 * known


def test_the_states_do_not_learn_from_it_but_novelty_passes_gradients() -> None:
    from sb3_dreamer.common.types import ImaginedRollout, LatentState

    model = GoalAutoencoder(16)
    deter = th.randn(3, 4, 16, requires_grad=True)
    posterior = LatentState(deter, th.zeros(3, 4, 1))
    model.loss(None, posterior).backward()  # type: ignore[arg-type]  # which it does not read
    assert deter.grad is None
    assert all(parameter.grad is not None for parameter in model.parameters())
    reward = model.reward(ImaginedRollout(posterior, th.zeros(3, 3, 1)))
    assert reward.shape == (3, 4)
    reward.sum().backward()
    assert deter.grad is not None and deter.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(code=(0, 8)), r"code must be two whole numbers.*got \(0, 8\)"),
        (dict(code=(8, 1)), r"code must be two whole numbers.*got \(8, 1\)"),
        (dict(code=8), "code must be two whole numbers.*got 8"),
        (dict(kl_share=1.0), "kl_share must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GoalAutoencoder(16, **kwargs)
