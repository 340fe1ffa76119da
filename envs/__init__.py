"""Small, fast tasks to develop and test world-model agents on. Importing this package registers their Gymnasium ids.

============================================  =================  ===========  ==========================================
id                                            observation        action       what it asks for
============================================  =================  ===========  ==========================================
``ContinuousPendulum-v0``                     ``Box (3,)``       ``Box (1,)`` swing up and balance
``ContinuousCartPole-v0``                     ``Box (4,)``       ``Box (1,)`` balance
``SequenceMemory-v0``                         ``Box (4,)``       2 choices    steer a running value to one half
``ContinuousPendulumNoVelocity-v0``           ``Box (2,)``       ``Box (1,)`` swing up without seeing the velocity
``ContinuousPendulumSparse-v0``               ``Box (3,)``       ``Box (1,)`` swing up, rewarded at the top alone
``DelayedRecall-v0``                          ``Box (k + 1,)``   k choices    name a cue seen n steps ago
``ContinuousPendulumPixels-v0``               64 x 64 RGB image  ``Box (1,)`` swing up from pictures of the pendulum
``FourRooms-v0``                              ``Box (2,)``       ``Box (2,)`` find the goal behind three doors
``PinPad-v0``                                 ``Box (n + 2,)``   5 choices    touch n pads in order
``MetaPendulum-v0``                           ``Box (3,)``       ``Box (1,)`` swing up a rod of unknown mass and length
``MetaCartPole-v0``                           ``Box (4,)``       ``Box (1,)`` balance a pole of unknown length
``MetaButtons-v0``                            ``Box (k + 1,)``   k choices    find out which button pays, and press it
``MetaPendulumTrial-v0``                      dictionary         ``Box (1,)`` the same rod for two episodes
``MetaCartPoleTrial-v0``                      dictionary         ``Box (1,)`` the same pole for two episodes
``MetaButtonsTrial-v0``                       dictionary         k choices    the same button for two episodes
============================================  =================  ===========  ==========================================

In worker processes use the form ``gym.make("envs:ContinuousPendulum-v0")``: it imports this package first, so that the
id is known there too. ``gym.make_vec`` builds the batched versions, which reset an ended episode in the same step.
The meta tasks draw what is unknown at every reset; :class:`TrialWrapper` keeps it for several episodes, a trial, as the last
three ids do (``gym.make("MetaPendulumTrial-v0", episodes=2, mass=(0.5, 2.0))``).
"""

import gymnasium as gym

from envs.base import ToyEnv, ToyTask
from envs.cartpole import ContinuousCartPoleEnv, ContinuousCartPoleVectorEnv
from envs.checkpoint import get_env_state, set_env_state
from envs.delayed_recall import DelayedRecallEnv, DelayedRecallVectorEnv
from envs.drawn import DrawnPhysicsEnv
from envs.four_rooms import FourRoomsEnv, FourRoomsVectorEnv
from envs.meta_buttons import MetaButtonsEnv, MetaButtonsVectorEnv
from envs.meta_cartpole import MetaCartPoleEnv, MetaCartPoleVectorEnv
from envs.meta_pendulum import MetaPendulumEnv, MetaPendulumVectorEnv
from envs.pendulum import ContinuousPendulumEnv, ContinuousPendulumVectorEnv
from envs.pendulum_no_velocity import ContinuousPendulumNoVelocityEnv, ContinuousPendulumNoVelocityVectorEnv
from envs.pendulum_pixels import ContinuousPendulumPixelsEnv, ContinuousPendulumPixelsVectorEnv
from envs.pendulum_sparse import ContinuousPendulumSparseEnv, ContinuousPendulumSparseVectorEnv
from envs.pin_pad import PinPadEnv, PinPadVectorEnv
from envs.sequence_memory import SequenceMemoryEnv, SequenceMemoryVectorEnv
from envs.trials import TrialWrapper
from envs.vector import ToyVectorEnv

# Another distribution may own the module name ``envs``; this marker tells whoever imports it that it got the right one.
__sb3_dreamer_toy_tasks__ = True

