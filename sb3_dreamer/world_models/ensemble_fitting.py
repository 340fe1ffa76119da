"""Learning a probabilistic world model from single steps."""

from __future__ import annotations

import math
import numbers
import time

import torch as th
import torch.nn.functional as F

from sb3_dreamer.common.arguments import check_ranges, check_whole
from sb3_dreamer.common.bookkeeping import seeded
from sb3_dreamer.common.networks import bounded
from sb3_dreamer.world_models.dataset import EpisodeDataset
from sb3_dreamer.world_models.fitting import FitHistory
from sb3_dreamer.world_models.members import nats
from sb3_dreamer.world_models.probabilistic import ProbabilisticWorldModel
from sb3_dreamer.world_models.progress import ProgressBar
from sb3_dreamer.world_models.rows import Rows, check_dataset
from sb3_dreamer.world_models.transitions import Transitions, from_rows

BETTER = 0.01
"""Relative gain of the validation error that counts as one."""
MOST_HELD_OUT = 5000
TERMINATION_DECAY = 1e-3
"""Weight decay of what tells terminations: these are few, and are soon learnt by heart without it."""


def transitions_of(model: ProbabilisticWorldModel, dataset: EpisodeDataset) -> Transitions:
    """
    :param model: that will learn from them
    :param dataset: episodes of the same spaces
    :return: its steps, on the model's device
    :raises ValueError: the data set is empty or of other spaces
    """
    check_dataset(model, dataset)
    rows = Rows(dataset, model)
    action = bounded(rows.prev_action.roll(-1, 0))
    x = model.layout.join(rows.obs)
    return from_rows(x, action, rows.reward, rows.is_first, rows.is_last, rows.is_terminal)


def make_optimizer(model: ProbabilisticWorldModel, learning_rate: float = 1e-3) -> th.optim.Optimizer:
    """
    :param model: the model
    :param learning_rate: of all parameters
    :return: Adam with PETS' weight decay, and one for what tells terminations
    """
    head = dict(params=list(model.termination_head.parameters()), weight_decay=TERMINATION_DECAY)
    groups = [*model.members.parameter_groups(), head]
    return th.optim.Adam(groups, lr=learning_rate, fused=True)


def fit_transitions(
    model: ProbabilisticWorldModel,
    data: Transitions,
    updates: int | None = None,
    epochs: int | None = None,
    validation: float = 0.2,
    batch_size: int = 32,
    learning_rate: float | None = None,
    patience: int | None = 5,
    optimizer: th.optim.Optimizer | None = None,
    progress_bar: bool = False,
    seed: int | None = 0,
) -> FitHistory:
    """
    Learn from single steps. Every network of an ensemble goes through rows of its own, drawn with replacement from those not
    held out, in an order of its own; its weights are in the end those with which its own likelihood of the rows held out was
    greatest (but for 1 %). A model that has been fitted goes on from where it is; inputs and targets are normalised anew.

    :param model: from :meth:`StandaloneWorldModel.from_spaces`
    :param data: steps; of 5,000 and more held out, 5,000 are
    :param updates: gradient steps at most; by default as many as the epochs make
    :param epochs: of each row on average, at most; 100 if neither is given. With both, what comes first ends the fit
    :param validation: share of the rows to judge by, 0 for none: then the last weights are kept
    :param batch_size: rows a network and gradient step
    :param learning_rate: of Adam; None for 1e-3, or the given optimizer's own
    :param patience: epochs without an improvement by 1 % of any network after which to stop; None to go on to the end
    :param optimizer: from :func:`make_optimizer`, to keep its moments from one fit to the next; None for a new one
    :param progress_bar: show one
    :param seed: of all that is drawn; None for torch's own random numbers
    :return: losses along the way, an entry an epoch; ``"error"`` is the mean squared error of normalised targets
    :raises ValueError: too few rows, or arguments that cannot work
    :raises FloatingPointError: the loss became NaN or infinite; the model has the best weights so far, the optimizer nothing
    """
    whole = dict(updates=updates, epochs=epochs, batch_size=batch_size, patience=patience)
    check_whole(**{name: value for name, value in whole.items() if value is not None})
    check_ranges(positive={} if learning_rate is None else dict(learning_rate=learning_rate))
    if not isinstance(validation, numbers.Real) or not 0 <= validation < 1:
        raise ValueError(f"validation must be a share of the rows, from 0 to less than 1, got {validation!r}.")
    if optimizer is None:
        optimizer = make_optimizer(model, 1e-3 if learning_rate is None else learning_rate)
    elif learning_rate is not None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
    with seeded(model.device, seed):
        train, held_out = data.split(validation, MOST_HELD_OUT, th.default_generator)
        if len(train) < 2 or (validation > 0 and len(held_out) == 0):
            raise ValueError(f"{len(data)} steps are too few to learn from with validation={validation}: collect more.")
        fit = _Fit(model, data, train, held_out, optimizer, int(batch_size), patience)
        epochs = 100 if updates is None and epochs is None else epochs
        return fit.run(updates, epochs, progress_bar)


