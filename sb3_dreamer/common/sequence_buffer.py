"""Replay of sequences. Every rule about episode borders and the ring's seam lives here and only here."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from sb3_dreamer.common.preprocessing import ObservationCodec, ObservationKey
from sb3_dreamer.common.types import LatentState, RowIndex, SequenceBatch


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
    """

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
    ) -> None:
        self.buffer_size = buffer_size
        self.capacity = buffer_size // n_envs
        self.n_envs = n_envs
        self.codec = codec
        self.device = th.device(device)
        self.online = online
        self._rng = np.random.default_rng(seed)
        # memory is taken as the replay fills, see _reserve
        self._obs = {key.name: np.zeros((n_envs, 0, *key.shape), dtype=key.dtype) for key in codec.keys}
        self._action = np.zeros((n_envs, 0, action_size), dtype=np.float32)
        self._reward = np.zeros((n_envs, 0), dtype=np.float32)
        self._is_first = np.zeros((n_envs, 0), dtype=np.bool_)
        self._is_last = np.zeros((n_envs, 0), dtype=np.bool_)
        self._is_terminal = np.zeros((n_envs, 0), dtype=np.bool_)
        self._deter = np.zeros((n_envs, 0, deter_size), dtype=np.float32)
        self._stoch = np.zeros((n_envs, 0, stoch_size), dtype=np.float32)
        self._count = np.zeros(n_envs, dtype=np.int64)
        """Rows ever written, a stream: row number ``r`` lies in slot ``r % capacity``."""
        self._online_start = np.zeros(n_envs, dtype=np.int64)
        self._online_queue: deque[tuple[int, int]] = deque()

    def size(self) -> int:
        """:return: rows held now, over all environments"""
        return int(np.minimum(self._count, self.capacity).sum())

    @property
    def full(self) -> bool:
        """Whether a ring has begun to overwrite its oldest rows."""
        return bool((self._count >= self.capacity).any())

    def reset(self) -> None:
        """Forget all rows."""
        self._count[:] = 0
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
            self._obs[name][slot] = array
        self._action[slot] = action
        self._reward[slot] = reward
        self._is_first[slot] = is_first
        self._is_last[slot] = is_last
        self._is_terminal[slot] = is_terminal
        self._deter[slot] = deter
        self._stoch[slot] = stoch
        self._count[streams] += 1  # last, so that an interrupt never leaves a row that is counted but half written

    def _starts(self, length: int) -> np.ndarray:
        """Number of windows of ``length`` rows that lie wholly in each stream's held rows, ``(n_envs,)``."""
        held = np.minimum(self._count, self.capacity)
        return np.maximum(held - length + 1, 0)

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

    def _draw(self, batch_size: int, length: int, online: bool) -> tuple[np.ndarray, np.ndarray]:
        """Streams and first row numbers of windows, the online queue's first, the others uniform over all starts."""
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
        oldest = np.maximum(self._count - self.capacity, 0)
        rows = pick - (bounds - starts)[streams] + oldest[streams]
        if online:
            self._serve_online(streams, rows, length, oldest)
        return streams, rows

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

    def sample(self, batch_size: int, batch_length: int, uniform: bool = False) -> tuple[SequenceBatch, RowIndex]:
        """
        Draw windows uniformly over all places where one fits, the online queue's first if there is one.

        :param batch_size: B
        :param batch_length: T
        :param uniform: leave the online queue alone
        :return: the batch and where its rows lie
        """
        streams, start = self._draw(batch_size, batch_length + 1, self.online and not uniform)
        numbers = start[:, None] + np.arange(batch_length + 1)  # (B, 1 + T), the context row first
        window = (streams[:, None], numbers % self.capacity)
        trained = (streams[:, None], numbers[:, 1:] % self.capacity)
        context = (streams, numbers[:, 0] % self.capacity)

        is_first = self._is_first[trained]
        is_last = self._is_last[trained]
        # a stream that was reset before its episode ended (a new call of learn): the row before the reset is the last
        is_last[:, :-1] |= is_first[:, 1:]
        batch = SequenceBatch(
            obs=self.codec.to_tensors({name: array[trained] for name, array in self._obs.items()}, self.device),
            prev_action=self._tensor(self._action[window][:, :-1]),
            reward=self._tensor(self._reward[trained]),
            is_first=self._tensor(is_first),
            is_last=self._tensor(is_last),
            is_terminal=self._tensor(self._is_terminal[trained]),
            initial=LatentState(self._tensor(self._deter[context]), self._tensor(self._stoch[context])),
        )
        return batch, RowIndex(streams, numbers[:, 1:])

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.as_tensor(np.ascontiguousarray(array), device=self.device).float()

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
        streams = np.broadcast_to(index.stream[:, None], index.row.shape)
        held = index.row >= (self._count - self.capacity)[streams]
        slot = (streams[held], index.row[held] % self.capacity)
        self._deter[slot] = states.deter.detach().cpu().numpy()[held]
        self._stoch[slot] = states.stoch.detach().cpu().numpy()[held]

    def signature(self) -> tuple[tuple[ObservationKey, ...], int, int, int]:
        """:return: observation keys and the sizes A, D, Z: what must agree with a model that uses this replay"""
        return self.codec.keys, self._action.shape[-1], self._deter.shape[-1], self._stoch.shape[-1]

    def _reserve(self, slots: int) -> None:
        """Have room for that many rows of each stream: doubled when it runs out, so that rows are seldom copied."""
        held = self._reward.shape[1]
        if slots <= held:
            return
        slots = min(self.capacity, max(slots, 2 * held, 1024))
        missing = slots - held

        def resize(array: np.ndarray) -> np.ndarray:
            return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))

        self._map(resize)

    def _map(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._obs = {name: function(array) for name, array in self._obs.items()}
        for name in ("_action", "_reward", "_is_first", "_is_last", "_is_terminal", "_deter", "_stoch"):
            setattr(self, name, function(getattr(self, name)))

    def __getstate__(self) -> dict[str, Any]:
        """Save only rows that were written."""
        used = int(min(self._count.max(initial=0), self.capacity))
        trimmed = copy.copy(self.__dict__)
        view = object.__new__(SequenceBuffer)
        view.__dict__ = trimmed
        view._map(lambda array: array[:, :used].copy())
        return trimmed
