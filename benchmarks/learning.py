"""
Dreamer beside the best of Stable-Baselines3: environment steps and CPU seconds until a task is solved, suite by suite.

``python benchmarks/learning.py --suite toy`` runs what is missing under ``benchmarks/results/<suite>`` and prints a Markdown
table; seeds that were recorded with the same settings are not missing. Dreamer's results are in ``<task>``, the others',
whose runs have other lengths, in ``<task>-<algorithm>``: evaluations, and statistics with settings, versions and processor.
``<task>/curves.png`` shows all of them. Every run has one torch thread. The suites are in ``suites.py``.

``--suite dmc`` is measured against DreamerV3: ``results/dmc/published.csv`` holds the curves published with it (``scores`` of
github.com/danijar/dreamerv3; mean, standard deviation and number of seeds every 10,000 frames). They are returns of training,
by the policy that explores, so ours are averaged likewise, over the episodes that ended in the 10,000 frames until then.
Beside them are SAC and TD-MPC2 at 100,000 steps as published with the latter (``results`` of github.com/nicklashansen/tdmpc2,
which does not say whether these are frames, as is assumed here): evaluations, which tend to be above returns of training.
"""

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kept_results import join_results, read_results, record_training, same_training
from shared import number, read_csv
from suites import SUITES, Task

from sb3_dreamer.compare import ComparisonError, compare
from sb3_dreamer.compare.environments import env_name
from sb3_dreamer.compare.plots import plot_curves
from sb3_dreamer.compare.records import FinishedRun, RunSpec
from sb3_dreamer.compare.settings import ALGORITHMS, hyperparameters
from sb3_dreamer.compare.summaries import summarize_runs

RESULTS = Path(__file__).parent / "results"
MARKS = (50_000, 100_000)
"""Frames at which they are put beside the published ones."""
PUBLISHED = {"dreamerv3": "DreamerV3", "sac": "SAC", "tdmpc2": "TD-MPC2"}
INSTALL = {
    "Box2D": "gymnasium[box2d]",
    "dm_control": "sb3-dreamer[dmc]",
    "minigrid": "sb3-dreamer[minigrid]",
    "mujoco": "gymnasium[mujoco]",
    "popgym": "popgym",
    "sb3_contrib": "sb3-contrib",
    "shimmy": "sb3-dreamer[dmc]",
}
"""What to install for a module that a task or an algorithm needs."""


def missing_packages(tasks: Mapping[str, Task], algos: Sequence[str]) -> str | None:
    """
    :param tasks: those that are to run
    :param algos: the algorithms that are to run on them
    :return: one line that says what to install, None if all is there
    """
    missing: dict[str, list[str]] = {}  # and which tasks need it
    for name, task in tasks.items():
        modules = [ALGORITHMS[algo].path.split(":")[0].split(".")[0] for algo in task.algos if algo in algos]
        for package in dict.fromkeys([*task.packages, *modules]):
            if importlib.util.find_spec(package) is None:
                missing.setdefault(package, []).append(name)
    if not missing:
        return None
    needed = "; ".join(f"{package} (for {', '.join(names)})" for package, names in missing.items())
    command = " ".join(f'"{requirement}"' for requirement in dict.fromkeys(INSTALL[package] for package in missing))
    return f"not installed: {needed}. pip install {command}, or choose other --tasks or --algos"


def folder(out: Path, name: str, algo: str) -> Path:
    """
    :param out: the suite's folder
    :param name: the task's name in its suite
    :param algo: the algorithm
    :return: where its results go
    """
    return out / (name if algo == "dreamer" else f"{name}-{algo}")


