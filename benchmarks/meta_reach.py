"""What agents collect where the goal must be found in a trial's first episode, and may be known in its second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from meta_control import Returns, Study, lines_of, returns_of_trials
from meta_tasks import Line, Untold

from envs import MetaReachEnv, TrialWrapper
from envs.meta_reach import EPISODE_STEPS


@dataclass(frozen=True)
class SomeGoal:
    """A task to judge by: its goals are drawn by the seeds of its trials."""

    number: int
    where: str = "goals"
    fixed: dict[str, Any] = field(default_factory=dict)


def trial_env(steps: int = EPISODE_STEPS, show_action: bool = False, **task: Any) -> TrialWrapper:
    """:return: two episodes of every goal"""
    return TrialWrapper(TimeLimit(MetaReachEnv(**task), steps), episodes=2, show_action=show_action)


def plain_env(**task: Any) -> gym.Env:
    """:return: two episodes of every goal, of which nothing tells"""
    return Untold(trial_env(**task))


class ToldGoal(gym.ObservationWrapper):
    """
    An oracle's: the observation ends with the direction of the goal.

    :param env: from :func:`plain_env`
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-1.0, 1.0, (5,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """:return: the observation with a direction, ``(5,)``"""
        env: Any = self.unwrapped
        angle = 2 * np.pi * env.constants[0] / env.task.places
        return np.append(observation, [np.cos(angle), np.sin(angle)]).astype(np.float32)


def told_env(**task: Any) -> gym.Env:
    """:return: two episodes of every goal, which is told"""
    return ToldGoal(plain_env(**task))


class ReachStudy(Study):
    """As the pendulums', with goals in their place."""

    inside = {}  # noqa: RUF012
    training = 10_000
    trial, plain, told_of = staticmethod(trial_env), staticmethod(plain_env), staticmethod(told_env)

    def held_out(self, n: int) -> Sequence[Any]:
        """:return: goals to be judged by"""
        return [SomeGoal(1000 * self.seed + i) for i in range(n)]

    def recurrent(self) -> dict[str, Returns]:
        """Remembers its episode."""
        agent = self.dreamer("MlpPolicy", self.plain)
        return {"no context": returns_of_trials(agent, self.tasks, self.plain)}


GROUPS: dict[str, Callable[[ReachStudy], dict[str, Returns]]] = {
    "memoryless": ReachStudy.memoryless,
    "recurrent": ReachStudy.recurrent,
    "context": ReachStudy.context,
    "told": ReachStudy.told,
    "rl_squared": ReachStudy.rl_squared,
}
"""Methods by the agent that they share."""


def run(group: str, seed: int, scale: float) -> list[Line]:
    """
    :param group: one of ``GROUPS``
    :param seed: of everything
    :param scale: of all numbers of steps, updates and tasks
    :return: lines of its methods: returns of a task, means over the trials
    """
    return lines_of(ReachStudy(seed, scale), GROUPS[group])
