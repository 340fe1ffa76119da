"""Where data sets come from: an environment, a replay buffer, Minari."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_dreamer.common.arguments import check_whole
from sb3_dreamer.common.preprocessing import ActionCodec, pick
from sb3_dreamer.world_models.dataset import EpisodeDataset, EpisodeRecorder
from sb3_dreamer.world_models.progress import ProgressBar
from sb3_dreamer.world_models.trajectories import check_actions

PATIENCE = 10_000
"""Steps that episodes may take to end, if they are more than those asked for."""


def collect(
    env: gym.Env | VecEnv | str,
    policy: Any = None,
    n_steps: int = 5000,
    seed: int | None = None,
    deterministic: bool = False,
    progress_bar: bool = False,
) -> EpisodeDataset:
    """
    Act in an environment and keep what happened. The last episode is finished, so that the steps may be a few more; one that
    would go on for ever is cut off.

    :param env: an environment, its id, or an SB3 VecEnv
    :param policy: None for random actions, anything with SB3's ``predict`` (``PPO``, ``Dreamer`` ...), or a function of a
        single observation
    :param n_steps: transitions at least
    :param seed: of the environment and of random actions
    :param deterministic: for ``predict``
    :param progress_bar: show one
    :return: the episodes
    :raises ValueError: n_steps is less than 1, the environment or the policy is none, or one below a ``VecNormalize``, actions
        are not in the action space
    """
    check_whole(n_steps=n_steps)
    if not (policy is None or hasattr(policy, "predict") or callable(policy)):
        raise ValueError(f"policy must be None, a model with predict, or a function of an observation, got {policy!r:.100}.")
    if not isinstance(env, str | gym.Env | VecEnv):
        raise ValueError(f"env must be a Gymnasium environment, its id, or an SB3 VecEnv, got {env!r:.100}.")
    normalized = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
    if normalized is not None or getattr(policy, "get_vec_normalize_env", lambda: None)() is not None:
        raise ValueError(
            "collect keeps what the environment gives, which a VecNormalize changes all the time: give the environment below "
            "it (env.venv), and as policy a function that normalises: lambda obs: model.predict(norm.normalize_obs(obs))[0]."
        )
    made: Any = gym.make(env) if isinstance(env, str) else env
    several = isinstance(made, VecEnv)
    runner = _vec_env_steps(made, seed) if several else _single_steps(made, seed)
    try:
        recorder = EpisodeRecorder(made.observation_space, made.action_space)
        made.action_space.seed(seed)
        chooser = _Chooser(policy, made.action_space, made.num_envs if several else 1, deterministic)
        most = n_steps + max(n_steps, PATIENCE)
        with ProgressBar(n_steps, "step", "collect", progress_bar) as bar:
            steps, observations = 0, next(runner)
            for stream, obs in enumerate(observations):
                recorder.start(stream, obs)
            running = set(range(len(observations)))
            while running and steps < most:
                actions = chooser(observations)
                results = runner.send(actions)
                observations = [result[0] for result in results]
                steps += len(running)
                for stream, (obs, last, reward, terminated, truncated) in enumerate(results):
                    chooser.starts[stream] = terminated or truncated
                    if stream not in running:
                        continue
                    recorder.step(stream, actions[stream], last, reward, terminated, truncated)
                    if terminated or truncated:
                        if steps >= n_steps:
                            running.discard(stream)
                        else:
                            recorder.start(stream, obs)
                bar.show(min(steps, n_steps))
    finally:
        runner.close()
        if isinstance(env, str):
            made.close()
    return recorder.dataset()


class _Chooser:
    """Actions for the observations of all streams, with the policy's state."""

    def __init__(self, policy: Any, space: spaces.Space, n: int, deterministic: bool) -> None:
        self.policy, self.space, self.deterministic = policy, space, deterministic
        self.codec = ActionCodec(space)
        self.state: Any = None
        self.starts = np.ones(n, dtype=bool)

    def __call__(self, observations: list[Any]) -> list[Any]:
        if self.policy is None:
            return [self.space.sample() for _ in observations]
        if not hasattr(self.policy, "predict"):
            return [self._within(self.policy(obs)) for obs in observations]
        first = observations[0]
        if isinstance(first, dict):
            batch: Any = {name: np.stack([np.asarray(obs[name]) for obs in observations]) for name in first}
        else:
            batch = np.stack([np.asarray(obs) for obs in observations])
        actions, self.state = self.policy.predict(batch, self.state, self.starts, self.deterministic)
        return [self._within(action) for action in actions]

    def _within(self, action: Any) -> Any:
        """A Box's actions are clipped, as SB3 does."""
        action, space, shape = np.asarray(action), self.space, self.space.shape or ()
        if action.shape != shape and not action.size == np.prod(shape) == 1:
            raise ValueError(f"The policy's action has shape {action.shape}, those of {space} have {shape}.")
        action = action.reshape(shape)
        if isinstance(space, spaces.Box):
            action = np.clip(action, space.low, space.high)
        check_actions(action[None], self.codec)
        return int(action) if isinstance(space, spaces.Discrete) else action.astype(space.dtype)


