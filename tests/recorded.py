"""Writes runs as a comparison leaves them, with made-up learning curves: nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sb3_dreamer.compare.records import Row, write_json, write_rows

META: dict[str, Any] = {
    "n_parameters": 1234,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "cpu_model": "a processor",
    "machine": {"platform": "Linux", "processor": "a processor", "cores": 2, "memory_gb": 8.0, "gpu": None},
    "threads": 1,
    "git_commit": "0123abc",
    "started": "2026-01-01T00:00:00",
    "ended": "2026-01-01T01:00:00",
    "timings": {"wall_seconds": 20.0, "cpu_seconds": 10.0, "evaluation_wall_seconds": 2.0, "evaluation_cpu_seconds": 1.0},
    "gradient_updates": 500,
    "peak_memory_mb": 321.5,
    "action_latency_ms": 0.25,
    "attempts": 1,
}


def settings(env: str, algo: str, seed: int, total: int, every: int) -> dict[str, Any]:
    shape = {"total_timesteps": total, "eval_every": every, "n_eval_episodes": 20}
    return {"env": env, "env_kwargs": {}, "algo": algo, "seed": seed, **shape, "hyperparameters": {}, "device": "cpu"}


def write_run(
    out: Path,
    env: str,
    label: str,
    seed: int,
    returns: list[float] | np.ndarray,
    every: int = 100,
    cpu: float = 2.0,
    **meta: Any,
) -> Path:
    """
    A finished run, evaluated every ``every`` steps, which take ``cpu`` CPU seconds and half as many again by the clock.

    :return: its folder
    """
    folder = out / "runs" / f"{label}-seed{seed}"
    rows = [Row(env, label, seed, every * i, float(r), 1.0, 1.5 * cpu * i, cpu * i) for i, r in enumerate(returns)]
    write_rows(folder / "evaluations.csv", rows)
    (folder / "episodes.csv").write_text("timesteps,return,length\n200,1.0,200\n")
    (folder / "model.zip").write_bytes(b"")
    total = every * (len(returns) - 1)
    write_json(folder / "meta.json", {"settings": settings(env, label, seed, total, every), **META, **meta})
    return folder


def write_failure(out: Path, label: str, seed: int, message: str) -> Path:
    """
    A run that ended with an error.

    :return: its folder
    """
    folder = out / "runs" / f"{label}-seed{seed}"
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text(f"Traceback (most recent call last):\n  …\n{message}\n", encoding="utf-8")
    return folder


def curve(seed: int, begin: float, end: float, middle: float, points: int = 41, noise: float = 0.04) -> np.ndarray:
    """:return: a learning curve from ``begin`` to ``end``, half of it at the share ``middle``, ``(points,)``"""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, points)
    rise = 1 / (1 + np.exp(-14 * (x - middle * rng.uniform(0.7, 1.3))))
    return begin + (end - begin) * (rise + noise * rng.normal(size=points))


def write_benchmark(folder: Path, n_seeds: int = 6, points: int = 41) -> None:
    """Four tasks, four algorithms, one failed run and one that goes on; ``16 n_seeds`` finished runs."""
    tasks = {"Pendulum-v1": (-1200.0, -150.0), "CartPole-v1": (22.0, 500.0), "Hopper-v5": (20.0, 3000.0), "Own-v0": (0.0, 7.0)}
    algorithms = {"dreamer": (0.15, 1.0, 40.0), "mbpo": (0.2, 1.0, 25.0), "sac": (0.45, 0.95, 6.0), "ppo": (0.8, 0.7, 0.7)}
    for number, (env, (begin, end)) in enumerate(tasks.items()):
        out = folder / env
        for algo, (middle, reach, cpu) in algorithms.items():
            for seed in range(n_seeds):
                returns = curve(1000 * number + 17 * seed + len(algo), begin, begin + reach * (end - begin), middle, points)
                write_run(out, env, algo, seed, returns, every=125, cpu=cpu / 8)
    write_failure(folder / "Own-v0", "ppo", n_seeds, "ValueError: NaN in <observation>")
    unfinished = folder / "Own-v0" / "runs" / f"sac-seed{n_seeds}"
    unfinished.mkdir()
    (unfinished / "evaluations.csv").write_text((folder / "Own-v0/runs/sac-seed0/evaluations.csv").read_text())
    (folder / "Own-v0" / "summary.json").write_text(json.dumps({"env": "Own-v0", "threshold": 6.0}))
