"""
Where a replay's rows lie: a warning before they fill the memory, and files instead of it. And what happens to the memory of
an update when it is over.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform
import shutil
import tempfile
import warnings
import weakref
from typing import Any

import numpy as np

from sb3_dreamer.common.bookkeeping import process_name, process_runs

# parameters of mallopt(3), from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> bool:
    """
    Ask glibc to keep what tensors have freed for those to come. An update frees all of its activations; given back to the
    system and asked for again, every page of them costs a fault, 10 to 20 per cent of the time of a large update on a CPU.
    Nothing is done where the user has set an environment variable of glibc's allocator, or has another allocator.

    :return: whether glibc will
    """
    chosen = [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))]
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    limits = {_M_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _M_TRIM_THRESHOLD: 2**31 - 1}
    return all(mallopt(name, value) == 1 for name, value in limits.items())


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
    Arrays in memory-mapped files of a folder of their own, which is deleted with this object. Disk space is taken as rows are
    written, before they are: a full disk is an error then, while writing to a mapped file without space kills the process.

    :param path: where to make the folder; folders there of processes that were killed are removed
    :param needed: bytes of all arrays, to warn of a disk that is too small
    """

    def __init__(self, path: str | pathlib.Path, needed: int) -> None:
        parent = pathlib.Path(path)
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob("replay_*_*"):
            if not process_runs(left.name.split("_")[1]):
                shutil.rmtree(left, ignore_errors=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"replay_{process_name()}_", dir=parent))
        self._arrays: list[np.memmap] = []
        self._filled = 0
        self._delete = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            warnings.warn(
                f"The replay's files in {self.folder} may grow to {needed / 1e9:.2f}GB, but {free / 1e9:.2f}GB are free: "
                "choose a smaller buffer_size or another storage_path."
            )

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """
        :param shape: streams, rows, and the shape of one row
        :param dtype: type
        :return: an array of zeros in a new file
        """
        if 0 in shape:
            return np.zeros(shape, dtype=dtype)
        array = np.memmap(self.folder / f"{len(self._arrays)}.dat", dtype=dtype, mode="w+", shape=shape)
        self._arrays.append(array)
        return array

    def fill(self, rows: int) -> None:
        """
        Take the space of the first rows of every stream.

        :param rows: how many; more are taken at once, so that this is seldom work
        :raises OSError: the disk is full
        """
        if rows <= self._filled or not hasattr(os, "posix_fallocate"):
            return
        for array in self._arrays:
            until = min(array.shape[1], max(rows, self._filled + 1024))
            row_bytes = array.itemsize * int(np.prod(array.shape[2:]))
            with open(str(array.filename), "rb+") as file:
                for stream in range(array.shape[0]):
                    start = (stream * array.shape[1] + self._filled) * row_bytes
                    try:
                        os.posix_fallocate(file.fileno(), start, (until - self._filled) * row_bytes)
                    except OSError as full:
                        raise OSError(
                            full.errno,
                            f"The disk of {self.folder} has no space for more rows of the replay. The model is whole and can "
                            "be saved: free some space and go on, or choose a smaller buffer_size or another storage_path",
                        ) from full
        self._filled = max(rows, self._filled + 1024)