class _Fit:
    """One fit: the rows as the networks see them, the best weights so far, and when to stop."""

    def __init__(
        self,
        model: ProbabilisticWorldModel,
        data: Transitions,
        train: Transitions,
        held_out: Transitions,
        optimizer: th.optim.Optimizer,
        batch_size: int,
        patience: int | None,
    ) -> None:
        model.learn_statistics(data)
        self.model, self.members, self.optimizer = model, model.members, optimizer
        self.train, self.held_out = train, held_out
        self.inputs, self.targets = model.normalized(train)
        self.batch_size, self.patience = min(batch_size, len(train)), patience
        self.history = FitHistory()
        n = self.members.networks
        everything = th.arange(len(train), device=model.device).unsqueeze(0)
        self.draws = th.randint(len(train), (n, len(train)), device=model.device) if n > 1 else everything
        self.ends = bool(data.terminal.any()) and model.termination_fn is None
        if self.ends:  # they are rare: the head is to see them all
            self.draws = th.cat([self.draws, everything])
        self.best_error, _ = self.errors()
        self.best = [parameter.detach().clone() for parameter in self.members.parameters()]
        self.best_end_loss, self.best_head = self.end_loss(), self._head()

    # ---- one step

    def _end_loss(self, data: Transitions) -> th.Tensor:
        """:return: mean cross-entropy of the termination head, scalar"""
        logit = self.model.termination_logit(data.action, data.next_x)
        return F.binary_cross_entropy_with_logits(logit, data.terminal)

    def update(self, rows: th.Tensor) -> th.Tensor:
        """
        :param rows: of each network, then, if episodes end, of the termination head, ``(networks, n)`` or one more
        :return: the members' loss
        """
        own = rows[: self.members.networks]
        loss = self.members.loss(self.inputs[own], self.targets[own])
        total = loss
        if self.ends:
            total = loss + self._end_loss(self.train[rows[-1]])
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        return loss.detach()

    # ---- judging

    @th.no_grad()
    def errors(self) -> tuple[th.Tensor, float]:
        """
        Judged by the likelihood: by the squared error, fits would end long before the noise is learnt.

        :return: nats of each network on the rows held out, ``(networks,)``, and the mean squared error of all; infinite
            without any rows
        """
        n = self.members.networks
        if len(self.held_out) == 0:
            return th.full((n,), math.inf, device=self.inputs.device), math.inf
        inputs, targets = self.model.normalized(self.held_out)
        said = self.members.judge(inputs)
        return nats(said, targets).mean((1, 2)), float((said[0] - targets).square().mean())

    @th.no_grad()
    def end_loss(self) -> float:
        """:return: of the termination head on the rows held out"""
        if not self.ends or len(self.held_out) == 0:
            return math.inf
        return float(self._end_loss(self.held_out))

    def _head(self) -> list[th.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.termination_head.parameters()]

    def keep_the_best(self, errors: th.Tensor) -> bool:
        """
        :param errors: of the weights as they are, ``(networks,)``
        :return: whether anything has improved enough; without rows held out, the newest are the best
        """
        end_loss, judged = self.end_loss(), len(self.held_out) > 0
        # a share of the likelihood, as nats are its logarithm
        better = errors < self.best_error + math.log(1.0 - BETTER) if judged else th.ones_like(errors, dtype=th.bool)
        for kept, parameter in zip(self.best, self.members.parameters(), strict=True):
            if parameter.shape[:1] == better.shape and parameter.dim() == 3:  # one slice a network
                kept[better] = parameter.detach()[better]
            elif bool(better.any()):
                kept.copy_(parameter.detach())
        self.best_error = th.where(better, errors, self.best_error)
        ends_better = not judged or end_loss < self.best_end_loss * (1.0 - BETTER)
        if ends_better:
            self.best_end_loss, self.best_head = end_loss, self._head()
        return bool(better.any()) or ends_better

    # ---- all of it

    def run(self, updates: int | None, epochs: int | None, progress_bar: bool) -> FitHistory:
        """
        :param updates: at most
        :param epochs: at most
        :param progress_bar: show one
        :return: the history
        """
        per_epoch = max(1, len(self.train) // self.batch_size)
        most = min(int(count) for count in (updates, epochs and epochs * per_epoch) if count is not None)
        begin, done, since = time.perf_counter(), 0, 0
        self.model.train()
        try:
            with ProgressBar(most, "update", "fit", progress_bar) as bar:
                while done < most:
                    total = self.inputs.new_zeros(())
                    order = th.rand(self.draws.shape, device=self.draws.device).argsort(1)
                    shuffled = self.draws.gather(1, order)
                    count = min(per_epoch, most - done)
                    for i in range(count):
                        total += self.update(shuffled[:, i * self.batch_size : (i + 1) * self.batch_size])
                    done += count
                    mean = float(total) / count
                    if not math.isfinite(mean):
                        self.optimizer.state.clear()  # moments with NaN would spoil the next fit too
                        raise FloatingPointError(
                            f"The loss became NaN or infinite by update {done}. Lower learning_rate, or look at the scale of "
                            "the data. The model has the best weights so far."
                        )
                    errors, square = self.errors()
                    since = 0 if self.keep_the_best(errors) else since + 1
                    judged = {"error": square} if len(self.held_out) else {}
                    self.history.add(done, {"nats": mean}, judged)
                    bar.show(done, loss=judged.get("error", mean))
                    if self.patience is not None and len(self.held_out) and since >= self.patience:
                        self.history.stopped_early = True
                        break
        finally:  # also when interrupted
            self._settle()
            self.history.seconds = time.perf_counter() - begin
        return self.history

    @th.no_grad()
    def _settle(self) -> None:
        """The best weights, the elites, and what follows from the weights."""
        for parameter, kept in zip(self.members.parameters(), self.best, strict=True):
            parameter.copy_(kept)
        if self.ends:
            for parameter, kept in zip(self.model.termination_head.parameters(), self.best_head, strict=True):
                parameter.copy_(kept)
        if len(self.held_out) and self.members.networks > 1:
            self.model.elites.copy_(self.best_error.argsort()[: len(self.model.elites)])
        self.members.settle(self.inputs, self.targets)
        self.model.eval()
