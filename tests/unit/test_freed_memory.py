"""Asking the allocator to keep what it has."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch as th
from sb3_dreamer.common.memory import keep_freed_memory

kept = keep_freed_memory()

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [th.ones(2**18) for _ in range(100)]  # 1 MiB each
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(kept, faults())
"""


def outcome(**env: str) -> tuple[str, int]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**environment, **env}, capture_output=True, text=True, check=True
    )
    kept, faults = answer.stdout.split()
    return kept, int(faults)


def test_freed_memory_is_used_again_without_faults() -> None:
    kept, faults = outcome()
    if kept == "False":
        pytest.skip("another allocator than glibc's")
    assert faults < 2_000  # 25,600 pages


def test_the_user_s_own_choice_stands() -> None:
    assert outcome(MALLOC_ARENA_MAX="2")[0] == "False"
