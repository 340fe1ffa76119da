"""
Acts from a file that :func:`~sb3_dreamer.export.export_onnx` wrote. This file needs numpy and onnxruntime only, and nothing
else of the package (which needs torch): to act on a machine without torch, copy it there and ``from onnx_policy import
OnnxPolicy``. Or do without it::

    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("dreamer.onnx")
    sizes = {i.name: i.shape[1] for i in session.get_inputs() if i.name in ("deter", "stoch", "prev_action")}
    state = {name: np.zeros((1, size), np.float32) for name, size in sizes.items()}
    start = True  # of an episode
    while not done:
        inputs = {"observation": obs[None], "episode_start": np.array([start]), **state}
        action, *after = session.run(["action", "next_deter", "next_stoch", "next_action"], inputs)
        state, start = dict(zip(state, after)), False
        obs, done = act(action[0])

The file's inputs, all with the batch axis first:

- ``observation``, or ``observation.<key>`` for every key of a Dict space: as the model's observation space has it, in its
  type: numbers as they are, choices as integers (from the space's ``start``), bits as 0 and 1, images channels first
- ``deter``, ``stoch``, ``prev_action``: the state before, float32; anything (zeros) where an episode starts
- ``episode_start``: bool, where the state before is to be forgotten

Its outputs: ``action``, as the action space has it; ``next_deter``, ``next_stoch``, ``next_action``, the next call's state.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

_STATE = ("deter", "stoch", "prev_action")
_OUTPUTS = ("action", "next_deter", "next_stoch", "next_action")
_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


class OnnxPolicy:
    """
    A policy in a file, to be used as the model it was exported from: ``predict`` takes and returns the same.

    :param path: the file
    :param threads: for the networks' operations; one is the fastest for small networks
    :param providers: onnxruntime's execution providers; None for the CPU
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1, providers: list[Any] | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError('OnnxPolicy needs onnxruntime: pip install "sb3-dreamer[export]"') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers or ["CPUExecutionProvider"])
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        """What the file tells of itself: algorithm, package version, spaces, sizes of the state."""
        inputs = {value.name: value for value in self.session.get_inputs()}
        if not {"state_sizes", "image_keys"} <= self.metadata.keys() or not {*_STATE, "episode_start"} <= inputs.keys():
            raise ValueError(f"{path} was not written by sb3_dreamer.export.export_onnx.")
        sizes = json.loads(self.metadata["state_sizes"])
        self.state_sizes: tuple[int, ...] = tuple(sizes[name] for name in _STATE)
        """Of the parts of a state, in the order in which ``predict`` has them."""
        self._images = set(json.loads(self.metadata["image_keys"]))
        self._observations = {
            name: (tuple(value.shape[1:]), np.dtype(_TYPES.get(value.type) or _numpy_name(value.type)))
            for name, value in inputs.items()
            if name == "observation" or name.startswith("observation.")
        }

    def initial_state(self, n: int) -> tuple[np.ndarray, ...]:
        """
        :param n: number of environments
        :return: the state before any observation
        """
        return tuple(np.zeros((n, size), dtype=np.float32) for size in self.state_sizes)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, tuple[np.ndarray, ...]]:
        """
        As the model's own ``predict``, deterministic.

        :param observation: one observation or a batch
        :param state: the state of the call before, None at the start
        :param episode_start: where it is to be forgotten, ``(n,)``
        :param deterministic: only True
        :return: actions in the action space, and the new state
        """
        if not deterministic:
            raise ValueError("The exported policy acts deterministically: there is no deterministic=False.")
        inputs: dict[str, np.ndarray] = {}
        for name, (shape, dtype) in self._observations.items():
            array = np.asarray(observation if name == "observation" else observation[name.removeprefix("observation.")])
            inputs[name] = self._as_input(name, array, shape).astype(dtype, copy=False)
        batched = {len(shape) < inputs[name].ndim for name, (shape, _) in self._observations.items()}
        if len(batched) > 1:
            raise ValueError("Some keys of the observation have a batch axis and some have none.")
        if not batched.pop():
            inputs = {name: array[None] for name, array in inputs.items()}
            actions, state = self._run(inputs, state, episode_start)
            return actions[0], state
        return self._run(inputs, state, episode_start)

    def _as_input(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Images channels last become channels first; ValueError for a shape that is not the observation space's."""
        lead = array.ndim - len(shape)
        if lead in (0, 1):
            if name in self._images and array.shape[lead:] != shape and array.shape[lead:] == (*shape[1:], shape[0]):
                array = np.moveaxis(array, -1, -3)
            if array.shape[lead:] == shape:
                return array
        raise ValueError(f"{name} must have the shape {shape}, or (n, *{shape}) for a batch, got {array.shape}.")

    def _run(
        self, inputs: dict[str, np.ndarray], state: tuple[np.ndarray, ...] | None, episode_start: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        n = len(next(iter(inputs.values())))
        state = self.initial_state(n) if state is None else state
        if [np.shape(part) for part in state] != [(n, size) for size in self.state_sizes]:
            raise ValueError(
                f"state must hold arrays of {n} rows and {self.state_sizes} columns for these observations, got "
                f"{[np.shape(part) for part in state]}: give back what predict() returned for the same environments, or None."
            )
        start = np.zeros(n, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool).reshape(n)
        parts = {name: np.asarray(part, dtype=np.float32) for name, part in zip(_STATE, state, strict=True)}
        action, *after = self.session.run(_OUTPUTS, {**inputs, **parts, "episode_start": start})
        return action, tuple(after)


def _numpy_name(onnx_type: str) -> str:
    """``tensor(int64)`` to ``int64``."""
    return onnx_type.removeprefix("tensor(").removesuffix(")")