_TASKS: dict[str, tuple[type[ToyEnv], type[ToyVectorEnv]]] = {
    "ContinuousPendulum-v0": (ContinuousPendulumEnv, ContinuousPendulumVectorEnv),
    "ContinuousCartPole-v0": (ContinuousCartPoleEnv, ContinuousCartPoleVectorEnv),
    "SequenceMemory-v0": (SequenceMemoryEnv, SequenceMemoryVectorEnv),
    "ContinuousPendulumNoVelocity-v0": (ContinuousPendulumNoVelocityEnv, ContinuousPendulumNoVelocityVectorEnv),
    "ContinuousPendulumSparse-v0": (ContinuousPendulumSparseEnv, ContinuousPendulumSparseVectorEnv),
    "DelayedRecall-v0": (DelayedRecallEnv, DelayedRecallVectorEnv),
    "ContinuousPendulumPixels-v0": (ContinuousPendulumPixelsEnv, ContinuousPendulumPixelsVectorEnv),
    "FourRooms-v0": (FourRoomsEnv, FourRoomsVectorEnv),
    "PinPad-v0": (PinPadEnv, PinPadVectorEnv),
}
_META_TASKS: dict[str, tuple[type[ToyEnv], type[ToyVectorEnv]]] = {
    "MetaPendulum-v0": (MetaPendulumEnv, MetaPendulumVectorEnv),
    "MetaCartPole-v0": (MetaCartPoleEnv, MetaCartPoleVectorEnv),
    "MetaButtons-v0": (MetaButtonsEnv, MetaButtonsVectorEnv),
}

TASK_IDS: tuple[str, ...] = tuple(_TASKS)
META_TASK_IDS: tuple[str, ...] = tuple(_META_TASKS)
"""Many tasks in one: what differs is drawn, and never shown."""
TRIAL_IDS: dict[str, str] = {task_id.replace("-v", "Trial-v"): task_id for task_id in META_TASK_IDS}
"""Ids of trials, to the ids of their tasks. They have no vector version."""


def register_tasks() -> None:
    """Register every toy task that Gymnasium does not know yet (registering an id twice would warn)."""
    for task_id, (env_class, vector_class) in {**_TASKS, **_META_TASKS}.items():
        if task_id not in gym.registry:
            # Strings rather than classes keep the EnvSpec serialisable.
            gym.register(
                id=task_id,
                entry_point=f"{env_class.__module__}:{env_class.__name__}",
                vector_entry_point=f"{vector_class.__module__}:{vector_class.__name__}",
                max_episode_steps=env_class.max_episode_steps,
            )
    for trial_id, task_id in TRIAL_IDS.items():
        if trial_id not in gym.registry:
            gym.register(
                id=trial_id,
                entry_point="envs.trials:make_trials",
                kwargs={"env_id": f"envs:{task_id}"},
                max_episode_steps=_META_TASKS[task_id][0].max_episode_steps,
            )


register_tasks()

__all__ = [
    "META_TASK_IDS",
    "TASK_IDS",
    "TRIAL_IDS",
    "ContinuousCartPoleEnv",
    "ContinuousCartPoleVectorEnv",
    "ContinuousPendulumEnv",
    "ContinuousPendulumNoVelocityEnv",
    "ContinuousPendulumNoVelocityVectorEnv",
    "ContinuousPendulumPixelsEnv",
    "ContinuousPendulumPixelsVectorEnv",
    "ContinuousPendulumSparseEnv",
    "ContinuousPendulumSparseVectorEnv",
    "ContinuousPendulumVectorEnv",
    "DelayedRecallEnv",
    "DelayedRecallVectorEnv",
    "DrawnPhysicsEnv",
    "FourRoomsEnv",
    "FourRoomsVectorEnv",
    "MetaButtonsEnv",
    "MetaButtonsVectorEnv",
    "MetaCartPoleEnv",
    "MetaCartPoleVectorEnv",
    "MetaPendulumEnv",
    "MetaPendulumVectorEnv",
    "PinPadEnv",
    "PinPadVectorEnv",
    "SequenceMemoryEnv",
    "SequenceMemoryVectorEnv",
    "ToyEnv",
    "ToyTask",
    "ToyVectorEnv",
    "TrialWrapper",
    "get_env_state",
    "register_tasks",
    "set_env_state",
]
