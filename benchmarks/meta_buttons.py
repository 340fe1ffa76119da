"""What agents collect where the button that pays must be found in a trial's first episode, and may be known in its second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from meta_control import Returns, Study, lines_of, returns_of_trials
from meta_tasks import Line, Untold

from envs import MetaButtonsEnv, TrialWrapper
from envs.meta_buttons import EPISODE_STEPS


@dataclass(frozen=True)
class SomeButton:
    """A task to judge by: which buttons pay is drawn by the seeds of its trials."""

    number: int
    where: str = "buttons"
    fixed: dict[str, Any] = field(default_factory=dict)


def trial_env(steps: int = EPISODE_STEPS, show_action: bool = False, **task: Any) -> TrialWrapper:
    """:return: two episodes of every button"""
    return TrialWrapper(TimeLimit(MetaButtonsEnv(**task), steps), episodes=2, show_action=show_action)


def plain_env(**task: Any) -> gym.Env:
    """:return: two episodes of every button, of which nothing tells"""
    return Untold(trial_env(**task))


class ToldButton(gym.ObservationWrapper):
    """
    An oracle's: the observation ends with the button that pays, one-hot.

    :param env: from :func:`plain_env`
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        inner: Any = env.unwrapped
        self.observation_space = spaces.Box(0.0, 1.0, (2 * inner.task.buttons + 1,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """:return: the observation with that button, ``(2 buttons + 1,)``"""
        inner: Any = self.unwrapped
        pays = np.arange(inner.task.buttons) == inner.constants[0]
        return np.append(observation, pays).astype(np.float32)


def told_env(**task: Any) -> gym.Env:
    """:return: two episodes of every button, which is told"""
    return ToldButton(plain_env(**task))


class ButtonsStudy(Study):
    """As the pendulums', with buttons in their place."""

    inside = {}  # noqa: RUF012
    training = 4_000
    agent = dict(batch_length=32, batch_size=16, train_ratio=256, device="cpu")  # noqa: RUF012
    rl_squared_steps = 25
    rl_squared_batch = dict(n_steps=120, batch_size=240)  # noqa: RUF012
    trial, plain, told_of = staticmethod(trial_env), staticmethod(plain_env), staticmethod(told_env)

    def held_out(self, n: int) -> Sequence[Any]:
        """:return: buttons to be judged by"""
        return [SomeButton(1000 * self.seed + i) for i in range(n)]

    def recurrent(self) -> dict[str, Returns]:
        """Remembers its episode."""
        agent = self.dreamer("MlpPolicy", self.plain)
        return {"no context": returns_of_trials(agent, self.tasks, self.plain)}


GROUPS: dict[str, Callable[[ButtonsStudy], dict[str, Returns]]] = {
    "memoryless": ButtonsStudy.memoryless,
    "recurrent": ButtonsStudy.recurrent,
    "context": ButtonsStudy.context,
    "told": ButtonsStudy.told,
    "rl_squared": ButtonsStudy.rl_squared,
}
"""Methods by the agent that they share."""


def run(group: str, seed: int, scale: float) -> list[Line]:
    """
    :param group: one of ``GROUPS``
    :param seed: of everything
    :param scale: of all numbers of steps, updates and tasks
    :return: lines of its methods: returns of a task, means over the trials
    """
    return lines_of(ButtonsStudy(seed, scale), GROUPS[group])
