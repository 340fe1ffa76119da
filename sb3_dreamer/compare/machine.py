"""Where a run was carried out: versions, processor, memory, source. A CPU second means nothing without them."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from sb3_dreamer.version import __version__

_ROOT = Path(__file__).parents[2]


def installed_versions() -> dict[str, str]:
    """:return: versions of what decides about a run's numbers"""
    import gymnasium
    import numpy
    import stable_baselines3
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "gymnasium": gymnasium.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "sb3_dreamer": __version__,
    }


def cpu_model() -> str:
    """:return: the processor's name, as CPU seconds mean nothing without it"""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cpus() -> int:
    """:return: number of cores this process may use"""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine(device: str) -> dict[str, Any]:
    """
    :param device: torch device of a run; a GPU that it does not use is not asked for its name
    :return: the machine without its name: ``platform``, ``processor``, ``cores``, ``memory_gb`` (None if unknown), ``gpu``
    """
    gpu = None
    if not device.startswith("cpu"):
        import torch

        gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "platform": platform.platform(),
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpu": gpu,
    }


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def peak_memory_mb() -> float | None:
    """:return: the most memory this process has held at once, in MiB; None where the system does not say"""
    try:
        # Not getrusage: on Linux its maximum counts that of the process which started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return round(int(kibibytes) / 2**10, 1)
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def git_commit(root: Path = _ROOT) -> str | None:
    """
    :param root: folder that holds the package
    :return: the commit of its source, with ``-dirty`` if files differ from it; None if this is no git checkout
    """
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
