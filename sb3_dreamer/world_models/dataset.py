"""Episodes to learn a world model from: collected, kept in a file, or taken from a replay buffer or from Minari."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_dreamer.common.bookkeeping import find_file, write_atomically
from sb3_dreamer.common.plain_data import decode, encode
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec
from sb3_dreamer.world_models.trajectories import find_outside

FORMAT = 1
FLAGS = ("is_first", "is_last", "is_terminal")
SINGLE = "obs"
"""Key of an observation that is not a dictionary."""


@dataclass(frozen=True, eq=False)
class EpisodeDataset:
    """
    Episodes one after the other, as rows aligned like a replay's (:mod:`sb3_dreamer.common.types`): an episode of n steps has
    n + 1 rows, the reward of a row came with its observation, its action was chosen at it.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param observations: by key, ``(N, ...)``; an observation that is no dictionary has the key ``"obs"``
    :param actions: ``(N, ...)``, of no meaning in an episode's last row
    :param rewards: ``(N,)``, 0 in an episode's first row
    :param is_first: ``(N,)``
    :param is_last: ``(N,)``
    :param is_terminal: ``(N,)``, last and not truncated
    :raises ValueError: arrays of other lengths or shapes than these, episodes without a step, values no model can read,
        actions outside the space
    """

    observation_space: spaces.Space
    action_space: spaces.Space
    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray

    def __post_init__(self) -> None:
        observation_codec, action_codec = ObservationCodec(self.observation_space), ActionCodec(self.action_space)
        parts = self.spaces_by_key()
        if set(parts) != set(self.observations):
            raise ValueError(f"observations has the keys {sorted(self.observations)}, the space {sorted(parts)}.")
        columns = {f"observations[{name!r}]": (self.observations[name], part.shape) for name, part in parts.items()}
        columns["actions"] = self.actions, self.action_space.shape
        columns.update({name: (getattr(self, name), ()) for name in ("rewards", *FLAGS)})
        n = self.rewards.size
        for name, (array, shape) in columns.items():
            if array.shape != (n, *(shape or ())):
                raise ValueError(f"{name} has the shape {array.shape}: {n} rewards and the space need {(n, *(shape or ()))}.")
        self._check_borders()
        self._check_values(observation_codec, action_codec)

    def _check_borders(self) -> None:
        first, last, terminal = (getattr(self, name).astype(bool) for name in FLAGS)
        if len(first) and not (first[0] and last[-1]):
            raise ValueError("The first row must be an episode's first and the last row an episode's last.")
        if (first[1:] != last[:-1]).any():
            raise ValueError("Every row after a last one must be a first one, and no other.")
        for wrong, what in ((first & last, "an episode without a step"), (terminal & ~last, "terminal, but not last")):
            if wrong.any():
                raise ValueError(f"Row {wrong.argmax()} is {what}.")

    def _check_values(self, observation_codec: ObservationCodec, action_codec: ActionCodec) -> None:
        found = observation_codec.find_invalid(self.observations if observation_codec.is_dict else self.observations[SINGLE])
        if found is not None:
            raise ValueError(f"Row {found[0]} has {found[2]} in observations[{found[1]!r}].")
        with np.errstate(over="ignore"):
            finite = np.isfinite(self.rewards.astype(np.float32))
        if not finite.all():
            row = int(finite.argmin())
            raise ValueError(f"Row {row} has the reward {self.rewards[row]}: use finite rewards.")
        acting = np.flatnonzero(~self.is_last.astype(bool))
        outside = find_outside(self.actions[acting], action_codec)
        if outside is not None:
            row = int(acting[outside])
            raise ValueError(f"Row {row} has {self.actions[row]!r:.200} in actions, which must lie in {self.action_space}.")

    def spaces_by_key(self) -> dict[str, spaces.Space]:
        """:return: the observation's parts by key"""
        space = self.observation_space
        return dict(space.spaces) if isinstance(space, spaces.Dict) else {SINGLE: space}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rewards)

    @property
    def n_steps(self) -> int:
        """Transitions."""
        return len(self) - self.n_episodes

    @property
    def n_episodes(self) -> int:
        """Episodes."""
        return int(self.is_first.sum())

    def bounds(self) -> np.ndarray:
        """:return: first row of each episode and the row after its last, ``(n_episodes, 2)``"""
        return np.stack([np.flatnonzero(self.is_first), np.flatnonzero(self.is_last) + 1], axis=1)

    def episode_returns(self) -> np.ndarray:
        """:return: ``(n_episodes,)``"""
        return np.add.reduceat(self.rewards, np.flatnonzero(self.is_first)) if len(self) else np.zeros(0)

    def episodes(self, which: Sequence[int] | np.ndarray) -> EpisodeDataset:
        """
        :param which: numbers of episodes, or True and False for each
        :return: those alone, in that order
        """
        which = np.asarray(which)
        bounds = self.bounds()[which if which.dtype == bool else which.astype(int)]
        rows = np.concatenate([np.arange(*pair) for pair in bounds]) if len(bounds) else np.zeros(0, dtype=int)
        columns = {name: getattr(self, name)[rows] for name in ("actions", "rewards", *FLAGS)}
        return replace(self, observations={name: array[rows] for name, array in self.observations.items()}, **columns)

    def __iter__(self) -> Iterator[EpisodeDataset]:
        """Over the episodes."""
        return (self.episodes([i]) for i in range(self.n_episodes))

    def split(self, fraction: float, seed: int | None = 0) -> tuple[EpisodeDataset, EpisodeDataset]:
        """
        Whole episodes for one use and for another: rows of one episode resemble each other. Whole trials, where the
        observation tells of them (``envs.TrialWrapper``): an episode goes with the one that its task is known from.

        :param fraction: share of the episodes (trials) in the second part, at least one in each
        :param seed: of the drawing
        :return: the two parts
        :raises ValueError: the fraction is not between 0 and 1, or there are fewer than two episodes (trials)
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, got {fraction}.")
        trial = np.cumsum(self._starts_trial()) - 1
        n = int(trial[-1]) + 1 if len(trial) else 0
        if n < 2:
            what = "episodes" if n == self.n_episodes else "trials"
            raise ValueError(f"A data set of {n} {what} cannot be split: collect at least two.")
        order = np.random.default_rng(seed).permutation(n)
        second = np.isin(trial, order[: int(np.clip(round(fraction * n), 1, n - 1))])
        return self.episodes(~second), self.episodes(second)

    def _starts_trial(self) -> np.ndarray:
        """Where an episode does not go on with the task of the one before, ``(n_episodes,)``."""
        starts = np.ones(self.n_episodes, dtype=bool)
        space = self.spaces_by_key().get("trial")
        if isinstance(space, spaces.MultiBinary) and space.shape == (2,):
            bits = self.observations["trial"][self.is_first.astype(bool)]
            starts[1:] = bits[1:, 0].astype(bool) | ~bits[1:, 1].astype(bool)
        return starts

    # ---- files

    def save(self, path: str | pathlib.Path) -> None:
        """
        Write a compressed ``.npz``, whole or not at all, which numpy reads without unpickling.

        :param path: the file
        """
        header = dict(
            format=FORMAT,
            observation_space=encode(self.observation_space, {}),
            action_space=encode(self.action_space, {}),
        )
        arrays = {f"observations/{name}": array for name, array in self.observations.items()}
        arrays.update({name: getattr(self, name) for name in ("actions", "rewards", *FLAGS)})

        def write(temporary: pathlib.Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]

        write_atomically(path, write, ".npz")

    @classmethod
    def load(cls, path: str | pathlib.Path) -> EpisodeDataset:
        """
        :param path: written by :meth:`save`
        :return: the data set
        :raises ValueError: the file is damaged or holds something else
        """
        path = find_file(path, ".npz")
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if header["format"] != FORMAT:
                    raise ValueError(f"its format is {header['format']}, this version reads {FORMAT}")
                prefix = "observations/"
                return cls(
                    decode(header["observation_space"], {}),
                    decode(header["action_space"], {}),
                    {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)},
                    **{name: file[name] for name in ("actions", "rewards", *FLAGS)},
                )
        except Exception as wrong:  # damage shows itself in many ways
            raise ValueError(f"{path} is not a data set that can be loaded ({type(wrong).__name__}: {wrong})") from wrong


class EpisodeRecorder:
    """
    Puts rows of several streams together as whole episodes: a stream's in their order, one stream after the other, so that
    the episodes of a trial stay together.

    :param observation_space: of the environment
    :param action_space: of the environment
    :raises ValueError: spaces that are not supported
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        ObservationCodec(observation_space)  # refuse before there is anything to lose
        ActionCodec(action_space)
        self.observation_space, self.action_space = observation_space, action_space
        self._open: dict[int, list[tuple[Any, Any, float]]] = {}
        self._episodes: dict[int, list[tuple[list[tuple[Any, Any, float]], bool]]] = {}  # of each stream

    def start(self, stream: int, obs: Any) -> None:
        """
        Begin an episode; one of the stream's that has not ended is cut off where it is, as by truncation.

        :param stream: any number
        :param obs: after a reset
        """
        unfinished = self._open.pop(stream, [])
        if len(unfinished) > 1:
            self._episodes[stream].append((unfinished, False))
        self._episodes.setdefault(stream, [])
        self._open[stream] = [(_copy(obs), None, 0.0)]

    def step(self, stream: int, action: Any, obs: Any, reward: float, terminated: bool, truncated: bool) -> None:
        """
        :param stream: which
        :param action: chosen at the newest observation
        :param obs: what came next
        :param reward: with it
        :param terminated: Gymnasium's
        :param truncated: Gymnasium's
        """
        rows = self._open[stream]
        rows[-1] = (rows[-1][0], np.array(action), rows[-1][2])
        rows.append((_copy(obs), None, float(reward)))
        if terminated or truncated:
            self._episodes[stream].append((self._open.pop(stream), bool(terminated)))

    def dataset(self) -> EpisodeDataset:
        """:return: all episodes; those that have not ended are cut off where they are, as by truncation"""
        episodes = []
        for stream, ended in self._episodes.items():
            unfinished = self._open.get(stream, [])
            episodes += [*ended, (unfinished, False)] if len(unfinished) > 1 else ended
        if not episodes:
            raise ValueError("There is no episode of at least one step: collect more steps.")
        parts = dict(self.observation_space.spaces) if isinstance(self.observation_space, spaces.Dict) else None
        rows = [row for episode, _ in episodes for row in episode]
        space = self.action_space
        blank = np.zeros(space.shape or (), dtype=space.dtype)
        if parts is None:
            observations = {SINGLE: np.stack([np.asarray(obs) for obs, _, _ in rows])}
        else:
            observations = {name: np.stack([np.asarray(obs[name]) for obs, _, _ in rows]) for name in parts}
        ends = np.cumsum([len(episode) for episode, _ in episodes])
        is_first, is_last, is_terminal = (np.zeros(len(rows), dtype=bool) for _ in FLAGS)
        is_first[np.concatenate([[0], ends[:-1]])] = True
        is_last[ends - 1] = True
        is_terminal[ends - 1] = [terminated for _, terminated in episodes]
        return EpisodeDataset(
            self.observation_space,
            space,
            observations,
            np.stack([blank if action is None else np.asarray(action, dtype=space.dtype) for _, action, _ in rows]),
            np.array([reward for _, _, reward in rows], dtype=np.float32),
            is_first,
            is_last,
            is_terminal,
        )


def _copy(obs: Any) -> Any:
    """An environment may use its arrays again."""
    return {name: np.array(part) for name, part in obs.items()} if isinstance(obs, dict) else np.array(obs)