def _single_steps(env: gym.Env, seed: int | None) -> Any:
    """A generator of lists (of one): first observations, then (observation to act on, last observation, reward, ...)."""
    obs, _ = env.reset(seed=seed)
    actions = yield [obs]
    while True:
        last, reward, terminated, truncated, _ = env.step(actions[0])
        obs = last
        if terminated or truncated:
            last = copy.deepcopy(last)  # the environment may use its arrays again
            obs, _ = env.reset()
        actions = yield [(obs, last, float(reward), bool(terminated), bool(truncated))]


def _vec_env_steps(env: Any, seed: int | None) -> Any:
    """The same for SB3's VecEnv, which resets on its own."""
    if seed is not None:
        env.seed(seed)
    obs = env.reset()
    n = env.num_envs
    actions = yield [pick(obs, i) for i in range(n)]
    while True:
        obs, rewards, dones, infos = env.step(np.stack([np.asarray(action) for action in actions]))
        results = []
        for i in range(n):
            now = pick(obs, i)
            last = infos[i]["terminal_observation"] if dones[i] else now
            truncated = bool(dones[i]) and bool(infos[i].get("TimeLimit.truncated", False))
            results.append((now, last, float(rewards[i]), bool(dones[i]) and not truncated, truncated))
        actions = yield results


def from_replay_buffer(model: Any) -> EpisodeDataset:
    """
    :param model: an algorithm with a replay: Dreamer, or one of SB3's off-policy algorithms
    :return: what its replay holds, as the environment gave it (below a ``VecNormalize``, the model itself sees normalised
        observations); an episode whose beginning was overwritten begins where the replay does, one that a new
        call of ``learn`` broke off is cut off there
    :raises ValueError: it has no replay, or an empty one
    """
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        raise ValueError(f"{type(model).__name__} has no replay buffer: give Dreamer, SAC, TD3, DQN ..., after learning.")
    recorder = EpisodeRecorder(model.observation_space, model.action_space)
    rows = _sequence_rows(model, recorder) if hasattr(buffer, "rows_written") else _transition_rows(model, recorder)
    if rows == 0:
        raise ValueError("The replay buffer is empty: learn first, or load_replay_buffer.")
    return recorder.dataset()


def _sequence_rows(model: Any, recorder: EpisodeRecorder) -> int:
    """Rows of our replay, whose actions are the model's."""
    codec, count = ActionCodec(model.action_space), 0
    for stream, rows in enumerate(model.replay_buffer.streams()):
        actions = codec.to_env(rows.actions)
        observations = model.observation_codec.to_env(rows.observations)
        for t in range(len(rows.rewards)):
            shown = pick(observations, t)
            if t == 0 or rows.is_first[t]:
                recorder.start(stream, shown)
            else:
                terminated, ended = bool(rows.is_terminal[t]), bool(rows.is_last[t])
                recorder.step(stream, actions[t - 1], shown, rows.rewards[t], terminated, ended and not terminated)
            count += 1
    return count


