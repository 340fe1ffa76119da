"""
What a model's file says of itself in plain JSON, beside SB3's data: who wrote it, and all that is needed to rebuild the
model without unpickling anything.
"""

from __future__ import annotations

import inspect
import io
import json
import pathlib
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.save_util import open_path

from sb3_dreamer.common.plain_data import NotPlainError, decode, encode
from sb3_dreamer.version import __version__

FORMAT = 1
"""Raised when files of before can no longer be read."""
ENTRY = "sb3_dreamer.json"
COUNTERS = (
    "num_timesteps",
    "_steps_in_all",
    "_n_updates",
    "_episode_num",
    "_update_debt",
    "_skipped_updates",
    "_total_timesteps",
    "n_envs",
    "_stats_window_size",
)
"""State beside the arguments that is told in plain JSON."""
STATE = ("policy_class", "observation_space", "action_space", *COUNTERS)
MACHINE = ("tensorboard_log", "replay_buffer_kwargs")
"""Arguments that name folders of the machine where the model was made: not for others."""
DAMAGE = (
    RuntimeError,
    LookupError,
    EOFError,
    AssertionError,
    AttributeError,
    TypeError,
    ArithmeticError,
    OSError,
    MemoryError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    json.JSONDecodeError,
    UnicodeDecodeError,
)
"""What reading a damaged file may raise."""
File = str | pathlib.Path | io.BufferedIOBase


def file_name(file: Any) -> str:
    """
    :param file: an open file
    :return: its path, if it has one
    """
    return str(getattr(file, "name", "the open file"))


@contextmanager
def opened(path: File, suffix: str, subject: str, otherwise: str) -> Iterator[io.BufferedIOBase]:
    """
    Open a file to be read; whatever goes wrong inside becomes an error that names it.

    :param path: path, or an open file, which stays open
    :param suffix: tried if there is no file of that path
    :param subject: begins the error's message
    :param otherwise: what the file may be if it is not damaged
    :raises ValueError: for a ValueError inside, and for all that damaged files raise
    """
    file = path if isinstance(path, io.BufferedIOBase) else open_path(path, "r", suffix=suffix)
    name = f"{subject}{file_name(file)}"
    try:
        yield file
    except DAMAGE as damage:
        kind = type(damage).__name__
        raise ValueError(f"{name} cannot be loaded: it is damaged or {otherwise} ({kind}: {damage})") from damage
    except ValueError as wrong:
        raise ValueError(f"{name} cannot be loaded: {wrong}") from wrong
    finally:
        if file is not path:
            file.close()


def argument_names(algorithm: type) -> list[str]:
    """
    :param algorithm: an algorithm's class
    :return: the constructor's arguments that a file keeps, which are attributes of the same name
    """
    names = inspect.signature(algorithm).parameters
    return [
        name for name in names if name not in ("policy", "env", "device", "stats_window_size", "_init_setup_model", *MACHINE)
    ]


def write_header(archive: zipfile.ZipFile, model: Any) -> None:
    """
    :param archive: SB3's zip file, open for appending
    :param model: the algorithm that is saved
    """
    wanted = {name: getattr(model, name) for name in (*argument_names(type(model)), *STATE) if hasattr(model, name)}
    classes = model.plain_classes()
    plain, refused = {}, {}
    for name, value in wanted.items():
        try:
            plain[name] = encode(value, classes)
        except NotPlainError as reason:
            refused[name] = str(reason)
    header = {
        "format": FORMAT,
        "version": __version__,
        "algorithm": type(model).__name__,
        "data": plain,
        "only_pickled": refused,
    }
    archive.writestr(ENTRY, json.dumps(header))


def read_header(file: File, algorithm: type) -> dict[str, Any]:
    """
    Check a model's file before anything is made of it.

    :param file: an open file, or a path with its suffix
    :param algorithm: the class that is to be loaded
    :return: what :func:`write_header` wrote
    :raises ValueError: the file is damaged, or of another algorithm or format
    """
    try:
        with zipfile.ZipFile(file) as archive:
            # weights are zip files too: of a file cut short, the last whole one inside may be taken for the file itself
            if min((part.header_offset for part in archive.infolist()), default=1) > 0:
                raise zipfile.BadZipFile("its end is missing")
            broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"it is damaged: the checksum of its part {broken!r} is wrong")
            names = archive.namelist()
            header = json.loads(archive.read(ENTRY)) if ENTRY in names else None
    except DAMAGE as damage:
        raise ValueError(f"it is not a model's zip file, or only a part of one ({damage})") from damage
    if header is None:
        writer = "an algorithm of Stable-Baselines3" if "data" in names and "policy.pth" in names else "something else"
        raise ValueError(f"it was saved by {writer}, not by sb3_dreamer")
    if not isinstance(header, dict):
        raise ValueError("what it says of itself is not a dictionary")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"it was saved by sb3_dreamer {header.get('version')} in format {header.get('format')}, this is version "
            f"{__version__}, which reads format {FORMAT}: install the version that wrote it"
        )
    if header["algorithm"] != algorithm.__name__:
        raise ValueError(f"it holds a {header['algorithm']}, not a {algorithm.__name__}: use {header['algorithm']}.load()")
    return header


def decode_data(header: dict[str, Any], algorithm: Any, given: set[str]) -> dict[str, Any]:
    """
    :param header: from :func:`read_header`
    :param algorithm: the class that is to be loaded
    :param given: names that the caller provides
    :return: arguments and state by name, from plain JSON alone
    :raises ValueError: something is missing, too much, or only in the file's pickles
    """
    refused = {name: kind for name, kind in header["only_pickled"].items() if name not in given}
    if refused:
        listed = ", ".join(f"{name} (a {kind})" for name, kind in refused.items())
        raise ValueError(
            f"only a pickle holds its {listed}, and pickles can run code: pass a value of your own as a keyword argument, or "
            "load it with trusted=True if you know who wrote it"
        )
    found, expected = set(header["data"]), {*argument_names(algorithm), *STATE}
    if found - expected or expected - found - given:
        raise ValueError(
            f"its plain data have too much or too little: {sorted(found - expected)} are unknown, "
            f"{sorted(expected - found - given)} are missing"
        )
    data = {name: decode(value, algorithm.plain_classes()) for name, value in header["data"].items() if name not in given}
    for name in COUNTERS:
        if isinstance(data[name], bool) or not isinstance(data[name], int | float) or data[name] < 0:
            raise ValueError(f"its {name} is {data[name]!r}, not a number of at least 0")
    return data
