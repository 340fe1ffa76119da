"""Side-by-side comparison of algorithms: the same tasks, the same seeds, the same starts, the same grid of evaluations.

From Python, :class:`Benchmark`, or :func:`compare` for one environment, and :func:`report`; from a shell,
``python -m sb3_dreamer.compare --help``.
"""

from sb3_dreamer.compare.benchmark import Benchmark, Task
from sb3_dreamer.compare.comparison import compare
from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.jobs import FailedRun
from sb3_dreamer.compare.judging.page import ReportPaths, report
from sb3_dreamer.compare.results import BenchmarkResult, ComparisonResult
from sb3_dreamer.compare.settings import algorithm_names

__all__ = [
    "Benchmark",
    "BenchmarkResult",
    "ComparisonError",
    "ComparisonResult",
    "FailedRun",
    "ReportPaths",
    "Task",
    "algorithm_names",
    "compare",
    "report",
]
