"""Which rows to learn from again: those that the world model predicted badly."""

from __future__ import annotations

import numpy as np

PRIORITY_POWER = 0.7
PRIORITY_OFFSET = 0.01
"""So that no row is forgotten."""
BLOCK = 1024
"""Slots whose priorities are summed at once."""


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
    Draw slots in proportion to their priorities, with replacement: first a block of slots, by the sum of its priorities, then
    one within it. For a million slots that takes a sixth of the time of their running sums.

    :param rng: the source of randomness
    :param priority: ``(n_envs, slots)``, 0 where no row is
    :param size: how many to draw
    :return: environments and slots, each ``(size,)``
    """
    flat = priority.ravel()
    whole = len(flat) // BLOCK * BLOCK
    sums = flat[:whole].reshape(-1, BLOCK).sum(1, dtype=np.float64)
    sums = np.append(sums, flat[whole:].sum(dtype=np.float64))  # what is left makes a smaller one, maybe empty
    bounds = np.cumsum(sums)
    blocks = _first_above(bounds[None], rng.random(size) * bounds[-1])
    slots = blocks[:, None] * BLOCK + np.arange(min(BLOCK, len(flat)))  # (size, BLOCK)
    inside = np.where(slots < len(flat), flat[np.minimum(slots, len(flat) - 1)], 0.0)
    running = np.cumsum(inside, axis=1, dtype=np.float64)
    picked = blocks * BLOCK + _first_above(running, rng.random(size) * running[:, -1])
    streams, slot = np.divmod(picked, priority.shape[1])
    return streams, slot


def _first_above(running: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """:return: for each target the first place where the running sums ``(1 or size, n)`` exceed it, ``(size,)``"""
    below = np.minimum(targets, np.nextafter(running[:, -1], 0.0))  # rounding must not lead past the end
    return (running <= below[:, None]).sum(1)
