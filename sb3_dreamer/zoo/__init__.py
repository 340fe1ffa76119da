"""
Our algorithms in RL Baselines3 Zoo: tuned settings, training, hyperparameter search, watching trained agents.

``python -m sb3_dreamer.zoo train --algo dreamer --env ContinuousPendulum-v0``, or :func:`register` in a script of one's own.
Needs the extra ``zoo``.
"""

from sb3_dreamer.zoo.registration import ALGORITHMS, ZooAlgorithm, register

__all__ = ["ALGORITHMS", "ZooAlgorithm", "register"]
