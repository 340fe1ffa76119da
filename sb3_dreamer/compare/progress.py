"""Live progress of a comparison: bars in a terminal, plain lines elsewhere, or nothing."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sb3_dreamer.compare.records import RunSpec

if TYPE_CHECKING:
    from rich.progress import TaskID


class Progress:
    """
    Hears what happens to the runs and keeps quiet about it; the base of those that show it.

    :param specs: all runs, also those that have finished before
    """

    def __init__(self, specs: Sequence[RunSpec] = ()) -> None:
        self.n_runs, self.n_done = len(specs), 0
        self._several = len({spec.env for spec in specs}) > 1

    def name(self, spec: RunSpec) -> str:
        """
        :param spec: a run
        :return: how it is called here, with its environment if there are several
        """
        return f"{spec.env} {spec.label}" if self._several else spec.label

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def skipped(self, spec: RunSpec) -> None:
        """:param spec: a run that had finished before"""

    def started(self, spec: RunSpec) -> None:
        """:param spec: a run that starts now"""

    def stepped(self, spec: RunSpec, timesteps: int) -> None:
        """
        :param spec: a run
        :param timesteps: its environment steps so far
        """

    def evaluated(self, spec: RunSpec, timesteps: int, mean_return: float, cpu_seconds: float) -> None:
        """
        :param spec: a run
        :param timesteps: where it was evaluated
        :param mean_return: with which result
        :param cpu_seconds: CPU time of its training so far
        """

    def finished(self, spec: RunSpec) -> None:
        """:param spec: a run that has reached its end"""

    def lost(self, spec: RunSpec) -> None:
        """:param spec: a run that something from outside has ended and that will start again"""

    def failed(self, spec: RunSpec) -> None:
        """:param spec: a run that ended with an error"""


class PlainProgress(Progress):
    """
    One line an event, for logs and pipes.

    :param specs: all runs, also those that have finished before
    """

    def _print(self, spec: RunSpec, text: str) -> None:
        print(f"[{self.n_done}/{self.n_runs}] {self.name(spec)}: {text}", flush=True)

    def skipped(self, spec: RunSpec) -> None:
        self.n_done += 1
        self._print(spec, "already there")

    def started(self, spec: RunSpec) -> None:
        self._print(spec, f"started, log in {spec.log_path}")

    def evaluated(self, spec: RunSpec, timesteps: int, mean_return: float, cpu_seconds: float) -> None:
        self._print(spec, f"{timesteps}/{spec.total_timesteps} steps, return {mean_return:.2f}, {cpu_seconds:.1f} CPU seconds")

    def finished(self, spec: RunSpec) -> None:
        self.n_done += 1
        self._print(spec, "finished")

    def lost(self, spec: RunSpec) -> None:
        self._print(spec, "lost, it starts again")

    def failed(self, spec: RunSpec) -> None:
        self.n_done += 1
        self._print(spec, f"FAILED, see {spec.error_path}")


class RichProgress(Progress):
    """
    A bar for each run from its first sign of life on (on a cluster, many may wait), and one for all of them with the time
    that is left.

    :param specs: all runs, also those that have finished before
    """

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        from rich import progress as bars

        super().__init__(specs)
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
        )
        self._ids: dict[Path, TaskID] = {}
        self._starting: set[Path] = set()
        self._steps: dict[Path, int] = {}
        total = sum(spec.total_timesteps for spec in specs)
        self._all = self._bars.add_task("all runs", total=total, note=f"0/{self.n_runs}")

    def __enter__(self) -> "RichProgress":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def _advance(self, spec: RunSpec, timesteps: int) -> None:
        self._steps[spec.folder] = min(timesteps, spec.total_timesteps)
        note = f"{self.n_done}/{self.n_runs}" + (f", {len(self._starting)} starting" if self._starting else "")
        self._bars.update(self._all, completed=sum(self._steps.values()), note=note)

    def _remove(self, spec: RunSpec) -> None:
        self._starting.discard(spec.folder)
        task = self._ids.pop(spec.folder, None)
        if task is not None:
            self._bars.remove_task(task)

    def _ended(self, spec: RunSpec) -> None:
        self.n_done += 1
        self._remove(spec)
        self._advance(spec, spec.total_timesteps)

    def skipped(self, spec: RunSpec) -> None:
        self._ended(spec)

    def started(self, spec: RunSpec) -> None:
        self._starting.add(spec.folder)
        self._advance(spec, 0)

    def stepped(self, spec: RunSpec, timesteps: int) -> None:
        if spec.folder in self._starting:
            self._starting.remove(spec.folder)
            self._ids[spec.folder] = self._bars.add_task(self.name(spec), total=spec.total_timesteps, note="")
        self._bars.update(self._ids[spec.folder], completed=timesteps)
        self._advance(spec, timesteps)

    def evaluated(self, spec: RunSpec, timesteps: int, mean_return: float, cpu_seconds: float) -> None:
        self._bars.update(self._ids[spec.folder], note=f"return {mean_return:.2f}")

    def finished(self, spec: RunSpec) -> None:
        self._ended(spec)
        self._bars.console.print(f"{self.name(spec)}: finished")

    def lost(self, spec: RunSpec) -> None:
        self._remove(spec)
        self._advance(spec, 0)
        self._bars.console.print(f"{self.name(spec)}: lost, it starts again", style="yellow")

    def failed(self, spec: RunSpec) -> None:
        self._ended(spec)
        self._bars.console.print(f"{self.name(spec)}: FAILED, see {spec.error_path}", style="red")


def make_progress(show: bool, specs: Sequence[RunSpec]) -> Progress:
    """
    :param show: False keeps quiet
    :param specs: all runs, also those that have finished before
    :return: the progress that suits the place where standard output goes
    """
    if not show:
        return Progress(specs)
    return RichProgress(specs) if sys.stdout.isatty() else PlainProgress(specs)
