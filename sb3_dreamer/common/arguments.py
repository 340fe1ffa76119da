"""Refusing arguments that cannot work, before anything is built."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any


def check_numbers(
    model: Any, real: Collection[str] = (), whole: Collection[str] = (), optional: Collection[str] = (), minimum: float = 0
) -> None:
    """
    :param model: the algorithm, with its constructor's arguments as attributes
    :param real: names of arguments that are finite numbers
    :param whole: names of arguments that are whole numbers, which they are made if they are floats
    :param optional: those of them that may be None
    :param minimum: smallest value allowed
    :raises ValueError: for the first that is not
    """
    for name in (*real, *whole):
        value = getattr(model, name)
        if value is None and name in optional:
            continue
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or (name in whole and value != int(value)):
            kind = "a whole number" if name in whole else "a finite number"
            raise ValueError(f"{name} must be {kind}{' or None' if name in optional else ''}, got {value!r}.")
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}.")
        if name in whole:
            setattr(model, name, int(value))  # 1e6 is a float


def check_replay_arguments(model: Any, n_envs: int, first_update_at: int) -> None:
    """
    :param model: the algorithm, with its constructor's arguments as attributes
    :param n_envs: number of environments
    :param first_update_at: environment steps before the first update
    :raises ValueError: for arguments that cannot work
    """
    check_numbers(model, whole=("buffer_size", "batch_size", "batch_length"), minimum=1)
    check_numbers(model, whole=("learning_starts", "pretrain_updates"), optional=("learning_starts",), minimum=0)
    check_numbers(model, real=("train_ratio", "gamma"), minimum=0)
    if model.train_ratio == 0:
        raise ValueError(f"train_ratio must be positive, got {model.train_ratio}.")
    check_numbers(model, real=("train_ratio_decay",), whole=("train_ratio_steps",), minimum=0)
    if model.train_ratio_decay > 1:
        raise ValueError(f"train_ratio_decay is a share of train_ratio and must be at most 1, got {model.train_ratio_decay}.")
    if model.train_ratio_decay == model.train_ratio_steps == 0:
        raise ValueError("train_ratio_decay=0 with train_ratio_steps=0 leaves nothing to train: raise one of them.")
    check_gamma(model.gamma)
    check_ranges(shares=dict(prioritized_replay=model.prioritized_replay))
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


def check_ranges(
    positive: Mapping[str, Any] | None = None,
    at_least_0: Mapping[str, Any] | None = None,
    shares: Mapping[str, Any] | None = None,
) -> None:
    """
    :param positive: arguments by name that must be more than 0
    :param at_least_0: ... at least 0
    :param shares: ... from 0 to 1
    :raises ValueError: for the first that is not a finite number in its range
    """
    for arguments, good, kind in (
        (positive, lambda value: value > 0, "positive"),
        (at_least_0, lambda value: value >= 0, "at least 0"),
        (shares, lambda value: 0 <= value <= 1, "from 0 to 1"),
    ):
        for name, value in (arguments or {}).items():
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or not good(value):
                raise ValueError(f"{name} must be a number, {kind}, got {value!r}.")


def check_max_grad_norm(model: Any) -> None:
    """
    :param model: the algorithm
    :raises ValueError: its ``max_grad_norm`` is neither positive nor None
    """
    check_numbers(model, real=("max_grad_norm",), optional=("max_grad_norm",))
    if model.max_grad_norm == 0:
        raise ValueError("max_grad_norm must be positive, or None for no limit, got 0.")


def check_evaluation_rate(model: Any) -> None:
    """
    :param model: the algorithm
    :raises ValueError: its ``evaluation_rate`` is neither a share nor None
    """
    if model.evaluation_rate is not None:
        check_ranges(shares=dict(evaluation_rate=model.evaluation_rate))


def check_scheduled(value: float, name: str, remaining: float) -> None:
    """
    :param value: that a schedule gave
    :param name: of what it is to be
    :param remaining: progress, from 1 to 0
    :raises ValueError: it is not a finite number of at least 0
    """
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(
            f"The {name} must be a number of at least 0, but its schedule gave {value} with "
            f"{remaining:.3f} of the progress remaining."
        )


def check_gamma(gamma: Any) -> None:
    """
    :param gamma: a discount factor
    :raises ValueError: it is not a number above 0 and at most 1
    """
    if not isinstance(gamma, float | int) or not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma!r}.")


def check_whole(**arguments: Any) -> None:
    """
    :param arguments: by name
    :raises ValueError: for the first that is not a whole number of at least 1
    """
    for name, value in arguments.items():
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or value != value // 1 or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")


def constructor_arguments(cls: type) -> tuple[dict[str, inspect.Parameter], bool]:
    """
    :param cls: a class, whose constructor may pass further arguments on to those it derives from
    :return: named arguments of its constructor, and whether there may be others of which nothing is known
    """
    found: dict[str, inspect.Parameter] = {}
    for kind in cls.__mro__:
        if "__init__" not in vars(kind):
            continue
        own = inspect.signature(vars(kind)["__init__"]).parameters
        named = {name: p for name, p in own.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name != "self"}
        found = {**named, **found}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            return found, False
        if kind.__module__.startswith("torch.") or kind is object:
            break
    return found, True
