"""What agents collect where the button that pays must be found in a trial's first episode, and may be known in its second."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import meta_control
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from meta_control import Returns, Study, returns_of_trials
from meta_tasks import Untold

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


GROUPS = tuple(group for group in meta_control.GROUPS if group != "optimum")  # which is that of who is told
run = partial(meta_control.run, kind=ButtonsStudy)