def run(task: Task, algo: str, out: Path, jobs: int = 1, seeds: int | None = None, overwrite: bool = False) -> bool:
    """
    Carry out what is missing of one algorithm on one task.

    :param task: the task
    :param algo: one of its algorithms
    :param out: folder of the results
    :param jobs: processes at once
    :param seeds: how many, by default as many as the suite says
    :param overwrite: forget what earlier runs of these seeds left
    :return: whether all runs have reached their end
    """
    training = task.algos[algo]
    wanted = set(range(training.seeds if seeds is None else seeds))
    given: dict[str, Any] = dict(
        total_timesteps=training.total_timesteps,
        eval_every=training.eval_every,
        n_eval_episodes=task.n_eval_episodes,
        env_kwargs=task.env_kwargs,
    )
    there = [] if overwrite else read_results(out)
    # What another checkout has recorded stays, where its runs were the same; files of the runs are not kept with the source.
    resolved = hyperparameters(algo, env_name(task.env_id), training.total_timesteps, training.hyperparams)
    asked = RunSpec(task.env_id, algo=algo, seed=0, hyperparameters=resolved, device="cpu", out=out, **given)
    elsewhere = [found for found in there if not found.spec.done_path.exists() and same_training(out, found.spec, asked)]
    # Seeds that have finished stay in the results, also when fewer are asked for.
    mine = wanted.union(found.spec.seed for found in there if found.spec.done_path.exists())
    missing = sorted(mine - {found.spec.seed for found in elsewhere})
    if not missing:
        return True
    try:
        result = compare(
            task.env_id,
            algos=[algo],
            seeds=missing,
            out=out,
            jobs=jobs,
            threshold=task.threshold,
            hyperparams={algo: training.hyperparams},
            overwrite=overwrite,
            **given,
        )
    finally:
        join_results(out, elsewhere, task.threshold)
        record_training(out)
    return result.complete


def read_task(out: Path, name: str, task: Task) -> dict[str, list[FinishedRun]]:
    """
    :param out: the suite's folder
    :param name: the task's name in its suite
    :param task: the task
    :return: the finished runs of each algorithm that has any
    """
    found = {algo: [run for run in read_results(folder(out, name, algo)) if run.spec.algo == algo] for algo in task.algos}
    return {algo: runs for algo, runs in found.items() if runs}


def draw(out: Path, name: str, task: Task) -> None:
    """
    All algorithms in one figure, ``<task>/curves.png``.

    :param out: the suite's folder
    :param name: the task's name in its suite
    :param task: the task
    """
    runs = [run for runs in read_task(out, name, task).values() for run in runs]
    if runs:
        plot_curves(out / name / "curves.png", runs, name, task.threshold)


