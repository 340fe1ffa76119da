"""A data set as tensors, and the windows and whole episodes that a world model sees of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_dreamer.common.bookkeeping import seeded
from sb3_dreamer.common.types import LatentState, SequenceBatch
from sb3_dreamer.common.vec_env import channels_first
from sb3_dreamer.common.world_model import WorldModel
from sb3_dreamer.world_models.dataset import FLAGS, SINGLE, EpisodeDataset
from sb3_dreamer.world_models.standalone import StandaloneWorldModel

PIECE_BYTES = 2**27
"""Of a piece's observations and features as floats, at most: networks make several times as much of them."""
ACTIVATIONS = 8
"""Numbers that networks keep for a feature, or about so."""


def check_dataset(model: StandaloneWorldModel, dataset: EpisodeDataset) -> None:
    """
    :param model: the model
    :param dataset: what it is to see
    :raises ValueError: it is empty, or of other spaces
    """
    if not hasattr(model, "observation_codec"):
        name = type(model).__name__
        raise ValueError(f"This {name} does not know its spaces: make it with {name}.from_spaces.")
    if len(dataset) == 0:
        raise ValueError("The data set is empty.")
    for name, ours, theirs in (
        ("observation_space", model.observation_space, channels_first(dataset.observation_space)),
        ("action_space", model.action_space, dataset.action_space),
    ):
        if ours != theirs:
            raise ValueError(f"The data set's {name} is {theirs}, the model's {ours}: fit a model made for these spaces.")


class Rows:
    """
    All rows of a data set as a model's inputs, with a latent state each, as a replay keeps them.

    :param dataset: the episodes
    :param model: the world model
    """

    def __init__(self, dataset: EpisodeDataset, model: StandaloneWorldModel) -> None:
        observation_codec, action_codec, device = model.observation_codec, model.action_codec, model.device
        parts = dataset.observations
        raw = observation_codec.transpose(parts if observation_codec.is_dict else parts[SINGLE])
        self.obs = observation_codec.to_tensors(observation_codec.to_arrays(raw), device)
        last = dataset.is_last.astype(bool)
        actions = np.array(dataset.actions)
        actions[last] = actions[~last][0]  # whatever stands there may be outside the space
        model_actions = action_codec.from_env(actions) * ~last[:, None]
        self.prev_action = th.as_tensor(np.roll(model_actions, 1, axis=0), device=device).float()
        self.reward = th.as_tensor(dataset.rewards, device=device).float()
        self.is_first, self.is_last, self.is_terminal = (
            th.as_tensor(getattr(dataset, name).astype(np.float32), device=device) for name in FLAGS
        )
        self.bounds = dataset.bounds()
        self.latents = LatentState(
            th.zeros(len(dataset), model.deter_size, device=device), th.zeros(len(dataset), model.stoch_size, device=device)
        )

    def __len__(self) -> int:
        return len(self.reward)

    def batch(self, rows: th.Tensor, initial: LatentState) -> SequenceBatch:
        """
        :param rows: their numbers, ``(B, T)``
        :param initial: states before them, ``(B, ...)``
        :return: the rows
        """
        return SequenceBatch(
            obs={name: part[rows] for name, part in self.obs.items()},
            prev_action=self.prev_action[rows],
            reward=self.reward[rows],
            is_first=self.is_first[rows],
            is_last=self.is_last[rows],
            is_terminal=self.is_terminal[rows],
            initial=initial,
        )

    def windows(self, starts: th.Tensor, length: int) -> tuple[SequenceBatch, th.Tensor]:
        """
        :param starts: first rows of windows, ``(B,)``
        :param length: T
        :return: the windows, which begin with the latent states kept of the rows before, and their rows' numbers ``(B, T)``
        """
        rows = starts[:, None] + th.arange(length, device=starts.device)
        before = (starts - 1).clamp_min(0)  # the very first row is an episode's first, which forgets it
        return self.batch(rows, self.latents.map(lambda part: part[before])), rows

    def keep_latents(self, rows: th.Tensor, states: LatentState) -> None:
        """
        :param rows: numbers, ``(B, T)``
        :param states: of these rows, ``(B, T, ...)``
        """
        self.latents.deter[rows] = states.deter.detach()
        self.latents.stoch[rows] = states.stoch.detach()


@dataclass(frozen=True)
class Chunk:
    """Some rows of several episodes, one episode a line."""

    batch: SequenceBatch
    """``(E, T, ...)``."""
    rows: th.Tensor
    """Their numbers, ``(E, T)``."""
    valid: th.Tensor
    """1 where a line's episode still runs, ``(E, T)``."""


def episode_chunks(rows: Rows, model: WorldModel, length: int = 64) -> Iterator[tuple[Chunk, list[LatentState]]]:
    """
    Go through whole episodes, as many side by side as memory allows, a piece at a time, each from the state where the one
    before ended. The caller appends the states found for the piece, ``(E, T, ...)``, to the list that comes with it.

    :param rows: the data
    :param model: gives the state before the first rows
    :param length: T, rows a piece
    :return: pieces
    """
    device = rows.reward.device
    numbers_a_row = sum(part[0].numel() for part in rows.obs.values()) + ACTIVATIONS * model.feat_size
    line_bytes = 4 * length * numbers_a_row
    most = max(1, PIECE_BYTES // line_bytes)
    for group in range(0, len(rows.bounds), most):
        first, end = (th.as_tensor(column, device=device) for column in rows.bounds[group : group + most].T)
        state, longest = model.initial_state(len(first)), int((end - first).max())
        for offset in range(0, longest, length):
            numbers = first[:, None] + th.arange(offset, min(offset + length, longest), device=device)
            valid = numbers < end[:, None]
            numbers = th.minimum(numbers, end[:, None] - 1)  # whatever stands there is not valid
            found: list[LatentState] = []
            yield Chunk(rows.batch(numbers, state), numbers, valid.float()), found
            state = found[0].map(lambda part: part[:, -1])


@th.no_grad()
def filter_episodes(rows: Rows, model: WorldModel, deterministic: bool = True) -> LatentState:
    """
    :param rows: the data, whose kept latents are replaced
    :param model: the world model
    :param deterministic: modes of the posteriors, no samples
    :return: posterior states of all rows, each episode filtered from its start, ``(N, ...)``
    """
    for chunk, found in episode_chunks(rows, model):
        states = model.observe(chunk.batch, deterministic)
        found.append(states)
        inside = chunk.valid.bool()
        rows.latents.deter[chunk.rows[inside]] = states.deter[inside]
        rows.latents.stoch[chunk.rows[inside]] = states.stoch[inside]
    return rows.latents


@contextmanager
def looking(model: WorldModel, seed: int = 0) -> Iterator[None]:
    """
    Inside, the model evaluates without gradients, with random numbers of a seed; afterwards it and the random numbers are as
    before.

    :param model: the model
    :param seed: of the random numbers
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with th.no_grad(), seeded(next(model.parameters()).device, seed):
            yield
    finally:
        for module, training in modes:
            module.training = training
