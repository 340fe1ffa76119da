"""Refusing arguments that cannot work, before anything is built."""

from __future__ import annotations

from typing import Any


def check_replay_arguments(model: Any, n_envs: int, first_update_at: int) -> None:
    """
    :param model: the algorithm, with its constructor's arguments as attributes
    :param n_envs: number of environments
    :param first_update_at: environment steps before the first update
    :raises ValueError: for arguments that cannot work
    """
    for name in ("buffer_size", "batch_size", "batch_length", "train_ratio"):
        value = getattr(model, name)
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")
    if model.pretrain_updates < 1:
        raise ValueError(f"pretrain_updates must be at least 1, got {model.pretrain_updates}.")
    for name in ("buffer_size", "batch_size", "batch_length", "pretrain_updates"):
        if getattr(model, name) != int(getattr(model, name)):
            raise ValueError(f"{name} must be a whole number, got {getattr(model, name)}.")
    if not 0 < model.gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {model.gamma}.")
    unknown = set(model.replay_buffer_kwargs or {}) - {"storage_path"}
    if unknown:
        raise ValueError(f"replay_buffer_kwargs has no {', '.join(map(repr, sorted(unknown)))}: it takes 'storage_path'.")
    window = model.batch_length + 1
    if model.buffer_size // n_envs < window:
        raise ValueError(
            f"batch_length={model.batch_length} needs {window} rows in a row, but buffer_size={model.buffer_size} "
            f"holds {model.buffer_size // n_envs} rows for each of {n_envs} environments: "
            f"set buffer_size to at least {window * n_envs} or lower batch_length."
        )
    if first_update_at < window * n_envs:
        raise ValueError(
            f"learning_starts={model.learning_starts} is too small for one batch: windows of batch_length + 1 = "
            f"{window} rows need that many steps of each of {n_envs} environments: set learning_starts to "
            f"at least {window * n_envs}, or to None, or lower batch_length."
        )
