"""
A trained model's acting step as one ONNX file, for machines that act and do not learn::

    from sb3_dreamer.export import OnnxPolicy, export_onnx

    export_onnx(model, "dreamer.onnx")
    policy = OnnxPolicy("dreamer.onnx")
    action, state = policy.predict(obs, state, episode_start)

All of ``predict(deterministic=True)`` is inside: scaling of observations, one-hots, filtering, the actor, and the action as
the action space has it. The file's inputs and outputs, and how to use it without torch or this package, are described in
:mod:`sb3_dreamer.onnx_policy`. Under ``VecNormalize`` the model sees normalised observations, and so does the file. Unlike
``predict``, the file does not complain about a choice that is not in the space: it sees none.
"""

from __future__ import annotations

import copy
import json
import math
import os
import pathlib
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
import torch.nn as nn
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from torch.overrides import TorchFunctionMode

from sb3_dreamer.common.bookkeeping import write_atomically
from sb3_dreamer.common.distributions import OneHotGroups
from sb3_dreamer.common.preprocessing import ActionCodec, ObservationKey
from sb3_dreamer.common.recurrent_policy import RecurrentModelPolicy
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.onnx_policy import OnnxPolicy
from sb3_dreamer.planning.policy import PlanningPolicy
from sb3_dreamer.version import __version__

__all__ = ["ExportError", "OnnxPolicy", "export_onnx", "verify_onnx"]


class ExportError(RuntimeError):
    """The model cannot be written, or what was written does not act as the model."""


def export_onnx(
    model: BaseAlgorithm | RecurrentModelPolicy, path: str | os.PathLike, opset_version: int = 17, verify: bool = True
) -> None:
    """
    Write the acting step of a model: observation, state and episode start to action and next state, deterministic, with the
    weights that ``predict`` uses. A file that does not pass the verification is not left at the path.

    :param model: a Dreamer, or its policy
    :param path: where to write, ``.onnx`` is added if it has no suffix
    :param opset_version: version of ONNX's operators, 13 or later
    :param verify: compare the file with the model before it is put there, see :func:`verify_onnx`
    """
    onnx = _import_onnx()
    policy = _policy_of(model)
    codec = policy.observation_codec
    is_dict = isinstance(codec.space, spaces.Dict)
    names = [f"observation.{key.name}" if is_dict else "observation" for key in codec.keys]
    parts = codec.space.spaces if isinstance(codec.space, spaces.Dict) else {"obs": codec.space}
    graph = onnx.load_from_string(_trace(policy, names, opset_version))

    for name, key in zip(names, codec.keys, strict=True):
        _set_type(graph, name, parts[key.name].dtype, key.shape)
    _set_type(graph, "action", policy.action_space.dtype, policy.action_space.shape or ())
    sizes = [part.shape[1] for part in policy.initial_state(1)]
    images = [name for name, key in zip(names, codec.keys, strict=True) if is_image_space(parts[key.name])]
    metadata = {
        "algorithm": type(model).__name__,
        "sb3_dreamer_version": __version__,
        "observation_space": str(policy.observation_space),
        "action_space": str(policy.action_space),
        "state_sizes": json.dumps(dict(zip(("deter", "stoch", "prev_action"), sizes, strict=True))),
        "image_keys": json.dumps(images),
    }
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph)

    def write(temporary: pathlib.Path) -> None:
        temporary.write_bytes(graph.SerializeToString())
        if verify:
            verify_onnx(policy, temporary)

    write_atomically(os.fspath(path), write, suffix=".onnx")


def verify_onnx(model: BaseAlgorithm | RecurrentModelPolicy, path: str | os.PathLike, steps: int = 10) -> None:
    """
    Compare a file with a model, in onnxruntime, on random observations of the space, for one environment and for three, with
    episodes that start at random. Every step begins from the state that ``predict`` returned. Raises an
    :class:`ExportError` if states differ by more than 1e-4, or actions are not what these states mean.

    Where two choices are equally likely the last digit of a number decides. A different choice passes if rounding errors of
    the weights (1e-5 of them) make the model itself choose so.

    :param model: a Dreamer, or its policy
    :param path: the file
    :param steps: number of steps
    """
    policy = _policy_of(model)
    if policy.device.type != "cpu":
        policy = _copy(policy)  # other devices may round more
    exported = OnnxPolicy(path)
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)
    rng = np.random.default_rng(0)
    for n in (1, 3):
        state = policy.initial_state(n)
        for step in range(steps):
            obs, start = _sample(space, n), rng.random(n) < 0.25
            try:
                _verify_step(policy, exported, obs, state, start)
            except ExportError as error:
                raise ExportError(f"The file does not act as the model: step {step}, {n} rows: {error}") from error
            state = _step(policy, obs, state, start)


