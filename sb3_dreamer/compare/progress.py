"""Live progress of a comparison: bars in a terminal, plain lines elsewhere, or nothing."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from sb3_dreamer.compare.records import RunSpec

if TYPE_CHECKING:
    from rich.progress import TaskID


class Progress:
    """Hears what happens to the runs and keeps quiet about it; the base of those that show it."""

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

    def failed(self, spec: RunSpec) -> None:
        """:param spec: a run that ended with an error"""


class PlainProgress(Progress):
    """
    One line an event, for logs and pipes.

    :param n_runs: number of runs of the whole comparison
    """

    def __init__(self, n_runs: int) -> None:
        self.n_runs, self.n_done = n_runs, 0

    def _print(self, spec: RunSpec, text: str) -> None:
        print(f"[{self.n_done}/{self.n_runs}] {spec.label}: {text}", flush=True)

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

    def failed(self, spec: RunSpec) -> None:
        self.n_done += 1
        self._print(spec, f"FAILED, see {spec.log_path}")


class RichProgress(Progress):
    """
    A bar for each running job, and one for all of them with the time that is left.

    :param n_runs: number of runs of the whole comparison
    :param total_timesteps: length of a run
    """

    def __init__(self, n_runs: int, total_timesteps: int) -> None:
        from rich import progress as bars

        self.n_runs, self.n_done, self.total_timesteps = n_runs, 0, total_timesteps
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
        )
        self._ids: dict[str, TaskID] = {}
        self._steps: dict[str, int] = {}
        self._all = self._bars.add_task("all runs", total=n_runs * total_timesteps, note=f"0/{n_runs}")

    def __enter__(self) -> "RichProgress":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def _advance(self, spec: RunSpec, timesteps: int) -> None:
        self._steps[spec.label] = min(timesteps, self.total_timesteps)
        self._bars.update(self._all, completed=sum(self._steps.values()), note=f"{self.n_done}/{self.n_runs}")

    def _ended(self, spec: RunSpec) -> None:
        self.n_done += 1
        self._advance(spec, self.total_timesteps)
        task = self._ids.pop(spec.label, None)
        if task is not None:
            self._bars.remove_task(task)

    def skipped(self, spec: RunSpec) -> None:
        self._ended(spec)

    def started(self, spec: RunSpec) -> None:
        self._ids[spec.label] = self._bars.add_task(spec.label, total=spec.total_timesteps, note="starting")

    def stepped(self, spec: RunSpec, timesteps: int) -> None:
        self._bars.update(self._ids[spec.label], completed=timesteps)
        self._advance(spec, timesteps)

    def evaluated(self, spec: RunSpec, timesteps: int, mean_return: float, cpu_seconds: float) -> None:
        self._bars.update(self._ids[spec.label], note=f"return {mean_return:.2f}")

    def finished(self, spec: RunSpec) -> None:
        self._ended(spec)
        self._bars.console.print(f"{spec.label}: finished")

    def failed(self, spec: RunSpec) -> None:
        self._ended(spec)
        self._bars.console.print(f"{spec.label}: FAILED, see {spec.log_path}", style="red")


def make_progress(show: bool, n_runs: int, total_timesteps: int) -> Progress:
    """
    :param show: False keeps quiet
    :param n_runs: number of runs of the whole comparison
    :param total_timesteps: length of a run
    :return: the progress that suits the place where standard output goes
    """
    if not show:
        return Progress()
    return RichProgress(n_runs, total_timesteps) if sys.stdout.isatty() else PlainProgress(n_runs)
