"""
Seconds of one update of Dreamer beside other implementations, each in its own virtual environment, in turns on one machine.

``python benchmarks/peers.py --sheeprl VENV/bin/python --dreamerv3 VENV/bin/python`` prints a table and records it in
``benchmarks/results/peers/<processor>.json``; without one of them, the others are measured. What to install is said in
``docs/performance.md``. Everywhere the same work: observations of 3 numbers, one continuous action, deterministic state and
layers 256 wide, 16x16 categorical latents, batches of 16 windows, every state imagined from, 15 steps, float32, one thread,
any data, as nothing depends on them; what is compiled has been before. What differs is said beside a name, but that ours alone
draws its batch from the replay and writes latent states back. CPU seconds of the process; the least of all rounds counts, as
other processes can only add to it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from throughput import CASES, make, processor, result_name, time_updates

from sb3_dreamer.compare.machine import installed_versions
from sb3_dreamer.compare.records import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "peers"
LENGTHS = (32, 64)
UPDATES = 8
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class Peer(NamedTuple):
    """An implementation of Dreamer."""

    python: str
    """Whose interpreter runs it: an argument of this script, ``"ours"`` for this one."""
    command: Sequence[str]
    """What prints, as its last line, a JSON object with ``cpu_seconds`` of each update, ``parameters`` and ``versions``."""


SHEEPRL = str(HERE / "other_implementations" / "sheeprl_update.py")
JAX = str(HERE / "other_implementations" / "jax_update.py")
PEERS = {
    "sb3_dreamer": Peer("ours", (__file__, "--ours")),
    "SheepRL, dreamer_v3_5 (the same algorithm)": Peer("sheeprl", (SHEEPRL, "dreamer_v3_5")),
    "SheepRL, dreamer_v3 (of 2023), REINFORCE": Peer("sheeprl", (SHEEPRL, "dreamer_v3", "--reinforce")),
    "SheepRL, dreamer_v3 (of 2023), its gradients through the dynamics": Peer("sheeprl", (SHEEPRL, "dreamer_v3")),
    "dreamerv3 1.5 (the authors', JAX, of 2023), REINFORCE": Peer("dreamerv3", (JAX, "--reinforce")),
    "dreamerv3 1.5 (the authors', JAX, of 2023), its gradients through the dynamics": Peer("dreamerv3", (JAX,)),
}


def run(peer: Peer, python: str, length: int) -> dict[str, Any]:
    """
    :param peer: who
    :param python: the interpreter
    :param length: rows a window
    :return: what it printed
    """
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = {**known, **ONE_THREAD, "XLA_FLAGS": XLA, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, *peer.command, "--length", str(length), "--updates", str(UPDATES)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def ours(length: int, updates: int) -> dict[str, Any]:
    """
    :param length: rows a window
    :param updates: how many to time
    :return: what an implementation prints
    """
    th.set_num_threads(1)
    model = make(CASES[f"256, B16 T{length}"], "cpu")
    seconds, _ = time_updates(model, updates, "cpu")
    parameters = sum(p.numel() for p in model.policy.parameters() if p.requires_grad)
    return dict(cpu_seconds=seconds, parameters=parameters, versions=installed_versions())


def compare(pythons: dict[str, str], rounds: int, lengths: Sequence[int] = LENGTHS) -> dict[str, dict[str, Any]]:
    """
    :param pythons: interpreters by name
    :param rounds: how often each is measured, in turns
    :param lengths: rows a window
    :return: by implementation: parameters, versions, and by length the least and the median of an update's seconds
    """
    record: dict[str, dict[str, Any]] = {}
    for turn in range(rounds):
        for name, peer in PEERS.items():
            if peer.python not in pythons:
                continue
            for length in lengths:
                found = run(peer, pythons[peer.python], length)
                entry = record.setdefault(name, dict(parameters=found["parameters"], versions=found["versions"], seconds={}))
                entry["seconds"].setdefault(str(length), []).extend(found["cpu_seconds"])
                least = min(found["cpu_seconds"])
                print(f"{turn + 1}/{rounds} {name}, {length} rows: {least:.3f}", file=sys.stderr, flush=True)
    for entry in record.values():
        seconds = entry.pop("seconds")
        entry["least"] = {length: min(values) for length, values in seconds.items()}
        entry["median"] = {length: statistics.median(values) for length, values in seconds.items()}
    return record


def table(record: dict[str, dict[str, Any]]) -> str:
    """
    :param record: from :func:`compare`
    :return: in Markdown
    """
    unit = record["sb3_dreamer"]["least"]
    head = " | ".join(f"CPU s an update, {length} rows: least (median) | times ours" for length in unit)
    lines = [f"| implementation | parameters | {head} |", "|---" * (2 + 2 * len(unit)) + "|"]
    for name, entry in record.items():
        cells = [
            f"{seconds:.3f} ({entry['median'][length]:.3f}) | {seconds / unit[length]:.2f}"
            for length, seconds in entry["least"].items()
        ]
        lines.append(f"| {name} | {entry['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheeprl", metavar="PYTHON", help="interpreter of an environment with sheeprl 0.8.4")
    parser.add_argument("--dreamerv3", metavar="PYTHON", help="interpreter of an environment with dreamerv3 1.5.0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(args.length, args.updates)))
        return
    given = {"ours": sys.executable, "sheeprl": args.sheeprl, "dreamerv3": args.dreamerv3}
    record = compare({name: python for name, python in given.items() if python}, args.rounds)
    write_json(RESULTS / result_name("cpu"), dict(rounds=args.rounds, updates=UPDATES, implementations=record))
    print(f"{processor('cpu')}, 1 thread\n\n{table(record)}")


if __name__ == "__main__":
    main()
