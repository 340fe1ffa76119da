"""
Arguments of algorithms as plain JSON, so that a model can be rebuilt without unpickling. What JSON cannot say is told by
marked dictionaries; classes are told by name and found again only in a given list: nothing is imported or run.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

MARK = "$kind"


class NotPlainError(ValueError):
    """A value that only a pickle can hold."""


Classes = dict[str, type]
"""Classes that may be arguments, by name."""


def name_classes(modules: Iterable[tuple[ModuleType, type]], others: Iterable[type] = ()) -> Classes:
    """
    :param modules: modules, and the base of the classes in them that may be arguments
    :param others: further classes
    :return: all of them by their full name
    """
    found = [
        value
        for module, base in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base)
    ]
    return {f"{value.__module__}.{value.__qualname__}": value for value in (*found, *others)}


def encode(value: Any, classes: Classes) -> Any:
    """
    :param value: an argument
    :param classes: classes that may occur
    :return: the same for JSON
    :raises NotPlainError: it cannot be told so
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [encode(item, classes) for item in value]
    if isinstance(value, tuple):
        return {MARK: "tuple", "items": [encode(item, classes) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {MARK: "dict", "items": {key: encode(item, classes) for key, item in value.items()}}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _encode_array(value)
    if isinstance(value, FloatSchedule):
        return encode(value.value_schedule, classes)
    if isinstance(value, ConstantSchedule):
        return {MARK: "constant", "value": float(value.val)}
    if isinstance(value, LinearSchedule):
        return {MARK: "linear", "values": [float(v) for v in (value.start, value.end, value.end_fraction)]}
    if isinstance(value, spaces.Space):
        return _encode_space(value)
    names = {known: name for name, known in classes.items()}
    if isinstance(value, type) and value in names:
        return {MARK: "class", "name": names[value]}
    if dataclasses.is_dataclass(value) and type(value) in names:
        fields = {field.name: encode(getattr(value, field.name), classes) for field in dataclasses.fields(value)}
        return {MARK: "dataclass", "name": names[type(value)], "fields": fields}
    if isinstance(value, type):
        raise NotPlainError(f"class {value.__module__}.{value.__qualname__}")
    raise NotPlainError(f"{type(value).__module__}.{type(value).__qualname__}")


def _encode_array(array: np.ndarray) -> dict[str, Any]:
    return {MARK: "array", "dtype": str(array.dtype), "items": array.tolist()}


def _encode_space(space: spaces.Space) -> dict[str, Any]:
    if isinstance(space, spaces.Box):
        bounds = [_encode_array(_compressed(bound)) for bound in (space.low, space.high)]
        return {MARK: "Box", "bounds": bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {MARK: "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {MARK: "MultiDiscrete", "nvec": _encode_array(space.nvec), "start": _encode_array(space.start)}
    if isinstance(space, spaces.MultiBinary):
        return {MARK: "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {MARK: "Dict", "spaces": {name: _encode_space(part) for name, part in space.spaces.items()}}
    raise NotPlainError(f"{type(space).__module__}.{type(space).__qualname__}")


def _compressed(bound: np.ndarray) -> np.ndarray:
    """The bound of a picture is one number, not ten thousand."""
    return bound.flat[:1].reshape(()) if bound.size and (bound == bound.flat[0]).all() else bound


def decode(value: Any, classes: Classes) -> Any:
    """
    The inverse of :func:`encode`.

    :param value: from JSON
    :param classes: classes that may occur
    :return: the argument
    :raises ValueError: the data is not what :func:`encode` writes
    """
    if isinstance(value, list):
        return [decode(item, classes) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind == "tuple":
        return tuple(decode(item, classes) for item in value["items"])
    if kind == "dict":
        return {key: decode(item, classes) for key, item in value["items"].items()}
    if kind == "array":
        return _decode_array(value)
    if kind == "constant":
        return ConstantSchedule(value["value"])
    if kind == "linear":
        return LinearSchedule(*value["values"])
    if kind in ("class", "dataclass"):
        if value["name"] not in classes:
            raise ValueError(f"it names the class {value['name']!r}, which is not one of those that may be loaded")
        found = classes[value["name"]]
        return found if kind == "class" else found(**{name: decode(item, classes) for name, item in value["fields"].items()})
    return _decode_space(value)


def _decode_array(value: dict[str, Any]) -> np.ndarray:
    return np.array(value["items"], dtype=np.dtype(value["dtype"]))


def _decode_space(value: dict[str, Any]) -> spaces.Space:
    kind = value.get(MARK)
    if kind == "Box":
        dtype, shape = np.dtype(value["dtype"]), tuple(value["shape"])
        low, high = (np.broadcast_to(_decode_array(bound), shape).astype(dtype) for bound in value["bounds"])
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(value["n"], start=value["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(_decode_array(value["nvec"]), start=_decode_array(value["start"]))
    if kind == "MultiBinary":
        shape = value["shape"]
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "Dict":
        return spaces.Dict({name: _decode_space(part) for name, part in value["spaces"].items()})
    raise ValueError(f"it holds data of an unknown kind {kind!r}")
