"""Replay of sequences. Every rule about episode borders and the ring's seam lives here and only here."""

from __future__ import annotations

import copy
import pathlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_dreamer.common.memory import DiskArrays, warn_if_larger_than_memory
from sb3_dreamer.common.preprocessing import ObservationCodec, ObservationKey, to_device
from sb3_dreamer.common.replay_priorities import draw_slots, priority_of
from sb3_dreamer.common.types import LatentState, RowIndex, SequenceBatch

COLUMNS = ("_action", "_reward", "_is_first", "_is_last", "_is_terminal", "_deter", "_stoch", "_priority")
"""What a row holds beside its observation."""


RewardFn = Callable[[Any, np.ndarray, Any], Any]
"""Observations, actions, next observations, each ``(n, ...)`` as the environment has them, to rewards ``(n,)``."""


@dataclass(frozen=True)
class StreamRows:
    """The rows of one environment in the order in which they were written, each array ``(n, ...)``."""

    observations: dict[str, np.ndarray]
    """As stored, by key."""
    actions: np.ndarray
    """In the model's space."""
    rewards: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray


class SequenceBuffer:
    """
    One ring of rows an environment (the row is defined in :mod:`sb3_dreamer.common.types`), sampled as windows of
    consecutive rows. Windows cross episode borders, never the seam of a ring. The row before a window is its
    context: it gives the stored latent state and the previous action from which the window starts, so the first
    trained row is not treated as a fresh episode unless it is one.

    :param buffer_size: rows over all environments
    :param codec: the observations' keys and types
    :param action_size: A
    :param deter_size: D
    :param stoch_size: Z
    :param n_envs: number of environments
    :param device: where sampled tensors go
    :param online: serve every new window of rows once, before uniform samples (DreamerV3's online queue)
    :param seed: seed of the sampling
    :param storage_path: folder in which the rows lie as memory-mapped files, for a replay larger than the memory; None to
        keep them in memory. The files belong to this replay and go with it; :meth:`ModelBasedAlgorithm.save_replay_buffer`
        is what keeps them.
    :param prioritized: share of the windows that are drawn around rows in proportion to their priority (see
        :meth:`write_priorities`); the others are drawn uniformly
    """

    _newest: int | None = None
    """How many of each stream's rows to draw from, while it is not all."""

    def __init__(
        self,
        buffer_size: int,
        codec: ObservationCodec,
        action_size: int,
        deter_size: int,
        stoch_size: int,
        n_envs: int = 1,
        device: th.device | str = "cpu",
        online: bool = False,
        seed: int | None = None,
        storage_path: str | pathlib.Path | None = None,
        prioritized: float = 0.0,
    ) -> None:
        self.buffer_size = buffer_size
        self.capacity = buffer_size // n_envs
        self.n_envs = n_envs
        self.codec = codec
        self.device = th.device(device)
        self.online = online
        self.prioritized = prioritized
        self._rng = np.random.default_rng(seed)
        self.storage_path = storage_path
        self._disk: DiskArrays | None = None  # made with the first row
        # memory is taken as the replay fills, see _reserve
        self._obs = {key.name: np.zeros((n_envs, 0, *key.shape), dtype=key.dtype) for key in codec.keys}
        self._action = np.zeros((n_envs, 0, action_size), dtype=np.float32)
        self._reward = np.zeros((n_envs, 0), dtype=np.float32)
        self._is_first = np.zeros((n_envs, 0), dtype=np.bool_)
        self._is_last = np.zeros((n_envs, 0), dtype=np.bool_)
        self._is_terminal = np.zeros((n_envs, 0), dtype=np.bool_)
        self._deter = np.zeros((n_envs, 0, deter_size), dtype=np.float32)
        self._stoch = np.zeros((n_envs, 0, stoch_size), dtype=np.float32)
        self._priority = np.zeros((n_envs, 0), dtype=np.float32)  # 0 where no row is
        self._top_priority = 1.0
        self._count = np.zeros(n_envs, dtype=np.int64)
        """Rows ever written, a stream: row number ``r`` lies in slot ``r % capacity``."""
        self._online_start = np.zeros(n_envs, dtype=np.int64)
        self._online_queue: deque[tuple[int, int]] = deque()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        arrays = [*self._obs.values(), *(getattr(self, name) for name in COLUMNS)]
        return sum(array.itemsize * int(np.prod(array.shape[2:])) for array in arrays)

    def size(self) -> int:
        """:return: rows held now, over all environments"""
        return int(np.minimum(self._count, self.capacity).sum())

    @property
    def full(self) -> bool:
        """Whether a ring has begun to overwrite its oldest rows."""
        return bool((self._count >= self.capacity).any())

    def rows_written(self) -> np.ndarray:
        """:return: rows ever written by stream, ``(n_envs,)``"""
        return self._count.copy()

    def reset(self) -> None:
        """Forget all rows."""
        self._count[:] = 0
        self._priority[:] = 0.0
        self._online_start[:] = 0
        self._online_queue.clear()

    def add(
        self,
        streams: np.ndarray,
        obs: dict[str, np.ndarray],
        action: np.ndarray | float,
        reward: np.ndarray,
        is_first: np.ndarray | bool,
        is_last: np.ndarray | bool = False,
        is_terminal: np.ndarray | bool = False,
        deter: np.ndarray | float = 0.0,
        stoch: np.ndarray | float = 0.0,
    ) -> None:
        """
        Append one row to each of some streams.

        :param streams: the environments' indices, ``(n,)``
        :param obs: observations by key, ``(n, ...)``
        :param action: raw action chosen at the observation, in the model's space, ``(n, A)``; 0 on an episode's last row
        :param reward: the reward that arrived with the observation, ``(n,)``
        :param is_first: the observation comes from a reset, ``(n,)``
        :param is_last: the episode ends with this observation, ``(n,)``
        :param is_terminal: ... because it terminated, ``(n,)``
        :param deter: the latent state at the observation, ``(n, D)``
        :param stoch: ``(n, Z)``
        """
        self._reserve(int(min(self._count.max() + 1, self.capacity)))
        slot = (streams, self._count[streams] % self.capacity)
        for name, array in obs.items():
            column = self._obs[name]
            column[slot] = np.rint(array) if array.dtype.kind == "f" and column.dtype.kind != "f" else array
        self._action[slot] = action
        self._reward[slot] = reward
        self._is_first[slot] = is_first
        self._is_last[slot] = is_last
        self._is_terminal[slot] = is_terminal
        self._deter[slot] = deter
        self._stoch[slot] = stoch
        self._priority[slot] = self._top_priority
        self._count[streams] += 1  # last, so that an interrupt never leaves a row that is counted but half written

    def _starts(self, length: int) -> np.ndarray:
        """Number of windows of ``length`` rows that lie wholly in the rows to draw from, ``(n_envs,)``."""
        return np.maximum(self._count - self._oldest() - length + 1, 0)

    def _oldest(self) -> np.ndarray:
        """Number of each stream's oldest row to draw from, ``(n_envs,)``."""
        reach = self.capacity if self._newest is None else min(self._newest, self.capacity)
        return np.maximum(self._count - reach, 0)

    @contextmanager
    def newest(self, rows: int | None) -> Iterator[None]:
        """
        Inside, samples come from the newest rows alone.

        :param rows: how many of each environment; None for all
        """
        self._newest = rows
        try:
            yield
        finally:
            del self._newest

    def can_sample(self, batch_length: int) -> bool:
        """
        :param batch_length: T
        :return: whether a window of T rows and its context row can be drawn
        """
        return bool(self._starts(batch_length + 1).any())

    def seed(self, seed: int) -> None:
        """
        :param seed: new seed of the sampling
        """
        self._rng = np.random.default_rng(seed)

    def _draw(self, batch_size: int, length: int, uniform: bool) -> tuple[np.ndarray, np.ndarray]:
        """
        Streams and first row numbers of windows: the online queue's first, those of rows with high priority last, the others
        uniform over all starts.
        """
        starts = self._starts(length)
        total = int(starts.sum())
        if total == 0:
            raise ValueError(
                f"No window of batch_length + 1 = {length} rows fits in the replay, which holds "
                f"{np.minimum(self._count, self.capacity).tolist()} rows by environment: collect more steps first "
                "or lower batch_length."
            )
        bounds = np.cumsum(starts)
        pick = self._rng.integers(total, size=batch_size)
        streams = np.searchsorted(bounds, pick, side="right")
        oldest = self._oldest()
        rows = pick - (bounds - starts)[streams] + oldest[streams]
        if not uniform and self.prioritized > 0:
            self._serve_priorities(streams, rows, length, oldest)
        if not uniform and self.online:
            self._serve_online(streams, rows, length, oldest)
        return streams, rows

    def _serve_priorities(self, streams: np.ndarray, rows: np.ndarray, length: int, oldest: np.ndarray) -> None:
        """Replace the last drawn windows by such with a row of high priority, at any place after the context row."""
        count = self._n_prioritized(len(streams))
        picked, slots = draw_slots(self._rng, self._priority, count)
        last = self._count[picked] - 1
        row = last - (last - slots) % self.capacity
        start = row - self._rng.integers(1, length, size=count)
        latest = last - length + 1
        fits = latest >= oldest[picked]  # else the uniform draw stays
        target = np.arange(len(streams) - count, len(streams))[fits]
        streams[target] = picked[fits]
        rows[target] = np.clip(start, oldest[picked], latest)[fits]

    def _n_prioritized(self, batch_size: int) -> int:
        return round(self.prioritized * batch_size)

    def _serve_online(self, streams: np.ndarray, rows: np.ndarray, length: int, oldest: np.ndarray) -> None:
        """Replace the first drawn windows by new ones that were never served."""
        for stream in range(self.n_envs):
            self._online_start[stream] = max(self._online_start[stream], oldest[stream])
            while self._online_start[stream] + length <= self._count[stream]:
                self._online_queue.append((stream, int(self._online_start[stream])))
                self._online_start[stream] += length
        served = 0
        while self._online_queue and served < len(streams):
            stream, row = self._online_queue.popleft()
            if oldest[stream] <= row <= self._count[stream] - length:
                streams[served], rows[served] = stream, row
                served += 1

    def sample(
        self, batch_size: int, batch_length: int, env: VecNormalize | None = None, uniform: bool = False
    ) -> tuple[SequenceBatch, RowIndex]:
        """
        Draw windows uniformly over all places where one fits, but for those of the online queue and of rows with high
        priority, if there are any.

        :param batch_size: B
        :param batch_length: T
        :param env: normalises the observations, if they were stored as they were before (SB3's replay buffers do the same)
        :param uniform: leave the online queue and priorities alone
        :return: the batch and where its rows lie
        """
        streams, start = self._draw(batch_size, batch_length + 1, uniform)
        numbers = start[:, None] + np.arange(batch_length + 1)  # (B, 1 + T), the context row first
        window = (streams[:, None], numbers % self.capacity)
        trained = (streams[:, None], numbers[:, 1:] % self.capacity)
        context = (streams, numbers[:, 0] % self.capacity)

        is_first = self._is_first[trained]
        is_last = self._is_last[trained]
        # a stream that was reset before its episode ended (a new call of learn): the row before the reset is the last
        is_last[:, :-1] |= is_first[:, 1:]
        obs = {name: array[trained] for name, array in self._obs.items()}
        if env is not None:
            obs = self.codec.normalize(obs, env)
        batch = SequenceBatch(
            obs=self.codec.to_tensors(obs, self.device),
            prev_action=self._tensor(self._action[window][:, :-1]),
            reward=self._tensor(self._reward[trained]),
            is_first=self._tensor(is_first),
            is_last=self._tensor(is_last),
            is_terminal=self._tensor(self._is_terminal[trained]),
            initial=LatentState(self._tensor(self._deter[context]), self._tensor(self._stoch[context])),
            n_uniform=None if uniform else batch_size - self._n_prioritized(batch_size),
        )
        return batch, RowIndex(streams, numbers[:, 1:])

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return to_device(np.ascontiguousarray(array), self.device).float()

    def rng_state(self) -> Any:
        """:return: state of the sampling's random numbers, for :meth:`set_rng_state`"""
        return self._rng.bit_generator.state

    def set_rng_state(self, state: Any) -> None:
        """
        :param state: from :meth:`rng_state`; the next samples are drawn as if nothing had been since
        """
        self._rng.bit_generator.state = state

    def write_latents(self, index: RowIndex, states: LatentState) -> None:
        """
        Replace the stored latents of sampled rows by fresh ones; rows overwritten since are left alone.

        :param index: from :meth:`sample`
        :param states: posterior states, ``(B, T, ...)``
        """
        slot, held = self._held(index)
        self._deter[slot] = states.deter.detach().cpu().numpy()[held]
        self._stoch[slot] = states.stoch.detach().cpu().numpy()[held]

    def write_priorities(self, index: RowIndex, loss: th.Tensor) -> None:
        """
        Rows are drawn the more often the worse they are predicted, if a share of the windows is drawn by priority.

        :param index: from :meth:`sample`
        :param loss: of the world model by row, ``(B, T)``
        """
        slot, held = self._held(index)
        priority = priority_of(loss.detach().float().cpu().numpy()[held])
        self._priority[slot] = priority
        self._top_priority = max(self._top_priority, float(priority.max(initial=0.0)))

    def _held(self, index: RowIndex) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """:return: streams and slots of the rows that have not been overwritten, and which of ``(B, T)`` these are"""
        streams = np.broadcast_to(index.stream[:, None], index.row.shape)
        held = index.row >= (self._count - self.capacity)[streams]
        return (streams[held], index.row[held] % self.capacity), held

    def streams(self) -> Iterator[StreamRows]:
        """:return: each environment's rows, oldest first"""
        for stream, count in enumerate(self._count.tolist()):
            slot = (stream, np.arange(max(0, count - self.capacity), count) % self.capacity)
            yield StreamRows(
                {name: array[slot] for name, array in self._obs.items()},
                *(array[slot] for array in (self._action, self._reward, self._is_first, self._is_last, self._is_terminal)),
            )

    def relabel(self, reward_fn: RewardFn, to_env: Callable[[np.ndarray], np.ndarray]) -> None:
        """
        Replace all rewards but those of first rows, which stay 0.

        :param reward_fn: of observations, actions and the observations that these led to, each ``(n, ...)`` as the environment
            has them, gives rewards ``(n,)``
        :param to_env: the model's actions ``(n, A)`` to the environment's
        :raises ValueError: it gives something else; then nothing has changed
        """
        fresh = self._reward.copy()
        for stream, count in enumerate(self._count.tolist()):
            slots = np.arange(max(0, count - self.capacity), count) % self.capacity
            steps = np.flatnonzero(~self._is_first[stream, slots[1:]])
            before, after = slots[steps], slots[steps + 1]
            if len(steps) == 0:
                continue
            shown = [
                self.codec.to_env({name: array[stream, rows] for name, array in self._obs.items()}) for rows in (before, after)
            ]
            given = np.asarray(reward_fn(shown[0], to_env(self._action[stream, before]), shown[1]), dtype=np.float64)
            if given.shape != (len(steps),) or not np.isfinite(given).all():
                raise ValueError(f"reward_fn must give {len(steps)} finite rewards for as many steps, got {given!r:.200}.")
            fresh[stream, after] = given
        self._reward[:] = fresh
        self._priority[self._priority > 0] = self._top_priority  # as nothing has been learnt of these rewards

    def signature(self) -> tuple[tuple[ObservationKey, ...], int, int, int]:
        """:return: observation keys and the sizes A, D, Z: what must agree with a model that uses this replay"""
        return self.codec.keys, self._action.shape[-1], self._deter.shape[-1], self._stoch.shape[-1]

    def continues(self, prev_action: np.ndarray, is_first: np.ndarray) -> bool:
        """
        Whether a rollout goes on where this replay ends.

        :param prev_action: the rollout's last actions, in the model's space, ``(n_envs, A)``
        :param is_first: where it is at an episode's start, ``(n_envs,)``
        :return: True if every stream ends with that action, or with an ended episode
        """
        last = (np.arange(self.n_envs), (self._count - 1) % self.capacity)
        if (self._count == 0).any():
            return False
        return bool(np.where(is_first, self._is_last[last], (self._action[last] == prev_action).all(-1)).all())

    def redistribute(self, n_envs: int) -> SequenceBuffer:
        """
        The same rows for another number of environments: all streams one after the other, cut into equal pieces. Where two
        streams meet, an episode ends.

        :param n_envs: number of streams wanted
        :return: a new replay
        """
        other = SequenceBuffer(
            self.buffer_size,
            self.codec,
            *self.signature()[1:],
            n_envs,
            self.device,
            self.online,
            None,
            self.storage_path,
            self.prioritized,
        )
        other._top_priority = self._top_priority
        other.set_rng_state(self.rng_state())
        held = np.minimum(self._count, self.capacity)
        streams = np.repeat(np.arange(self.n_envs), held)
        slots = np.concatenate([np.arange(c - h, c) % self.capacity for c, h in zip(self._count, held, strict=True)])
        begins = np.zeros(len(streams), dtype=bool)
        begins[(np.cumsum(held) - held)[held > 0]] = True
        for stream, chunk in enumerate(np.array_split(np.arange(len(streams)), n_envs)):
            chunk = chunk[-other.capacity :]
            other._reserve(len(chunk))
            source, target = (streams[chunk], slots[chunk]), (stream, slice(0, len(chunk)))
            for name, array in self._obs.items():
                other._obs[name][target] = array[source]
            for name in COLUMNS:
                getattr(other, name)[target] = getattr(self, name)[source]
            other._is_first[target] |= begins[chunk]
            other._count[stream] = len(chunk)
        other._online_start[:] = other._count
        return other

    def _reserve(self, slots: int) -> None:
        """
        Have room for that many rows of each stream. Memory and files of the whole size are taken at once where the system
        gives them, as neither takes space before it is written; otherwise they double when they run out.
        """
        held = self._reward.shape[1]
        if self.storage_path is not None:
            self._reserve_on_disk(slots)
            return
        if slots <= held:
            return
        if held == 0:
            warn_if_larger_than_memory(self.row_bytes * self.capacity * self.n_envs)
            try:
                self._map(lambda array: np.zeros((self.n_envs, self.capacity, *array.shape[2:]), array.dtype))
                return
            except MemoryError:
                pass
        slots = min(self.capacity, max(slots, 2 * held, 1024))
        self._map(lambda array: np.pad(array, [(0, 0), (0, slots - array.shape[1])] + [(0, 0)] * (array.ndim - 2)))

    def _reserve_on_disk(self, slots: int) -> None:
        if self._disk is None:
            assert self.storage_path is not None
            disk = DiskArrays(self.storage_path, self.row_bytes * self.capacity * self.n_envs)
            self._map(lambda array: disk.zeros((self.n_envs, self.capacity, *array.shape[2:]), array.dtype))
            self._disk = disk
        self._disk.fill(min(self.capacity, slots))

    def _map(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._obs = {name: function(array) for name, array in self._obs.items()}
        for name in COLUMNS:
            setattr(self, name, function(getattr(self, name)))

    def __getstate__(self) -> dict[str, Any]:
        """Save only rows that were written, in memory."""
        used = int(min(self._count.max(initial=0), self.capacity))
        trimmed = copy.copy(self.__dict__)
        view = object.__new__(SequenceBuffer)
        view.__dict__ = trimmed
        view._map(lambda array: np.array(array[:, :used]))
        trimmed["_disk"] = trimmed["storage_path"] = None
        return trimmed