def _transition_rows(model: Any, recorder: EpisodeRecorder) -> int:
    """Transitions of SB3's replay buffers, whose actions lie in [-1, 1]."""
    buffer, space = model.replay_buffer, model.action_space
    held = buffer.buffer_size if buffer.full else buffer.pos
    order = (np.arange(held) + (buffer.pos if buffer.full else 0)) % buffer.buffer_size
    overlapping = getattr(buffer, "optimize_memory_usage", False)
    if overlapping:
        warnings.warn(
            "A replay with optimize_memory_usage=True does not keep the observations at which episodes ended: the data set "
            "has no terminations, and lacks the last step of every episode."
        )
        order = order[1:] if buffer.full else order  # the observation at pos is the newest one's next
    elif not buffer.handle_timeout_termination:
        warnings.warn("The replay has handle_timeout_termination=False: every end of an episode counts as its termination.")
    for stream in range(buffer.n_envs):
        expected: Any = None  # where the episode goes on
        for slot in order:
            obs = _slot(buffer.observations, slot, stream, model.observation_space)
            if expected is None or not _equal(obs, expected):  # not equal: a new call of learn has reset the environment
                recorder.start(stream, obs)
            done, timeout = bool(buffer.dones[slot, stream]), bool(buffer.timeouts[slot, stream])
            if overlapping and done:
                expected = None
                continue
            following = buffer.observations if overlapping else buffer.next_observations
            next_slot = (slot + 1) % buffer.buffer_size if overlapping else slot
            after = _slot(following, next_slot, stream, model.observation_space)
            action = buffer.actions[slot, stream]
            if isinstance(space, spaces.Box):
                action = np.clip(space.low + (action + 1.0) / 2.0 * (space.high - space.low), space.low, space.high)
            action = np.asarray(action).reshape(space.shape or ()).astype(space.dtype)
            recorder.step(stream, action, after, buffer.rewards[slot, stream], done and not timeout, done and timeout)
            expected = None if done else after
    return int(held)


def _slot(observations: Any, slot: int, stream: int, space: spaces.Space) -> Any:
    """An observation as the space has it: SB3 keeps a choice as an array of one."""
    if isinstance(space, spaces.Dict):
        return {name: _slot(observations[name], slot, stream, part) for name, part in space.spaces.items()}
    return observations[slot, stream].reshape(space.shape or ())


def _equal(obs: Any, other: Any) -> bool:
    if isinstance(obs, dict):
        return all(np.array_equal(part, other[name]) for name, part in obs.items())
    return np.array_equal(obs, other)


def from_minari(dataset: Any) -> EpisodeDataset:
    """
    :param dataset: an id of Minari's (``"D4RL/pointmaze/umaze-v2"``), which is downloaded if it is not there, or a
        ``minari.MinariDataset``
    :return: its episodes
    :raises ImportError: Minari is not installed, and an id was given
    """
    if isinstance(dataset, str):
        try:
            import minari
        except ImportError as missing:
            raise ImportError('from_minari("...") needs Minari: pip install minari.') from missing
        dataset = minari.load_dataset(dataset, download=True)
    recorder = EpisodeRecorder(dataset.observation_space, dataset.action_space)
    for episode in dataset.iterate_episodes():
        recorder.start(0, pick(episode.observations, 0))
        for t in range(len(episode.rewards)):
            obs = pick(episode.observations, t + 1)
            ends = bool(episode.terminations[t]), bool(episode.truncations[t])
            recorder.step(0, episode.actions[t], obs, episode.rewards[t], *ends)
    return recorder.dataset()
