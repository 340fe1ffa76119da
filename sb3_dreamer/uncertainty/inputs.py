"""Reading what the measures are given: float64 arrays of rows, refused where a measure would be meaningless."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch as th
from numpy.typing import ArrayLike

Values: TypeAlias = ArrayLike | th.Tensor


def read_array(name: str, values: Values) -> np.ndarray:
    """
    :param name: of the argument
    :param values: numbers of any shape
    :return: as float64
    :raises ValueError: there are none, or some are not finite
    """
    array = values.detach().cpu().double().numpy() if isinstance(values, th.Tensor) else np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name} is empty, its shape is {array.shape}: give at least one number.")
    _refuse(~np.isfinite(array), name, array, "finite", "correct or leave out such rows")
    return array


def read_rows(**given: Values) -> list[np.ndarray]:
    """
    :param given: arguments by name, all ``(n,)`` or all ``(n, outputs)``
    :return: them as float64
    :raises ValueError: their shapes differ or are others, they are empty, or not finite
    """
    arrays = [read_array(name, values) for name, values in given.items()]
    first, *_ = given
    for name, array in zip(given, arrays, strict=True):
        if array.ndim not in (1, 2):
            raise ValueError(f"{name} must have the shape (n,) or (n, outputs), got {array.shape}: put all rows on one axis.")
        if array.shape != arrays[0].shape:  # not broadcast: (n,) and (n, 1) would make n² errors
            raise ValueError(
                f"{name} must have the shape of {first}, {arrays[0].shape}, got {array.shape}: reshape one of them."
            )
    return arrays


def read_gaussian(mean: Values, std: Values, truth: Values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param mean: of the predictions, ``(n,)`` or ``(n, outputs)``
    :param std: their standard deviations, positive, same shape
    :param truth: what came, same shape
    :return: the three as float64
    :raises ValueError: as :func:`read_rows`, or a standard deviation is not positive
    """
    mean, std, truth = read_rows(mean=mean, std=std, truth=truth)
    return mean, read_std(std), truth


def read_std(std: Values) -> np.ndarray:
    """
    :param std: standard deviations, ``(n,)`` or ``(n, outputs)``
    :return: as float64
    :raises ValueError: as :func:`read_rows`, or one is not positive
    """
    (array,) = read_rows(std=std)
    _refuse(array <= 0, "std", array, "positive", "give standard deviations, with a least value where a model is certain")
    return array


def read_variance(name: str, values: Values) -> np.ndarray:
    """
    :param name: of the argument
    :param values: variances, any shape
    :return: as float64
    :raises ValueError: they are empty, not finite, or negative
    """
    array = read_array(name, values)
    _refuse(array < 0, name, array, "at least 0", "give variances, not logarithms of them")
    return array


def check_level(name: str, level: float) -> float:
    """
    :param name: of the argument
    :param level: a probability
    :return: it
    :raises ValueError: it does not lie between 0 and 1
    """
    if not 0 < level < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {level}: 0.9 stands for 90 %.")
    return level


def _refuse(bad: np.ndarray, name: str, array: np.ndarray, wanted: str, advice: str) -> None:
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        place = ", ".join(map(str, at))
        raise ValueError(f"{name} must be {wanted}, got {array[at]:g} at [{place}] ({bad.sum()} of {bad.size}): {advice}.")
