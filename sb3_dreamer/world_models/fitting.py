"""Learning a world model from a data set alone."""

from __future__ import annotations

import copy
import math
import pathlib
import time
import warnings
from dataclasses import dataclass, field

import torch as th

from sb3_dreamer.common.arguments import check_whole
from sb3_dreamer.common.bookkeeping import seeded
from sb3_dreamer.world_models.dataset import EpisodeDataset
from sb3_dreamer.world_models.progress import ProgressBar
from sb3_dreamer.world_models.rows import Rows, check_dataset, episode_chunks
from sb3_dreamer.world_models.standalone import StandaloneWorldModel

PLATEAU = 3
"""Entries of the history without improvement after which the learning rate is halved."""


@dataclass
class FitHistory:
    """Losses along a fit."""

    updates: list[int] = field(default_factory=list)
    """Updates done at each entry."""
    train: dict[str, list[float]] = field(default_factory=dict)
    """Unweighted losses by name, ``"total"`` weighted: means over the updates since the entry before."""
    validation: dict[str, list[float]] = field(default_factory=dict)
    """The same on the validation episodes; empty without any."""
    best_update: int | None = None
    """Whose weights the model has now; None for the last's (no validation)."""
    stopped_early: bool = False
    seconds: float = 0.0

    def add(self, updates: int, train: dict[str, float], validation: dict[str, float]) -> None:
        """
        :param updates: done
        :param train: losses by name
        :param validation: losses by name
        """
        self.updates.append(updates)
        for kept, found in ((self.train, train), (self.validation, validation)):
            for name, value in found.items():
                kept.setdefault(name, []).append(value)


