"""
Compare algorithms from the shell.

``python -m sb3_dreamer.compare run --env ContinuousPendulum-v0 --algos dreamer sac ppo --seeds 3 --total-timesteps 5000
--out runs/pendulum``, then ``report`` and ``record`` of the same folder.
"""

import argparse
import ast
import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_dreamer.compare.benchmark import Benchmark
from sb3_dreamer.compare.config import BENCHMARK_OPTIONS, RUN_OPTIONS, read_config
from sb3_dreamer.compare.engines import ENGINES
from sb3_dreamer.compare.environments import env_name
from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.recording import record
from sb3_dreamer.compare.settings import algorithm_names


def _literal(text: str) -> Any:
    """:return: the Python value that the text is written as, or else the text itself (``auto``, ``lin_0.001``)"""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, _literal(value)


def _hyperparameter(text: str) -> tuple[str, str, Any]:
    algo, colon, assignment = text.partition(":")
    if not (algo and colon):
        raise argparse.ArgumentTypeError(f"{text!r} is not algo:key=value")
    return (algo, *_assignment(assignment))


def _jobs(text: str) -> int | None:
    """:return: None for 0, which stands for as many as there is room for"""
    return int(text) or None


def build_parser() -> argparse.ArgumentParser:
    """:return: the command line's parser"""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_dreamer.compare",
        description="Train algorithms on tasks, several seeds each, and put the results side by side.",
        epilog="Each command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|report|record")
    _add_run(commands)
    report = commands.add_parser("report", help="statistics, figures and pages from the results in a folder")
    report.add_argument("folder", metavar="DIR", help="the --out of a run")
    report.add_argument("--threshold", type=float, metavar="R", help="return at which a task counts as solved")
    video = commands.add_parser("record", help="a video of the best model of each algorithm, side by side")
    video.add_argument("folder", metavar="DIR", help="the --out of a run")
    video.add_argument("--out", metavar="FILE", help=".gif or .mp4 (default: DIR/<environment>.gif)")
    video.add_argument("--env", metavar="ID", help="of a folder with several environments, the one to show (default: all)")
    video.add_argument("--algos", nargs="+", metavar="NAME", help="those to show, in this order (default: all there are)")
    video.add_argument("--start", type=int, default=0, metavar="N", help="number of the start, 0 being evaluations' first")
    video.add_argument("--max-steps", type=int, metavar="N", help="steps to show at most (default: the whole episode)")
    video.add_argument("--fps", type=float, metavar="F", help="frames per second (default: the environment's)")
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="train and evaluate",
        description="Train algorithms on tasks, several seeds each, and put the results side by side. Interrupted or killed, "
        "the same command carries out what is missing.",
        epilog=f"Algorithms: {', '.join(algorithm_names())}; any other of SB3's kind is package.module:Class. NAME=ALGORITHM "
        "gives one another name, so that two variants stand side by side: --algos dreamer fast=dreamer --hyperparams "
        "fast:train_ratio=32.",
        argument_default=argparse.SUPPRESS,  # what is not asked for here may be in the file
    )
    add = parser.add_argument
    add("--env", nargs="+", dest="envs", metavar="ID", help='Gymnasium ids, "Name-v0" or "package:Name-v0"')
    add("--algos", nargs="+", metavar="NAME", help="default: dreamer sac ppo")
    add("--seeds", type=int, metavar="N", help="number of seeds (default: 3)")
    add("--first-seed", type=int, metavar="N", help="the first of them, the others follow (default: 0)")
    add("--total-timesteps", type=int, metavar="N", help="environment steps of each run (default: 5000)")
    add("--out", metavar="DIR", help="folder of the results (default: runs/<environment>, runs/comparison for several)")
    add("--config", metavar="FILE", help=".yaml, or .py with a dictionary called config: other arguments of Benchmark and of "
        "its run; what is said here wins")  # fmt: skip
    add("--eval-every", type=int, metavar="N", help="environment steps between evaluations (default: total / 20)")
    add("--n-eval-episodes", type=int, metavar="N", help="episodes of an evaluation (default: 20)")
    add("--threshold", type=float, metavar="R", help="return at which a task counts as solved (default: the task's)")
    add("--env-kwargs", type=_assignment, nargs="+", metavar="KEY=VALUE", help="for gymnasium.make")
    add("--hyperparams", type=_hyperparameter, nargs="+", metavar="ALGO:KEY=VALUE", help="other settings")
    add("--device", help="torch device (default: cpu)")
    add("--jobs", type=_jobs, metavar="N", help="runs at once, 0 for as many as there is room for: one a processor core, or "
        "all that Ray or Slurm can take (default: 1 with the engine local, 0 with the others)")  # fmt: skip
    add("--engine", choices=ENGINES, help="where: processes here, Ray (RAY_ADDRESS names a cluster), Slurm (default: local)")
    add("--gpus-per-run", type=float, metavar="G", help="GPUs to ask Ray or Slurm for (default: 0)")
    add("--retries", type=int, metavar="N", help="times to start a run again whose process or machine was lost (default: 2)")
    add("--slurm", type=_assignment, nargs="+", metavar="KEY=VALUE", help="of submitit's AutoExecutor: timeout_min=600 …")
    add("--dry-run", action="store_true", default=False, help="show the matrix of runs and an estimate of their time")
    add("--overwrite", action="store_true", help="run anew what an earlier comparison left in --out")
    add("--no-progress", dest="progress", action="store_false", help="print the table only")


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    """:return: arguments of :class:`Benchmark` and of its ``run``, from the file and, winning over it, the command line"""
    asked = vars(arguments).copy()
    request = read_config(asked["config"]) if "config" in asked else {}
    said = {key: value for key, value in asked.items() if key in BENCHMARK_OPTIONS or key in RUN_OPTIONS}
    for key in ("env_kwargs", "slurm"):
        if key in said:
            said[key] = {**(request.get(key) or {}), **dict(said[key])}
    if "hyperparams" in said:
        found = {algo: dict(settings) for algo, settings in (request.get("hyperparams") or {}).items()}
        for algo, key, value in said["hyperparams"]:
            found.setdefault(algo, {})[key] = value
        said["hyperparams"] = found
    request.update(said)
    if "first_seed" in asked:
        seeds = request.get("seeds", 3)
        if not isinstance(seeds, int):
            raise ComparisonError(f"--first-seed needs a number of seeds, but the file lists them: {seeds}.")
        request["seeds"] = range(asked["first_seed"], asked["first_seed"] + seeds)
    if not request.get("envs"):
        raise ComparisonError("--env is missing: which environments, for example --env Pendulum-v1?")
    if "out" not in request:
        envs = [request["envs"]] if isinstance(request["envs"], str) else request["envs"]
        first = envs[0] if isinstance(envs[0], str) else envs[0].env_id
        request["out"] = "runs/comparison" if len(envs) > 1 else f"runs/{env_name(first).replace('/', '-')}"
    if request.get("jobs") == 0:  # in a file, where --jobs takes it for as many as there is room for
        request["jobs"] = None
    if "jobs" not in request:
        request["jobs"] = 1 if request.get("engine", "local") == "local" else None
    return request


