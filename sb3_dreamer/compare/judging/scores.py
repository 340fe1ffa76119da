"""
Returns of different tasks on one scale: 0 for a random policy, 1 for a very good one.

``(return - random) / (reference - random)``. A task that is not in the table gets the lowest and the highest return of all
its evaluations here, which depends on who took part; the page says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_dreamer.compare.judging.readers import RecordedRun

# Mean return of random actions, and of a policy about as good as they get. Toy tasks: measured (`tests/unit/
# test_env_scores.py`, `envs`). Gymnasium: random as measured over 100 episodes; reference: the best possible, or what
# RL Baselines3 Zoo reaches. MuJoCo: random and reference of D4RL (https://arxiv.org/abs/2004.07219, appendix).
REFERENCES: dict[str, tuple[float, float]] = {
    "ContinuousPendulum-v0": (-1214.0, -134.0),
    "ContinuousPendulumNoVelocity-v0": (-1214.0, -134.0),
    "ContinuousPendulumPixels-v0": (-1214.0, -134.0),
    "ContinuousCartPole-v0": (27.5, 200.0),
    "SequenceMemory-v0": (23.1, 46.75),
    "DelayedRecall-v0": (0.25, 1.0),
    "FourRooms-v0": (0.0, 1.0),
    "Pendulum-v1": (-1200.0, -150.0),
    "CartPole-v1": (23.0, 500.0),
    "Acrobot-v1": (-498.0, -80.0),
    "MountainCar-v0": (-200.0, -100.0),
    "MountainCarContinuous-v0": (-32.0, 93.0),
    "Hopper-v5": (-20.3, 3234.3),
    "HalfCheetah-v5": (-280.2, 12135.0),
    "Walker2d-v5": (1.6, 4592.3),
}


@dataclass(frozen=True)
class Scale:
    """How the returns of a task become scores."""

    low: float
    high: float
    origin: str  # where the two come from

    def __call__(self, returns: np.ndarray) -> np.ndarray:
        """
        :param returns: of any shape
        :return: scores, of the same shape
        """
        width = self.high - self.low
        return (np.asarray(returns) - self.low) / (width if width else 1.0)


def scale(env: str, runs: Sequence[RecordedRun], references: Mapping[str, tuple[float, float]] | None = None) -> Scale:
    """
    :param env: the task's name
    :param runs: all runs on it
    :param references: returns of a random and of a very good policy by task, which win over the table's
    :return: how to normalise its returns
    """
    name = env.rpartition("/")[2]  # "Zoo/CartPole-v1" is CartPole-v1, wrapped
    for table, origin in ((references or {}, "given"), (REFERENCES, "random and reference policy")):
        for key in (env, name):
            if key in table:
                return Scale(*table[key], origin)
    if env.startswith("DMC/") or env.startswith("dm_control/"):
        return Scale(0.0, 1000.0, "the range of every task of the DeepMind Control Suite")
    returns = np.concatenate([run.returns for run in runs])
    return Scale(float(returns.min()), float(returns.max()), "lowest and highest return of all evaluations here")
