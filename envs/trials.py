"""Several episodes of one task: a trial, of which the observation itself tells."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

TRIAL, REWARD, ACTION = "trial", "reward", "action"
"""Keys that :class:`TrialWrapper` adds to an observation."""


class TrialWrapper(gym.Wrapper[dict[str, Any], Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Keep a task for several episodes, and tell of it in the observation, which becomes a dictionary:

    - ``"obs"``: the environment's own (or the keys of its dictionary);
    - ``"trial"``: two bits, ``[a trial starts here, an episode starts here]``;
    - ``"reward"``: the reward of the step before, also across the border of two episodes; 0 where a trial starts;
    - ``"action"``, if asked for: the action of the step before, one-hot if it is a choice; 0 where a trial starts.

    So whoever sees observations (a replay, ``predict``, vectors of environments) knows where a task ends, without a channel
    of its own, as in RL² (Duan et al. 2016, https://arxiv.org/abs/1611.02779). Every reset counts: the first one and every
    ``episodes``-th after it start a trial, all others ask for ``reset(options={"same_task": True})``. Put it around the time
    limit, not into it: ``TrialWrapper(gym.make("envs:MetaPendulum-v0"), episodes=2)``.

    :param env: draws a new task at every reset, unless it is told to keep it by the option above
    :param episodes: episodes of a trial
    :param show_action: add the last action, for agents that do not know it otherwise
    :raises ValueError: fewer than one episode, an observation that has such keys already, or an action space that is neither
        a Box nor Discrete where it is to be shown
    """

    def __init__(self, env: gym.Env[Any, Any], episodes: int = 2, show_action: bool = False) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, episodes=episodes, show_action=show_action)
        gym.Wrapper.__init__(self, env)
        if not isinstance(episodes, int | np.integer) or isinstance(episodes, bool) or episodes < 1:
            raise ValueError(f"episodes must be a whole number of at least 1, got {episodes!r}.")
        self.episodes, self.show_action = int(episodes), show_action
        inner = env.observation_space
        parts = dict(inner.spaces) if isinstance(inner, spaces.Dict) else {"obs": inner}
        added: dict[str, spaces.Space[Any]] = {
            TRIAL: spaces.MultiBinary(2),
            REWARD: spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
        if show_action:
            added[ACTION] = _action_space(env.action_space)
        taken = sorted(parts.keys() & added.keys())
        if taken:
            raise ValueError(f"The observation has the keys {taken} already, which TrialWrapper adds: rename them.")
        self.observation_space = spaces.Dict({**parts, **added})
        self._is_dict = isinstance(inner, spaces.Dict)
        self._episode = -1
        self._reward, self._action = 0.0, self._no_action()

    @property
    def trial_episodes(self) -> int:
        """Episodes of a trial, by a name that tells these environments from others."""
        return self.episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the next episode of the trial, or the next trial.

        :param seed: passed on; a seed starts a trial
        :param options: passed on; ``{"new_trial": True}`` starts a trial
        :return: observation, the environment's info
        """
        options = dict(options or {})
        new = bool(options.pop("new_trial", False)) or seed is not None or self._episode < 0
        self._episode = 0 if new else (self._episode + 1) % self.episodes
        if self._episode == 0:
            self._reward, self._action = 0.0, self._no_action()
        else:
            options["same_task"] = True
        obs, info = self.env.reset(seed=seed, options=options or None)
        return self._show(obs, first=True), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """
        :param action: of the action space
        :return: observation, and what else the environment gives
        """
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._reward = float(reward)
        if self.show_action:
            self._action = self._encode(action)
        return self._show(obs, first=False), reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """:return: where in a trial it is, for :meth:`set_state`"""
        return {"episode": self._episode, "reward": self._reward, "action": self._action.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: what :meth:`get_state` returned
        """
        self._episode, self._reward, self._action = state["episode"], state["reward"], np.array(state["action"])

    def _show(self, obs: Any, first: bool) -> dict[str, Any]:
        shown = dict(obs) if self._is_dict else {"obs": obs}
        shown[TRIAL] = np.array([first and self._episode == 0, first], dtype=np.int8)
        shown[REWARD] = np.array([self._reward], dtype=np.float32)
        if self.show_action:
            shown[ACTION] = self._action.copy()
        return shown

    def _no_action(self) -> np.ndarray:
        space = self.observation_space[ACTION] if self.show_action else None  # type: ignore[index]
        return np.zeros(space.shape if space is not None else (), dtype=np.float32)

    def _encode(self, action: Any) -> np.ndarray:
        space = self.env.action_space
        if isinstance(space, spaces.Discrete):
            encoded = np.zeros(int(space.n), dtype=np.float32)
            encoded[int(action) - int(space.start)] = 1.0
            return encoded
        assert isinstance(space, spaces.Box)
        return np.clip(np.asarray(action, dtype=np.float32), space.low, space.high).reshape(space.shape).astype(np.float32)


def make_trials(env_id: str, episodes: int = 2, show_action: bool = False, **task: Any) -> TrialWrapper:
    """
    The entry point of the ids that are trials. The time limit is theirs, outside, where it restarts with every episode.

    :param env_id: of the tasks
    :param episodes: see :class:`TrialWrapper`
    :param show_action: likewise
    :param task: arguments of the tasks, their ranges for example
    :return: trials of these tasks
    """
    return TrialWrapper(gym.make(env_id, max_episode_steps=-1, **task), episodes, show_action)


def _action_space(space: spaces.Space[Any]) -> spaces.Box:
    """Of what is shown of an action: it has a place for 0, none yet."""
    if isinstance(space, spaces.Box):
        return spaces.Box(np.minimum(space.low, 0), np.maximum(space.high, 0), dtype=np.float32)
    if isinstance(space, spaces.Discrete):
        return spaces.Box(0.0, 1.0, (int(space.n),), np.float32)
    raise ValueError(f"show_action needs a Box or a Discrete action space, got {space}.")
