"""
A replay as a file: numpy's npz format, so that reading one never runs code from it, whoever wrote it. Rows are written and
read in pieces: neither needs the memory of a second replay.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import deque
from typing import IO, Any

import numpy as np

from sb3_dreamer.common.preprocessing import ObservationCodec
from sb3_dreamer.common.sequence_buffer import COLUMNS, SequenceBuffer

FORMAT = 2
"""Raised when files of before can no longer be read."""
_PIECE = 2**24
"""Bytes read at once."""


def write_replay(file: IO[bytes] | io.BufferedIOBase, buffer: SequenceBuffer) -> None:
    """
    :param file: an open file
    :param buffer: the replay to write, only rows that hold something
    """
    used = int(min(buffer._count.max(initial=0), buffer.capacity))
    header = {
        "format": FORMAT,
        "signature": describe(buffer.signature()),
        "buffer_size": buffer.buffer_size,
        "n_envs": buffer.n_envs,
        "online_queue": [[int(stream), int(row)] for stream, row in buffer._online_queue],
        "rng": buffer.rng_state(),
        "top_priority": buffer._top_priority,
    }
    arrays = {f"obs_{i}": buffer._obs[key.name] for i, key in enumerate(buffer.codec.keys)}
    arrays.update({name.strip("_"): getattr(buffer, name) for name in COLUMNS})
    columns = {name: array[:, :used] for name, array in arrays.items()}
    np.savez(
        file,
        header=np.array(json.dumps(header)),
        count=buffer._count,
        online_start=buffer._online_start,
        **columns,  # type: ignore[arg-type]
    )


def read_replay(
    file: IO[bytes] | io.BufferedIOBase, codec: ObservationCodec, signature: tuple[Any, ...], **kwargs: Any
) -> SequenceBuffer:
    """
    :param file: an open file
    :param codec: the observations that the model expects
    :param signature: :meth:`SequenceBuffer.signature` that the model needs
    :param kwargs: further arguments of the new replay: ``device``, ``online``, ``storage_path``, ``prioritized``
    :return: the replay
    :raises ValueError: the file is not a replay, or of other spaces or sizes; a damaged one may raise much else
    """
    with zipfile.ZipFile(file) as archive:
        if "header.npy" not in archive.namelist():
            raise ValueError("it is not the replay of a world-model algorithm")
        header = json.loads(str(_read_small(archive, "header")))
        if header["format"] != FORMAT:
            raise ValueError(f"it has format {header['format']}, this version of sb3_dreamer reads format {FORMAT}")
        if header["signature"] != describe(signature):
            raise ValueError(
                f"it was written with other spaces or sizes: it has {header['signature']}, this model needs "
                f"{describe(signature)} (observation keys, action, deterministic and stochastic sizes)"
            )
        _, action_size, deter_size, stoch_size = signature
        buffer = SequenceBuffer(
            header["buffer_size"], codec, action_size, deter_size, stoch_size, n_envs=header["n_envs"], **kwargs
        )
        buffer._count[:] = _read_small(archive, "count")
        buffer._online_start[:] = _read_small(archive, "online_start")
        buffer._online_queue = deque((stream, row) for stream, row in header["online_queue"])
        if not all(0 <= stream < buffer.n_envs for stream, _ in buffer._online_queue):
            raise ValueError("its queue names environments that it does not have")
        buffer.set_rng_state(header["rng"])
        buffer._top_priority = float(header["top_priority"])
        used = int(min(buffer._count.max(initial=0), buffer.capacity))
        if used:
            buffer._reserve(used)
        for i, key in enumerate(codec.keys):
            rows = buffer._obs[key.name]
            _read_rows(archive, f"obs_{i}", rows, used)
            if key.kind == "discrete" and not (rows[:, :used].reshape(-1, len(key.classes)) < key.classes).all():
                raise ValueError(f"its observations of key {key.name!r} hold a choice that is not in the space")
        for name in COLUMNS:
            _read_rows(archive, name.strip("_"), getattr(buffer, name), used)
    return buffer


def describe(signature: tuple[Any, ...]) -> list[Any]:
    """
    :param signature: :meth:`SequenceBuffer.signature`
    :return: the same in JSON's types
    """
    keys, *sizes = signature
    fields = ("name", "kind", "shape", "dtype", "classes", "start")
    return [[[_listed(getattr(key, field)) for field in fields] for key in keys], *sizes]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_small(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)


def _read_rows(archive: zipfile.ZipFile, name: str, target: np.ndarray, used: int) -> None:
    """Fill ``target[:, :used]`` piece by piece."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        expected = (target.shape[0], used, *target.shape[2:])
        if shape != expected or fortran or dtype != target.dtype:
            raise ValueError(f"its array {name!r} is {dtype} {shape}, expected {target.dtype} {expected}")
        row_bytes = target.itemsize * int(np.prod(target.shape[2:]))
        step = max(1, _PIECE // max(1, row_bytes))
        for stream in range(target.shape[0]):
            for start in range(0, used, step):
                stop = min(start + step, used)
                piece = np.frombuffer(_read_exactly(file, (stop - start) * row_bytes), dtype=dtype)
                if dtype.kind == "f" and not np.isfinite(piece).all():
                    raise ValueError(f"its array {name!r} holds NaN or infinity")
                target[stream, start:stop] = piece.reshape(stop - start, *target.shape[2:])
        file.read()  # to the end, where the checksum is compared


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    pieces = []
    while size > 0:
        piece = file.read(size)
        if not piece:
            raise EOFError("the file ends too early")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
