"""What simple policies are known to score in the toy tasks, over many episodes at once."""

import gymnasium as gym
import numpy as np
import pytest


def balance(observation):
    """A linear controller that keeps the pole up, for a batch of observations."""
    return np.clip(observation @ np.array([[0.2], [0.4], [8.0], [1.5]]), -1, 1)


def mean_return(task_id, policy, num_envs, seed=0):
    """Average of the first episode's return over many copies.

    :param policy: ``policy(observations, step, rng) -> actions``
    """
    env = gym.make_vec(f"envs:{task_id}", num_envs=num_envs)
    rng = np.random.default_rng(seed)
    observations, _ = env.reset(seed=seed)
    total, running, step = np.zeros(num_envs), np.ones(num_envs, bool), 0
    while running.any():
        observations, rewards, terminations, truncations, _ = env.step(policy(observations, step, rng))
        total += rewards * running
        running &= ~(terminations | truncations)
        step += 1
    return total.mean()


# The references are averages of some 500 episodes, so they carry an error of their own: the standard deviation over
# episodes divided by √500, which is 13 and 16 (pendulum), 0.6 (cart-pole), 0.3, 0.1 and 0.6 (sequence). The tolerances
# are about three times that.


def test_scores_of_the_pendulum():
    random = mean_return("ContinuousPendulum-v0", lambda o, t, rng: rng.uniform(-2, 2, (len(o), 1)), 2000)
    idle = mean_return("ContinuousPendulum-v0", lambda o, t, rng: np.zeros((len(o), 1)), 2000)
    assert random == pytest.approx(-1214, abs=30)
    assert idle == pytest.approx(-1186, abs=50)


def test_scores_of_the_cartpole():
    idle = mean_return("ContinuousCartPole-v0", lambda o, t, rng: np.zeros((len(o), 1)), 2000)
    random = mean_return("ContinuousCartPole-v0", lambda o, t, rng: rng.uniform(-1, 1, (len(o), 1)), 2000)
    linear = mean_return("ContinuousCartPole-v0", lambda o, t, rng: balance(o), 200)
    assert idle == pytest.approx(41.1, abs=1.8)
    assert random == pytest.approx(27.5, abs=1.8)
    assert linear == 200


def test_scores_of_the_sequence():
    random = mean_return("SequenceMemory-v0", lambda o, t, rng: rng.integers(2, size=len(o)), 2000)
    rule = mean_return("SequenceMemory-v0", lambda o, t, rng: (o[:, 0] < 0.5).astype(int), 2000)
    alternating = mean_return("SequenceMemory-v0", lambda o, t, rng: np.full(len(o), t % 2), 2000)
    assert random == pytest.approx(23.1, abs=1.0)
    assert rule == pytest.approx(45.65, abs=0.3)
    assert alternating == pytest.approx(24.7, abs=1.9)


def test_delayed_recall_takes_memory():
    cues = {}

    def remember(observations, step, rng):
        if step == 0:
            cues["seen"] = observations[:, :-1].argmax(1)
        return cues["seen"]

    assert mean_return("DelayedRecall-v0", remember, 100) == 1.0
    forgetful = mean_return("DelayedRecall-v0", lambda o, t, rng: o[:, :-1].argmax(1), 4000)
    assert forgetful == pytest.approx(1 / 4, abs=0.03)
