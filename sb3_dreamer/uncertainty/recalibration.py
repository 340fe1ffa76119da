"""Making uncertainties honest afterwards: standard deviations times a factor found on predictions that were checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch as th

from sb3_dreamer.uncertainty.inputs import Values, read_gaussian
from sb3_dreamer.uncertainty.metrics import LEVELS, normal_quantile

Array = TypeVar("Array", np.ndarray, th.Tensor)


@dataclass(frozen=True)
class Temperature:
    """
    One factor for each output, by which its standard deviations are too small (above 1) or too large (below 1). It changes
    neither the means nor the order of the uncertainties. Multiply both variances of a prediction by its square, or the
    aleatoric one alone if the epistemic one is to stay as it is; the total is calibrated in the first case only.
    """

    factors: np.ndarray
    """``(outputs,)``, positive; a number, ``()``, where there is one output without an axis."""

    @classmethod
    def fit(
        cls, mean: Values, std: Values, truth: Values, objective: Literal["likelihood", "calibration"] = "likelihood"
    ) -> Temperature:
        """
        :param mean: of predictions for rows that the model has not learnt from, ``(n,)`` or ``(n, outputs)``
        :param std: their standard deviations, positive, same shape
        :param truth: what came, same shape
        :param objective: ``"likelihood"`` maximises it, ``T² = mean z²`` with ``z = (truth - mean) / std``; ``"calibration"``
            minimises the expected calibration error, which cares less for a few large errors
        :return: the factors
        :raises ValueError: shapes differ, empty, not finite, std is not positive, an unknown objective, or no errors at all
        """
        if objective not in ("likelihood", "calibration"):
            raise ValueError(f"objective must be 'likelihood' or 'calibration', got {objective!r}.")
        mean, std, truth = read_gaussian(mean, std, truth)
        z = (truth - mean) / std
        factors = np.asarray(np.sqrt(np.mean(z**2, axis=0)))
        if not factors.all():
            raise ValueError(f"truth equals mean in all {len(z)} rows of an output: no factor makes it certain, leave it out.")
        if objective == "calibration":
            columns = z.reshape(len(z), -1).T
            found = [_best_calibrated(*pair) for pair in zip(columns, factors.reshape(-1), strict=True)]
            factors = np.array(found).reshape(factors.shape)
        return cls(factors)

    def apply(self, std: Array) -> Array:
        """
        :param std: standard deviations, ``(..., outputs)``, or of any shape if there is one factor without an axis
        :return: times the factors, same shape and kind
        :raises ValueError: the number of outputs is another
        """
        if self.factors.ndim and tuple(std.shape[-1:]) != self.factors.shape:
            raise ValueError(
                f"std must have the shape (..., {len(self.factors)}), got {tuple(std.shape)}: the temperature was fitted to "
                f"{len(self.factors)} outputs."
            )
        if isinstance(std, th.Tensor):
            return std * th.as_tensor(self.factors, dtype=th.result_type(std, 1.0), device=std.device)
        return std * self.factors.astype(np.result_type(std.dtype, 1.0))


def _best_calibrated(z: np.ndarray, start: float) -> float:
    """
    The factor of the least expected calibration error. Two grids: the error jumps whenever a row crosses a quantile, so that
    a search that trusts slopes or brackets would stop at a chance minimum.

    :param z: errors over standard deviations, ``(n,)``
    :param start: where to look, from a hundredth of it to a hundred times it
    """
    ordered, quantiles = np.sort(z), normal_quantile(np.array(LEVELS))
    center, reach = np.log(start), np.log(100.0)
    for _ in range(2):
        candidates = center + np.linspace(-reach, reach, 801)
        observed = np.searchsorted(ordered, np.exp(candidates)[:, None] * quantiles, side="right") / len(z)
        center = candidates[np.abs(observed - LEVELS).mean(axis=1).argmin()]
        reach /= 400  # the step between candidates
    return float(np.exp(center))
