"""Returns of manager and worker over two blocks, by hand."""

import pytest
import torch as th

from sb3_dreamer.director.losses import block_sums, manager_returns, max_cosine, step_weights, worker_returns

# N = 1, M = 2 blocks of K = 2 steps: states 0, 1, 2 and 2, 3, 4
REWARD = th.tensor([[[100.0, 1.0, 2.0], [2.0, 3.0, 4.0]]])
DISCOUNT = th.tensor([[[0.7, 0.9, 0.8], [0.8, 0.5, 0.6]]])


def test_max_cosine_is_one_only_where_direction_and_length_agree() -> None:
    goal = th.tensor([3.0, 4.0])
    states = th.tensor([[3.0, 4.0], [6.0, 8.0], [1.5, 2.0], [-3.0, -4.0], [4.0, -3.0], [0.0, 0.0]])
    assert max_cosine(states, goal).tolist() == pytest.approx([1.0, 0.5, 0.5, -1.0, 0.0, 0.0])
    assert max_cosine(th.zeros(2), th.zeros(2)).item() == 0.0


def test_a_step_counts_as_much_as_the_way_to_it_is_likely() -> None:
    weights = step_weights(DISCOUNT)
    assert weights[0, 0].tolist() == pytest.approx([0.7, 0.7 * 0.9])
    assert weights[0, 1].tolist() == pytest.approx([0.7 * 0.9 * 0.8, 0.7 * 0.9 * 0.8 * 0.5])


def test_what_a_block_gives_the_manager() -> None:
    rewards, discounts = block_sums(REWARD, DISCOUNT)
    # the reward of a block's first state came before the goal, it belongs to the block before
    assert rewards[0].tolist() == pytest.approx([1 + 0.9 * 2, 3 + 0.5 * 4])
    assert discounts[0].tolist() == pytest.approx([0.9 * 0.8, 0.5 * 0.6])


def test_manager_returns_over_two_blocks() -> None:
    value = th.tensor([[50.0, 10.0, 20.0]])
    second = 5.0 + 0.3 * 20
    assert manager_returns(REWARD, DISCOUNT, value, 1.0)[0].tolist() == pytest.approx([2.8 + 0.72 * second, second])
    half = manager_returns(REWARD, DISCOUNT, value, 0.5)[0].tolist()
    assert half == pytest.approx([2.8 + 0.72 * (0.5 * 10 + 0.5 * second), second])


def test_the_managers_returns_are_the_tasks_whatever_the_length_of_a_block() -> None:
    """With λ = 1 it is the discounted sum of all rewards and the last value, step by step."""
    th.manual_seed(0)
    reward, discount, last = th.randn(3, 9), th.rand(3, 9), th.randn(3)
    expected = last
    for t in range(8, 0, -1):
        expected = reward[:, t] + discount[:, t] * expected
    for steps in (1, 2, 4, 8):
        cut = [x.unfold(1, steps + 1, steps) for x in (reward, discount)]  # (3, M, K + 1)
        value = th.cat([th.randn(3, 8 // steps), last[:, None]], dim=1)
        assert th.allclose(manager_returns(*cut, value, 1.0)[:, 0], expected, atol=1e-5)


def test_an_episode_that_ends_inside_a_block_takes_the_rest_along() -> None:
    discount = DISCOUNT.clone()
    discount[0, 0, 1] = 0.0
    rewards, discounts = block_sums(REWARD, discount)
    assert rewards[0, 0].item() == 1.0 and discounts[0, 0].item() == 0.0
    assert manager_returns(REWARD, discount, th.full((1, 3), 99.0), 0.95)[0, 0].item() == 1.0
    assert step_weights(discount)[0].tolist() == [[pytest.approx(0.7), 0.0], [0.0, 0.0]]


def test_worker_returns_end_with_each_block() -> None:
    value = th.tensor([[[0.0, 5.0, 10.0], [7.0, 8.0, 20.0]]])  # state 2 is worth 10 under one goal and 7 under the next
    returns = worker_returns(REWARD, DISCOUNT, value, 1.0)
    first, second = 2 + 0.8 * 10, 4 + 0.6 * 20
    assert returns[0, 0].tolist() == pytest.approx([1 + 0.9 * first, first])
    assert returns[0, 1].tolist() == pytest.approx([3 + 0.5 * second, second])
    half = worker_returns(REWARD, DISCOUNT, value, 0.5)[0, 0, 0].item()
    assert half == pytest.approx(1 + 0.9 * (0.5 * 5 + 0.5 * first))