def table(out: Path, tasks: Mapping[str, Task], algos: Sequence[str]) -> str:
    """
    :param out: the suite's folder
    :param tasks: by their names in the suite
    :param algos: those to show
    :return: Markdown, from the results on disk; thresholds are the suite's, whatever they were when it ran
    """
    lines = [
        "| task | algorithm | seeds x steps | steps to threshold: median (worst) | CPU seconds to it: median (worst) "
        "| then: mean / worst evaluation | last evaluation: median (worst) | area under the curve: median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, task in tasks.items():
        for algo, runs in read_task(out, name, task).items():
            if algo not in algos:
                continue
            found = summarize_runs(runs, task.threshold)
            steps, cpu, after = (found[key] for key in ("steps_to_threshold", "cpu_seconds_to_threshold", "after_threshold"))
            final, area = found["final_return"], found["area_under_curve"]
            lines.append(
                f"| {name} (≥ {task.threshold:g}) | {algo} | {len(runs)} x {runs[0].spec.total_timesteps:,} "
                f"| {number(steps['median'])} ({number(steps['worst'])}) | {number(cpu['median'])} ({number(cpu['worst'])}) "
                f"| {_value(after['mean'])} / {_value(after['worst'])} "
                f"| {_value(final['median'])} ({_value(final['min'])}) | {_value(area['median'])} |"
            )
    return "\n".join(lines)


def _value(value: float | None) -> str:
    return "-" if value is None else number(value, 2)


def training_table(out: Path, tasks: Mapping[str, Task], algos: Sequence[str]) -> str:
    """
    :param out: the suite's folder
    :param tasks: of DeepMind Control, by their names in the suite
    :param algos: those to show
    :return: Markdown: mean returns of training (over a window, then over the seeds) beside the published ones
    """
    published = {(line["task"], int(line["step"]), line["method"]): line["mean"] for line in read_csv(out / "published.csv")}
    lines = [
        "| task | frames | algorithm | seeds | training return: mean (min, max) | published: "
        + " | ".join(PUBLISHED.values())
        + " |",
        "|---|---|---|---|---" + "|---" * len(PUBLISHED) + "|",
    ]
    for name, task in tasks.items():
        for algo in (algo for algo in task.algos if algo in algos):
            recorded = read_csv(folder(out, name, algo) / "training.csv")
            for mark in MARKS:
                means = [float(line["training_return"]) for line in recorded if int(line["frames"]) == mark]
                if means:
                    ours = f"{statistics.fmean(means):.0f} ({min(means):.0f}, {max(means):.0f})"
                    theirs = [published.get((f"dmc_{name}", mark, method)) for method in PUBLISHED]
                    shown = " | ".join("-" if mean is None else f"{float(mean):.0f}" for mean in theirs)
                    lines.append(f"| {name} | {mark:,} | {algo} | {len(means)} | {ours} | {shown} |")
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """
    :param argv: the arguments, by default the command line's
    :return: ``suite`` and the rest, with the suite's ``tasks`` and ``algos`` where none were chosen
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, choices=list(SUITES))
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all of the suite")
    parser.add_argument("--algos", nargs="+", metavar="ALGO", help="default: all of each task")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at once (default: 2)")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 (default: the suite's number)")
    parser.add_argument("--overwrite", action="store_true", help="run anew what has finished")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    suite = SUITES[args.suite]
    there: dict[str, list[str]] = {
        "tasks": list(suite),
        "algos": list(dict.fromkeys(a for t in suite.values() for a in t.algos)),
    }
    for kind, names in there.items():
        chosen = getattr(args, kind) or names
        unknown = [name for name in chosen if name not in names]
        if unknown:
            parser.error(f"{args.suite} has no {', '.join(unknown)}; its {kind}: {', '.join(names)}")
        setattr(args, kind, chosen)
    return args


def run_all(out: Path, tasks: Mapping[str, Task], args: argparse.Namespace) -> bool:
    """
    :param out: the suite's folder
    :param tasks: by their names in the suite
    :param args: ``algos``, ``jobs``, ``seeds`` and ``overwrite``
    :return: whether all runs have reached their end
    """
    done = True
    for name, task in tasks.items():
        try:
            for algo in (algo for algo in task.algos if algo in args.algos):
                print(f"{name}, {algo}", flush=True)
                try:
                    done &= run(task, algo, folder(out, name, algo), args.jobs, args.seeds, args.overwrite)
                except (ComparisonError, ImportError) as error:
                    # Said now; the others are different matters, which may take the night.
                    print(f"error: {name}, {algo}: {error}", file=sys.stderr)
                    done = False
        finally:
            draw(out, name, task)
    return done


def main(argv: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """
    Run what is missing and print the tables.

    :param argv: the arguments, by default the command line's
    :param results: where the suites' folders are
    :return: 0 if all went well, 1 if a run failed or may not replace another, 2 if a package is missing, 130 if interrupted
    """
    args = parse_arguments(argv)
    out = results / args.suite
    tasks = {name: SUITES[args.suite][name] for name in args.tasks}
    done = True
    if not args.table_only:
        missing = missing_packages(tasks, args.algos)
        if missing is not None:
            print(f"error: {missing}", file=sys.stderr)
            return 2
        try:
            done = run_all(out, tasks, args)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on with what is missing", file=sys.stderr)
            return 130
    print(table(out, tasks, args.algos))
    if args.suite == "dmc":
        print("\n" + training_table(out, tasks, args.algos))
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
