"""A progress bar where one is wanted."""

from __future__ import annotations

from typing import Any


class ProgressBar:
    """
    A bar of tqdm's, or nothing.

    :param total: when it is full
    :param unit: what is counted
    :param name: before the bar
    :param show: whether there is one
    """

    def __init__(self, total: int, unit: str, name: str, show: bool) -> None:
        self._bar: Any = None
        if show:
            try:
                from tqdm import tqdm
            except ImportError as missing:
                raise ImportError('progress_bar=True needs tqdm: pip install "sb3-dreamer[compare]".') from missing
            self._bar = tqdm(total=total, unit=unit, desc=name)

    def __enter__(self) -> ProgressBar:
        return self

    def show(self, done: int, **values: float) -> None:
        """
        :param done: of the total
        :param values: to be shown beside it
        """
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if values:
                self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.close()
