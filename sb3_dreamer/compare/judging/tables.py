"""The tables of a report, as text and without any markup: the page and the Markdown summary both write them out."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from sb3_dreamer.compare.curves import area_between
from sb3_dreamer.compare.judging.analysis import AlgorithmResult, Improvement, Overall, TaskResult
from sb3_dreamer.compare.judging.costs import COSTS, BreakEven
from sb3_dreamer.compare.judging.formatting import SECONDS, UNKNOWN, Cell, Table, number, with_interval
from sb3_dreamer.compare.judging.intervals import Estimate
from sb3_dreamer.compare.judging.readers import UnfinishedRun
from sb3_dreamer.compare.judging.statistics import holm


def _cell(estimate: Estimate | None) -> Cell:
    return Cell(with_interval(estimate), math.nan if estimate is None else estimate.value)


def _plain(value: float) -> Cell:
    return Cell(number(value), value)


def _label(name: str) -> Cell:
    return Cell(name)


def lengths(result: AlgorithmResult) -> str:
    """
    :param result: an algorithm's
    :return: environment steps of its runs
    """
    low, high = result.length
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def scores(task: TaskResult) -> Table:
    """
    :param task: the results on it
    :return: the algorithms' returns, at equal steps and at equal seconds
    """
    unit = SECONDS[task.axis]
    columns = [
        "algorithm",
        "runs",
        f"return at {number(task.end)} steps",
        "area under the curve",
        "return at its own end",
        "its own end (steps)",
    ]
    if task.axis:
        columns.insert(4, f"return at {number(task.seconds)} {unit}")
    rows = []
    for one in task.algorithms:
        row = [
            _label(one.label),
            _plain(one.n),
            _cell(one.at_common),
            _cell(one.area),
            _cell(one.at_own),
            Cell(lengths(one), one.length[1]),
        ]
        if task.axis:
            row.insert(4, _cell(one.at_seconds))
        rows.append(tuple(row))
    note = (
        "Interquartile mean over the runs [95 % interval]; the area is a mean over runs and steps "
        f"{number(task.start)} to {number(task.end)}. The common length is that of the shortest run, {task.shortest}."
    )
    return Table("Returns", tuple(columns), tuple(rows), note)


def solving(task: TaskResult) -> Table | None:
    """
    :param task: the results on it
    :return: when the threshold was reached, None if there is no threshold
    """
    if task.threshold is None:
        return None
    unit = SECONDS[task.axis]
    rows = []
    for one in task.algorithms:
        seconds = max(getattr(run, task.axis)[-1] for run in one.runs) if task.axis else math.nan
        solved = one.solving
        assert solved is not None
        low, high = solved.share
        rows.append(
            (
                _label(one.label),
                Cell(f"{solved.reached} of {one.n} [{low:.0%}, {high:.0%}]", solved.reached / one.n),
                Cell(_median_time(solved.median_steps, one.length[1]), solved.median_steps.value),
                Cell(
                    _median_time(solved.median_seconds, seconds),
                    math.nan if solved.median_seconds is None else solved.median_seconds.value,
                ),
                Cell(
                    ("" if (solved.crossing.timesteps[solved.crossing.reached] <= task.end).sum() == one.n else "≥ ")
                    + with_interval(solved.restricted_steps),
                    solved.restricted_steps.value,
                ),
            )
        )
    columns = (
        "algorithm",
        "runs that reached it",
        "steps, median",
        f"{unit}, median",
        f"steps, mean within {number(task.end)}",
    )
    note = (
        f"First evaluation at or above {number(task.threshold)}. A run that never got there counts up to its end and is "
        "shown as such (>, ≥): medians by Kaplan and Meier."
    )
    return Table("Steps to the threshold", columns, tuple(rows), note)


def _median_time(estimate: Estimate | None, end: float) -> str:
    if estimate is None:
        return UNKNOWN
    if math.isnan(estimate.low) and math.isfinite(estimate.value):
        return with_interval(estimate)
    limits = [number(value) if math.isfinite(value) else f"> {number(end)}" for value in (estimate.low, estimate.high)]
    value = number(estimate.value) if math.isfinite(estimate.value) else f"> {number(end)}"
    return value if math.isinf(estimate.value) and not math.isfinite(estimate.low) else f"{value} [{', '.join(limits)}]"


def improvement(labels: Sequence[str], pairs: Mapping[tuple[str, str], Improvement], several: bool) -> Table:
    """
    :param labels: of the algorithms, in their order
    :param pairs: as in the analysis
    :param several: whether they are over several tasks
    :return: the matrix
    """
    rows, once = [], {pair: found.p_value for pair, found in pairs.items() if pair[0] < pair[1]}
    adjusted = {} if several else holm(once)
    adjusted |= {(b, a): p for (a, b), p in adjusted.items()}
    for a in labels:
        row = [_label(a)]
        for b in labels:
            found = pairs.get((a, b))
            if found is None:
                row.append(Cell("–" if a == b else "no task in common"))
                continue
            estimate = found.probability
            limits = "" if math.isnan(estimate.low) else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
            more = f", {found.tasks} task{'s' * (found.tasks != 1)}" if several else f", p = {adjusted[a, b]:.2g}"
            row.append(Cell(f"{estimate.value:.2f}{limits}{more}", estimate.value, estimate.value))
        rows.append(tuple(row))
    test = "; p of Mann and Whitney's test, two-sided, adjusted for the number of pairs (Holm)."
    note = "How likely a run of the row's algorithm is to beat one of the column's, ties counted half [95 % interval]"
    note += ", over the tasks on which both ran." if several else test
    return Table("Probability of improvement", ("P(row > column)", *labels), tuple(rows), note)


def cost(task: TaskResult) -> Table:
    """
    :param task: the results on it
    :return: what the runs cost
    """
    rows = tuple((_label(one.label), *(_plain(one.cost[name]) for name in COSTS)) for one in task.algorithms)
    note = "Medians over the runs, each at its own length. Seconds are of training, evaluations left out."
    return Table("Costs", ("algorithm", *COSTS), rows, note)


def break_even(task: TaskResult) -> Table | None:
    """
    :param task: the results on it
    :return: prices of a step, None if there is nothing to say
    """
    if not task.break_even:
        return None
    labels = [one.label for one in task.algorithms]
    rows = tuple((_label(a), *(Cell("–") if a == b else _price(task.break_even[a, b]) for b in labels)) for a in labels)
    unit = SECONDS[task.axis]
    note = (
        f"The price of an environment step, in {unit} on top of what a step took here, above (>) or below (<) which the row's "
        f"algorithm reaches {number(task.threshold)} more cheaply than the column's, on average [95 % interval]. "
        '"Or sooner", "or up to more": the other has runs that never got there, and would have cost more. Where 97.5 % of '
        "resamples of the runs do not agree on the direction, nothing is said."
    )
    return Table("Break-even price of an environment step", ("row cheaper than column", *labels), rows, note)


def _price(found: BreakEven) -> Cell:
    if found.kind == "always":
        return Cell("at any price", 0.0, 1.0)
    if found.kind == "never":
        return Cell("at no price", math.inf, 0.0)
    if found.kind == "unknown":
        return Cell(f"{UNKNOWN}: {found.reason}")
    limits = "" if math.isnan(found.low) else f" [{number(found.low)}, {number(found.high)}]"
    sign, further = (">", ", or sooner") if found.kind == "above" else ("<", ", or up to more")
    return Cell(f"{sign} {number(found.price)}{limits}{further if found.bound else ''}", found.price)


def every_run(task: TaskResult) -> Table:
    """
    :param task: the results on it
    :return: one row a run, failed ones as well
    """
    rows: list[tuple[Cell, ...]] = []
    for one in task.algorithms:
        for run, common in zip(one.runs, one.common, strict=True):
            level = np.inf if task.threshold is None else task.threshold
            reached = np.flatnonzero(run.returns >= level)
            steps = Cell("no threshold")
            if len(reached):
                steps = _plain(run.timesteps[reached[0]])
            elif task.threshold is not None:
                steps = Cell(f"> {number(run.timesteps[-1])}", math.inf)
            rows.append(
                (
                    _label(run.label),
                    _plain(run.seed),
                    Cell("finished"),
                    _plain(run.timesteps[-1]),
                    _plain(common),
                    _plain(run.returns[-1]),
                    _plain(area_between(run, task.start, task.end)),
                    steps,
                    _plain(run.cpu_seconds[-1]),
                    _plain(run.wall_seconds[-1]),
                )
            )
    columns = (
        "algorithm",
        "seed",
        "state",
        "steps",
        f"return at {number(task.end)} steps",
        "last return",
        "area under the curve",
        "steps to threshold",
        "CPU s",
        "wall s",
    )
    rows += [
        (_label(run.label), _plain(run.seed), Cell(_state(run.failed, run.reason)), *(Cell("–"),) * (len(columns) - 3))
        for run in task.records.unfinished
    ]
    return Table("Every run", columns, tuple(rows))


def _state(failed: bool, reason: str) -> str:
    return f"FAILED: {reason}" if failed else reason


def unfinished(runs: Sequence[UnfinishedRun]) -> Table:
    """
    :param runs: unfinished ones
    :return: one row a run
    """
    rows = tuple((_label(run.label), _plain(run.seed), Cell(_state(run.failed, run.reason))) for run in runs)
    return Table("Every run", ("algorithm", "seed", "state"), rows)


def aggregates(overall: Overall) -> Table:
    """
    :param overall: the tasks together
    :return: the aggregates of the normalised scores
    """
    names = tuple(next(iter(overall.aggregates.values()), {}))
    rows = tuple(
        (
            _label(label),
            *(_cell(overall.aggregates[label][name]) for name in names),
            _cell(overall.areas[label]),
        )
        for label in overall.labels
    )
    note = (
        "Normalised scores at each task's common length [95 % interval, runs resampled within each task]. The interquartile "
        "mean drops a quarter of all runs at either end (none of three, one and one of five); less is better for the "
        "optimality gap. The area is the mean normalised return over the steps to the common length."
    )
    return Table("Aggregates", ("algorithm", *names, "area under the curve"), rows, note)


def scales(tasks: Sequence[TaskResult]) -> Table:
    """
    :param tasks: all of them
    :return: how returns became scores
    """
    rows = tuple(
        (_label(task.name), _plain(task.scale.low), _plain(task.scale.high), Cell(task.scale.origin)) for task in tasks
    )
    columns = ("task", "return of score 0", "return of score 1", "where they come from")
    return Table(
        "Normalisation", columns, rows, "A range that comes from the evaluations here changes with whoever takes part."
    )


def machines(task: TaskResult) -> Table:
    """
    :param task: the results on it
    :return: where each algorithm's runs were made, and with what
    """
    keys = {
        "processor": ("cpu_model",),
        "cores": ("machine", "cores"),
        "memory GB": ("machine", "memory_gb"),
        "GPU": ("machine", "gpu"),
        "platform": ("machine", "platform"),
        "threads": ("threads",),
        "commit": ("git_commit",),
        "attempts": ("attempts",),
    }
    packages = sorted({name for one in task.algorithms for run in one.runs for name in (run.known("versions") or {})})
    columns = {**keys, **{name: ("versions", name) for name in packages}}
    rows = []
    for one in task.algorithms:
        cells = [_label(one.label)]
        for path in columns.values():
            values = dict.fromkeys(_said(run.known(*path)) for run in one.runs)
            cells.append(Cell(" or ".join(values)))
        rows.append(tuple(cells))
    return Table("Machines and versions", ("algorithm", *columns), tuple(rows))


def _said(value: object) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, default=str)
