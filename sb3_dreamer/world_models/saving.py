"""The file of a world model that was fitted alone."""

from __future__ import annotations

import json
import pathlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch as th

from sb3_dreamer.common.bookkeeping import find_file, write_atomically
from sb3_dreamer.common.plain_data import NotPlainError, decode, encode, name_classes
from sb3_dreamer.common.world_model import WorldModel
from sb3_dreamer.world_models.sizes import ModelSize

SelfModel = TypeVar("SelfModel", bound="SavedWorldModel")

FORMAT = 1


class SavedWorldModel(WorldModel):
    """A world model that can be written to a file and read again, given the arguments that it was made with."""

    _arguments: dict[str, Any]
    """Of ``from_spaces``; models that were made otherwise have none."""
    _statistics_known: bool = False
    """Whether scales have been learnt from data: a later fit leaves them alone."""

    @classmethod
    @abstractmethod
    def from_spaces(cls: type[SelfModel], observation_space: Any, action_space: Any, **kwargs: Any) -> SelfModel:
        """See :meth:`StandaloneWorldModel.from_spaces`."""

    def save(self, path: str | pathlib.Path) -> None:
        """
        Write weights and arguments to one file, whole or not at all; no pickle of anything but tensors.

        :param path: the file, ``.pt`` is added if it has no suffix
        :raises ValueError: the model was not made by :meth:`from_spaces`, or has arguments that cannot be written (a module).
            Functions (``reward_fn`` ...) are left out: :meth:`load` is given them again
        """
        content = {"header": self.file_header(), "weights": self.state_dict()}
        write_atomically(path, lambda temporary: th.save(content, temporary), ".pt")

    def file_header(self) -> str:
        """
        :return: what a file says beside the weights, JSON
        :raises ValueError: as :meth:`save`
        """
        if not hasattr(self, "_arguments"):
            raise ValueError("Only models made by from_spaces can be saved alone: save the Dreamer this one belongs to.")
        functions = sorted(name for name, value in self._arguments.items() if name.endswith("_fn") and value is not None)
        written = {name: value for name, value in self._arguments.items() if name not in functions}
        try:
            arguments = encode(written, name_classes([], [ModelSize]))
        except NotPlainError as wrong:
            raise ValueError(f"An argument of the model cannot be written to a file: {wrong}.") from wrong
        header = {"class": type(self).__name__, "arguments": arguments, "functions": functions}
        header["fitted"] = self._statistics_known
        return json.dumps({"format": FORMAT, **header})

    @classmethod
    def load(
        cls: type[SelfModel], path: str | pathlib.Path, device: th.device | str = "cpu", **functions: Callable[..., Any]
    ) -> SelfModel:
        """
        :param path: written by :meth:`save`
        :param device: torch device
        :param functions: those that the model was made with, ``reward_fn=...``
        :return: the model
        :raises ValueError: the file is damaged or holds another class's model, or the functions are not those it was made with
        """
        path = find_file(path, ".pt")
        th.zeros((), device=device)  # a device that is not there is no fault of the file
        try:
            content = th.load(path, map_location=device, weights_only=True)
            header = json.loads(content["header"])
            arguments = decode(header["arguments"], name_classes([], [ModelSize]))
            found, version, fitted = header["class"], header["format"], bool(header["fitted"])
            needed = set(header.get("functions", ()))
        except Exception as damage:
            raise ValueError(f"{path} is no world model's file, or damaged ({type(damage).__name__}: {damage})") from damage
        if version != FORMAT:
            raise ValueError(f"{path} has the format {version}, this version reads {FORMAT}.")
        kinds = {kind.__name__: kind for kind in _concrete(cls)}
        if found not in kinds:
            raise ValueError(f"{path} holds a {found}, not a {' or '.join(kinds)}.")
        if needed != set(functions):
            raise ValueError(
                f"{path} holds a model that was made with the functions {sorted(needed) or 'none'}, got "
                f"{sorted(functions) or 'none'}: give load() the same, which no file can hold."
            )
        try:
            model = kinds[found].from_spaces(**arguments, **functions, device=device)
            model.load_state_dict(content["weights"])
        except Exception as wrong:
            raise ValueError(f"{path} does not fit this version's {found} ({type(wrong).__name__}: {wrong})") from wrong
        model._statistics_known = fitted
        return model


def _concrete(cls: type[Any]) -> list[type[Any]]:
    """The class and all below it that can be made."""
    below = [kind for child in cls.__subclasses__() for kind in _concrete(child)]
    return [*([] if cls.__abstractmethods__ else [cls]), *below]
