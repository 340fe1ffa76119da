"""Environments by name: from an id, with or without a module, to a ``VecEnv``; and a helpful error for a wrong one."""

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.settings import THRESHOLDS


def env_name(env_id: str) -> str:
    """
    :param env_id: Gymnasium id, with or without a module before it
    :return: the id without its module: both ``"envs:Task-v0"`` and ``"Task-v0"`` are ``"Task-v0"``
    """
    return env_id.rpartition(":")[2]


def make_env(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> gym.Env:
    """
    :param env_id: Gymnasium id, ``"Task-v0"`` or ``"module:Task-v0"``
    :param env_kwargs: keyword arguments for ``gymnasium.make``
    :return: one environment
    """
    # The toy tasks need no import here: importing `sb3_dreamer` registers them, in a run's process as well.
    return gym.make(env_id, **(env_kwargs or {}))


def _toy_tasks() -> list[str]:
    return sorted(env_id for env_id, spec in gym.registry.items() if str(spec.entry_point).split(".")[0] == "envs")


def _unknown(env_id: str, error: Exception) -> ComparisonError:
    message = f"Unknown environment {env_id!r}: {error}"
    close = difflib.get_close_matches(env_name(env_id), list(gym.registry), n=5)
    if close:
        message += f"\nClose names: {', '.join(close)}."
    if _toy_tasks():
        message += f"\nToy tasks: {', '.join(_toy_tasks())}."
    return ComparisonError(
        message + '\nEach run is a process of its own: name an environment of another package "package:Name-v0".'
    )


def check_env(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> tuple[spaces.Space, float | None]:
    """
    Make the environment once, to find out before any training whether that works.

    :param env_id: Gymnasium id
    :param env_kwargs: keyword arguments for ``gymnasium.make``
    :return: its action space, and the return at which it counts as solved (None if nobody says)
    """
    try:
        env = make_env(env_id, env_kwargs)
    except (gym.error.UnregisteredEnv, gym.error.DeprecatedEnv, ModuleNotFoundError) as error:
        raise _unknown(env_id, error) from error
    except Exception as error:
        raise ComparisonError(f"Cannot make {env_id!r} with {dict(env_kwargs or {})}: {error}") from error
    default = env.spec.reward_threshold if env.spec is not None else None
    env.close()
    return env.action_space, THRESHOLDS.get(env_name(env_id), default)


def build_vec_env(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    n_envs: int = 1,
    seed: int = 0,
    normalize: bool = False,
    gamma: float = 0.99,
) -> VecEnv:
    """
    :param env_id: Gymnasium id
    :param env_kwargs: keyword arguments for ``gymnasium.make``
    :param n_envs: number of environments
    :param seed: environment ``i`` is reset with ``seed + i`` the first time
    :param normalize: wrap in ``VecNormalize``, which leaves pictures as they are
    :param gamma: discount, for ``VecNormalize``'s scale of the reward
    :return: monitored environments in one process
    """
    env = make_vec_env(partial(make_env, env_id, env_kwargs), n_envs=n_envs, seed=seed)
    if not normalize:
        return env
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        vectors = [name for name, part in space.spaces.items() if isinstance(part, spaces.Box) and not is_image_space(part)]
        return VecNormalize(env, norm_obs=bool(vectors), norm_obs_keys=vectors or None, gamma=gamma)
    return VecNormalize(env, norm_obs=isinstance(space, spaces.Box) and not is_image_space(space), gamma=gamma)
