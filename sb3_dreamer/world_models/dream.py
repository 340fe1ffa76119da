"""A learned model as an environment: Gymnasium's, and SB3's VecEnv, so that any algorithm can be trained inside the dream."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_dreamer.common.arguments import check_whole
from sb3_dreamer.common.preprocessing import pick
from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models.dataset import EpisodeDataset
from sb3_dreamer.world_models.rows import Rows, check_dataset, filter_episodes, looking
from sb3_dreamer.world_models.standalone import StandaloneWorldModel
from sb3_dreamer.world_models.trajectories import actions_for_model, continue_probability


class DreamVecEnv(VecEnv):
    """
    Many dreams side by side, each step one batch through the model, on its device. A dream starts from the state of a row of
    the data set, goes on as the model's prior says, terminates where the model holds that more likely than not, and is
    truncated after ``max_episode_steps``. Observations are what the model decodes, clipped into the observation space; the
    first one is decoded as well.

    :param model: a fitted model
    :param starts: episodes to start from
    :param n_envs: dreams side by side
    :param max_episode_steps: length of a dream; None for that of the longest episode of the data
    :param start_from: ``"first"``: episodes' first rows; ``"any"``: any row but the last
    :param deterministic: modes instead of samples, of the states that dreams start from as well
    :param sample_ends: terminate with the probability that the model gives instead: right where ends are a matter of chance,
        but what little probability a model leaves to what never happens ends long dreams early
    :param seed: of starts and samples
    :raises ValueError: spaces that are not the model's, or arguments that cannot work
    """

    def __init__(
        self,
        model: StandaloneWorldModel,
        starts: EpisodeDataset,
        n_envs: int = 1,
        max_episode_steps: int | None = None,
        start_from: Literal["first", "any"] = "first",
        deterministic: bool = False,
        sample_ends: bool = False,
        seed: int | None = None,
    ) -> None:
        check_dataset(model, starts)
        check_whole(n_envs=n_envs, max_episode_steps=1 if max_episode_steps is None else max_episode_steps)
        if start_from not in ("first", "any"):
            raise ValueError(f"start_from must be 'first' or 'any', got {start_from!r}.")
        self.model, self.deterministic, self.sample_ends = model.eval(), deterministic, sample_ends
        self.render_mode: str | None = None
        super().__init__(n_envs, model.observation_space, model.action_space)
        lengths = np.diff(starts.bounds(), axis=1)[:, 0] - 1
        self.max_episode_steps = int(lengths.max()) if max_episode_steps is None else int(max_episode_steps)
        rows = Rows(starts, model)
        wanted = starts.is_first if start_from == "first" else ~starts.is_last.astype(bool)
        chosen = th.as_tensor(np.flatnonzero(wanted), device=model.device)
        with looking(model, 0 if seed is None else seed):
            self._starts = filter_episodes(rows, model, deterministic).map(lambda part: part[chosen])
        self._generator = th.Generator(model.device)
        self.seed(seed)
        self._state = self._starts.map(lambda part: part[:1].expand(n_envs, -1).clone())
        self._steps = np.zeros(n_envs, dtype=np.int64)
        self._actions: Any = None

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        :param seed: of starts and samples; None for a fresh one
        :return: the seeds of the dreams, all the same
        """
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._generator.manual_seed(seed)
        return [seed] * self.num_envs

    def _draw(self, count: int) -> LatentState:
        choice = th.randint(len(self._starts.deter), (count,), generator=self._generator, device=self._generator.device)
        return self._starts.map(lambda part: part[choice])

    @th.no_grad()
    def _decode(self, state: LatentState) -> Any:
        """Observations inside their space, one array or one a key."""
        decoded = self.model.observation_codec.from_tensors(self.model.decode(state))
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            return {name: _clip(part, space.spaces[name]) for name, part in decoded.items()}
        return _clip(decoded, space)

    @th.no_grad()
    def reset(self) -> Any:
        """:return: decoded first observations ``(n_envs, ...)``"""
        self._state = self._draw(self.num_envs)
        self._steps[:] = 0
        return self._decode(self._state)

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: of the action space, ``(n_envs, ...)``
        """
        self._actions = np.asarray(actions)

    @th.no_grad()
    def step_wait(self) -> VecEnvStepReturn:
        """:return: as every VecEnv: an ended dream's observation is the next one's first"""
        model, n = self.model, self.num_envs
        plan = actions_for_model(self._actions[:, None], model.action_codec, n, 1, False, model.device)
        rollout = model.unroll(plan, self._state, 1, self.deterministic, self._generator)
        self._state = rollout.states.map(lambda part: part[:, -1])
        rewards = model.predict_reward(self._state).cpu().numpy().astype(np.float32)
        goes_on = continue_probability(model, model.predict_discount(self._state))
        bar: th.Tensor | float = 0.5
        if self.sample_ends:
            bar = th.rand(goes_on.shape, generator=self._generator, device=goes_on.device)
        terminated = (goes_on < bar).cpu().numpy()
        self._steps += 1
        dones = terminated | (self._steps >= self.max_episode_steps)
        obs = self._decode(self._state)
        infos: list[dict[str, Any]] = [{} for _ in range(n)]
        ended = np.flatnonzero(dones).tolist()
        for i in ended:
            infos[i]["terminal_observation"] = _pick(obs, i)
            infos[i]["TimeLimit.truncated"] = not terminated[i]
        if len(ended):
            fresh = self._draw(len(ended))
            where = th.as_tensor(ended, device=model.device)
            self._state = LatentState(
                self._state.deter.index_copy(0, where, fresh.deter), self._state.stoch.index_copy(0, where, fresh.stoch)
            )
            self._steps[ended] = 0
            first = self._decode(fresh)
            for k, i in enumerate(ended):
                _put(obs, i, first, k)
        return obs, rewards, dones, infos

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """:return: the attribute of this environment, once for each dream asked for"""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of this environment, which all dreams share."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """:return: what the method of this environment returns, once for each dream asked for"""
        return [getattr(self, method_name)(*method_args, **method_kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """:return: False for each dream asked for"""
        return [False for _ in self._get_indices(indices)]


class DreamEnv(gym.Env):
    """
    One dream with Gymnasium's interface; see :class:`DreamVecEnv`, which has the same arguments but ``n_envs``.

    :param model: a fitted model
    :param starts: episodes to start from
    :param kwargs: of :class:`DreamVecEnv`
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (Gymnasium's attribute)

    def __init__(self, model: StandaloneWorldModel, starts: EpisodeDataset, **kwargs: Any) -> None:
        self._dreams = DreamVecEnv(model, starts, 1, **kwargs)
        self.observation_space, self.action_space = self._dreams.observation_space, self._dreams.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        :param seed: of starts and samples
        :param options: not used
        :return: the first observation, and nothing else to tell
        """
        super().reset(seed=seed)
        if seed is not None:
            self._dreams.seed(seed)
        return _pick(self._dreams.reset(), 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        :param action: of the action space
        :return: as Gymnasium's
        """
        obs, rewards, dones, infos = self._dreams.step(np.asarray(action)[None])
        last = infos[0]["terminal_observation"] if dones[0] else _pick(obs, 0)
        truncated = bool(dones[0]) and bool(infos[0]["TimeLimit.truncated"])
        return last, float(rewards[0]), bool(dones[0]) and not truncated, truncated, {}


def _clip(array: np.ndarray, space: spaces.Space) -> np.ndarray:
    if not isinstance(space, spaces.Box):
        return array
    if np.issubdtype(space.dtype, np.integer):
        array = np.rint(array)
    return np.clip(array, space.low, space.high).astype(space.dtype)


def _pick(obs: Any, i: int) -> Any:
    """A copy, as another dream's start will be written there."""
    return copy.deepcopy(pick(obs, i))


def _put(obs: Any, i: int, other: Any, k: int) -> None:
    if isinstance(obs, dict):
        for name, part in obs.items():
            part[i] = other[name][k]
    else:
        obs[i] = other[k]
