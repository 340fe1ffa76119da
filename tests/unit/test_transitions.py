"""Single steps out of rows: what belongs together, and what does not."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_dreamer.world_models import EnsembleWorldModel, EpisodeDataset
from sb3_dreamer.world_models.dataset import EpisodeRecorder
from sb3_dreamer.world_models.ensemble_fitting import transitions_of
from sb3_dreamer.world_models.transitions import Transitions, from_rows

BOX, ACTION = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-2.0, 2.0, (1,))


def rows(first: str, last: str, terminal: str) -> Transitions:
    """Row t has the observation t, the action t / 10 and the reward 100 t."""
    t = th.arange(float(len(first)))
    flags = (th.tensor([float(flag) for flag in flags]) for flags in (first, last, terminal))
    return from_rows(t[:, None], t[:, None] / 10, 100 * t, *flags)


def check_alignment(found: Transitions, starts: list[int]) -> None:
    t = th.tensor(starts, dtype=th.float32)
    assert th.equal(found.x, t[:, None]) and th.equal(found.next_x, t[:, None] + 1)
    assert th.equal(found.action, t[:, None] / 10)  # chosen at the first of the two rows
    assert th.equal(found.reward, 100 * (t + 1))  # came with the second
    assert len(found) == len(starts)


def test_steps_do_not_cross_episodes_and_only_terminations_are_terminal() -> None:
    """Three episodes: of 2 steps, terminated; of 1 step, truncated; of 3 steps, terminated."""
    found = rows("100101000", "001010001", "001000001")
    check_alignment(found, [0, 1, 3, 5, 6, 7])
    assert found.terminal.tolist() == [0, 1, 0, 0, 0, 1]


def test_no_step_leads_over_a_cut_without_a_last_row() -> None:
    """A stream that was cut: the next row is another episode's first, though no last one is before it."""
    check_alignment(rows("1001000", "0000001", "0000000"), [0, 1, 3, 4, 5])


def test_no_step_leads_on_from_a_last_row_whatever_comes_next() -> None:
    check_alignment(rows("100000", "001000", "001000"), [0, 1, 3, 4])


def test_windows_that_begin_and_end_in_the_middle_of_an_episode() -> None:
    check_alignment(rows("0000", "0000", "0000"), [0, 1, 2])


@pytest.mark.parametrize("count", [0, 1])
def test_rows_without_a_step(count: int) -> None:
    found = rows("1" * count, "0" * count, "0" * count)
    assert len(found) == 0 and found.x.shape == found.action.shape == (0, 1)


def recorded() -> EpisodeDataset:
    """
    Of two streams whose steps alternate, and a third; the observation counts (episode, step), the action says which step it is
    for.
    """
    recorder = EpisodeRecorder(BOX, ACTION)
    for stream in (0, 1):
        recorder.start(stream, np.array([stream, 0], dtype=np.float32))
    for t in range(1, 4):
        for stream in (0, 1):
            obs, action = np.array([stream, t], dtype=np.float32), np.array([stream + t / 10], dtype=np.float32)
            recorder.step(stream, action, obs, 10 * stream + t, stream == 0 and t == 3, stream == 1 and t == 3)
    recorder.start(2, np.array([2, 0], dtype=np.float32))
    recorder.step(2, np.array([2.0], dtype=np.float32), np.array([2, 1], dtype=np.float32), 50.0, False, False)
    return recorder.dataset()


def test_the_steps_of_a_data_set_in_the_models_terms() -> None:
    model = EnsembleWorldModel.from_spaces(BOX, ACTION, units=4, layers=1, seed=0)
    found = transitions_of(model, recorded())
    steps = [(stream, t) for stream in (0, 1) for t in (1, 2, 3)]
    before = [[stream, t - 1] for stream, t in steps]
    assert found.x.tolist() == [*before, [2, 0]]
    assert found.next_x.tolist() == [*([stream, t] for stream, t in steps), [2, 1]]
    chosen = [stream + t / 10 for stream, t in steps] + [2.0]
    assert np.allclose(found.action[:, 0], np.array(chosen) / 2)  # the model's actions lie in [-1, 1]
    assert found.reward.tolist() == [1, 2, 3, 11, 12, 13, 50]
    assert found.terminal.tolist() == [0, 0, 1, 0, 0, 0, 0]  # neither the truncated one nor the one cut off


def test_a_data_set_of_other_spaces_is_refused() -> None:
    other = EnsembleWorldModel.from_spaces(spaces.Box(-1, 1, (2,)), ACTION, units=4, layers=1, seed=0)
    with pytest.raises(ValueError, match="The data set's observation_space is"):
        transitions_of(other, recorded())


def numbered(n: int, begin: int = 0) -> Transitions:
    t = th.arange(begin, begin + n).float()
    return Transitions(t[:, None], 2 * t[:, None], 3 * t, 4 * t[:, None], 5 * t)


def check_rows_belong_together(data: Transitions) -> None:
    t = data.x[:, 0]
    assert th.equal(data.action[:, 0], 2 * t) and th.equal(data.reward, 3 * t)
    assert th.equal(data.next_x[:, 0], 4 * t) and th.equal(data.terminal, 5 * t)


def test_splitting_keeps_every_row_once_and_whole() -> None:
    data = numbered(50)
    train, held_out = data.split(0.3, 1000, th.Generator().manual_seed(0))
    assert len(train) == 35 and len(held_out) == 15
    assert sorted(train.x[:, 0].tolist() + held_out.x[:, 0].tolist()) == list(range(50))
    check_rows_belong_together(train)
    check_rows_belong_together(held_out)
    again, other = (data.split(0.3, 1000, th.Generator().manual_seed(seed))[1].x for seed in (0, 1))
    assert th.equal(held_out.x, again) and not th.equal(held_out.x, other)
    assert not th.equal(held_out.x[:, 0], th.arange(35.0, 50.0))  # at random, not the newest
    assert [len(part) for part in data.split(0.3, 4, th.Generator())] == [46, 4]
    assert [len(part) for part in data.split(0.0, 4, th.Generator())] == [50, 0]


def test_joining_and_picking() -> None:
    data = Transitions.join([numbered(3), numbered(0), numbered(2, begin=7)])
    assert data.x[:, 0].tolist() == [0, 1, 2, 7, 8]
    check_rows_belong_together(data)
    picked = data[th.tensor([4, 0, 0])]
    assert picked.x[:, 0].tolist() == [8, 0, 0]
    check_rows_belong_together(picked)
