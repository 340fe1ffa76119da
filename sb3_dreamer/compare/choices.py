"""Which algorithms a request names, and under which names their results go: two variants of one stand side by side."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.settings import load_algorithm


@dataclass(frozen=True)
class Choice:
    """One algorithm of a comparison."""

    label: str  # its name in files, tables and ``hyperparams``
    algorithm: str  # one of our names, or "module:Class"


Algos = Sequence["str | type[BaseAlgorithm]"] | Mapping[str, "str | type[BaseAlgorithm]"]
"""Names, ``"package.module:Class"`` or classes, ``"label=..."`` to give one another name; or all of them by their labels."""


def choose(algos: Algos) -> list[Choice]:
    """
    :param algos: the request
    :return: what it names; all of them can be imported
    :raises ComparisonError: it is no list of different algorithms, or one does not exist
    """
    if isinstance(algos, str) or not algos:
        raise ComparisonError(f"algos must be a list of different algorithms, not {algos!r}.")
    items: Iterable[tuple[str, str | type[BaseAlgorithm]]]
    items = algos.items() if isinstance(algos, Mapping) else (("", algo) for algo in algos)
    choices = [_choice(label, algo) for label, algo in items]
    labels = [choice.label for choice in choices]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ComparisonError(
            f"algos must be a list of different algorithms, not {list(algos)!r}: give one of them another name, "
            f"'other_{twice}=...'."
        )
    return choices


def _choice(label: str, algo: str | type[BaseAlgorithm]) -> Choice:
    if isinstance(algo, type):
        if algo.__module__ == "__main__" or "<locals>" in algo.__qualname__:
            raise ComparisonError(
                f"{algo.__qualname__} is defined in {'the script' if algo.__module__ == '__main__' else 'a function'} itself, "
                "but each run, a process of its own, must import it: move it to the top of a module."
            )
        algo = f"{algo.__module__}:{algo.__qualname__}"
    elif not isinstance(algo, str):
        raise ComparisonError(f"algos must name algorithms or be their classes, not {algo!r}.")
    if not label and "=" in algo:
        label, _, algo = algo.partition("=")
        if not label:
            raise ComparisonError(f"algos: ={algo!r} has no name before the equals sign.")
    load_algorithm(algo)
    label = label or algo.rpartition(":")[2].rpartition(".")[2].lower()
    if not re.fullmatch(r"\w[\w.+-]*", label):
        raise ComparisonError(f"algos: {label!r} cannot be part of a file's name: letters, digits, '_', '.', '+' and '-' can.")
    return Choice(label, algo)
