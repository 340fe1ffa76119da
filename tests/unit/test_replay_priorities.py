"""Rows that were predicted badly are drawn more often, at every place of a window, and nothing else changes."""

import io

import numpy as np
import pytest
import torch as th
from conftest import tiny_dreamer
from test_sequence_buffer import fill, make

from sb3_dreamer.common.replay_file import read_replay, write_replay
from sb3_dreamer.common.replay_priorities import draw_slots, priority_of
from sb3_dreamer.common.sequence_buffer import SequenceBuffer
from sb3_dreamer.common.types import RowIndex
from sb3_dreamer.world_models import MLPWorldModel


def learnt(buffer: SequenceBuffer, stream: int = 0, **loss_of: float) -> None:
    """Say of all rows held that they were predicted well (loss 0), but for those named ``row_<n>``."""
    last = int(buffer.rows_written()[stream])
    rows = np.arange(max(0, last - buffer.capacity), last)
    loss = th.zeros(1, len(rows))
    for name, value in loss_of.items():
        loss[0, int(name.removeprefix("row_")) - rows[0]] = value
    buffer.write_priorities(RowIndex(np.array([stream]), rows[None]), loss)


def test_priorities_by_hand() -> None:
    assert priority_of(np.array([0.99, 127.99, 0.0, -5.0])) == pytest.approx([1.0, 2**4.9, 0.01**0.7, 0.01**0.7])


def test_slots_are_drawn_in_proportion() -> None:
    priority = np.array([[1.0, 0.0, 3.0], [0.0, 4.0, 0.0]], dtype=np.float32)
    streams, slots = draw_slots(np.random.default_rng(0), priority, 40_000)
    counts = np.zeros((2, 3))
    np.add.at(counts, (streams, slots), 1)
    assert counts / 40_000 == pytest.approx(priority / 8, abs=0.01)
    assert (counts[priority == 0] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1024), (2, 1024), (3, 1000), (5, 700)])