def fit(
    model: StandaloneWorldModel,
    dataset: EpisodeDataset,
    updates: int | None = None,
    epochs: float | None = None,
    validation: float | EpisodeDataset | None = 0.1,
    batch_size: int = 32,
    batch_length: int = 16,
    learning_rate: float = 1e-3,
    max_grad_norm: float | None = 100.0,
    eval_every: int | None = None,
    patience: int | None = 10,
    checkpoint: str | pathlib.Path | None = None,
    progress_bar: bool = False,
    seed: int | None = 0,
) -> FitHistory:
    """
    Learn from windows of the data set, drawn uniformly. As in a replay, every row keeps the latent state last found for it,
    from which windows that begin in the middle of an episode start. A model that has been fitted goes on from where it is.

    Scales of observations and rewards are those of the first fit.

    With validation, the weights of the best validation loss are those the model has in the end, and learning stops when it
    has not improved for some evaluations.

    :param model: from :meth:`StandaloneWorldModel.from_spaces`
    :param dataset: episodes of the same spaces
    :param updates: gradient steps; by default as many as the epochs make
    :param epochs: how often each row is seen on average; 50 if neither is given
    :param validation: episodes to judge by, or a share of the data set's, which is not learnt from then; None for none
    :param batch_size: windows a batch
    :param batch_length: rows a window
    :param learning_rate: of Adam; falls to a tenth along a cosine, and by half after every three entries of the history
        without improvement
    :param max_grad_norm: largest norm of the gradient, None for no limit
    :param eval_every: updates between two entries of the history; a twentieth of all by default
    :param patience: entries without improvement after which to stop; None to go on to the end
    :param checkpoint: file for the best model so far (``.pt``), written at every improvement
    :param progress_bar: show one
    :param seed: of the windows, samples and validation episodes drawn; None for torch's own random numbers
    :return: losses along the way
    :raises ValueError: a model that an agent learns with, spaces that are not the model's, episodes that are too short,
        arguments that cannot work
    :raises FloatingPointError: the loss became NaN or infinite; the model has the best weights so far
    """
    if updates is not None and epochs is not None:
        raise ValueError("Give updates or epochs, not both.")
    whole = dict(updates=updates, batch_size=batch_size, batch_length=batch_length, eval_every=eval_every, patience=patience)
    check_whole(**{name: value for name, value in whole.items() if value is not None})
    _check_positive(epochs=epochs, learning_rate=learning_rate, max_grad_norm=max_grad_norm)
    check_dataset(model, dataset)
    if type(model).fit is not StandaloneWorldModel.fit:
        raise ValueError(f"A {type(model).__name__} learns in its own way: call its method fit().")
    if not hasattr(model, "_arguments"):
        raise ValueError("This model belongs to an agent, which would not know of it: fit one made by from_spaces instead.")
    if checkpoint is not None:
        model.file_header()  # an error now is better than after the first updates
    if batch_length < 2:
        raise ValueError(f"batch_length must be at least 2, as models learn from a row to the next, got {batch_length}.")
    batch_size, batch_length = int(batch_size), int(batch_length)
    train, held_out = _split(model, dataset, validation, batch_length, seed)
    rows = Rows(train, model)
    validation_rows = None if held_out is None else Rows(held_out, model)
    if updates is None:
        updates = max(1, math.ceil((50 if epochs is None else epochs) * len(rows) / (batch_size * batch_length)))
    updates = int(updates)
    every = max(1, updates // 20) if eval_every is None else eval_every

    if not model._statistics_known:  # later ones would change what the weights have learnt
        model.update_statistics(rows.obs, rows.reward)
    history, begin = FitHistory(), time.perf_counter()
    course = _Course(model, history, patience, checkpoint)
    optimizer = th.optim.Adam(model.parameters(), lr=learning_rate, eps=1e-6, fused=True)
    sums: dict[str, th.Tensor] = {}
    try:
        with seeded(model.device, seed), ProgressBar(updates, "update", "fit", progress_bar) as bar:
            if model._statistics_known and validation_rows is not None:  # a model that is good already is to beat
                course.best = validation_losses(model.eval(), validation_rows)["total"]
            model._statistics_known, model._fitted_to = True, train
            places = len(rows) - batch_length + 1  # anywhere: windows cross the borders of episodes, as in a replay
            for update in range(1, updates + 1):
                model.train()
                for group in optimizer.param_groups:
                    falling = 0.55 + 0.45 * math.cos(math.pi * (update - 1) / updates)
                    group["lr"] = course.slower * learning_rate * falling
                starts = th.randint(places, (batch_size,), device=model.device)
                losses = _update(model, rows, starts, batch_length, optimizer, max_grad_norm)
                for name, loss in losses.items():
                    sums[name] = sums[name] + loss if name in sums else loss
                if update % every and update < updates:
                    continue
                done = update - (history.updates[-1] if history.updates else 0)
                found = {name: float(total) / done for name, total in sums.items()}
                sums = {}
                model.eval()
                judged = {} if validation_rows is None else validation_losses(model, validation_rows)
                if not all(map(math.isfinite, (*found.values(), *judged.values()))):
                    raise FloatingPointError(
                        f"A loss became NaN or infinite by update {update}: {found}. Lower learning_rate={learning_rate}, or "
                        "look at the scale of the data. The model has the best weights so far."
                    )
                bar.show(update, loss=judged.get("total", found["total"]))
                if course.is_over(update, found, judged):
                    break
    finally:  # also when interrupted
        model.load_state_dict(course.kept)
        model.eval()
        history.seconds = time.perf_counter() - begin
    return history


class _Course:
    """
    How a fit goes: the best weights so far, when to slow down, when to stop.

    :param model: that learns
    :param history: to be written
    :param patience: entries without improvement after which to stop
    :param checkpoint: file for the best model so far
    """

    def __init__(
        self,
        model: StandaloneWorldModel,
        history: FitHistory,
        patience: int | None,
        checkpoint: str | pathlib.Path | None,
    ) -> None:
        self.model, self.history, self.patience, self.checkpoint = model, history, patience, checkpoint
        self.best, self.since, self.slower = math.inf, 0, 1.0
        self.kept = copy.deepcopy(model.state_dict())

    def is_over(self, update: int, train: dict[str, float], validation: dict[str, float]) -> bool:
        """
        :param update: number of updates done
        :param train: losses since the entry before
        :param validation: losses, empty without any
        :return: whether to stop
        """
        self.history.add(update, train, validation)
        score = validation.get("total", train["total"])
        self.since = 0 if score < self.best else self.since + 1
        if self.since and self.since % PLATEAU == 0:
            self.slower /= 2
        if not validation or score < self.best:
            self.kept = copy.deepcopy(self.model.state_dict())
            self.history.best_update = update if validation else None
            if self.checkpoint is not None:
                self.model.save(self.checkpoint)
        self.best = min(self.best, score)
        self.history.stopped_early = self.patience is not None and self.since >= self.patience
        return self.history.stopped_early


def _update(
    model: StandaloneWorldModel,
    rows: Rows,
    starts: th.Tensor,
    length: int,
    optimizer: th.optim.Optimizer,
    max_grad_norm: float | None,
) -> dict[str, th.Tensor]:
    """One gradient step. :return: the losses by name and their weighted ``"total"``, scalars"""
    batch, numbers = rows.windows(starts, length)
    states, losses, _ = model.loss(batch)
    total = model.total_loss(losses)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = th.nn.utils.clip_grad_norm_(parameters, math.inf if max_grad_norm is None else max_grad_norm)
    if bool(th.isfinite(norm)):  # else the step would spoil the weights for good
        optimizer.step()
        rows.keep_latents(numbers, states)
    found = {name: loss.detach().mean() for name, loss in losses.items()}
    return {**found, "total": total.detach()}


@th.no_grad()
def validation_losses(model: StandaloneWorldModel, rows: Rows) -> dict[str, float]:
    """
    :param model: in evaluation mode
    :param rows: of episodes, each gone through from its start
    :return: mean losses by name and their weighted ``"total"``
    """
    sums: dict[str, float] = {}
    total_rows = 0.0
    with seeded(model.device, 0):  # the same samples every time
        for chunk, found in episode_chunks(rows, model):
            states, losses, _ = model.loss(chunk.batch)
            found.append(states)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float((loss * chunk.valid).sum())
            total_rows += float(chunk.valid.sum())
    means = {name: value / total_rows for name, value in sums.items()}
    return {**means, "total": sum(model.loss_scales[name] * value for name, value in means.items())}


def _check_positive(**arguments: float | None) -> None:
    for name, number in arguments.items():
        if number is not None and not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be positive, got {number!r}.")


def _split(
    model: StandaloneWorldModel,
    dataset: EpisodeDataset,
    validation: float | EpisodeDataset | None,
    batch_length: int,
    seed: int | None,
) -> tuple[EpisodeDataset, EpisodeDataset | None]:
    """:return: what to learn from and what to judge by"""
    if isinstance(validation, EpisodeDataset):
        check_dataset(model, validation)
        train, held_out = dataset, validation
    elif validation is None:
        train, held_out = dataset, None
    elif not 0 < validation < 1:
        raise ValueError(f"validation must be episodes, a share between 0 and 1, or None, got {validation!r}.")
    elif dataset.n_episodes < 2:
        warnings.warn("The data set has a single episode, none is left for validation: the last weights are kept.")
        train, held_out = dataset, None
    else:
        train, held_out = dataset.split(validation, seed)
    if len(train) < batch_length:
        raise ValueError(
            f"batch_length={batch_length} is longer than the {len(train)} rows there are to learn from: lower it, or collect "
            "more steps."
        )
    return train, held_out