def _run(arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    benchmark = Benchmark(**{key: value for key, value in request.items() if key in BENCHMARK_OPTIONS})
    if arguments.dry_run:
        print(benchmark.plan(request["jobs"], request.get("overwrite", False)).table())
        return 0
    try:
        with warnings.catch_warnings():
            # Failed runs are named below.
            warnings.filterwarnings("ignore", message=r"\d+ of \d+ runs failed")
            result = benchmark.run(**{key: value for key, value in request.items() if key in RUN_OPTIONS})
    except KeyboardInterrupt:
        print(f"interrupted; what has finished is in {benchmark.out}, the same command goes on with the rest", file=sys.stderr)
        return 130
    print(result.table())
    for found in result.results.values():
        print(f"written: {found.results_path}, {found.summary_path}" + (f", {found.curves_path}" if found.rows else ""))
    for run in result.failed:
        name = f"{run.env} {run.algo}" if len(result.results) > 1 else run.algo
        print(f"error: {name} seed {run.seed} failed (exit code {run.exit_code}), see {run.error}", file=sys.stderr)
    return 1 if result.failed else 0


def _report(arguments: argparse.Namespace) -> int:
    from sb3_dreamer.compare.judging.page import report  # it draws, and is loaded only by those who want it

    paths = report(arguments.folder, threshold=arguments.threshold)
    written = [getattr(paths, field.name) for field in dataclasses.fields(paths)]
    print("\n".join(f"written: {path}" for path in written if isinstance(path, str | Path)))
    return 0


def _record(arguments: argparse.Namespace) -> int:
    paths = record(
        arguments.folder,
        out=arguments.out,
        env=arguments.env,
        algos=arguments.algos,
        start=arguments.start,
        max_steps=arguments.max_steps,
        fps=arguments.fps,
    )
    print("\n".join(f"written: {path}" for path in paths))
    return 0


COMMANDS = {"run": _run, "report": _report, "record": _record}


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: the arguments, by default the command line's
    :return: 0 if all went well, 1 if a run failed, 2 if the request was wrong, 130 if interrupted
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0] not in COMMANDS and words[0] not in ("-h", "--help")):
        meant = f" Did you mean: python -m sb3_dreamer.compare run {' '.join(words)}" if "--env" in words else ""
        print(f"error: say what to do: {', '.join(COMMANDS)} (see --help).{meant}", file=sys.stderr)
        return 2
    arguments = build_parser().parse_args(words)
    try:
        return COMMANDS[arguments.command](arguments)
    except (ComparisonError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