def _verify_step(
    policy: RecurrentModelPolicy, exported: OnnxPolicy, obs: Any, state: tuple[np.ndarray, ...], start: np.ndarray
) -> None:
    try:
        action, got = exported.predict(obs, state, start)
    except Exception as error:
        raise ExportError(f"it fails with {type(error).__name__}: {error}") from error
    expected = _step(policy, obs, state, start)
    shapes = [[part.shape for part in parts] for parts in (got, expected)]
    if shapes[0] != shapes[1]:
        raise ExportError(f"the state has the shapes {shapes[0]}, not {shapes[1]}.")
    same = _same_rows(got, expected)
    for seed in range(8):
        if not same.all():
            same |= _same_rows(got, _step(_jittered(policy, seed), obs, state, start))
    if not same.all():
        parts = zip(("next_deter", "next_stoch", "next_action"), got, expected, strict=True)
        raise ExportError(
            "largest differences " + ", ".join(f"{name} {np.abs(a - b).max():.3g}" for name, a, b in parts) + "."
        )
    wanted = policy.action_codec.to_env(got[-1])
    if (action.shape, action.dtype) != (wanted.shape, wanted.dtype):
        raise ExportError(f"action is {action.dtype} {action.shape}, not {wanted.dtype} {wanted.shape}.")
    if not _same_actions(action, wanted, policy.action_space):
        raise ExportError(f"largest difference action {np.abs(action.astype(np.float64) - wanted).max():.3g}.")


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError('Exporting needs onnx and onnxruntime: pip install "sb3-dreamer[export]"') from error
    return onnx


def _policy_of(model: Any) -> RecurrentModelPolicy:
    policy = getattr(model, "policy", model)
    if not isinstance(policy, RecurrentModelPolicy):
        raise ValueError(f"Only models of sb3_dreamer and their policies can be exported, not {type(model).__name__}.")
    if isinstance(policy, PlanningPolicy):
        raise ValueError(f"{type(model).__name__} plans its actions: a search cannot be exported, only Dreamer's actor can.")
    if len(policy.state_sizes()) > 3:
        raise ValueError(f"{type(model).__name__} pursues goals over several steps, which cannot be exported.")
    return policy


# ---- the graph


class ActingStep(nn.Module):
    """
    One deterministic step of ``predict`` in torch alone: the observation's parts, deterministic state, stochastic state,
    action before, episode start; to the environment's action and the next state.

    :param policy: the policy
    """

    def __init__(self, policy: RecurrentModelPolicy) -> None:
        super().__init__()
        self.policy = policy
        classes = policy.action_codec.classes
        self.choices = OneHotGroups(classes) if classes else None

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param inputs: see above; vectors, bits and pictures of floats as float32, pictures of bytes as uint8, choices as int64
        :return: action (float64 or int64), deterministic state, stochastic state, raw action
        """
        *observations, deter, stoch, prev_action, episode_start = inputs
        keys = self.policy.observation_codec.keys
        obs = {key.name: _preprocess(key, x) for key, x in zip(keys, observations, strict=True)}
        state = self.policy.acting_model(evaluation=True).observe_step(
            obs, prev_action, episode_start, LatentState(deter, stoch), deterministic=True
        )
        action = self.policy.choose_action(state, deterministic=True, evaluation=True)
        # a model without a memory does not read it, and the exporter leaves out what is not read
        return self._to_env(action), state.deter + 0.0 * deter, state.stoch, action

    def _to_env(self, action: th.Tensor) -> th.Tensor:
        """:meth:`ActionCodec.to_env`."""
        codec: ActionCodec = self.policy.action_codec
        shape = codec.space.shape or ()
        if self.choices is not None:
            start = np.asarray(getattr(codec.space, "start", 0), dtype=np.int64).reshape(-1)
            return (self.choices.split(action, -math.inf).argmax(-1) + th.as_tensor(start)).reshape(-1, *shape)
        assert isinstance(codec.space, spaces.Box)
        low, high = (th.as_tensor(bound.astype(np.float64)) for bound in (codec.space.low, codec.space.high))
        scaled = action.clamp(-1.0, 1.0).double().reshape(-1, *shape) * (high / 2 - low / 2) + (high / 2 + low / 2)
        if np.issubdtype(codec.space.dtype, np.integer):
            scaled = scaled.round()
        return scaled.maximum(low).minimum(high)


def _preprocess(key: ObservationKey, x: th.Tensor) -> th.Tensor:
    """``ObservationCodec.to_tensors`` of ``to_arrays``, of one key."""
    if key.kind == "image":
        return x.reshape(-1, *key.image_shape)
    if key.kind != "discrete":
        return x.reshape(-1, key.size)
    variable = np.repeat(np.arange(len(key.classes)), key.classes)  # of every entry of the one-hots
    value = np.concatenate([start + np.arange(count) for start, count in zip(key.start, key.classes, strict=True)])
    return (x.reshape(-1, len(key.classes))[:, th.as_tensor(variable)] == th.as_tensor(value)).float()


class _Translatable(TorchFunctionMode):
    """While active, operations that the exporter knows stand in for some that it does not, or fixes to the traced sizes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is th.zeros_like and not kwargs:
            return args[0] * 0
        if func is F.rms_norm:
            return _rms_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _rms_norm(
    x: th.Tensor, normalized_shape: Sequence[int], weight: th.Tensor | None = None, eps: float | None = None
) -> th.Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    x = x / (x.square().mean(axes, keepdim=True) + (th.finfo(x.dtype).eps if eps is None else eps)).sqrt()
    return x if weight is None else x * weight


