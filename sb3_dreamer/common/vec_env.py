"""Letting Stable-Baselines3 play in Gymnasium's batched environments."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_dreamer.common.preprocessing import is_picture

_FINAL_KEYS = frozenset({"final_obs", "_final_obs", "final_info", "_final_info"})


class VectorEnvAdapter(VecEnv):
    """A Gymnasium ``VectorEnv`` as a Stable-Baselines3 ``VecEnv``.

    >>> vector_env = gym.make_vec("envs:ContinuousPendulum-v0", num_envs=8)
    >>> model = PPO("MlpPolicy", VecMonitor(VectorEnvAdapter(vector_env)))

    SB3 expects an ended episode to be reset in the same step, so only vector environments in
    ``AutoresetMode.SAME_STEP`` fit: in ``NEXT_STEP`` mode every episode would carry one step whose action is ignored.
    Wrap the adapter in SB3's ``VecMonitor`` for episode returns and lengths.

    Where the vector environment has no separate sub-environments (one batch of arrays, as the toy tasks have), an
    attribute is that of the whole batch, repeated for each index, and a method is called once for the whole batch.

    :param vector_env: the environment to adapt
    :raises ValueError: the environment resets in another mode than ``SAME_STEP``
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(vector_env, VectorEnv):
            raise TypeError(
                f"vector_env must be a gymnasium.vector.VectorEnv, got {type(vector_env).__name__}. "
                "Single environments go into SB3's make_vec_env or DummyVecEnv."
            )
        mode = vector_env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"vector_env must reset in AutoresetMode.SAME_STEP, got metadata['autoreset_mode'] = {mode}. "
                'Make it with gym.make_vec(id, n, vectorization_mode="sync", '
                'vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}), or use SB3\'s make_vec_env.'
            )
        self.vector_env = vector_env
        self._actions: np.ndarray | None = None
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere, with the seeds and options set before.

        :return: observations, each array ``(num_envs, ...)``
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("options must be the same for all sub-environments: a VectorEnv takes one set for all.")
        # Both sides count seeds up from the first, so the first says it all.
        observations, infos = self.vector_env.reset(seed=self._seeds[0], options=deepcopy(options) or None)
        self.reset_infos = split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return deepcopy(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions for :meth:`step_wait`.

        :param actions: shape ``(num_envs, ...)``
        """
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Play one step.

        :return: observations ``(num_envs, ...)``, float32 rewards ``(num_envs,)``, dones ``(num_envs,)`` and one info
            dictionary for each sub-environment, with ``TimeLimit.truncated`` and, at an episode's end,
            ``terminal_observation``
        """
        observations, rewards, terminations, truncations, infos = self.vector_env.step(self._actions)
        dones = np.logical_or(terminations, truncations)
        final_observations = infos.get("final_obs")
        final_infos = split_infos(infos.get("final_info", {}), self.num_envs)
        outer_infos = {key: value for key, value in infos.items() if key not in _FINAL_KEYS}
        step_infos = split_infos(outer_infos, self.num_envs)
        for index in map(int, np.flatnonzero(dones)):
            if final_observations is None:
                raise ValueError(
                    f"vector_env ended the episode of sub-environment {index} without infos['final_obs'], which "
                    "AutoresetMode.SAME_STEP asks for."
                )
            # In the step that resets, the outer info is the new episode's and final_info the old one's.
            self.reset_infos[index] = step_infos[index]
            step_infos[index] = final_infos[index]
            step_infos[index]["terminal_observation"] = deepcopy(final_observations[index])
        for index, info in enumerate(step_infos):
            info["TimeLimit.truncated"] = bool(truncations[index] and not terminations[index])
        return deepcopy(observations), np.array(rewards, dtype=np.float32), dones, step_infos

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next reset: sub-environment ``i`` gets ``seed + i``.

        :param seed: the first seed, random if ``None``
        :return: the seed of each sub-environment
        """
        return super().seed(None if seed is None else int(seed))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Render every sub-environment.

        :return: ``num_envs`` RGB images, uint8 ``(height, width, 3)``, or ``None`` unless ``render_mode="rgb_array"``
        """
        if self.render_mode != "rgb_array":
            warnings.warn(f"Images need render_mode='rgb_array', but the environment was made with {self.render_mode!r}.")
            return [None] * self.num_envs
        frames: Any = self.vector_env.render()
        return list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Read an attribute.

        :param attr_name: name of the attribute
        :param indices: which sub-environments, all by default
        :return: one value for each index
        """
        base: Any = self.vector_env.unwrapped
        if hasattr(base, "get_attr"):
            values = base.get_attr(attr_name)
        else:
            holder = self.vector_env if hasattr(self.vector_env, attr_name) else base
            values = [getattr(holder, attr_name)] * self.num_envs
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Write an attribute.

        :param attr_name: name of the attribute
        :param value: the same value for every index
        :param indices: which sub-environments, all by default
        """
        sub_envs = self._sub_envs()
        if sub_envs is not None:
            for index in self._get_indices(indices):
                sub_envs[index].set_wrapper_attr(attr_name, value)
            return
        self._refuse_part(indices, "set_attr")
        base: Any = self.vector_env.unwrapped
        if hasattr(base, "set_attr"):
            base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(base, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list:
        """Call a method.

        :param method_name: name of the method
        :param method_args: its positional arguments
        :param indices: which sub-environments, all by default
        :param method_kwargs: its keyword arguments
        :return: one result for each index; of a batch without sub-environments the same result for each
        """
        sub_envs = self._sub_envs()
        if sub_envs is not None:
            targets = [sub_envs[index] for index in self._get_indices(indices)]
            return [env.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for env in targets]
        self._refuse_part(indices, "env_method")
        base: Any = self.vector_env.unwrapped
        if hasattr(base, "call"):
            return list(base.call(method_name, *method_args, **method_kwargs))
        return [getattr(base, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Tell whether sub-environments are inside a wrapper. Where they cannot be looked into, the answer is False.

        :param wrapper_class: the class to look for
        :param indices: which sub-environments, all by default
        :return: one answer for each index
        """
        sub_envs = self._sub_envs()
        return [sub_envs is not None and is_wrapped(sub_envs[i], wrapper_class) for i in self._get_indices(indices)]

    def _sub_envs(self) -> Sequence[gym.Env[Any, Any]] | None:
        """The single environments inside, where there are some in this process (``SyncVectorEnv``)."""
        return getattr(self.vector_env.unwrapped, "envs", None)

    def _refuse_part(self, indices: VecEnvIndices, caller: str) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(
                f"indices must name all {self.num_envs} sub-environments in {caller}(), got {indices}: "
                f"{self.vector_env} cannot address some of them only."
            )


def split_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Turn Gymnasium's dictionary of arrays into one dictionary for each sub-environment.

    :param infos: values of shape ``(num_envs, ...)`` or nested dictionaries of them; the mask ``_key`` tells which
        entries of ``key`` are set (all, if there is none)
    :param num_envs: number of sub-environments
    :return: ``num_envs`` dictionaries
    """
    result: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        values = split_infos(value, num_envs) if isinstance(value, dict) else value
        mask = infos.get(f"_{key}", np.ones(num_envs, dtype=bool))
        for index in np.flatnonzero(mask):
            result[index][key] = deepcopy(values[index])
    return result


def channels_first(space: spaces.Space) -> spaces.Space:
    """
    :param space: observations
    :return: the same with images channels first, as SB3 shows them to models
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: channels_first(part) for name, part in space.spaces.items()})
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and is_picture(space):
        if not is_image_space_channels_first(space):
            return VecTransposeImage.transpose_space(space)
    return space
