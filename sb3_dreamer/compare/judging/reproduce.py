"""The commands that make runs like the recorded ones, from the settings recorded with them."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from sb3_dreamer.compare import settings
from sb3_dreamer.compare.judging.analysis import TaskResult

# What the algorithms of one command have in common.
_SHARED = ("device", "env_kwargs", "total_timesteps", "eval_every", "n_eval_episodes")


def commands(task: TaskResult) -> list[str]:
    """
    :param task: the results on it
    :return: one shell command for all algorithms that share length and evaluation; none for runs whose settings are unknown
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in task.algorithms:
        recorded = one.runs[0].known("settings")
        if not (isinstance(recorded, Mapping) and {"env", *_SHARED[2:]} <= set(recorded)):
            continue
        # Recordings of several runs keep what these have in common, without the algorithm's name.
        algo = str(recorded.get("algo", one.label))
        for seeds in _consecutive(sorted(run.seed for run in one.runs)):
            key = json.dumps([recorded["env"], *(recorded.get(name) for name in _SHARED), *seeds], default=str)
            while algo in groups.get(key, {}):  # variants of an algorithm cannot share a command
                key += " "
            groups.setdefault(key, {})[algo] = {
                **recorded,
                "algo": algo,
                "seeds": seeds,
                "env_id": one.runs[0].known("env_id") or recorded["env"],
            }
    return [_command(list(group.values())) for group in groups.values()]


def _consecutive(seeds: list[int]) -> list[tuple[int, int]]:
    """:return: first and last of each stretch without a gap"""
    starts = [seed for seed in seeds if seed - 1 not in seeds]
    ends = [seed for seed in seeds if seed + 1 not in seeds]
    return list(zip(starts, ends, strict=True))


def _command(group: list[Mapping[str, Any]]) -> str:
    first = group[0]
    start, end = first["seeds"]
    words = ["python", "-m", "sb3_dreamer.compare", "run", "--env", str(first["env_id"]), "--algos", *map(_algorithm, group)]
    words += ["--seeds", str(end - start + 1)] + (["--first-seed", str(start)] if start else [])
    for key in _SHARED[2:]:
        words += [f"--{key.replace('_', '-')}", str(first[key])]
    if first.get("device", "cpu") != "cpu":
        words += ["--device", str(first["device"])]
    if first.get("env_kwargs"):
        words += ["--env-kwargs", *(f"{key}={value!r}" for key, value in first["env_kwargs"].items())]
    others = [f"{entry['algo']}:{key}={value!r}" for entry in group for key, value in _untuned(entry).items()]
    words += ["--hyperparams", *others] if others else []
    return shlex.join([*words, "--out", f"runs/{str(first['env']).replace('/', '-')}"])


def _algorithm(entry: Mapping[str, Any]) -> str:
    """:return: the algorithm as the command line takes it, with its label where that is not its name"""
    algo, kind = str(entry["algo"]), str(entry.get("algorithm") or entry["algo"])
    return algo if kind == algo else f"{algo}={kind}"


def _untuned(entry: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the hyperparameters that the comparison would not choose by itself, as it stands today"""
    recorded = dict(entry.get("hyperparameters") or {})
    algo = str(entry.get("algorithm") or entry["algo"])
    if algo not in settings.ALGORITHMS:
        return recorded
    try:
        chosen = settings.hyperparameters(algo, str(entry["env"]), int(entry["total_timesteps"]))
    except ImportError:  # of a package that is not installed here
        return recorded
    plain = json.loads(json.dumps(chosen, default=_name))
    return {key: value for key, value in recorded.items() if key not in plain or plain[key] != value}


def _name(value: Any) -> str:
    """:return: a class or function as the records write it"""
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
