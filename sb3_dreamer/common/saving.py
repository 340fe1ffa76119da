"""Saving as SB3 has it, in whole files or none, and the replay beside the model."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec
from sb3_dreamer.common.recurrent_policy import RecurrentModelPolicy
from sb3_dreamer.common.sequence_buffer import SequenceBuffer


class SavingAlgorithm(BaseAlgorithm):
    """An SB3 algorithm with a replay of sequences that can be saved and loaded beside it."""

    policy: RecurrentModelPolicy
    replay_buffer: SequenceBuffer | None
    observation_codec: ObservationCodec
    action_codec: ActionCodec
    online_replay: bool
    batch_length: int
    _last_state: tuple[np.ndarray, ...] | None

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save all but the replay to a zip file. The file appears at once, whole, or not at all.

        :param path: where; ``.zip`` is added if there is no suffix
        :param exclude: attributes to leave out as well
        :param include: attributes to put in although they are left out otherwise
        """
        if isinstance(path, io.BufferedIOBase):
            return super().save(path, exclude, include)

        def write(temporary: pathlib.Path) -> None:
            with open(temporary, "wb") as file:
                super(SavingAlgorithm, self).save(file, exclude, include)

        write_atomically(path, write, ".zip")

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay to a pickle file.

        :param path: where
        """
        if self.replay_buffer is None:
            raise ValueError("There is no replay buffer to save: the model has not been set up.")
        if isinstance(path, io.BufferedIOBase):
            return save_to_pkl(path, self.replay_buffer, self.verbose)

        def write(temporary: pathlib.Path) -> None:
            with open(temporary, "wb") as file:
                save_to_pkl(file, self.replay_buffer)

        write_atomically(path, write, ".pkl")

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay written by :meth:`save_replay_buffer`. It keeps the capacity with which it was written.

        :param path: the pickle file
        :param truncate_last_traj: taken for SB3's sake: an open episode always ends where it was saved,
            as the next row that is added counts as the first of an episode
        """
        buffer = load_from_pkl(path, self.verbose)
        if not isinstance(buffer, SequenceBuffer):
            raise ValueError(f"{path} holds a {type(buffer).__name__}, not the replay of a world-model algorithm.")
        model = self.policy.world_model
        expected = (self.observation_codec.keys, self.action_codec.size, model.deter_size, model.stoch_size)
        if buffer.signature() != expected:
            raise ValueError(
                f"The replay in {path} was written with other spaces or sizes: it has {buffer.signature()}, "
                f"this model needs {expected} (observation keys, action, deterministic and stochastic sizes)."
            )
        if buffer.n_envs != self.n_envs:
            raise ValueError(
                f"The replay in {path} comes from {buffer.n_envs} environments, this model has {self.n_envs}: "
                "load it into a model with that number of environments."
            )
        if buffer.capacity <= self.batch_length:
            raise ValueError(
                f"The replay in {path} has room for {buffer.capacity} rows of each environment, windows of "
                f"batch_length + 1 = {self.batch_length + 1} rows do not fit: use a model with a smaller batch_length."
            )
        buffer.device, buffer.online = self.device, self.online_replay
        self.replay_buffer = buffer
        self._last_state = None
