"""What a comparison leaves beside its single runs: tables, a summary and curves of one environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_dreamer.compare.errors import require
from sb3_dreamer.compare.jobs import FailedRun
from sb3_dreamer.compare.plots import plot_curves
from sb3_dreamer.compare.records import FinishedRun, Row, RunSpec, read_finished, write_json, write_rows
from sb3_dreamer.compare.summaries import format_table, summarize

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison found in one environment, in memory and in ``out``."""

    env: str
    out: Path
    rows: tuple[Row, ...]  # every evaluation of every finished run
    summary: Mapping[str, Any]  # the content of summary.json
    failed: tuple[FailedRun, ...]

    @property
    def results_path(self) -> Path:
        return self.out / "results.csv"

    @property
    def summary_path(self) -> Path:
        return self.out / "summary.json"

    @property
    def curves_path(self) -> Path:
        return self.out / "curves.png"

    @property
    def complete(self) -> bool:
        """Whether every run has reached its end."""
        return not self.summary["partial"]

    def table(self) -> str:
        """:return: the algorithms side by side, to print"""
        return format_table(self.summary)

    def dataframe(self) -> "pandas.DataFrame":
        """:return: ``rows`` for pandas"""
        require("pandas")
        import pandas

        return pandas.DataFrame(self.rows)


@dataclass(frozen=True)
class BenchmarkResult:
    """What a comparison found in all of its environments."""

    results: Mapping[str, ComparisonResult]  # by the environment's name

    def __getitem__(self, env: str) -> ComparisonResult:
        return self.results[env]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every evaluation of every finished run."""
        return tuple(row for result in self.results.values() for row in result.rows)

    @property
    def failed(self) -> tuple[FailedRun, ...]:
        """The runs that ended with an error."""
        return tuple(run for result in self.results.values() for run in result.failed)

    @property
    def complete(self) -> bool:
        """Whether every run has reached its end."""
        return all(result.complete for result in self.results.values())

    def table(self) -> str:
        """:return: the algorithms side by side, one environment after the other, to print"""
        return "\n\n".join(result.table() for result in self.results.values())

    def dataframe(self) -> "pandas.DataFrame":
        """:return: ``rows`` for pandas"""
        require("pandas")
        import pandas

        return pandas.DataFrame(self.rows)


def write_results(
    specs: Sequence[RunSpec], threshold: float | None, failed: Sequence[FailedRun] = (), plot: bool = False
) -> ComparisonResult:
    """
    Write the results of the runs that have finished.

    :param specs: all runs in one environment
    :param threshold: return at which it counts as solved
    :param failed: those that ended with an error
    :param plot: draw the curves as well
    :return: the same in memory
    """
    algos = list(dict.fromkeys(spec.algo for spec in specs))
    found = [read_finished(spec) for spec in sorted(specs, key=lambda spec: algos.index(spec.algo))]
    finished: list[FinishedRun] = [run for run in found if run is not None]
    done = {run.spec.label for run in finished}
    env, out = specs[0].env, specs[0].out
    missing = [spec.label for spec in specs if spec.label not in done]
    summary = summarize(env, algos, threshold, finished, missing)
    rows = tuple(row for run in finished for row in run.rows)
    result = ComparisonResult(env, out, rows, summary, tuple(failed))
    write_rows(result.results_path, rows)
    write_json(result.summary_path, summary)
    if plot and finished:
        title = f"{env} (partial: {len(finished)} of {len(specs)} runs)" if missing else env
        plot_curves(result.curves_path, finished, title, threshold)
    return result
