"""How well the next step is predicted in a task's second episode, where the first one is all that is known of the task."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from meta_tasks import HELD_OUT, INSIDE, Line, held_out_tasks, trial_env

from sb3_dreamer.world_models import RSSM, ContextRSSM, EpisodeDataset, MLPWorldModel, StandaloneWorldModel, collect
from sb3_dreamer.world_models.rows import Rows

EPISODE = 100
"""Steps of an episode of random actions."""
INNER = 10
"""Updates by which Reptile and FOMAML try a start out on a task."""
Model = StandaloneWorldModel
Adapt = Callable[[EpisodeDataset], Model]
"""Makes a model for a task of its first episode."""


class Study:
    """
    What all methods of a seed learn from: trials of random actions.

    :param seed: of everything
    :param scale: of all numbers of updates and tasks
    """

    def __init__(self, seed: int, scale: float) -> None:
        th.manual_seed(seed)
        n_tasks, self.updates, self.tuning, self.n_test = (max(1, round(scale * n)) for n in (300, 6000, 100, 20))
        self.seed = seed
        self.trials = collect(trial_env(EPISODE, **INSIDE), None, n_tasks * 2 * EPISODE, seed=seed)
        self.plain = without_trials(self.trials)
        self.deviation = self.plain.observations["obs"].std(0)

    def make(self, kind: type[Model], data: EpisodeDataset) -> Model:
        """:return: a model that has learnt nothing"""
        return kind.from_spaces(data.observation_space, data.action_space, size="toy", seed=self.seed)

    def fitted(self, kind: type[Model], data: EpisodeDataset) -> Model:
        """:return: a model that has learnt from all tasks"""
        model = self.make(kind, data)
        model.fit(data, self.updates, validation=None, batch_size=16, batch_length=48, learning_rate=2e-3, seed=self.seed)
        return model

    def tuned(self, model: Model) -> Adapt:
        """:return: what fine-tunes the model to an episode"""
        return lambda episode: tune(copy.deepcopy(model), episode, self.tuning)

    # ---- methods: several that share a model are found together

    def context(self) -> dict[str, Adapt]:
        """A context that is carried from the first episode into the second."""
        model = self.fitted(ContextRSSM, self.trials)
        return {"context": lambda episode: model}

    def recurrent(self) -> dict[str, Adapt]:
        """The same without a context, which begins anew with every episode; and fine-tuned."""
        model = self.fitted(RSSM, self.plain)
        return {"recurrent, no context": lambda episode: model, "recurrent, fine-tuned": self.tuned(model)}

    def average(self) -> dict[str, Adapt]:
        """A model without memory; fine-tuned; and from starts that were learnt for being fine-tuned."""
        model = self.fitted(MLPWorldModel, self.plain)
        tasks = max(1, self.updates // INNER)
        return {
            "average": lambda episode: model,
            "average, fine-tuned": self.tuned(model),
            "Reptile, fine-tuned": self.tuned(reptile(copy.deepcopy(model), self.plain, tasks)),
            "FOMAML, fine-tuned": self.tuned(fomaml(copy.deepcopy(model), self.plain, tasks)),
        }

    def scratch(self) -> dict[str, Adapt]:
        """A model without memory that knows the one episode alone."""

        def learnt(episode: EpisodeDataset) -> Model:
            fresh = self.make(MLPWorldModel, episode)
            rows = Rows(episode, fresh)
            fresh.update_statistics(rows.obs, rows.reward)
            return tune(fresh, episode, 4 * self.tuning)

        return {"average, from scratch": learnt}

    def judge(self, methods: dict[str, Adapt]) -> list[Line]:
        """:return: errors on the held-out tasks, a line a method and task"""
        lines = []
        for task in held_out_tasks(self.n_test, self.seed):
            trial = collect(trial_env(EPISODE, **task.fixed), None, 2 * EPISODE, seed=HELD_OUT + task.number)
            for name, adapt in methods.items():
                seen = trial if name == "context" else without_trials(trial)
                found = step_errors(adapt(seen.episodes([0])), seen, self.deviation)
                lines.append(dict(seed=self.seed, method=name, tasks=task.where, task=task.number, **found))
        return lines


GROUPS: dict[str, Callable[[Study], dict[str, Adapt]]] = {
    "context": Study.context,
    "recurrent": Study.recurrent,
    "average": Study.average,
    "scratch": Study.scratch,
}
"""Methods by the model that they share."""


def run(group: str, seed: int, scale: float) -> list[Line]:
    """
    :param group: one of ``GROUPS``
    :param seed: of everything
    :param scale: of all numbers of updates and tasks
    :return: lines of its methods
    """
    study = Study(seed, scale)
    return study.judge(GROUPS[group](study))


def without_trials(data: EpisodeDataset) -> EpisodeDataset:
    """:return: the same episodes as one sees them who is told nothing of trials"""
    space: Any = data.observation_space
    return dataclasses.replace(data, observation_space=space["obs"], observations={"obs": data.observations["obs"]})


@th.no_grad()
def step_errors(model: Model, trial: EpisodeDataset, scale: np.ndarray) -> Line:
    """
    :param model: filters both episodes, and predicts the next observation at each row
    :param trial: two episodes
    :param scale: deviation of each number of an observation
    :return: root mean squares of the errors in units of the scale, means over the numbers of an observation; and velocities'
    """
    model.eval()
    rows = Rows(trial, model)
    batch = rows.batch(th.arange(len(rows))[None], model.initial_state(1))
    states = model.observe(batch, deterministic=True).map(lambda part: part[0, :-1])
    ahead = model.imagine(batch.prev_action[0, 1:, None], states, 1, deterministic=True).states.map(lambda part: part[:, 1])
    error = ((model.decode(ahead)["obs"] - batch.obs["obs"][0, 1:]).numpy() / scale) ** 2
    border = int(np.flatnonzero(trial.is_first)[1])  # the row before is not followed by the one after
    first, second = error[: border - 1], error[border:]
    parts = dict(first_episode=first, first_10_steps=first[:10], second_episode=second, second_10_steps=second[:10])
    found = {name: float(np.sqrt(part.mean(0)).mean()) for name, part in parts.items()}
    return {**found, "second_velocity": float(np.sqrt(second[:, 2].mean()))}


def window_loss(model: Model, rows: Rows) -> th.Tensor:
    """:return: the loss on 16 windows of 16 rows, drawn at random"""
    batch, numbers = rows.windows(th.randint(len(rows) - 16 + 1, (16,)), 16)
    states, losses, _ = model.loss(batch)
    rows.keep_latents(numbers, states)
    return model.total_loss(losses)


def take_step(model: Model, optimizer: th.optim.Optimizer) -> None:
    """A step of the optimizer along the gradients, whose norm is limited."""
    th.nn.utils.clip_grad_norm_([part for part in model.parameters() if part.grad is not None], 100.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def tune(model: Model, data: EpisodeDataset, updates: int, learning_rate: float = 1e-3) -> Model:
    """:return: the model itself, after so many steps of Adam on windows of the data"""
    rows, optimizer = Rows(data, model), th.optim.Adam(model.parameters(), learning_rate)
    model.train()
    for _ in range(updates):
        window_loss(model, rows).backward()
        take_step(model, optimizer)
    return model


def reptile(model: Model, data: EpisodeDataset, tasks: int) -> Model:
    """Go towards weights tuned to one task after another (Nichol et al. 2018, https://arxiv.org/abs/1803.02999)."""
    rng = np.random.default_rng(0)
    for i in range(tasks):
        trial = 2 * int(rng.integers(data.n_episodes // 2))
        tuned = tune(copy.deepcopy(model), data.episodes([trial, trial + 1]), INNER)
        with th.no_grad():
            for weight, target in zip(model.parameters(), tuned.parameters(), strict=True):
                weight.lerp_(target, 0.5 * (1 - i / tasks))
    return model


def fomaml(model: Model, data: EpisodeDataset, tasks: int) -> Model:
    """
    Tune to a task's first episode, and take the gradient that its second one has there for that of the start: first-order
    MAML (Finn et al. 2017, https://arxiv.org/abs/1703.03400, section 5.2).
    """
    rng, outer = np.random.default_rng(0), th.optim.Adam(model.parameters(), 3e-4)
    for _ in range(tasks):
        trial = 2 * int(rng.integers(data.n_episodes // 2))
        tuned = tune(copy.deepcopy(model), data.episodes([trial]), INNER)
        window_loss(tuned, Rows(data.episodes([trial + 1]), tuned)).backward()
        for weight, there in zip(model.parameters(), tuned.parameters(), strict=True):
            weight.grad = there.grad
        take_step(model, outer)
    return model