def test_draws_by_blocks_are_those_of_running_sums(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    priority = rng.random(shape).astype(np.float32) ** 4 * (rng.random(shape) < 0.5)
    priority[-1, -300:] = 0.0  # nothing at the end, where rounding might lead
    counts = np.zeros(shape)
    for _ in range(100):
        np.add.at(counts, draw_slots(rng, priority, 1000), 1)
    assert (counts[priority == 0] == 0).all()
    expected = 100_000 * priority / priority.sum(dtype=np.float64)
    chi_square = ((counts - expected)[priority > 0] ** 2 / expected[priority > 0]).mean()
    assert chi_square == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("rows", [40, 83])  # before and after the ring has wrapped
def test_a_badly_predicted_row_is_drawn_often_and_at_every_place_of_a_window(rows: int) -> None:
    buffer = make(prioritized=0.5)
    fill(buffer, rows)
    surprise = rows - 20
    learnt(buffer, **{f"row_{surprise}": 1e6})
    batch, index = buffer.sample(4000, 5)
    number = batch.obs["obs"][..., 0]
    assert th.equal(number[:, 1:] - number[:, :-1], th.ones(4000, 4))
    assert number.min() >= max(rows - 50, 0) + 1 and number.max() <= rows - 1
    places = (index.row == surprise).mean(0)
    uniform_share = 1 / min(rows, 50)
    assert places == pytest.approx([0.5 / 5 + 0.5 * uniform_share] * 5, abs=0.02)
    assert batch.n_uniform == 2000
    assert (index.row[:2000] == surprise).any(1).mean() < 0.2  # the first half of the windows is drawn uniformly


def test_rows_at_the_ends_are_reached_too() -> None:
    buffer = make(prioritized=1.0)
    fill(buffer, 83)
    learnt(buffer, row_82=1e6)
    _, index = buffer.sample(100, 5)
    assert (index.row[:, -1] == 82).all()
    learnt(buffer, row_33=1e6)  # the oldest, which can only be a window's context
    _, index = buffer.sample(100, 5)
    assert (index.row[:, 0] == 34).all()


def test_a_call_may_ask_for_uniform_windows() -> None:
    buffer = make(prioritized=1.0)
    fill(buffer, 40)
    learnt(buffer, row_20=1e6)
    batch, index = buffer.sample(2000, 5, uniform=True)
    assert batch.n_uniform is None
    assert (index.row == 20).any(1).mean() == pytest.approx(5 / 35, abs=0.03)


def test_streams_are_told_apart() -> None:
    buffer = make(n_envs=2, prioritized=1.0)
    fill(buffer, 30, stream=0)
    fill(buffer, 30, stream=1, first_row=1000)
    learnt(buffer, 0)
    buffer.write_priorities(RowIndex(np.array([1]), np.arange(30)[None]), th.eye(30)[7:8] * 1e6)
    batch, index = buffer.sample(50, 5)
    assert (index.stream == 1).all() and (batch.obs["obs"][..., 0] == 1007).any(1).all()


def test_a_stream_too_short_for_a_window_is_left_alone() -> None:
    buffer = make(n_envs=2, prioritized=1.0)
    fill(buffer, 30, stream=0)
    fill(buffer, 3, stream=1, first_row=1000)
    learnt(buffer, 0)
    _, index = buffer.sample(50, 5)
    assert (index.stream == 0).all()


def test_new_rows_count_as_badly_predicted_as_any_so_far() -> None:
    buffer = make(prioritized=1.0)
    fill(buffer, 20)
    learnt(buffer, row_3=1e4)
    learnt(buffer)  # now it is known
    fill(buffer, 1, first_row=20)
    _, index = buffer.sample(200, 5)
    assert (index.row == 20).any(1).mean() > 0.95


def test_nothing_is_left_of_forgotten_rows() -> None:
    buffer = make(prioritized=1.0)
    fill(buffer, 40)
    buffer.reset()
    fill(buffer, 10)
    _, index = buffer.sample(200, 5)
    assert index.row.max() == 9


def test_files_and_other_numbers_of_environments_keep_priorities() -> None:
    buffer = make(prioritized=1.0)
    fill(buffer, 40)
    learnt(buffer, row_20=1e6)
    file = io.BytesIO()
    write_replay(file, buffer)
    file.seek(0)
    again = read_replay(file, buffer.codec, buffer.signature(), prioritized=1.0)
    assert np.array_equal(again.sample(50, 5)[1].row, buffer.sample(50, 5)[1].row)
    assert again._top_priority == buffer._top_priority
    _, index = again.redistribute(2).sample(50, 5)
    assert (index.stream == 1).all() and (index.row == 0).any(1).all() | (index.row[:, 0] == 1).all()


def test_dreamer_writes_what_its_world_model_lost() -> None:
    model = tiny_dreamer(prioritized_replay=0.5, pretrain_updates=0)
    model.learn(80)
    buffer = model.replay_buffer
    assert buffer is not None and buffer.prioritized == 0.5
    batch, index = model.sample_replay(4, 6, uniform=True)
    _, losses, _ = model.world_model.loss(batch)
    rows = model.world_model.row_losses(losses)
    assert rows.shape == (4, 6)
    sums = sum(model.world_model.loss_scales[name] * loss.detach() for name, loss in losses.items())
    assert isinstance(sums, th.Tensor) and sums.mean().item() == pytest.approx(model.world_model.total_loss(losses).item())
    floor = np.quantile(sums[:, 1:].numpy(), 0.1)  # what the best tenth has, no row is to blame for
    expected_rows = (sums - floor).clamp_min(0)
    th.testing.assert_close(rows, expected_rows.float(), rtol=1e-5, atol=1e-4)
    assert 1 <= int((rows == 0).sum()) <= 5
    buffer.write_priorities(index, rows)
    written = buffer._priority[index.stream[:, None], index.row]
    latest = {(s, r): p for s, rs, ps in zip(index.stream, index.row, priority_of(rows.numpy()), strict=True)
              for r, p in zip(rs, ps, strict=True)}  # fmt: skip
    expected = [[latest[s, r] for r in rs] for s, rs in zip(index.stream, index.row, strict=True)]
    assert written == pytest.approx(np.array(expected), rel=1e-5)
    assert len(np.unique(buffer._priority[buffer._priority > 0])) > 5  # learning has written many


def test_rows_without_a_step_before_do_not_hide_what_all_others_lose_alike() -> None:
    """Of a model that has no losses there; windows are short, and a tenth of the rows are such."""
    model = tiny_dreamer(prioritized_replay=0.5, policy_kwargs=dict(size="debug", world_model_class=MLPWorldModel))
    losses = {name: th.zeros(8, 7) for name in model.world_model.loss_scales}
    name = next(iter(losses))
    losses[name] = th.full((8, 7), 5.0)
    losses[name][3, 4] = 6.0
    rows = model.world_model.row_losses(losses)
    assert rows.nonzero().tolist() in ([[3, 4]], [[3, 5]]) and rows.max().item() == model.world_model.loss_scales[name]
    short = {key: (loss if key == name else th.zeros(8, 8)) for key, loss in losses.items()}  # of the last seven rows alone
    rows = model.world_model.row_losses(short)
    assert rows.nonzero().tolist() == [[3, 5]] and rows.max().item() == pytest.approx(model.world_model.loss_scales[name])
