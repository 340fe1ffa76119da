"""How probable a world model holds what was observed some steps ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_dreamer.common.types import LatentState
from sb3_dreamer.world_models.rows import Rows
from sb3_dreamer.world_models.standalone import StandaloneWorldModel

FACTORS = tuple(float(factor) for factor in np.geomspace(0.02, 2.0, 24))
"""Of the one-step errors, among which the decoder's noise is sought."""


@dataclass(frozen=True)
class LogLikelihood:
    """Mean log-densities of the numbers observed, in nats an observation."""

    model: float
    no_change: float
    """Of a normal around the present observation, as wide as observations change over that many steps."""
    mean: float
    """Of a normal with the data's mean and deviation."""


class LikelihoodJudge:
    """
    The density of numbers observed some steps ahead: a mixture of normals around what trajectories drawn from the model decode
    to. Their standard deviations, the noise of a decoder that none of the models learns, are the model's own errors one step
    ahead, times the factor under which half of the observations one step ahead are most probable. The other half is what
    counts there; at further horizons the noise stays as it is. So a model whose dynamics are certain must say with one number
    what it does not know, whatever the state and the horizon. Numbers that never vary are left out.

    :param model: the model
    :param rows: the data
    :param samples: trajectories an observation
    """

    def __init__(self, model: StandaloneWorldModel, rows: Rows, samples: int) -> None:
        self.model, self.rows, self.samples = model, rows, samples
        everything = self._numbers(rows.obs).double()
        deviation = (everything - everything.mean(0)).square().mean(0).sqrt()
        self.varying = deviation > 1e-6 * everything.square().mean(0).sqrt()
        self.center, self.deviation = (part[self.varying].float() for part in (everything.mean(0), deviation))
        self.noise: th.Tensor | None = None

    @property
    def possible(self) -> bool:
        """Whether there are numbers that vary."""
        return bool(self.varying.any())

    def calibrate(self, starts: th.Tensor, state: LatentState) -> None:
        """
        Find the decoder's noise.

        :param starts: rows to dream from, ``(N,)``, of which every other one is used
        :param state: at these rows, ``(N, ...)``
        """
        starts, state = starts[::2], state.map(lambda part: part[::2])
        actions = self.rows.prev_action[starts + 1].unsqueeze(1)
        truth = self._observed(starts + 1)
        final = self.model.unroll(actions, state, 1, deterministic=True).states.map(lambda part: part[:, -1])
        spread = (self._decoded(final) - truth).square().mean(0).sqrt()
        spread = spread.maximum(1e-6 * self.deviation)
        errors = self._errors(actions, state, truth)
        fits = th.stack([self._mixture(errors, factor * spread).mean() for factor in FACTORS])
        self.noise = FACTORS[int(fits.argmax())] * spread

    def __call__(self, starts: th.Tensor, state: LatentState, actions: th.Tensor) -> LogLikelihood:
        """
        :param starts: rows to dream from, ``(N,)``
        :param state: at these rows, ``(N, ...)``
        :param actions: ``(N, H, A)``
        :return: of the observations H steps later
        """
        assert self.noise is not None
        horizon = actions.shape[1]
        if horizon == 1 and len(starts) > 1:  # the others have been calibrated with
            starts, actions, state = starts[1::2], actions[1::2], state.map(lambda part: part[1::2])
        truth = self._observed(starts + horizon)
        change = truth - self._observed(starts)
        usual = change.square().mean(0).sqrt().maximum(1e-6 * self.deviation)
        return LogLikelihood(
            float(self._mixture(self._errors(actions, state, truth), self.noise).mean()),
            float(_log_density(change, usual).mean()),
            float(_log_density(truth - self.center, self.deviation).mean()),
        )

    def _errors(self, actions: th.Tensor, state: LatentState, truth: th.Tensor) -> th.Tensor:
        """:return: of every sample, ``(N, samples, numbers)``"""
        decoded = []
        for _ in range(self.samples):  # one by one: all of their states at once would fill the memory
            states = self.model.unroll(actions, state, actions.shape[1]).states
            decoded.append(self._decoded(states.map(lambda part: part[:, -1])))
        return th.stack(decoded, dim=1) - truth.unsqueeze(1)

    def _mixture(self, errors: th.Tensor, noise: th.Tensor) -> th.Tensor:
        return th.logsumexp(_log_density(errors, noise), dim=1) - math.log(self.samples)

    def _decoded(self, state: LatentState) -> th.Tensor:
        return self._numbers(self.model.decode(state))[..., self.varying]

    def _observed(self, rows: th.Tensor) -> th.Tensor:
        return self._numbers({name: part[rows] for name, part in self.rows.obs.items()})[..., self.varying]

    def _numbers(self, obs: dict[str, th.Tensor]) -> th.Tensor:
        """All that are numbers, ``(..., n)``."""
        keys = [key.name for key in self.model.observation_codec.keys if key.kind == "vector"]
        if not keys:
            return th.zeros(len(next(iter(obs.values()))), 0, device=self.model.device)
        return th.cat([obs[name].float() for name in keys], dim=-1)


def _log_density(error: th.Tensor, deviation: th.Tensor) -> th.Tensor:
    """Of normals, summed over the numbers."""
    return -(0.5 * (error / deviation).square() + deviation.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
