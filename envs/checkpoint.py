"""Saving and restoring a toy environment together with the wrappers that ``gym.make`` puts around it."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from envs.base import ToyEnv
from envs.trials import TrialWrapper


def get_env_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Copy all that decides how an environment made by ``gym.make`` goes on, the time limit's step count included, and where
    in its trial a :class:`envs.TrialWrapper` is.

    :param env: a toy environment, wrapped or not
    :return: a dictionary that pickles
    """
    elapsed = [wrapper._elapsed_steps for wrapper in _wrappers(env) if isinstance(wrapper, TimeLimit)]
    trials = [wrapper.get_state() for wrapper in _wrappers(env) if isinstance(wrapper, TrialWrapper)]
    return {"env": _toy_env(env).get_state(), "elapsed_steps": elapsed, **({"trials": trials} if trials else {})}


def set_env_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Go on from where :func:`get_env_state` was called.

    The environment is reset once on the way, for the sake of wrappers that insist on a reset before the first step.

    :param env: a toy environment with the same wrappers around it
    :param state: what :func:`get_env_state` returned
    """
    toy = _toy_env(env)
    limits = [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, TimeLimit)]
    if len(limits) != len(state["elapsed_steps"]):
        raise ValueError(
            f"env has {len(limits)} TimeLimit wrappers, but state comes from one with {len(state['elapsed_steps'])}. "
            "Make both environments in the same way."
        )
    trials = [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, TrialWrapper)]
    if len(trials) != len(state.get("trials", [])):
        raise ValueError(
            f"env has {len(trials)} TrialWrappers, but state comes from one with {len(state.get('trials', []))}. "
            "Make both environments in the same way."
        )
    env.reset()
    toy.set_state(state["env"])
    for limit, elapsed in zip(limits, state["elapsed_steps"], strict=True):
        limit._elapsed_steps = elapsed
    for trial, trial_state in zip(trials, state.get("trials", []), strict=True):
        trial.set_state(trial_state)


def _wrappers(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def _toy_env(env: gym.Env[Any, Any]) -> ToyEnv:
    if not isinstance(env.unwrapped, ToyEnv):
        raise ValueError(f"env must be one of the toy tasks, got {env}. Other environments need their own way to save.")
    return env.unwrapped
