"""Where a replay's rows lie: a warning before they fill the memory, and files instead of it."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import warnings
import weakref
from typing import Any

import numpy as np


def available_memory() -> int | None:
    """:return: bytes of memory that are free or can be freed, None where the system does not tell"""
    try:
        import psutil

        return int(psutil.virtual_memory().available)
    except ImportError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def warn_if_larger_than_memory(needed: int) -> None:
    """
    Warn as SB3 does if a replay will not fit. It grows as it fills, so a run may end before that.

    :param needed: bytes of the full replay
    """
    available = available_memory()
    if available is not None and needed > available:
        warnings.warn(
            f"This system does not have apparently enough memory to store the complete replay buffer {needed / 1e9:.2f}GB > "
            f"{available / 1e9:.2f}GB: choose a smaller buffer_size, or keep it on disk with "
            "replay_buffer_kwargs=dict(storage_path=...)."
        )


class DiskArrays:
    """
    Arrays in memory-mapped files of a folder of their own, which is deleted with this object.

    :param path: where to make the folder
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="replay_", dir=path))
        self._count = 0
        self._delete = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """
        :param shape: shape
        :param dtype: type
        :return: an array of zeros in a new file
        """
        if 0 in shape:
            return np.zeros(shape, dtype=dtype)
        free = shutil.disk_usage(self.folder).free
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if needed > free:
            warnings.warn(
                f"The replay's files in {self.folder} may grow to {needed / 1e9:.2f}GB, but {free / 1e9:.2f}GB are free: "
                "choose a smaller buffer_size or another storage_path."
            )
        self._count += 1
        return np.memmap(self.folder / f"{self._count}.dat", dtype=dtype, mode="w+", shape=shape)
