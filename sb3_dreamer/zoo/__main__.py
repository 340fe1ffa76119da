"""``python -m sb3_dreamer.zoo train ...``: rl_zoo3's command line with our algorithms, tasks and settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sb3_dreamer.zoo.registration import ALGORITHMS, register

PROG = "python -m sb3_dreamer.zoo"
COMMANDS = ("train", "enjoy")


def build_parser() -> argparse.ArgumentParser:
    """:return: the parser of what stands before rl_zoo3's own arguments"""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="RL Baselines3 Zoo with the algorithms, the toy tasks and the tuned settings of sb3_dreamer. "
        "All options and all other algorithms of rl_zoo3 are there too.",
        epilog=f"""\
train a model, go on training it (with its replay), watch it:
  {PROG} train --env ContinuousPendulum-v0 --eval-freq 250 --save-replay-buffer -P
  {PROG} train --env ContinuousPendulum-v0 -i logs/dreamer/ContinuousPendulum-v0_1/ContinuousPendulum-v0.zip
  {PROG} enjoy --env ContinuousPendulum-v0 -f logs --load-best

change settings, search for better ones:
  {PROG} train --env CartPole-v1 -params train_ratio:128 policy_kwargs:"dict(size='small')"
  {PROG} train --env CartPole-v1 -optimize --n-trials 20 --n-evaluations 4 -n 2000

'--algo {next(iter(ALGORITHMS))}' goes without saying. Small models learn fastest with '--num-threads 1'.
'{PROG} train --help' lists rl_zoo3's options; the settings are in
{", ".join(str(entry.hyperparams) for entry in ALGORITHMS.values())}.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="train (or search hyperparameters), or watch a trained agent")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="rl_zoo3's own arguments, see 'train --help'")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: the arguments, by default the command line's
    :return: 0 if all went well, 2 if rl_zoo3 is missing
    """
    request = build_parser().parse_args(argv)
    try:
        register()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # The last one counts: this is a default. rl_zoo3 reads sys.argv, and names itself after its first entry.
    sys.argv = [f"{PROG} {request.command}", "--algo", next(iter(ALGORITHMS)), *request.arguments]
    if request.command == "train":
        from rl_zoo3.train import train

        train()
    else:
        from rl_zoo3.enjoy import enjoy

        enjoy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
