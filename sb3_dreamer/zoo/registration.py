"""What rl_zoo3 is told about our algorithms: it has no plugins, its tables and its reader of settings are completed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_dreamer.dreamer import Dreamer
from sb3_dreamer.zoo.sampling import convert_dreamer_params, sample_dreamer_params

HYPERPARAMS = Path(__file__).parent / "hyperparams"


@dataclass(frozen=True)
class ZooAlgorithm:
    """An algorithm as the zoo sees it."""

    algorithm: type[BaseAlgorithm]
    hyperparams: Path  # the zoo's kind of yml file: settings by environment id
    sampler: Callable[..., dict[str, Any]]  # draws hyperparameters for a trial of -optimize
    converter: Callable[[dict[str, Any]], dict[str, Any]]  # from a stored trial's parameters to hyperparameters


ALGORITHMS: dict[str, ZooAlgorithm] = {
    "dreamer": ZooAlgorithm(Dreamer, HYPERPARAMS / "dreamer.yml", sample_dreamer_params, convert_dreamer_params),
}
"""By the name that ``--algo`` takes."""


def register() -> None:
    """
    Make our algorithms known to rl_zoo3, with their settings and samplers; calling it again changes nothing.

    A script of one's own::

        from sb3_dreamer.zoo import register

        register()

        from rl_zoo3.train import train

        train()
    """
    try:
        import rl_zoo3.exp_manager as exp_manager
    except ModuleNotFoundError as error:
        if error.name != "rl_zoo3":
            raise
        raise ImportError('rl_zoo3 is not installed: pip install "sb3-dreamer[zoo]"') from error
    tables: dict[str, dict[str, Any]] = {
        "ALGOS": {name: entry.algorithm for name, entry in ALGORITHMS.items()},
        "HYPERPARAMS_SAMPLER": {name: entry.sampler for name, entry in ALGORITHMS.items()},
        "HYPERPARAMS_CONVERTER": {name: entry.converter for name, entry in ALGORITHMS.items()},
    }
    # Its modules import the tables from each other: mostly the same dicts, but nothing promises that.
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "rl_zoo3"]:
        for name, entries in tables.items():
            table = getattr(module, name, None)
            if isinstance(table, dict):
                table.update(entries)
    _use_shipped_hyperparams(exp_manager.ExperimentManager)


def _use_shipped_hyperparams(manager: Any) -> None:
    """Without ``-conf``, the zoo looks for ``<algo>.yml`` in its own package: for our algorithms it is in ours."""
    if getattr(manager, "finds_sb3_dreamer", False):  # done before
        return
    original = manager.__init__

    @functools.wraps(original)
    def __init__(self: Any, args: Any, algo: str, *rest: Any, config: str | None = None, **kwargs: Any) -> None:
        if config is None and algo in ALGORITHMS:
            config = str(ALGORITHMS[algo].hyperparams)
        original(self, args, algo, *rest, config=config, **kwargs)

    manager.__init__ = __init__
    manager.finds_sb3_dreamer = True
