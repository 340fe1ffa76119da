"""Side-by-side comparison of algorithms on one task: the same seeds, the same starts, the same grid of evaluations.

From Python, :func:`compare` and :func:`report`; from a shell, ``python -m sb3_dreamer.compare --help``.
"""

from sb3_dreamer.compare.comparison import ComparisonResult, compare
from sb3_dreamer.compare.errors import ComparisonError
from sb3_dreamer.compare.jobs import FailedRun
from sb3_dreamer.compare.page import ReportPaths, report
from sb3_dreamer.compare.settings import algorithm_names

__all__ = ["ComparisonError", "ComparisonResult", "FailedRun", "ReportPaths", "algorithm_names", "compare", "report"]
