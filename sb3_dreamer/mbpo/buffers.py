"""Where an off-policy agent's batches come from: real steps and imagined ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_dreamer.common.preprocessing import ObservationCodec
from sb3_dreamer.world_models.mlp import ObservationState
from sb3_dreamer.world_models.transitions import Transitions


def real_transitions(
    buffer: ReplayBuffer, codec: ObservationCodec, layout: ObservationState, device: th.device, rows: np.ndarray | None = None
) -> Transitions:
    """
    :param buffer: SB3's replay
    :param codec: of the observations
    :param layout: how a model joins them to one vector
    :param device: where the rows go
    :param rows: numbers of some steps, over all environments; None for all
    :return: what it holds, as the environment gave it
    """
    held = buffer.size()
    chosen = slice(None) if rows is None else rows

    def joined(stored: Any) -> th.Tensor:
        parts = stored if isinstance(stored, dict) else {"obs": stored}
        arrays = {key.name: parts[key.name][:held].reshape(-1, *key.shape)[chosen] for key in codec.keys}
        return layout.join(codec.to_tensors(arrays, device))

    def column(stored: np.ndarray) -> th.Tensor:
        return th.as_tensor(stored[:held].reshape(held * buffer.n_envs, *stored.shape[2:])[chosen], device=device).float()

    terminal = column(buffer.dones) * (1.0 - column(buffer.timeouts))
    x, next_x = joined(buffer.observations), joined(buffer.next_observations)
    return Transitions(x, column(buffer.actions), column(buffer.rewards), next_x, terminal)


class ImaginedBuffer:
    """
    The imagined steps of the newest few fits, on the model's device.

    :param capacity: steps
    :param fits: of which steps are kept, however few they were
    """

    def __init__(self, capacity: int, fits: int) -> None:
        self.capacity = capacity
        self.starts: deque[int] = deque(maxlen=fits)
        """Steps ever added before each of the fits."""
        self.rows: Transitions | None = None
        self.count = 0
        """Steps ever added."""

    def __len__(self) -> int:
        return min(self.count - (self.starts[0] if self.starts else 0), self.capacity)

    def begin(self) -> None:
        """What is added from now on is of another fit."""
        self.starts.append(self.count)

    def add(self, new: Transitions) -> None:
        """
        :param new: steps; the oldest ones go if there is no more room
        """
        if self.rows is None:
            self.rows = new.map(lambda column: column.new_zeros((self.capacity, *column.shape[1:])))
        n = min(len(new), self.capacity)
        slots = (self.count + th.arange(n, device=new.reward.device)) % self.capacity
        for name in new.names():
            getattr(self.rows, name)[slots] = getattr(new, name)[len(new) - n :]
        self.count += n

    def sample(self, n: int) -> Transitions:
        """
        :param n: how many
        :return: steps drawn uniformly
        """
        assert self.rows is not None
        ago = th.randint(1, len(self) + 1, (n,), device=self.rows.reward.device)
        return self.rows[(self.count - ago) % self.capacity]


class MixedReplay:
    """
    What an agent of SB3 takes for its replay while it trains: every batch has a share of real steps, the rest is imagined.

    :param real: SB3's replay
    :param imagined: what the model dreamt
    :param real_ratio: share of the real steps, from 0 to 1
    :param split: joined observations ``(n, Z)`` to those the policy sees
    """

    def __init__(
        self,
        real: ReplayBuffer,
        imagined: ImaginedBuffer,
        real_ratio: float,
        split: Callable[[th.Tensor], Any],
    ) -> None:
        self.real, self.imagined, self.real_ratio, self.split = real, imagined, real_ratio, split

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        :param batch_size: steps
        :param env: normalises observations and rewards, as SB3's replays do
        :return: the batch
        """
        n_real = round(self.real_ratio * batch_size)
        real = self.real.sample(n_real, env) if n_real else None
        if n_real == batch_size:
            assert real is not None
            return real
        dreamt = self.imagined.sample(batch_size - n_real)
        reward = dreamt.reward.unsqueeze(-1)
        if env is not None:
            normalized = self.real._normalize_reward(reward.cpu().numpy(), env)
            reward = th.as_tensor(normalized, device=reward.device).float()
        parts = (self.split(dreamt.x), dreamt.action, self.split(dreamt.next_x), dreamt.terminal.unsqueeze(-1), reward)
        if real is not None:
            parts = tuple(_join(theirs, ours) for theirs, ours in zip(real[:5], parts, strict=True))
        kind = DictReplayBufferSamples if isinstance(self.real, DictReplayBuffer) else ReplayBufferSamples
        return kind(*parts)


def _join(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return {name: th.cat([part, second[name]]) for name, part in first.items()}
    return th.cat([first, second])
