"""Compiling what a training loop calls again and again, where that is possible."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch as th


class Compiled:
    """
    A function that ``torch.compile`` compiles at its first call. Where that fails (most often there is no C++ compiler), it
    says so and goes on uncompiled. Random numbers are torch's own, so that results do not depend on it.

    Copied or pickled, it is what it was before that first call: code is compiled for one object.

    :param function: returns tensors; a bound method as a rule
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._compiled: Callable[..., Any] | None = None
        self._failed = False

    def __call__(self, *args: Any) -> Any:
        """
        :param args: of the function
        :return: what it returns
        """
        if self._failed:
            return self.function(*args)
        try:
            if self._compiled is None:
                self._compiled = th.compile(self.function, dynamic=False, options={"fallback_random": True})
            return self._compiled(*args)
        except Exception as error:  # of many kinds; a mistake of the function's own comes again below
            self._failed = True
            result = self.function(*args)
            warnings.warn(f"compile=True has no effect, as torch.compile failed: {str(error).strip():.300}", stacklevel=2)
            return result

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "_compiled": None, "_failed": False}
