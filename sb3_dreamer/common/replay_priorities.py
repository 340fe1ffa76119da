"""Which rows to learn from again: those that the world model predicted badly."""

from __future__ import annotations

import numpy as np

PRIORITY_POWER = 0.7
PRIORITY_OFFSET = 0.01
"""So that no row is forgotten."""


def priority_of(loss: np.ndarray) -> np.ndarray:
    """
    ``(loss + 0.01) ** 0.7`` (Curious Replay, Kauvar et al. 2023, https://arxiv.org/abs/2306.15934, without its term that
    counts visits: rows that were never learnt from have the largest priority so far instead).

    :param loss: of the world model, by row; what is below 0 counts as 0
    :return: in proportion to which rows are to be drawn, of the same shape
    """
    return (np.maximum(loss, 0.0) + PRIORITY_OFFSET) ** PRIORITY_POWER


def draw_slots(rng: np.random.Generator, priority: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw slots in proportion to their priorities, with replacement.

    :param rng: the source of randomness
    :param priority: ``(n_envs, slots)``, 0 where no row is
    :param size: how many to draw
    :return: environments and slots, each ``(size,)``
    """
    bounds = np.cumsum(priority, dtype=np.float64)  # over all rows, environment by environment
    picked = np.searchsorted(bounds, rng.random(size) * bounds[-1], side="right")
    # where rounding leads past the end, take the last
    streams, slots = np.divmod(np.minimum(picked, len(bounds) - 1), priority.shape[1])
    return streams, slots
