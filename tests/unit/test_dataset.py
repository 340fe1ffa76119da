"""Episodes as rows: put together, taken apart, kept in files, and refused where no model could learn from them."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_dreamer.world_models import EpisodeDataset
from sb3_dreamer.world_models.dataset import FLAGS, EpisodeRecorder

BOX, ACTION = spaces.Box(-10.0, 10.0, (2,)), spaces.Box(-2.0, 2.0, (1,))
MIXED = spaces.Dict(
    choice=spaces.Discrete(3, start=-1),
    grid=spaces.MultiDiscrete([2, 4], start=[5, 0]),
    bits=spaces.MultiBinary(3),
    picture=spaces.Box(0, 255, (5, 4, 3), np.uint8),
    numbers=spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, np.inf]), dtype=np.float64),
)


def by_hand(**changes: Any) -> EpisodeDataset:
    """Two steps and a termination, then one step and a truncation."""
    columns: dict[str, Any] = dict(
        observation_space=BOX,
        action_space=ACTION,
        observations={"obs": np.arange(10, dtype=np.float32).reshape(5, 2)},
        actions=np.array([[0.5], [-0.5], [0.0], [2.0], [0.0]], dtype=np.float32),
        rewards=np.array([0.0, 1.0, 2.0, 0.0, 5.0], dtype=np.float32),
        is_first=np.array([1, 0, 0, 1, 0], dtype=bool),
        is_last=np.array([0, 0, 1, 0, 1], dtype=bool),
        is_terminal=np.array([0, 0, 1, 0, 0], dtype=bool),
    )
    return EpisodeDataset(**{**columns, **changes})


def counting(lengths: list[int], streams: int = 1) -> EpisodeDataset:
    """Episodes of these many steps; observations are (episode, step)."""
    recorder = EpisodeRecorder(spaces.Box(-np.inf, np.inf, (2,)), ACTION)
    for i, length in enumerate(lengths):
        recorder.start(i % streams, np.array([i, 0.0]))
        for t in range(1, length + 1):
            recorder.step(i % streams, np.array([t / 100]), np.array([i, t]), t, t == length, False)
    return recorder.dataset()


def mixed(seed: int = 0) -> EpisodeDataset:
    """Random values of every kind of space."""
    action_space = spaces.MultiDiscrete([3, 2], start=[-4, 1])
    MIXED.seed(seed)
    action_space.seed(seed)
    recorder = EpisodeRecorder(MIXED, action_space)
    for length in (3, 2):
        recorder.start(0, MIXED.sample())
        for t in range(length):
            recorder.step(0, action_space.sample(), MIXED.sample(), 0.1 * t, t == length - 1, False)
    return recorder.dataset()


def assert_same(first: EpisodeDataset, second: EpisodeDataset) -> None:
    assert first.observation_space == second.observation_space and first.action_space == second.action_space
    assert first.observations.keys() == second.observations.keys()
    pairs = [(first.observations[name], second.observations[name]) for name in first.observations]
    pairs += [(getattr(first, name), getattr(second, name)) for name in ("actions", "rewards", *FLAGS)]
    for one, other in pairs:
        assert one.dtype == other.dtype and np.array_equal(one, other)


def test_recorded_streams_become_whole_episodes_one_stream_after_the_other() -> None:
    recorder = EpisodeRecorder(BOX, ACTION)
    recorder.start(7, np.array([0.0, 0.0]))
    recorder.start(3, np.array([5.0, 0.0]))
    recorder.step(7, [0.1], np.array([0.0, 1.0]), 10.0, False, False)
    recorder.step(3, [0.5], np.array([5.0, 1.0]), 50.0, False, True)
    recorder.start(3, np.array([6.0, 0.0]))
    recorder.step(7, [0.2], np.array([0.0, 2.0]), 20.0, True, True)  # terminated at its time limit: terminated
    recorder.step(3, [0.6], np.array([6.0, 1.0]), 60.0, False, False)
    recorder.start(7, np.array([9.0, 0.0]))  # nothing is known of this one
    data = recorder.dataset()
    assert data.observations["obs"].tolist() == [[0, 0], [0, 1], [0, 2], [5, 0], [5, 1], [6, 0], [6, 1]]
    assert np.allclose(data.actions[:, 0], [0.1, 0.2, 0, 0.5, 0, 0.6, 0])
    assert data.rewards.tolist() == [0, 10, 20, 0, 50, 0, 60]
    assert data.is_first.tolist() == [1, 0, 0, 1, 0, 1, 0]
    assert data.is_last.tolist() == [0, 0, 1, 0, 1, 0, 1]
    assert data.is_terminal.tolist() == [0, 0, 1, 0, 0, 0, 0]  # terminated, truncated, cut off
    assert (len(data), data.n_steps, data.n_episodes) == (7, 4, 3)
    assert data.bounds().tolist() == [[0, 3], [3, 5], [5, 7]]
    assert data.episode_returns().tolist() == [30, 50, 60]


def test_an_episode_that_is_started_anew_is_cut_off_where_it_is() -> None:
    recorder = EpisodeRecorder(BOX, ACTION)
    for start in (0.0, 1.0, 2.0):  # the second has no step
        recorder.start(0, np.array([start, 0.0]))
        if start != 1.0:
            recorder.step(0, [0.0], np.array([start, 1.0]), 1.0, False, False)
    data = recorder.dataset()
    assert data.observations["obs"].tolist() == [[0, 0], [0, 1], [2, 0], [2, 1]]
    assert data.is_last.tolist() == [0, 1, 0, 1] and not data.is_terminal.any()


def test_what_an_environment_does_with_its_arrays_later_does_not_matter() -> None:
    recorder, obs, action = EpisodeRecorder(BOX, ACTION), np.zeros(2, np.float32), np.zeros(1, np.float32)
    recorder.start(0, obs)
    for t in (1, 2):
        action[:] = t / 2
        obs[:] = t
        recorder.step(0, action, obs, 0.0, False, t == 2)
    data = recorder.dataset()
    assert data.observations["obs"][:, 0].tolist() == [0, 1, 2] and data.actions[:, 0].tolist() == [0.5, 1.0, 0.0]


def test_nothing_recorded_is_an_error() -> None:
    recorder = EpisodeRecorder(BOX, ACTION)
    recorder.start(0, np.zeros(2))
    with pytest.raises(ValueError, match="no episode of at least one step"):
        recorder.dataset()


def test_episodes_are_picked_by_number_or_by_a_mask() -> None:
    data = counting([2, 1, 3])
    picked = data.episodes([2, 0])
    assert picked.observations["obs"].tolist() == [[2, 0], [2, 1], [2, 2], [2, 3], [0, 0], [0, 1], [0, 2]]
    assert picked.rewards.tolist() == [0, 1, 2, 3, 0, 1, 2] and picked.n_episodes == 2
    assert_same(data.episodes(data.episode_returns() > 2), data.episodes([0, 2]))
    assert len(data.episodes([])) == 0 and data.episodes([]).episode_returns().tolist() == []
    assert [episode.n_steps for episode in data] == [2, 1, 3]


def test_a_split_deals_whole_episodes_out_once() -> None:
    data = counting([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    train, held_out = data.split(0.3, seed=4)
    numbers = [part.observations["obs"][part.is_first, 0].tolist() for part in (train, held_out)]
    assert len(numbers[0]) == 7 and len(numbers[1]) == 3 and sorted(numbers[0] + numbers[1]) == list(range(10))
    for part, found in zip((train, held_out), numbers, strict=True):
        assert_same(part, data.episodes([int(i) for i in found]))
    assert_same(data.split(0.3, seed=4)[1], held_out)
    assert any(data.split(0.3, seed=s)[1].observations["obs"][0, 0] != numbers[1][0] for s in range(5))
    assert [part.n_episodes for part in data.split(0.01)] == [9, 1]  # at least one in each
    assert [part.n_episodes for part in data.split(0.99)] == [1, 9]
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
            data.split(fraction)
    with pytest.raises(ValueError, match="1 episodes cannot be split"):
        counting([5]).split(0.5)


def test_files_keep_everything(tmp_path: pathlib.Path) -> None:
    for name, data in (("mixed", mixed()), ("plain", by_hand())):
        data.save(tmp_path / name)
        assert (tmp_path / f"{name}.npz").is_file()
        for given in (tmp_path / name, str(tmp_path / f"{name}.npz")):
            assert_same(EpisodeDataset.load(given), data)
    assert mixed().observations["choice"].min() == -1 and mixed().observations["picture"].dtype == np.uint8


def test_a_damaged_file_is_never_loaded_as_something_else(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "data.npz"
    mixed().save(path)
    whole, refused = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for k in range(300):
        damaged = bytearray(whole)
        if k % 3:
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(whole)) :]
        path.write_bytes(damaged)
        try:
            assert_same(EpisodeDataset.load(path), mixed())  # a bit that does not matter, of a date
        except ValueError as error:
            assert "data.npz is not a data set that can be loaded" in str(error)
            refused += 1
    assert refused > 200


def test_files_that_are_something_else(tmp_path: pathlib.Path) -> None:
    by_hand().save(tmp_path / "good.npz")
    good = dict(np.load(tmp_path / "good.npz"))
    header = json.loads(str(good["header"]))
    path = tmp_path / "other.npz"
    for changes, message in (
        (dict(header=np.array(json.dumps({**header, "format": 99}))), "its format is 99, this version reads 1"),
        (dict(header=np.array(json.dumps([1]))), "TypeError"),
        (dict(header=np.array(json.dumps({**header, "action_space": 5}))), "not supported"),
        (dict(rewards=None), "rewards"),
        ({"observations/obs": None}, "observations has the keys"),
        (dict(actions=np.full((5, 1), 9.0)), "Row 0 has array"),
        (dict(actions=np.array([[print]] * 5)), "Object arrays cannot be loaded"),  # a pickle may run anything
    ):
        np.savez(path, **{name: array for name, array in {**good, **changes}.items() if array is not None})
        with pytest.raises(ValueError, match=f"(?s)other.npz is not a data set that can be loaded.*{message}"):
            EpisodeDataset.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("array.npy", "text.npz", "empty.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a data set"):
            EpisodeDataset.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no file .*missing.npz"):
        EpisodeDataset.load(tmp_path / "missing")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand().save(tmp_path / "data")

    def half(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", half)
    with pytest.raises(KeyboardInterrupt):
        mixed().save(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]
    assert_same(EpisodeDataset.load(tmp_path / "data"), by_hand())


OBS = by_hand().observations["obs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(actions=np.zeros((4, 1))), r"actions has the shape \(4, 1\): 5 rewards and the space need \(5, 1\)"),
        (dict(actions=np.zeros(5)), r"actions has the shape \(5,\)"),
        (dict(rewards=np.zeros((5, 1))), r"rewards has the shape \(5, 1\)"),
        (dict(is_last=np.zeros((5, 1), dtype=bool)), r"is_last has the shape \(5, 1\)"),
        (dict(observations={"obs": np.zeros((5, 3))}), r"observations\['obs'\] has the shape \(5, 3\).* need \(5, 2\)"),
        (dict(observations={"a": OBS}), r"observations has the keys \['a'\], the space \['obs'\]"),
        (dict(observations={"obs": np.where(OBS == 7, np.nan, OBS)}), r"Row 3 has NaN or infinity in observations\['obs'\]"),
        (dict(observations={"obs": OBS.astype(float) * 1e300}), "Row 0 has NaN or infinity"),  # in float32
        (dict(rewards=np.array([0, 1, np.inf, 0, 5])), "Row 2 has the reward inf"),
        (dict(rewards=np.array([0, 1, 2, 0, 1e39])), "Row 4 has the reward 1e[+]39"),  # in float32
        (dict(actions=np.array([[0.0], [0], [9], [2.1], [9]])), r"(?s)Row 3 has array\(\[2.1\]\) in actions.*Box\(-2.0, 2.0"),
        (dict(actions=np.array([[0.0], [np.nan], [0], [0], [0]])), "Row 1 has .*nan.* in actions"),
        (dict(is_first=np.array([0, 0, 0, 1, 0], dtype=bool)), "first row must be an episode's first"),
        (dict(is_last=np.array([0, 0, 1, 0, 0], dtype=bool)), "last row an episode's last"),
        (dict(is_first=np.array([1, 0, 0, 0, 0], dtype=bool)), "Every row after a last one must be a first one"),
        (dict(is_first=np.array([1, 0, 1, 1, 0], dtype=bool)), "Every row after a last one must be a first one"),
        (
            dict(is_first=np.array([1, 0, 1, 1, 0], dtype=bool), is_last=np.array([0, 1, 1, 0, 1], dtype=bool)),
            "Row 2 is an episode without a step",
        ),
        (dict(is_terminal=np.array([0, 1, 0, 0, 0], dtype=bool)), "Row 1 is terminal, but not last"),
        (dict(action_space=spaces.Box(-np.inf, np.inf, (1,))), "infinite bounds"),
        (dict(observation_space=spaces.Tuple([BOX])), "not supported"),
    ],
)
def test_what_no_model_can_learn_from_is_refused_by_name_and_row(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand(**changes)


def test_choices_and_bits_outside_their_spaces_are_refused() -> None:
    data = mixed()
    for key, row, value, message in (
        ("choice", 4, 2, r"Row 4 has a choice that is not in the space in observations\['choice'\]"),
        ("grid", 1, 4, r"Row 1 has a choice that is not in the space in observations\['grid'\]"),
        ("bits", 2, 2, r"Row 2 has a bit that is neither 0 nor 1 in observations\['bits'\]"),
        ("numbers", 6, np.inf, r"Row 6 has NaN or infinity in observations\['numbers'\]"),
    ):
        wrong = {name: array.copy() for name, array in data.observations.items()}
        wrong[key].reshape(len(data), -1)[row, -1] = value
        with pytest.raises(ValueError, match=message):
            EpisodeDataset(MIXED, data.action_space, wrong, data.actions, data.rewards, *(getattr(data, n) for n in FLAGS))
    actions = data.actions.copy()
    actions[1, 1] = 0  # the second choice starts at 1
    with pytest.raises(ValueError, match=r"Row 1 has .* in actions"):
        EpisodeDataset(MIXED, data.action_space, data.observations, actions, data.rewards, *(getattr(data, n) for n in FLAGS))


def test_actions_may_pass_the_bounds_by_a_rounding_error() -> None:
    actions = by_hand().actions.copy()
    actions[0] = np.nextafter(np.float32(2), np.float32(3))
    assert by_hand(actions=actions).n_steps == 3


def test_spaces_are_refused_before_anything_is_recorded() -> None:
    for pair in ((spaces.Text(3), ACTION), (BOX, spaces.Tuple([ACTION])), (spaces.Dict(a=spaces.Dict(b=BOX)), ACTION)):
        with pytest.raises(ValueError, match="not supported"):
            EpisodeRecorder(*pair)
