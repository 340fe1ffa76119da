"""Every way in which the toy tasks' ids must become known, in this process and in workers."""

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import envs

ROOT = Path(envs.__file__).parents[1]


def run_python(code):
    """Run code in a new interpreter beside the packages; fails with its error output."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_ids():
    assert envs.TASK_IDS == (
        "ContinuousPendulum-v0",
        "ContinuousCartPole-v0",
        "SequenceMemory-v0",
        "ContinuousPendulumNoVelocity-v0",
        "ContinuousPendulumSparse-v0",
        "DelayedRecall-v0",
        "ContinuousPendulumPixels-v0",
        "FourRooms-v0",
        "PinPad-v0",
    )
    assert envs.__sb3_dreamer_toy_tasks__ is True


@pytest.mark.parametrize("task_id", envs.TASK_IDS)
@pytest.mark.parametrize("prefix", ["", "envs:"])
def test_make(task_id, prefix):
    env = gym.make(prefix + task_id)
    assert env.spec.id == task_id
    assert EnvSpec.from_json(env.spec.to_json()).make().observation_space == env.observation_space


@pytest.mark.parametrize("task_id", envs.TASK_IDS)
def test_make_vec(task_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make_vec(f"envs:{task_id}", num_envs=2)
    assert isinstance(env, envs.ToyVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.max_episode_steps == gym.spec(task_id).max_episode_steps
    assert env.metadata["render_fps"] == gym.make(task_id).metadata["render_fps"]
    assert isinstance(gym.make_vec(task_id, num_envs=2, vectorization_mode="sync"), SyncVectorEnv)


def test_constructor_arguments_pass_through():
    assert gym.make("envs:DelayedRecall-v0", num_cues=7).action_space.n == 7
    assert gym.make_vec("envs:DelayedRecall-v0", num_envs=2, num_cues=7).single_action_space.n == 7
    assert gym.make("envs:PinPad-v0", pads=5).observation_space.shape == (7,)
    assert gym.make_vec("envs:PinPad-v0", num_envs=2, pads=5).observation_space.shape == (2, 7)


def test_registering_again_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs.register_tasks()


def test_prefix_alone_registers():
    run_python("import gymnasium; gymnasium.make('envs:SequenceMemory-v0').reset(seed=0)")


def test_importing_the_main_package_registers():
    run_python("import sb3_dreamer, gymnasium; gymnasium.make('SequenceMemory-v0').reset(seed=0)")


def test_envs_is_light():
    """The tasks need Gymnasium and NumPy; all else stays unloaded until it is used."""
    run_python(
        "import sys, envs; envs.ContinuousPendulumEnv().reset(seed=0); "
        "heavy = {'torch', 'stable_baselines3', 'sb3_dreamer', 'pygame'} & set(sys.modules); assert not heavy, heavy"
    )


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_subprocess_workers_know_the_id(start_method):
    env = make_vec_env(
        "envs:ContinuousPendulum-v0",
        2,
        seed=0,
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": start_method},
    )
    try:
        assert env.reset().shape == (2, 3)
        for _ in range(2):
            observations, rewards, dones, _ = env.step(np.zeros((2, 1), np.float32))
        assert observations.shape == (2, 3) and (rewards < 0).all() and not dones.any()
    finally:
        env.close()
