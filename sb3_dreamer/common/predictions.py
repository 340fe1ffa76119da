"""What a model that knows how sure it is predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch as th

Array = TypeVar("Array", np.ndarray, th.Tensor)


@dataclass(frozen=True)
class GaussianPrediction(Generic[Array]):
    """Independent normals, and where their variance comes from: numpy arrays, or tensors."""

    mean: Array
    """``(..., outputs)``, in the outputs' own units."""
    aleatoric: Array
    """Variance of the noise that more data would not lessen, ``(..., outputs)``, at least 0, in squared units."""
    epistemic: Array
    """Variance that comes from not knowing the function, such as that of an ensemble's means, ``(..., outputs)``, alike."""

    @property
    def total(self) -> Array:
        """Variance of the prediction: aleatoric and epistemic together, ``(..., outputs)``."""
        return self.aleatoric + self.epistemic

    @property
    def std(self) -> Array:
        """Standard deviation of the prediction, ``(..., outputs)``, in the outputs' own units."""
        return self.total**0.5
