"""What agents collect in a task's first and second episode, where nothing but the first tells them of the task."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from meta_tasks import HELD_OUT, INSIDE, HeldOut, Line, held_out_tasks, plain_env, told_env, trial_env
from pendulum_optimum import optimal_returns
from stable_baselines3.common.env_util import make_vec_env

from envs import MetaPendulumEnv, TrialWrapper
from sb3_dreamer import Dreamer
from sb3_dreamer.world_models import ContextRSSM, MLPWorldModel

AGENT: dict[str, Any] = dict(batch_length=48, batch_size=16, train_ratio=192, device="cpu")
"""Alike for all: windows that cross from one episode into the next."""
TRIALS = 3
"""A task."""
Returns = np.ndarray
"""Of the first and the second episode, by task and trial: ``(tasks, TRIALS, 2)``."""
Make = Callable[..., gym.Env]


class Study:
    """
    The same tasks and the same steps for all methods of a seed.

    :param seed: of everything
    :param scale: of all numbers of steps, updates and tasks
    """

    inside: ClassVar[Mapping[str, Any]] = INSIDE
    """Ranges of the tasks to be trained on."""
    training: ClassVar[int] = 20_000
    """Steps."""
    agent: ClassVar[Mapping[str, Any]] = AGENT
    rl_squared_steps: ClassVar[int] = 5
    """Times as many."""
    rl_squared_batch: ClassVar[Mapping[str, int]] = dict(n_steps=400, batch_size=400)
    trial: ClassVar[Make] = staticmethod(trial_env)
    plain: ClassVar[Make] = staticmethod(plain_env)
    told_of: ClassVar[Make] = staticmethod(told_env)

    def __init__(self, seed: int, scale: float) -> None:
        self.seed, self.scale = seed, scale
        steps, self.tuning, n_test = (max(1, round(scale * n)) for n in (self.training, 100, 20))
        self.steps = max(steps, 440)  # some updates after the steps that are random
        self.tasks: Sequence[Any] = self.held_out(n_test)

    def held_out(self, n: int) -> Sequence[Any]:
        """:return: n tasks to be judged by, or more"""
        return held_out_tasks(n, self.seed)

    def dreamer(self, policy: str, make: Make, **policy_kwargs: Any) -> Dreamer:
        """:return: trained on tasks from inside"""
        env = make_vec_env(lambda: make(**self.inside), n_envs=4, seed=self.seed)
        pretrain = max(1, round(self.scale * 200))
        model = Dreamer(policy, env, policy_kwargs=policy_kwargs, seed=self.seed, pretrain_updates=pretrain, **self.agent)
        return model.learn(self.steps)

    # ---- methods: several that share an agent are found together

    def memoryless(self) -> dict[str, Returns]:
        """Sees the present observation alone, and cannot adapt."""
        agent = self.dreamer("MlpPolicy", self.plain, world_model_class=MLPWorldModel)
        return {"memoryless": returns_of_trials(agent, self.tasks, self.plain)}

    def recurrent(self) -> dict[str, Returns]:
        """Remembers its episode; and fine-tuned to the first one."""
        agent = self.dreamer("MlpPolicy", plain_env)
        return {"no context": returns_of_trials(agent, self.tasks, plain_env), "fine-tuned": self._fine_tuned(agent)}

    def _fine_tuned(self, agent: Dreamer) -> Returns:
        found = []
        with tempfile.TemporaryDirectory() as folder:
            agent.save(Path(folder) / "agent")
            for task in self.tasks:
                own = make_vec_env(lambda task=task: plain_env(**task.fixed), seed=HELD_OUT + task.number)
                tuned = Dreamer.load(Path(folder) / "agent", own, device="cpu")
                tuned.train_ratio = 1e-9  # an episode of the task without a lesson, then as many as wanted
                tuned.learn(200, reset_num_timesteps=False)
                tuned.adapt(self.tuning, last_rows=201)
                found.append(returns_of_trials(tuned, [task], plain_env))  # both episodes after the tuning
        return np.concatenate(found)

    def context(self) -> dict[str, Returns]:
        """Remembers its trial."""
        agent = self.dreamer("MultiInputPolicy", self.trial, world_model_class=ContextRSSM)
        return {"context": returns_of_trials(agent, self.tasks, self.trial)}

    def told(self) -> dict[str, Returns]:
        """An oracle that learns alike: what is unknown to the others is in its observation."""
        return {"told": returns_of_trials(self.dreamer("MlpPolicy", self.told_of), self.tasks, self.told_of)}

    def rl_squared(self) -> dict[str, Returns]:
        """
        RL² (Duan et al. 2016, https://arxiv.org/abs/1611.02779): a trial is one episode to the learner, whose memory lasts for
        it.
        """
        from sb3_contrib import RecurrentPPO

        env = make_vec_env(lambda: WholeTrial(self.trial(**self.inside, show_action=True)), n_envs=8, seed=self.seed)
        agent = RecurrentPPO("MultiInputLstmPolicy", env, **self.rl_squared_batch, seed=self.seed, device="cpu")
        agent.learn(self.rl_squared_steps * self.steps)
        return {
            f"RL², {self.rl_squared_steps} times the steps": returns_of_trials(
                agent, self.tasks, self.trial, whole=True, show_action=True
            )
        }

    def optimum(self) -> dict[str, Returns]:
        """Value iteration in the true dynamics, from the same starts: what the best agent collects who has always known."""
        found = []
        for task in self.tasks:
            starts = np.array([[_start(task, trial, episode) for episode in range(2)] for trial in range(TRIALS)])
            best = optimal_returns(task.mass, task.length, starts.reshape(-1, 2), grid=(121, 121, 15))
            found.append(best.reshape(TRIALS, 2))
        return {"optimum": np.stack(found)}


GROUPS = ("memoryless", "recurrent", "context", "told", "rl_squared", "optimum")
"""Methods of a study by the agent that they share."""


def run(group: str, seed: int, scale: float, kind: type[Study] = Study) -> list[Line]:
    """
    :param group: one of ``GROUPS``
    :param seed: of everything
    :param scale: of all numbers of steps, updates and tasks
    :param kind: of study
    :return: lines of its methods: returns of a task, means over the trials
    """
    study = kind(seed, scale)
    return [
        dict(seed=seed, method=name, tasks=task.where, task=task.number, first_return=first, second_return=second)
        for name, returns in getattr(study, group)().items()
        for task, (first, second) in zip(study.tasks, returns.mean(1), strict=True)
    ]


class WholeTrial(gym.Wrapper):
    """
    All episodes of a trial as one.

    :param env: tells of trials
    """

    def __init__(self, env: TrialWrapper) -> None:
        super().__init__(env)
        self.left = 0

    def reset(self, **kwargs: Any) -> Any:
        """:return: a trial's first observation, whatever went before"""
        self.left = self.env.get_wrapper_attr("episodes") - 1
        return self.env.reset(**{**kwargs, "options": {"new_trial": True}})

    def step(self, action: Any) -> Any:
        """:return: as an environment's; an episode's end is only to be seen in the observation"""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and self.left > 0:
            self.left -= 1
            return self.env.reset()[0], reward, False, False, info
        return obs, reward, terminated, truncated, info


def _seed(task: Any, trial: int) -> int:
    return HELD_OUT + TRIALS * task.number + trial


def _start(task: HeldOut, trial: int, episode: int) -> tuple[float, float]:
    """:return: angle and velocity in which an episode starts, whoever acts in it: the tasks draw nothing else"""
    env = MetaPendulumEnv(**task.fixed)
    obs, _ = env.reset(seed=_seed(task, trial))
    for _ in range(episode):
        obs, _ = env.reset()
    return float(np.arctan2(obs[1], obs[0])), float(obs[2])


def returns_of_trials(model: Any, tasks: Sequence[Any], make: Make, whole: bool = False, **kwargs: Any) -> Returns:
    """
    :param model: acts by ``predict`` alone, in all trials at once
    :param tasks: to be judged by
    :param make: makes the environment that the model knows
    :param whole: what it remembers goes from one episode to the next whatever it is told of starts
    :param kwargs: of the environment
    :return: of the first and the second episode
    """
    envs = [make(**task.fixed, **kwargs) for task in tasks for _ in range(TRIALS)]
    seeds = [_seed(task, trial) for task in tasks for trial in range(TRIALS)]
    state, returns = None, np.zeros((len(envs), 2))
    for episode in range(2):
        obs = [env.reset(seed=seed if episode == 0 else None)[0] for env, seed in zip(envs, seeds, strict=True)]
        start, over = np.full(len(envs), not (whole and episode)), False
        while not over:  # all end at the same step
            batch = {name: np.stack([o[name] for o in obs]) for name in obs[0]} if isinstance(obs[0], dict) else np.stack(obs)
            actions, state = model.predict(batch, state, start, deterministic=True)
            start = np.zeros(len(envs), dtype=bool)
            steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
            obs, over = [step[0] for step in steps], steps[0][2] or steps[0][3]
            returns[:, episode] += [float(step[1]) for step in steps]
    return returns.reshape(len(tasks), TRIALS, 2)
