"""The benchmarks of costs: that they measure what they say, on models that are as small as can be."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def throughput() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        module = importlib.import_module("throughput")
        patch.setattr(module, "FILLED", 60)
        patch.setattr(module, "STEPS_TIMED", 5)
        yield module


@pytest.fixture(scope="module")
def growth(throughput: ModuleType) -> ModuleType:
    return importlib.import_module("growth")


def test_an_update_is_measured_with_what_it_follows_from(throughput: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "CASES", {str(length): dict(size="debug", batch_length=length) for length in (2, 4)})
    short, long = (throughput.run_case(name, 1, "cpu") for name in throughput.CASES)
    for found in (short, long):
        assert all(value > 0 for value in (found["cpu_seconds"], found["step_ms"], *found["acting_ms"].values()))
        assert math.isclose(found["updates_per_second"] * found["cpu_seconds"], 1)
        assert math.isclose(found["share_of_peak"], found["gflop"] / found["cpu_seconds"] / found["gemm_peak_gflops"])
        assert found["processor"] and "torch" in found["versions"]
    assert math.isclose(long["gflop"], 2 * short["gflop"], rel_tol=0.01)  # everything is computed for every row
    assert long["parameters"] == short["parameters"]


def test_who_acts_while_a_step_is_timed_is_the_actor(throughput: ModuleType, growth: ModuleType) -> None:
    of_an_update: Any = throughput.make(dict(size="debug", batch_length=2), "cpu")
    for model in (of_an_update, growth.make(n_envs=2, size="debug").learn(8)):
        assert model._n_updates == 0 and not model._acts_at_random()
        assert np.abs(model._last_state[1]).sum() > 0  # the latent state that it acted from


def test_growth_times_every_axis(growth: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "GRID", {"batch_size": [1, 2], "n_envs": [1, 2]})
    monkeypatch.setattr(growth, "FILLED", 60)
    monkeypatch.setattr(growth, "STEPS_TIMED", 2)
    found = growth.updates()
    assert [(line["axis"], line["value"]) for line in found] == [
        (axis, n) for axis in ("batch_size", "n_envs") for n in (1, 2)
    ]
    assert all(line["update_seconds"] > 0 and line["step_seconds"] > 0 for line in found)


def test_growth_fills_a_replay_with_whole_episodes(growth: ModuleType) -> None:
    model = growth.make(size="debug", buffer_size=402)
    assert model.replay_buffer is not None
    growth.fill(model.replay_buffer, 402)
    (stream,) = model.replay_buffer.streams()
    assert np.flatnonzero(stream.is_first).tolist() == [0, 201] and np.flatnonzero(stream.is_last).tolist() == [200, 401]


def test_implementations_take_turns_and_their_least_seconds_are_compared(
    throughput: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peers = importlib.import_module("peers")
    log = tmp_path / "log"
    script = tmp_path / "other.py"
    script.write_text(f"""
import json, os, sys
assert os.environ["OMP_NUM_THREADS"] == "1" and "PYTHONPATH" not in os.environ
name, _, length, _, updates = sys.argv[1:]
assert int(updates) == 2
with open({str(log)!r}, "a+") as file:
    file.write(name)
    file.seek(0)
    turn = file.read().count(name)
seconds = [int(length) * (2 if name == "b" else 1) / turn, 1000]
print("a word before")
print(json.dumps(dict(cpu_seconds=seconds, parameters=1234, versions=dict(numpy="1"))))
""")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    command = (str(script),)
    other = {"other": peers.Peer("b", (*command, "b")), "absent": peers.Peer("c", (*command, "c"))}
    monkeypatch.setattr(peers, "PEERS", {"sb3_dreamer": peers.Peer("a", (*command, "a")), **other})
    monkeypatch.setattr(peers, "UPDATES", 2)
    record = peers.compare({"a": sys.executable, "b": sys.executable}, rounds=2, lengths=(4, 8))
    assert log.read_text() == "aabbaabb"
    assert list(record) == ["sb3_dreamer", "other"]
    assert record["other"]["least"] == {"4": 8 / 3, "8": 4} and record["other"]["versions"] == {"numpy": "1"}
    assert record["sb3_dreamer"]["median"] == {"4": (4 + 1000) / 2, "8": (4 + 1000) / 2}
    assert peers.table(record).splitlines()[-1].startswith("| other | 1,234 | 2.667 (")
    assert peers.table(record).count(" | 2.00 |") == 2

    monkeypatch.setattr(peers, "CASES", {"256, B16 T2": dict(size="debug", batch_length=2)})
    found = json.loads(json.dumps(peers.ours(2, updates=2)))
    assert len(found["cpu_seconds"]) == 2 and min(found["cpu_seconds"]) > 0 and found["parameters"] > 0
