"""
How long one full update takes (world model, imagination, actor, critic, optimizer), one acting step, and one plan.

``python benchmarks/throughput.py [--cases ...] [--updates 10]`` prints a table and records it in
``benchmarks/results/throughput/<processor>.json``, each case beside its versions and the peak of matrix products in the same
precision, measured right after. A process a case, one torch thread; CPU seconds of the process are what is compared,
as they do not count what else the machine does. With ``--device cuda``, seconds are those of the clock, and of a finished
computation.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from torch.utils.flop_counter import FlopCounterMode

from sb3_dreamer import DREAMER_V3, Dreamer, PlaNet
from sb3_dreamer.compare.machine import cpu_model, installed_versions
from sb3_dreamer.compare.records import write_json
from sb3_dreamer.planning import NormalSequences, Planner, imagined_score
from sb3_dreamer.world_models import ModelSize

RESULTS = Path(__file__).parent / "results" / "throughput"
MIDDLE = ModelSize(deter=256, hidden=256, units=256, groups=16, classes=16, blocks=8, depth=16)
"""The size at which other implementations were measured: 2.1 million parameters."""
VECTOR, PICTURE = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (3, 64, 64), dtype=np.uint8)
CASES: dict[str, dict[str, Any]] = {
    "256, B16 T32": dict(size=MIDDLE, batch_length=32),
    "256, B16 T64": dict(size=MIDDLE, batch_length=64),
    "256, B16 T32, bf16": dict(size=MIDDLE, batch_length=32, precision="bf16"),
    "256, B16 T64, bf16": dict(size=MIDDLE, batch_length=64, precision="bf16"),
    "256, B16 T32, 128 starts": dict(size=MIDDLE, batch_length=32, imagination_starts=128),
    "1m, B16 T64": dict(size="1m", batch_length=64),
    "12m, B16 T64": dict(size="12m", batch_length=64),
    "1m, 64x64x3, B16 T64": dict(size="1m", batch_length=64, space=PICTURE),
    "12m, B16 T64, bf16": dict(size="12m", batch_length=64, precision="bf16"),
    "default": dict(default=True),
    "default, 64x64x3": dict(default=True, space=PICTURE),
}
FILLED, STEPS_TIMED = 1500, 200
"""Rows in the replay; steps of the environment that are timed, without an update."""
PLAN = Planner(method="cem", n_samples=200, n_iterations=5, horizon=15)


class Silent(gym.Env):
    """Random observations, nothing else."""

    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, space: spaces.Box) -> None:
        self.observation_space = space
        self._obs = space.sample()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self._obs, 0.0, bool(self.np_random.random() < 0.005), False, {}


def make(case: dict[str, Any], device: str) -> Dreamer:
    """
    :param case: an entry of ``CASES``
    :param device: torch device
    :return: a model with a filled replay
    """
    space = case.get("space", VECTOR)
    policy = "CnnPolicy" if space is PICTURE else "MlpPolicy"
    settings: dict[str, Any] = {}
    if not case.get("default"):
        settings = {**DREAMER_V3, "buffer_size": 5000, "batch_length": case["batch_length"]}
        settings["policy_kwargs"] = {
            **DREAMER_V3["policy_kwargs"],
            "size": case["size"],
            "precision": case.get("precision", "fp32"),
        }
        settings["imagination_starts"] = case.get("imagination_starts")
    settings.update(learning_starts=FILLED + 2 * STEPS_TIMED, pretrain_updates=0, random_warmup=False)
    return Dreamer(policy, Silent(space), seed=0, device=device, **settings).learn(FILLED)


def measure(case: dict[str, Any], updates: int, device: str) -> dict[str, Any]:
    """
    :param case: an entry of ``CASES``
    :param updates: how many to time
    :param device: torch device
    :return: seconds of an update (CPU and wall), floating point operations of its matrix products, milliseconds of acting and
        of a step of the environment with all that belongs to it (acting, the replay, statistics), of which acting is a part
    """
    clock = _clock(device)
    model = make(case, device)
    start = clock()
    model.learn(STEPS_TIMED, reset_num_timesteps=False)
    step_ms = (clock() - start) / STEPS_TIMED * 1e3
    with FlopCounterMode(display=False) as counter:
        model.train(1)
    seconds, wall = time_updates(model, updates, device)
    start = clock()
    for _ in range(50):
        assert model.replay_buffer is not None
        model.sample_replay(model.batch_size, model.batch_length)
    _wait(device)
    sampling = (clock() - start) / 50
    return {
        "parameters": sum(p.numel() for p in model.policy.parameters() if p.requires_grad),
        "cpu_seconds": float(np.median(seconds)),
        "cpu_seconds_range": [min(seconds), max(seconds)],
        "wall_seconds": float(np.median(wall)),
        "gflop": counter.get_total_flops() / 1e9,
        "sampling_share": sampling / float(np.median(seconds if device == "cpu" else wall)),
        "acting_ms": {n: _acting(model, n, clock) for n in (1, 16)},
        "step_ms": step_ms,
    }


def time_updates(model: Dreamer, updates: int, device: str) -> tuple[list[float], list[float]]:
    """
    :param model: with a filled replay
    :param updates: how many to time, after two that are not
    :param device: torch device
    :return: CPU seconds and seconds of the clock of each
    """
    model.train(2)
    seconds, wall = [], []
    for _ in range(updates):
        _wait(device)
        start, wall_start = time.process_time(), time.perf_counter()
        model.train(1)
        _wait(device)
        seconds.append(time.process_time() - start)
        wall.append(time.perf_counter() - wall_start)
    return seconds, wall


def _clock(device: str) -> Callable[[], float]:
    """:return: what to time with: what a process computes on a CPU; another device works while the process waits"""
    return time.process_time if device == "cpu" else time.perf_counter


def _acting(model: Dreamer, n: int, clock: Callable[[], float]) -> float:
    obs = model.observation_codec.to_arrays(np.stack([model.observation_space.sample() for _ in range(n)]))
    state, starts = model.policy.initial_state(n), np.zeros(n, dtype=bool)
    for _ in range(20):
        state = model.policy.step(obs, state, starts)
    start = clock()
    for _ in range(200):
        state = model.policy.step(obs, state, starts)  # arrays, so each is awaited
    return (clock() - start) / 200 * 1e3


@th.no_grad()
def plan_ms(device: str) -> dict[str, float]:
    """
    :param device: torch device
    :return: milliseconds of a plan of ``PLAN`` in the dreams of PlaNet's default world model (CPU time, if it is on a CPU):
        median and least of 60
    """
    clock = _clock(device)
    model = PlaNet("MlpPolicy", Silent(VECTOR), seed=0, device=device).learn(1).policy.world_model
    state = model.initial_state(1)
    seconds = []
    for _ in range(70):
        _wait(device)
        start = clock()
        fresh = NormalSequences.fresh(1, PLAN.horizon, 1, state.deter.device)
        PLAN.plan(imagined_score(model, state), fresh)
        _wait(device)
        seconds.append(clock() - start)
    return {"median": 1e3 * float(np.median(seconds[10:])), "least": 1e3 * min(seconds)}


def peak_memory_mb(device: str) -> float | None:
    """
    :param device: torch device
    :return: the most memory that this process has had: resident, where the system tells (Linux); on a GPU its tensors'
    """
    if device != "cpu":
        return th.cuda.max_memory_allocated() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def _wait(device: str) -> None:
    if device != "cpu":
        th.cuda.synchronize()


def gemm_peak(device: str, precision: str = "fp32") -> float:
    """
    :param device: torch device
    :param precision: ``"fp32"`` or ``"bf16"``
    :return: the best of matrix products of the dominant shape, in GFLOP/s
    """
    dtype = th.bfloat16 if precision == "bf16" else th.float32
    a, b = th.randn(8192, 512, device=device, dtype=dtype), th.randn(512, 256, device=device, dtype=dtype)
    clock, best = _clock(device), 0.0
    for _ in range(10):
        _wait(device)
        start = clock()
        for _ in range(5):
            a @ b
        _wait(device)
        best = max(best, 5 * 2 * 8192 * 512 * 256 / (clock() - start) / 1e9)
    return best


def run_case(name: str, updates: int, device: str) -> dict[str, Any]:
    """
    :param name: of one of ``CASES``
    :param updates: how many to time
    :param device: torch device
    :return: what :func:`measure` found, and what follows from it, beside the peak of this moment
    """
    case = CASES[name]
    found = measure(case, updates, device)
    seconds = found["cpu_seconds" if device == "cpu" else "wall_seconds"]
    peak = gemm_peak(device, case.get("precision", "fp32"))
    found.update(
        updates_per_second=1 / seconds,
        gemm_peak_gflops=peak,
        share_of_peak=found["gflop"] / seconds / peak,
        peak_memory_mb=peak_memory_mb(device),
        processor=processor(device),
        versions=installed_versions(),
    )
    return found


def processor(device: str) -> str:
    """:return: its name"""
    return cpu_model() if device == "cpu" else th.cuda.get_device_name()


def result_name(device: str) -> str:
    """:return: name of the file of results of its processor"""
    return f"{re.sub('[^a-z0-9]+', '-', processor(device).lower()).strip('-')}.json"


def alone(name: str, updates: int, device: str) -> dict[str, Any]:
    """:return: as :func:`run_case`, in a process of its own, whose memory is the case's alone; or a plan's, for ``"plan"``"""
    command = [sys.executable, __file__, "--alone", name, "--updates", str(updates), "--device", device]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", choices=[*CASES, "plan"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    th.set_num_threads(1)
    if args.alone is not None:
        found = plan_ms(args.device) if args.alone == "plan" else run_case(args.alone, args.updates, args.device)
        print(json.dumps(found))
        return
    print(f"{processor(args.device)}, 1 thread\n")
    unit = "CPU s" if args.device == "cpu" else "s"
    print(
        f"| case | parameters | {unit} an update | updates/s | GFLOP | peak, GFLOP/s | share of it | sampling "
        "| acting ms, 1 / 16 envs | a step, ms | memory, MB |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / result_name(args.device)
    record = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    for case in args.cases:
        record["cases"][case] = found = alone(case, args.updates, args.device)
        acting = " / ".join(f"{ms:.2f}" for ms in found["acting_ms"].values())
        memory = "" if found["peak_memory_mb"] is None else f"{found['peak_memory_mb']:,.0f}"
        print(
            f"| {case} | {found['parameters']:,} | {1 / found['updates_per_second']:.3f} | {found['updates_per_second']:.2f} "
            f"| {found['gflop']:.1f} | {found['gemm_peak_gflops']:.0f} | {found['share_of_peak']:.0%} "
            f"| {found['sampling_share']:.1%} | {acting} | {found['step_ms']:.2f} | {memory} |",
            flush=True,
        )
        write_json(path, record)
    record["plan_ms"] = alone("plan", args.updates, args.device)
    write_json(path, record)
    print(f"\nA plan (CEM, 200 candidates x 5 iterations x 15 steps): {record['plan_ms']['median']:.1f} ms")


if __name__ == "__main__":
    main()
