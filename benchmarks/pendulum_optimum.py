"""The best that can be done on a pendulum of known mass and length: an oracle for agents who must find these out."""

from collections.abc import Callable

import numpy as np

from envs.pendulum import EPISODE_STEPS, MAX_TORQUE, MAX_VELOCITY, swing

Array = np.ndarray


def optimal_returns(
    mass: float, length: float, starts: Array, steps: int = EPISODE_STEPS, grid: tuple[int, int, int] = (181, 181, 21)
) -> Array:
    """
    Value iteration backwards over the steps of an episode, bilinear between the nodes of a grid of states, and then the greedy
    policy in the exact dynamics: what is returned has been achieved, and lies about 0.5 below the optimum of the pendulum of
    1 kg and 1 m (from -1,200 for random actions to -134).

    :param mass: in kg
    :param length: in m
    :param starts: angles and velocities, ``(n, 2)``
    :param steps: of an episode
    :param grid: nodes in angle and velocity, and torques
    :return: undiscounted returns, ``(n,)``
    """
    n_angles, n_velocities, n_torques = grid
    angles = np.linspace(-np.pi, np.pi, n_angles, endpoint=False)
    velocities = np.linspace(-MAX_VELOCITY, MAX_VELOCITY, n_velocities)
    states = np.stack(np.meshgrid(angles, velocities, indexing="ij"), axis=-1)[:, :, None]
    torques = np.linspace(-MAX_TORQUE, MAX_TORQUE, n_torques)
    moved, reward = _swing(states, torques, mass, length)  # (angles, velocities, torques, 2), (...)
    look_up = _interpolation(moved, n_angles, n_velocities)
    values = np.zeros((steps + 1, n_angles * n_velocities), dtype=np.float32)  # of the state with so many steps to go
    for left in range(1, steps):
        values[left] = (reward + look_up(values[left - 1])).max(-1).ravel()

    finer = np.linspace(-MAX_TORQUE, MAX_TORQUE, 161)
    state, total, rows = np.asarray(starts, dtype=np.float64), np.zeros(len(starts)), np.arange(len(starts))
    for left in reversed(range(steps)):
        moved, reward = _swing(state[:, None], finer, mass, length)
        best = (reward + _interpolation(moved, n_angles, n_velocities)(values[left])).argmax(-1)
        state, total = moved[rows, best], total + reward[rows, best]
    return total


def _swing(states: Array, torques: Array, mass: float, length: float) -> tuple[Array, Array]:
    """:return: where every torque leads from states ``(..., 1, 2)``, ``(..., torques, 2)``, and the rewards"""
    shape = (*states.shape[:-2], len(torques))
    return swing(np.broadcast_to(states, (*shape, 2)), np.broadcast_to(torques[:, None], (*shape, 1)), mass, length)


def _interpolation(states: Array, n_angles: int, n_velocities: int) -> Callable[[Array], Array]:
    """:return: what looks up these states ``(..., 2)`` in values of the grid's nodes ``(angles * velocities,)``"""
    x = (states[..., 0] + np.pi) / (2 * np.pi) * n_angles
    y = (states[..., 1] + MAX_VELOCITY) / (2 * MAX_VELOCITY) * (n_velocities - 1)
    left, below = np.floor(x).astype(np.int64), np.clip(np.floor(y).astype(np.int64), 0, n_velocities - 2)
    x, y = (x - left).astype(np.float32), (y - below).astype(np.float32)
    left, right = left % n_angles * n_velocities, (left + 1) % n_angles * n_velocities  # angles go round

    def look_up(values: Array) -> Array:
        low = (1 - x) * values[left + below] + x * values[right + below]
        high = (1 - x) * values[left + below + 1] + x * values[right + below + 1]
        return (1 - y) * low + y * high

    return look_up
