"""The replay against a plain list of all rows ever written."""

import pickle
import resource

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_dreamer.common.preprocessing import ObservationCodec
from sb3_dreamer.common.sequence_buffer import SequenceBuffer
from sb3_dreamer.common.types import LatentState


def make(capacity: int = 50, n_envs: int = 1, **kwargs) -> SequenceBuffer:
    codec = ObservationCodec(spaces.Box(-np.inf, np.inf, (1,)))
    return SequenceBuffer(capacity * n_envs, codec, action_size=1, deter_size=2, stoch_size=3, n_envs=n_envs, seed=0, **kwargs)


def fill(buffer: SequenceBuffer, rows: int, episode: int = 7, stream: int = 0, first_row: int = 0) -> None:
    """Row number n has observation n, action n + 0.5, reward 10 n and latents n; episodes of ``episode`` rows."""
    for n in range(first_row, first_row + rows):
        last = n % episode == episode - 1
        buffer.add(
            np.array([stream]),
            {"obs": np.array([[n]], dtype=np.float32)},
            action=0.0 if last else np.array([[n + 0.5]]),
            reward=np.array([10.0 * n]),
            is_first=n % episode == 0,
            is_last=last,
            is_terminal=last and (n // episode) % 2 == 0,
            deter=np.full((1, 2), n),
            stoch=np.full((1, 3), n),
        )


@pytest.mark.parametrize("rows", [30, 50, 51, 83, 177])
def test_windows_are_consecutive_and_aligned_also_across_borders_and_after_wrapping(rows: int) -> None:
    buffer = make()
    fill(buffer, rows)
    batch, index = buffer.sample(200, 6)
    number = batch.obs["obs"][..., 0]
    assert number.shape == (200, 6)
    assert th.equal(number[:, 1:] - number[:, :-1], th.ones(200, 5))  # never across the seam
    assert number.min() >= max(rows - 50, 0) + 1 and number.max() <= rows - 1  # the context row is held as well
    assert np.array_equal(index.row, number.numpy())
    n = number.long()
    assert th.equal(batch.reward, 10.0 * number)
    before = n - 1
    expected_action = th.where(before % 7 == 6, th.zeros(()), before + 0.5)
    assert th.allclose(batch.prev_action[..., 0], expected_action)
    assert th.equal(batch.is_first.bool(), n % 7 == 0)
    assert th.equal(batch.is_last.bool(), n % 7 == 6)
    assert th.equal(batch.is_terminal.bool(), (n % 7 == 6) & ((n // 7) % 2 == 0))
    assert th.equal(batch.initial.deter, (number[:, 0] - 1)[:, None].expand(-1, 2))
    assert th.equal(batch.initial.stoch, (number[:, 0] - 1)[:, None].expand(-1, 3))


def test_windows_longer_than_episodes_can_be_drawn() -> None:
    buffer = make()
    fill(buffer, 40, episode=3)
    batch, _ = buffer.sample(20, 12)
    assert (batch.is_first.sum(1) == 4).all()


def test_every_start_is_drawn_equally_often() -> None:
    buffer = make(capacity=20)
    fill(buffer, 33)  # holds rows 13 .. 32
    _, index = buffer.sample(14_000, 6)
    starts, counts = np.unique(index.row[:, 0], return_counts=True)
    assert starts.tolist() == list(range(14, 28))
    assert counts.min() > 850 and counts.max() < 1150


def test_streams_of_uneven_length_stay_apart() -> None:
    buffer = make(n_envs=2)
    fill(buffer, 30, stream=0)
    fill(buffer, 10, stream=1, first_row=1000)
    batch, index = buffer.sample(3000, 4)
    number = batch.obs["obs"][..., 0]
    assert ((number >= 1000) == th.as_tensor(index.stream == 1)[:, None]).all()
    share = (index.stream == 1).mean()
    assert share == pytest.approx(6 / (26 + 6), abs=0.03)  # by the number of places where a window fits


def test_too_few_rows_is_an_error_that_says_so() -> None:
    buffer = make()
    fill(buffer, 6)
    assert not buffer.can_sample(6) and buffer.can_sample(5)
    with pytest.raises(ValueError, match="collect more steps first"):
        buffer.sample(4, 6)


def test_a_reset_without_an_end_closes_the_episode() -> None:
    """As after a second call of ``learn``: the row before a first row counts as last, never as terminal."""
    buffer = make()
    for n, first in enumerate([True, False, False, True, False]):
        buffer.add(np.array([0]), {"obs": np.array([[n]])}, 0.0, np.array([0.0]), first)
    batch, _ = buffer.sample(10, 4)
    assert batch.is_last.tolist() == [[0, 1, 0, 0]] * 10 and batch.is_terminal.sum() == 0


def test_written_latents_come_back_and_only_where_they_belong() -> None:
    buffer = make()
    fill(buffer, 20)
    batch, index = buffer.sample(8, 5)
    fresh = LatentState(batch.obs["obs"].expand(-1, -1, 2) + 100, batch.obs["obs"].expand(-1, -1, 3) + 200)
    buffer.write_latents(index, fresh)
    trained = set(index.row.flatten().tolist())
    again, position = buffer.sample(500, 5)
    for i, row in enumerate(position.row[:, 0] - 1):
        written = row in trained
        assert again.initial.deter[i, 0] == row + (100 if written else 0)
        assert again.initial.stoch[i, 0] == row + (200 if written else 0)


def test_latents_of_rows_overwritten_meanwhile_are_dropped() -> None:
    buffer = make(capacity=10)
    fill(buffer, 10)
    batch, index = buffer.sample(4, 5)
    fill(buffer, 10, first_row=10)  # overwrites all
    buffer.write_latents(index, LatentState(th.full((4, 5, 2), -1.0), th.full((4, 5, 3), -1.0)))
    batch, _ = buffer.sample(50, 5)
    assert (batch.initial.deter >= 10).all()


def test_online_queue_serves_every_new_window_once_before_random_ones() -> None:
    buffer = make(capacity=100, online=True)
    fill(buffer, 20)
    _, index = buffer.sample(5, 4)  # windows of 5 rows with the context: starts 0, 5, 10, 15
    assert index.row[:4, 0].tolist() == [1, 6, 11, 16]
    fill(buffer, 5, first_row=20)
    _, index = buffer.sample(3, 4)
    assert index.row[0, 0] == 21
    plain = make(capacity=100)
    fill(plain, 25)
    assert plain.sample(3, 4)[1].row[0, 0] != 1 or plain.sample(3, 4)[1].row[1, 0] != 6


def test_online_queue_never_serves_what_is_not_there() -> None:
    """Windows queued for one length may be asked for with another, or be overwritten before their turn."""
    buffer = make(capacity=100, online=True)
    fill(buffer, 40)
    buffer.sample(2, 4)
    _, index = buffer.sample(8, 15)
    assert index.row.max() < 40
    fill(buffer, 95, first_row=40)
    _, index = buffer.sample(30, 4)
    assert index.row.min() > 35 and index.row.max() < 135


def test_uniform_samples_leave_the_online_queue_alone() -> None:
    buffer = make(capacity=100, online=True)
    fill(buffer, 20)
    buffer.sample(5, 4, uniform=True)
    assert buffer.sample(5, 4)[1].row[:4, 0].tolist() == [1, 6, 11, 16]


def test_sampling_can_be_wound_back_and_seeded() -> None:
    buffer = make()
    fill(buffer, 40)
    state = buffer.rng_state()
    first = buffer.sample(8, 5)[1]
    buffer.set_rng_state(state)
    second = buffer.sample(8, 5)[1]
    assert np.array_equal(first.row, second.row)
    drawn = []
    for seed in (3, 3, 4):
        buffer.seed(seed)
        drawn.append(buffer.sample(8, 5)[1].row)
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("rows", [20, 77])
def test_pickling_keeps_rows_counters_and_random_numbers(rows: int) -> None:
    buffer = make(n_envs=2)
    fill(buffer, rows)
    fill(buffer, 12, stream=1)
    data = pickle.dumps(buffer)
    twin = pickle.loads(data)
    first, second = buffer.sample(16, 5), twin.sample(16, 5)
    assert th.equal(first[0].obs["obs"], second[0].obs["obs"]) and np.array_equal(first[1].row, second[1].row)
    fill(twin, 30, first_row=rows)  # the restored rings have their full capacity
    assert twin.size() == min(rows + 30, 50) + 12
    used = sum(getattr(buffer, name)[:, :rows].nbytes for name in ("_deter", "_stoch", "_action", "_reward"))
    assert len(data) < 3 * used + 2000  # only what was written is stored


@pytest.mark.filterwarnings("ignore:This system does not have apparently enough memory")
def test_memory_is_taken_as_the_replay_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    buffer = make(capacity=10**8)
    fill(buffer, 3000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes; the whole is 2.5 GB
    zeros = np.zeros

    def refuse(shape, dtype=float):
        if np.prod(shape) > 10**6:
            raise MemoryError
        return zeros(shape, dtype)

    monkeypatch.setattr(np, "zeros", refuse)
    grown = make(capacity=10**8)
    fill(grown, 3000)
    assert grown._deter.nbytes < 10 * 3000 * 2 * 4
    for replay in (buffer, grown):
        batch, _ = replay.sample(500, 6)
        number = batch.obs["obs"][..., 0]
        assert th.equal(batch.reward, 10.0 * number) and number.max() > 2900 and number.min() < 100


def test_sizes_and_reset() -> None:
    buffer = make(capacity=10)
    fill(buffer, 4)
    assert buffer.size() == 4 and not buffer.full
    fill(buffer, 10, first_row=4)
    assert buffer.size() == 10 and buffer.full
    buffer.reset()
    assert buffer.size() == 0 and not buffer.can_sample(1)
