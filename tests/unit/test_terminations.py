"""The head that tells terminations, against numbers worked out by hand."""

import math

import pytest
import torch as th

from sb3_dreamer.world_models.terminations import EDGE, MAX_UNITS, TerminationHead
from sb3_dreamer.world_models.transitions import Transitions

STD = th.tensor([2.0, 10.0])


def steps(terminal: list[float]) -> Transitions:
    x = th.tensor([[0.0, 5.0], [1.0, -5.0], [-3.0, 0.0]])
    after = th.tensor([[1.0, 0.0], [4.0, 9.0], [2.0, 0.0]])
    return Transitions(x, th.zeros(3, 1), th.zeros(3), after, th.tensor(terminal))


def head_of_what_is_outside(number: int) -> TerminationHead:
    """Reads how far one number is outside, and nothing else: ``silu(silu(outside))``."""
    head = TerminationHead(1, 2, units=8)
    with th.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.linears[0].weight[0, 3 + number] = head.linears[1].weight[0, 0] = head.out.weight[0, 0] = 1.0
    return head


def test_it_knows_the_range_of_all_that_went_on_and_how_often_nothing_did() -> None:
    head = TerminationHead(1, 2, units=8)
    head.learn_statistics(steps([0.0, 1.0, 0.0]))  # of the second step, where it began counts, where it ended does not
    assert head.low.tolist() == [-3.0, -5.0] and head.high.tolist() == [2.0, 5.0]
    assert head.share.item() == pytest.approx(1 / 3) and head.has_seen_one()


@pytest.mark.parametrize(
    ("after", "outside"),
    [([2.0, 0.0], 0.0), ([2.0 + 0.5 * EDGE * 2.0, 99.0], 0.5), ([50.0, 0.0], 1.0), ([-3.0 - 0.25 * EDGE * 2.0, 0.0], -0.25)],
)
def test_numbers_are_outside_by_shares_of_a_narrow_edge(after: list[float], outside: float) -> None:
    head = head_of_what_is_outside(0)
    head.learn_statistics(steps([0.0, 1.0, 0.0]))
    silu = lambda value: value / (1 + math.exp(-value))  # noqa: E731
    found = head.logit(th.tensor([after]), STD, th.randn(1, 3)).item()
    assert found == pytest.approx(silu(silu(outside)) + math.log((1 / 3) / (2 / 3)), abs=1e-4)


def test_before_anything_is_known_nothing_is_outside_and_ends_are_as_likely_as_not() -> None:
    head = head_of_what_is_outside(1)
    assert head.logit(th.tensor([[1e6, -1e6]]), STD, th.randn(1, 3)).item() == pytest.approx(0.0, abs=1e-6)


def test_where_no_end_was_seen_none_is_expected() -> None:
    head = TerminationHead(1, 2, units=8)
    head.learn_statistics(steps([0.0, 0.0, 0.0]))
    assert not head.has_seen_one()
    assert (head.logit(1e3 * th.randn(5, 2), STD, th.randn(5, 3)) == -30.0).all()


def test_where_all_ended_the_logit_is_high_and_finite() -> None:
    head = TerminationHead(1, 2, units=8)
    head.learn_statistics(steps([1.0, 1.0, 1.0]))
    logit = head.logit(th.zeros(1, 2), STD, th.zeros(1, 3)).item()
    assert math.isfinite(logit) and logit > 15


def test_it_is_never_wide() -> None:
    assert TerminationHead(1, 2, units=500).linears[0].weight.shape == (MAX_UNITS, 5)
    assert TerminationHead(1, 2, units=8).linears[0].weight.shape == (8, 5)
