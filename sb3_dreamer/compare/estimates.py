"""What a comparison is going to cost, as far as that can be told before."""

import heapq
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_dreamer.compare.records import RunSpec, read_finished

# Of training, with the settings of settings.py: ContinuousPendulum-v0 (CartPole-v1 for dqn and qrdqn), one thread of an EPYC
# virtual machine that had other work as well. Random steps at the beginning are left out.
CPU_SECONDS_PER_STEP: dict[str, float] = {
    "director": 0.038,
    "dreamer": 0.05,
    "mbpo": 0.12,
    "pets": 0.063,
    "planet": 0.05,
    "dreamer_v3": 1.1,
    "a2c": 0.0002,
    "ddpg": 0.0038,
    "dqn": 0.0016,
    "ppo": 0.0007,
    "sac": 0.0077,
    "td3": 0.0041,
    "crossq": 0.015,
    "qrdqn": 0.0016,
    "recurrent_ppo": 0.011,
    "tqc": 0.012,
}


@dataclass(frozen=True)
class PlannedRun:
    """One run of the matrix."""

    spec: RunSpec
    finished: bool
    cpu_seconds: float | None  # of training (and evaluation, if known from finished runs); None if nothing is known
    measured: bool  # from finished runs here, not from the table


@dataclass(frozen=True)
class Plan:
    """The matrix of runs, with an estimate of the time of those that have not finished."""

    runs: tuple[PlannedRun, ...]
    jobs: int

    @property
    def missing(self) -> tuple[PlannedRun, ...]:
        """Those that have not finished."""
        return tuple(run for run in self.runs if not run.finished)

    @property
    def cpu_seconds(self) -> float:
        """Of all missing runs of which something is known."""
        return sum(run.cpu_seconds or 0.0 for run in self.missing)

    @property
    def wall_seconds(self) -> float:
        """Until the last of those ends, if each of ``jobs`` at once has a processor core to itself."""
        free = [0.0] * self.jobs
        for run in self.missing:
            heapq.heappush(free, heapq.heappop(free) + (run.cpu_seconds or 0.0))
        return max(free)

    def table(self) -> str:
        """:return: the matrix, to print"""
        lines = [("environment", "algorithm", "seeds", "steps", "evaluations", "finished", "CPU time each")]
        for group in _grouped(self.runs):
            spec, known = group[0].spec, [run for run in group if run.cpu_seconds is not None]
            each = "unknown"
            if known:
                each = f"about {duration(known[0].cpu_seconds or 0.0)}" + (" (as before)" if known[0].measured else "")
            done = sum(run.finished for run in group)
            lines.append(
                (
                    spec.env,
                    spec.algo + (f" = {spec.implementation}" if spec.implementation != spec.algo else ""),
                    " ".join(str(run.spec.seed) for run in group),
                    f"{spec.total_timesteps:,}",
                    f"{len(spec.grid)} x {spec.n_eval_episodes}",
                    f"{done}/{len(group)}",
                    each,
                )
            )
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        text.insert(1, "  ".join("-" * width for width in widths))
        unknown = sum(run.cpu_seconds is None for run in self.missing)
        text.append(
            f"{len(self.missing)} of {len(self.runs)} runs to do, {self.jobs} at once. Estimate: {duration(self.cpu_seconds)} "
            f"of CPU time, done in {duration(self.wall_seconds)} with a core for each."
            + (f" Nothing is known of the time of {unknown} of them: not counted." if unknown else "")
        )
        text.append(
            'An estimate: from finished runs of the same algorithm here ("as before"), else from small tasks with vector '
            "observations on one core of a virtual machine, evaluation left out. Pictures and large networks take longer."
        )
        return "\n".join(text)


def duration(seconds: float) -> str:
    """
    :param seconds: a time
    :return: in the unit that suits it
    """
    for limit, unit, name in ((120, 1, "s"), (120 * 60, 60, "min"), (72 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} days"


def make_plan(specs: Sequence[RunSpec], jobs: int, overwrite: bool = False) -> Plan:
    """
    :param specs: all runs
    :param jobs: how many at once
    :param overwrite: all are to be run anew
    :return: their matrix
    """
    found = [not overwrite and read_finished(spec) is not None for spec in specs]
    finished = [spec for spec, there in zip(specs, found, strict=True) if there]
    runs = []
    for spec, there in zip(specs, found, strict=True):
        own = [other for other in finished if other.algo == spec.algo]
        own = [other for other in own if other.env == spec.env] or own
        per_step = statistics.median(map(_seconds_per_step, own)) if own else CPU_SECONDS_PER_STEP.get(spec.implementation)
        cost = None if per_step is None else per_step * spec.total_timesteps
        runs.append(PlannedRun(spec, there, cost, bool(own)))
    return Plan(tuple(runs), jobs)


def _seconds_per_step(spec: RunSpec) -> float:
    timings = json.loads(spec.done_path.read_text(encoding="utf-8"))["timings"]
    return (timings["cpu_seconds"] + timings["evaluation_cpu_seconds"]) / spec.total_timesteps


def _grouped(runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.spec.env, run.spec.algo), []).append(run)
    return list(groups.values())
