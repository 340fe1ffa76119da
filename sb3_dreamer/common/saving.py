"""Saving as SB3 has it, in whole files or none, and the replay beside the model."""

from __future__ import annotations

import copy
import io
import pathlib
import warnings
import zipfile
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common import torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_dreamer.common import model_file, optimizers
from sb3_dreamer.common.bookkeeping import capture_random_state, write_atomically
from sb3_dreamer.common.plain_data import Classes, name_classes
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationCodec
from sb3_dreamer.common.recurrent_policy import RecurrentModelPolicy
from sb3_dreamer.common.replay_file import read_replay, write_replay
from sb3_dreamer.common.sequence_buffer import SequenceBuffer

SelfSaving = TypeVar("SelfSaving", bound="SavingAlgorithm")


class SavingAlgorithm(BaseAlgorithm):
    """
    An SB3 algorithm with a replay of sequences that can be saved and loaded beside it. Model and replay together hold all
    that training needs to go on exactly where it stopped, random numbers and latent states included.
    """

    policy: RecurrentModelPolicy
    replay_buffer: SequenceBuffer | None
    replay_buffer_kwargs: dict[str, Any] | None
    observation_codec: ObservationCodec
    action_codec: ActionCodec
    online_replay: bool
    prioritized_replay: float
    batch_length: int
    _last_state: tuple[np.ndarray, ...] | None
    _random_state: dict[str, Any] | None
    _replay_rows: np.ndarray | None
    _saved_normalized: bool

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
            content = io.BytesIO()
            self._write(content, exclude, include)
            path.write(content.getbuffer())
            return

        def write(temporary: pathlib.Path) -> None:
            with open(temporary, "w+b") as file:
                self._write(file, exclude, include)

        write_atomically(path, write, ".zip")

    def _write(self, file: Any, exclude: Iterable[str] | None, include: Iterable[str] | None) -> None:
        self._random_state = capture_random_state(self.action_space, self.policy.predict_generator)
        self._replay_rows = None if self.replay_buffer is None else self.replay_buffer.rows_written()
        self._saved_normalized = self.get_vec_normalize_env() is not None
        try:
            super().save(file, exclude, include)
        finally:
            self._random_state = self._replay_rows = None
        with zipfile.ZipFile(file, "a") as archive:
            model_file.write_header(archive, self)

    @classmethod
    def plain_classes(cls) -> Classes:
        """:return: classes that may be arguments of a model whose file is read without unpickling"""
        modules = [(th.optim, th.optim.Optimizer), (optimizers, th.optim.Optimizer), (torch_layers, BaseFeaturesExtractor)]
        return name_classes(modules, cls.policy_aliases.values())

    @classmethod
    def load(
        cls: type[SelfSaving],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trusted: bool = True,
        **kwargs: Any,
    ) -> SelfSaving:
        """
        Make a model from a file of :meth:`save`. To go on exactly where it stopped, give it an environment in the state of
        that moment, ``force_reset=False``, then its replay (:meth:`load_replay_buffer`), and call
        ``learn(..., reset_num_timesteps=False)``.

        :param path: the file
        :param env: environment to go on with; None to predict only
        :param device: torch device
        :param custom_objects: replacements of what the file holds
        :param print_system_info: print what machine and versions wrote the file
        :param force_reset: reset the environment before training goes on; otherwise its episode goes on
        :param trusted: False never unpickles: for files from people you do not know. It reads plain JSON and tensors alone,
            and refuses a model that cannot be rebuilt from them. The environment's episode, schedules of one's own and random
            numbers are not in those.
        :param kwargs: arguments to change
        :return: the model
        :raises ValueError: the file is damaged, of another algorithm, version or other spaces, or not safe to read
        """
        if env is not None:
            env = cls._wrap_env(env)
        with model_file.opened(path, "zip", "", "does not fit") as file:
            header = model_file.read_header(file, cls)
            file.seek(0)
            if not trusted:
                return cls._load_plain(file, header, env, device, force_reset, {**(custom_objects or {}), **kwargs})
            model = super().load(file, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if env is not None and model._saved_normalized != (model.get_vec_normalize_env() is not None):
            was, has = ("with", "none") if model._saved_normalized else ("without", "one")
            warnings.warn(
                f"{model_file.file_name(file)} was trained {was} VecNormalize, but the environment has {has}: observations "
                "will have another scale. Wrap it as before (VecNormalize.load restores the statistics)."
            )
        if "seed" in kwargs:  # a new seed is meant to give new random numbers
            model._random_state = None
        starts = model._last_episode_starts
        if starts is not None and len(starts) != model.n_envs:  # there is no going on with other environments
            model._last_obs = model._last_state = None
        return model

    @classmethod
    def _load_plain(
        cls: type[SelfSaving],
        file: io.BufferedIOBase,
        header: dict[str, Any],
        env: VecEnv | None,
        device: th.device | str,
        force_reset: bool,
        given: dict[str, Any],
    ) -> SelfSaving:
        """:meth:`load` without a single pickle. The environment is always reset."""
        if not force_reset:
            raise ValueError("force_reset=False needs the episode's state, which only trusted=True loads")
        allowed = {*model_file.argument_names(cls), *model_file.MACHINE, "policy_class"}
        unknown = set(given) - allowed - {"lr_schedule", "clip_range"}  # what rl_zoo3 passes to every algorithm
        if unknown:
            raise ValueError(f"with trusted=False only arguments of {cls.__name__} can be changed, not {sorted(unknown)}")
        given = {name: value for name, value in given.items() if name in allowed}
        data = {**model_file.decode_data(header, cls, set(given)), **given}
        if env is not None:
            check_for_correct_spaces(env, data["observation_space"], data["action_space"])
            data["n_envs"] = env.num_envs
        _, params, _ = load_from_zip_file(file, load_data=False, device=device)
        model = cls(policy=data["policy_class"], env=env, device=device, _init_setup_model=False)  # type: ignore[call-arg]
        model.__dict__.update(data)
        model._setup_model()
        model.set_parameters(params, exact_match=True, device=device)
        return model

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Load weights and optimizer from a file or a dictionary (SB3's ``get_parameters``); all of them, or none.

        :param load_path_or_dict: path, open file, or dictionary
        :param exact_match: every name must be there
        :param device: torch device
        """
        before: Any = copy.deepcopy(self.get_parameters())
        try:
            super().set_parameters(load_path_or_dict, exact_match, device)
        except Exception:
            super().set_parameters(before, True, device)
            raise

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay. The file is numpy's npz format whatever its suffix, so reading it never runs code; it appears at
        once, whole, or not at all.

        :param path: where; ``.pkl``, as SB3's callbacks expect, is added if there is no suffix
        """
        buffer = self.replay_buffer
        if buffer is None:
            raise ValueError("There is no replay buffer to save: the model has not been set up.")
        if isinstance(path, io.BufferedIOBase):
            return write_replay(path, buffer)

        def write(temporary: pathlib.Path) -> None:
            with open(temporary, "wb") as file:
                write_replay(file, buffer)

        write_atomically(path, write, ".pkl")

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = False) -> None:
        """
        Load a replay written by :meth:`save_replay_buffer`. It keeps the capacity with which it was written. If this model
        was loaded with ``force_reset=False`` from the same moment, the open episode goes on; otherwise it ends where it was
        saved, as the next row that is added counts as the first of an episode. A replay of another number of environments
        is distributed anew, and the open episodes end.

        :param path: the file
        :param truncate_last_traj: end the open episode in any case
        :raises ValueError: the file is damaged, not a replay, or does not fit this model; the replay that was there stays
        """
        model = self.policy.world_model
        signature = (self.observation_codec.keys, self.action_codec.size, model.deter_size, model.stoch_size)
        storage = (self.replay_buffer_kwargs or {}).get("storage_path")
        with model_file.opened(path, "pkl", "The replay ", "not a replay") as file:
            buffer = read_replay(
                file,
                self.observation_codec,
                signature,
                device=self.device,
                online=self.online_replay,
                storage_path=storage,
                prioritized=self.prioritized_replay,
            )
            if buffer.n_envs != self.n_envs:
                buffer, truncate_last_traj = buffer.redistribute(self.n_envs), True
            if buffer.capacity <= self.batch_length:
                raise ValueError(
                    f"it has room for {buffer.capacity} rows of each environment, windows of batch_length + 1 = "
                    f"{self.batch_length + 1} rows do not fit: use a model with a smaller batch_length"
                )
        before = self.replay_buffer
        # how many rows there were when this model's rollout stood where it stands: of its own replay, or of the file's
        rows = before.rows_written() if before is not None and before.size() > 0 else self._replay_rows
        goes_on = (
            not truncate_last_traj
            and self._last_state is not None
            and self._last_episode_starts is not None
            and np.array_equal(buffer.rows_written(), rows if rows is not None else [])
            and buffer.continues(self._last_state[-1], self._last_episode_starts)
        )
        self.replay_buffer, self._replay_rows = buffer, None
        if not goes_on:
            self._last_state = None
