"""
Tasks of other projects for the benchmarks, registered as Gymnasium environments: ``"tasks:DMC/cartpole_swingup"``.

DeepMind Control as DreamerV3 ran it: two frames an action, 1,000 frames an episode, proprioceptive observations in one
vector. Memory: one of MiniGrid's tasks, the 7x7 cells it sees as one vector, and one of POPGym's. The package behind a task
is imported when the task is made.
"""

from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import FlattenObservation

DMC = ("cartpole_swingup", "finger_spin", "cheetah_run", "walker_walk")
DMC_FRAME_SKIP = 2


class Repeat(gym.Wrapper):
    """
    Every action is taken several times, until the episode ends; rewards add up. (RL Zoo's wrapper does the same, but to import
    it changes Gymnasium's TimeLimit.)

    :param env: the environment
    :param times: how often
    """

    def __init__(self, env: gym.Env, times: int) -> None:
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        :param action: of the environment
        :return: as Gymnasium's
        """
        total = 0.0
        for _ in range(self.times):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


def control(task: str, **kwargs: Any) -> gym.Env:
    """
    :param task: as in ``DMC``
    :param kwargs: for ``gymnasium.make``
    :return: a task of DeepMind Control
    """
    import shimmy  # noqa: F401  (registers)

    domain, name = task.split("_", 1)
    return Repeat(FlattenObservation(gym.make(f"dm_control/{domain}-{name}-v0", **kwargs)), DMC_FRAME_SKIP)


def minigrid_memory(**kwargs: Any) -> gym.Env:
    """
    :param kwargs: for ``gymnasium.make``
    :return: the object seen first is the one to walk to at the end of a corridor
    """
    import minigrid  # noqa: F401  (registers)
    from minigrid.wrappers import ImgObsWrapper

    return FlattenObservation(ImgObsWrapper(gym.make("MiniGrid-MemoryS7-v0", **kwargs)))


def repeat_previous(**kwargs: Any) -> gym.Env:
    """
    :param kwargs: for ``gymnasium.make``
    :return: cards are dealt, each action names the suit dealt three cards before
    """
    import popgym  # noqa: F401  (registers)

    return gym.make("popgym-RepeatPreviousEasy-v0", **kwargs)


MAKERS = {
    **{f"DMC/{task}": partial(control, task) for task in DMC},
    "Memory/MiniGridS7": minigrid_memory,
    "Memory/RepeatPreviousEasy": repeat_previous,
}
for task_id, maker in MAKERS.items():
    if task_id not in gym.registry:
        gym.register(id=task_id, entry_point=maker)
