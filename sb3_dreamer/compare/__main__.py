"""
Compare algorithms on one task from the shell.

``python -m sb3_dreamer.compare --env ContinuousPendulum-v0 --algos dreamer sac ppo --seeds 3 --total-timesteps 5000
--out runs/pendulum``
"""

import argparse
import ast
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from sb3_dreamer.compare.comparison import compare
from sb3_dreamer.compare.errors import ComparisonError
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


def build_parser() -> argparse.ArgumentParser:
    """:return: the command line's parser"""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_dreamer.compare",
        description="Train algorithms on one task, several seeds each, and put the results side by side. "
        "Interrupted, the same command carries out what is missing.",
        epilog=f"Algorithms: {', '.join(algorithm_names())}.",
    )
    add = parser.add_argument
    add("--env", required=True, metavar="ID", help='Gymnasium id, "Name-v0" or "package:Name-v0"')
    add("--algos", nargs="+", default=["dreamer", "sac", "ppo"], metavar="NAME", help="default: dreamer sac ppo")
    add("--seeds", type=int, default=3, metavar="N", help="number of seeds (default: 3)")
    add("--first-seed", type=int, default=0, metavar="N", help="the first of them, the others follow (default: 0)")
    add("--total-timesteps", type=int, default=5000, metavar="N", help="environment steps of each run (default: 5000)")
    add("--out", default=None, metavar="DIR", help="folder of the results (default: runs/<environment>)")
    add("--eval-every", type=int, metavar="N", help="environment steps between evaluations (default: total / 20)")
    add("--n-eval-episodes", type=int, default=20, metavar="N", help="episodes of an evaluation (default: 20)")
    add("--jobs", type=int, default=1, metavar="N", help="runs at once, 0 for one a processor core (default: 1)")
    add("--threshold", type=float, metavar="R", help="return at which the task counts as solved (default: the task's)")
    add("--env-kwargs", type=_assignment, nargs="+", default=[], metavar="KEY=VALUE", help="for gymnasium.make")
    add("--hyperparams", type=_hyperparameter, nargs="+", default=[], metavar="ALGO:KEY=VALUE", help="other settings")
    add("--device", default="cpu", help="torch device (default: cpu)")
    add("--overwrite", action="store_true", help="run anew what an earlier comparison left in --out")
    add("--no-progress", action="store_true", help="print the table only")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: the arguments, by default the command line's
    :return: 0 if all went well, 1 if a run failed, 2 if the request was wrong, 130 if interrupted
    """
    arguments = build_parser().parse_args(argv)
    hyperparams: dict[str, dict[str, Any]] = {}
    for algo, key, value in arguments.hyperparams:
        hyperparams.setdefault(algo, {})[key] = value
    out = arguments.out or f"runs/{arguments.env.rpartition(':')[2].replace('/', '-')}"
    try:
        with warnings.catch_warnings():
            # Failed runs are named below.
            warnings.filterwarnings("ignore", message=r"\d+ of \d+ runs failed")
            result = compare(
                arguments.env,
                algos=arguments.algos,
                seeds=range(arguments.first_seed, arguments.first_seed + arguments.seeds)
                if arguments.first_seed
                else arguments.seeds,
                total_timesteps=arguments.total_timesteps,
                out=out,
                eval_every=arguments.eval_every,
                n_eval_episodes=arguments.n_eval_episodes,
                jobs=arguments.jobs or None,
                threshold=arguments.threshold,
                env_kwargs=dict(arguments.env_kwargs),
                hyperparams=hyperparams,
                device=arguments.device,
                overwrite=arguments.overwrite,
                progress=not arguments.no_progress,
            )
    except (ComparisonError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what has finished is in {out}, the same command goes on with the rest", file=sys.stderr)
        return 130
    print(result.table())
    print(f"written: {result.results_path}, {result.summary_path}" + (f", {result.curves_path}" if result.rows else ""))
    for run in result.failed:
        print(f"error: {run.algo} seed {run.seed} failed (exit code {run.exit_code}), see {run.log}", file=sys.stderr)
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