def _trace(policy: RecurrentModelPolicy, names: list[str], opset_version: int) -> bytes:
    policy = _copy(policy)
    policy.set_training_mode(False)
    n = 2  # as an axis of one may be taken for a fixed one
    observations = [_example(key, n) for key in policy.observation_codec.keys]
    state = [th.as_tensor(part) for part in policy.initial_state(n)]
    inputs = [*names, "deter", "stoch", "prev_action", "episode_start"]
    outputs = ["action", "next_deter", "next_stoch", "next_action"]
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            warnings.catch_warnings(),
            th.no_grad(),
            _Translatable(),
        ):
            warnings.simplefilter("ignore")  # the exporter by tracing: deprecated, but it needs no further package
            path = pathlib.Path(folder) / "traced.onnx"
            th.onnx.export(
                ActingStep(policy),
                (*observations, *state, th.ones(n, dtype=th.bool)),
                path,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in inputs + outputs},
                opset_version=opset_version,
                dynamo=False,
            )
            return path.read_bytes()
    except Exception as error:
        raise ExportError(
            f"The model cannot be translated to ONNX ({type(error).__name__}: {error}). If it has a features extractor or a "
            "world model of your own: those can be exported whose operations torch.onnx knows; another opset_version may "
            "know more."
        ) from error


def _example(key: ObservationKey, n: int) -> th.Tensor:
    """In the types in which :class:`ActingStep` takes them."""
    if key.kind == "discrete":
        return th.zeros(n, *key.shape, dtype=th.int64) + th.as_tensor(np.array(key.start).reshape(key.shape))
    return th.zeros(n, *key.shape, dtype=th.uint8 if key.kind == "image" and key.dtype == "uint8" else th.float32)


def _set_type(model: Any, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
    """
    Give an input or output of a graph the environment's type, by a cast between it and the graph's own.

    :param model: the ONNX model, changed
    :param name: of the input or output
    :param dtype: the type that it gets
    :param shape: without the batch axis
    """
    from onnx import helper

    wanted = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = model.graph
    is_input = any(value.name == name for value in graph.input)
    values = graph.input if is_input else graph.output
    position = [value.name for value in values].index(name)
    given = values[position].type.tensor_type.elem_type
    values[position].CopyFrom(helper.make_tensor_value_info(name, wanted, ["batch", *shape]))
    if given == wanted:
        return
    inner = f"{name}/cast"
    for node in graph.node:
        for names in (node.input, node.output):
            for i, other in enumerate(names):
                if other == name:
                    names[i] = inner
    if is_input:
        graph.node.insert(0, helper.make_node("Cast", [name], [inner], name=inner, to=given))
    else:
        graph.node.append(helper.make_node("Cast", [inner], [name], name=inner, to=wanted))


# ---- the verification


def _copy(policy: RecurrentModelPolicy) -> RecurrentModelPolicy:
    """On the CPU, without the optimizer."""
    return copy.deepcopy(policy, {id(policy.optimizer): None}).to("cpu")


def _jittered(policy: RecurrentModelPolicy, seed: int) -> RecurrentModelPolicy:
    policy = _copy(policy)
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for weight in policy.parameters():
            weight.mul_(1 + 1e-5 * th.randn(weight.shape, generator=generator))
    return policy


def _sample(space: spaces.Space, n: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _sample(part, n) for name, part in space.spaces.items()}
    return np.stack([np.asarray(space.sample()) for _ in range(n)])


def _step(policy: RecurrentModelPolicy, obs: Any, state: tuple[np.ndarray, ...], start: np.ndarray) -> tuple[np.ndarray, ...]:
    after = policy.predict(obs, state, start, deterministic=True)[1]
    assert after is not None
    return after


def _same_rows(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> np.ndarray:
    """:return: which rows agree in all parts, ``(n,)``"""
    parts = [np.isclose(one, other, rtol=1e-4, atol=1e-4).all(-1) for one, other in zip(got, expected, strict=True)]
    return np.all(parts, axis=0)


def _same_actions(got: np.ndarray, expected: np.ndarray, space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box) or np.issubdtype(space.dtype, np.integer):
        return np.array_equal(got, expected)
    size = np.abs(np.stack([space.low, space.high]).astype(np.float64)).max(0)
    precision = 4 * float(np.finfo(space.dtype).eps)
    return bool((np.abs(got.astype(np.float64) - expected) <= precision * size).all())
