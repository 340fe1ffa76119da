"""A request from a file, YAML or Python, with the same words as :class:`Benchmark` and its ``run``."""

import inspect
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_dreamer.compare.benchmark import Benchmark, Task
from sb3_dreamer.compare.errors import ComparisonError, require


def _names(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


BENCHMARK_OPTIONS = tuple(_names(Benchmark.__init__))
RUN_OPTIONS = tuple(_names(Benchmark.run))


def read_config(path: str | Path) -> dict[str, Any]:
    """
    :param path: a ``.yaml`` or ``.yml`` file whose keys are arguments of :class:`Benchmark` and of its ``run``, or a ``.py``
        file that puts them into a dictionary called ``config``. An environment may be a mapping with the words of
        :class:`Task`: ``{env_id: CartPole-v1, total_timesteps: 20000}``
    :return: the arguments
    :raises ComparisonError: the file is not there, is no such file, or has words that mean nothing
    """
    path = Path(path)
    if not path.is_file():
        raise ComparisonError(f"config={str(path)!r}: there is no such file.")
    config: Any
    if path.suffix in (".yaml", ".yml"):
        require("yaml")
        import yaml

        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ComparisonError(f"{path} is no YAML: {error}") from error
    elif path.suffix == ".py":
        names = runpy.run_path(str(path))
        if "config" not in names:
            raise ComparisonError(f"{path} must put its settings into a dictionary called config.")
        config = names["config"]
    else:
        raise ComparisonError(f"config={str(path)!r} must end with .yaml, .yml or .py.")
    if not isinstance(config, Mapping):
        raise ComparisonError(f"{path} must hold settings by their names, not {type(config).__name__}.")
    known = (*BENCHMARK_OPTIONS, *RUN_OPTIONS)
    unknown = [str(key) for key in config if key not in known]
    if unknown:
        raise ComparisonError(f"{path} has no use for {', '.join(unknown)}. It can hold: {', '.join(known)}.")
    config = dict(config)
    if "envs" in config and not isinstance(config["envs"], str | Task):
        config["envs"] = [_task(path, env) if isinstance(env, Mapping) else env for env in config["envs"]]
    return config


def _task(path: Path, words: Mapping[str, Any]) -> Task:
    unknown = set(words) - set(_names(Task))
    if unknown or "env_id" not in words:
        raise ComparisonError(f"{path}: {words} is no environment: it needs env_id and may have {_names(Task)[1:]}.")
    return Task(**words)
