"""
The answer in plain words: who wins, by how much, how sure, at what cost. Every sentence follows from the numbers.

One algorithm is called ahead of another only if their 95 % intervals do not overlap, and it only *seems* to be if one of
them has fewer than ``ENOUGH_RUNS`` runs.
"""

import math
from collections.abc import Sequence

from sb3_dreamer.compare.judging.analysis import AlgorithmResult, Analysis, Overall, TaskResult
from sb3_dreamer.compare.judging.formatting import SECONDS, number, with_interval
from sb3_dreamer.compare.judging.intervals import Estimate
from sb3_dreamer.compare.judging.statistics import ENOUGH_RUNS
from sb3_dreamer.compare.judging.tables import lengths


def short_answer(analysis: Analysis) -> list[str]:
    """
    :param analysis: all numbers
    :return: paragraphs for the top of the report
    """
    if not analysis.tasks:
        return ["No run has finished yet, so there is nothing to compare."]
    if len(analysis.tasks) == 1:
        return verdict(analysis.tasks[0])
    assert analysis.overall is not None
    compared = sorted(analysis.tasks, key=lambda task: len(task.algorithms) < 2)  # first those that say more
    return [over_all_tasks(analysis.overall), *(f"{task.name}: {_in_brief(task)}" for task in compared)]


def loud_notes(analysis: Analysis) -> list[str]:
    """
    :param analysis: all numbers
    :return: what nobody may overlook: too few runs, and failed ones
    """
    notes = []
    few = {task.name: task.few for task in analysis.tasks if task.few}
    if few:
        where = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in few.items())
        notes.append(f"FEWER THAN {ENOUGH_RUNS} RUNS: a smoke test, not evidence, and the intervals are too narrow. {where}.")
    records = [*(task.records for task in analysis.tasks), *analysis.empty]
    failed = [f"{task.name}: {run.name}" for task in records for run in task.unfinished if run.failed]
    if failed:
        plural = "S" if len(failed) > 1 else ""
        notes.append(f"{len(failed)} RUN{plural} FAILED and cannot be in the numbers, which may flatter: {'; '.join(failed)}.")
    return notes


def verdict(task: TaskResult) -> list[str]:
    """
    :param task: the results on it
    :return: paragraphs: returns, cost, threshold, price of a step
    """
    if len(task.algorithms) < 2:
        return [_who(task), *_solved(task)]
    return [_who(task), *_own_ends(task), *_cost(task), *_solved(task), *_prices(task)]


def _who(task: TaskResult) -> str:
    best, *others = task.algorithms
    if not others:
        return (
            f"Only {best.label} ran here, so there is nothing to compare: its return after {number(task.end)} steps is "
            f"{with_interval(best.at_common)} ({_runs(best)})."
        )
    rivals = [(one.label, one.at_common) for one in others]
    after = f"after {number(task.end)} steps, the length of the shortest run,"
    return _ranking(best.label, best.at_common, rivals, after)


def over_all_tasks(overall: Overall) -> str:
    """
    :param overall: the tasks together
    :return: who leads over all of them
    """
    out = f" Not on all tasks, and so left out: {', '.join(overall.left_out)}." if overall.left_out else ""
    if len(overall.labels) < 2:
        return f"No two algorithms ran on all {len(overall.tasks)} tasks, so there is no winner over all of them."
    best, *others = overall.labels
    scores = {label: overall.aggregates[label]["IQM"] for label in overall.labels}
    where = f"over {len(overall.tasks)} tasks, on normalised scores,"
    return _ranking(best, scores[best], [(label, scores[label]) for label in others], where, "score") + out


def _in_brief(task: TaskResult) -> str:
    """Who leads at equal steps and at equal cost, for a task among many."""
    if len(task.algorithms) < 2:
        return _who(task)
    parts = [_leader(f"after {number(task.end)} steps", [(one.label, one.at_common) for one in task.algorithms])]
    spent = [(one.label, one.at_seconds) for one in task.algorithms if one.at_seconds is not None]
    if len(spent) > 1:
        ranked = sorted(spent, key=lambda pair: -pair[1].value)
        parts.append(_leader(f"at equal cost ({number(task.seconds)} {SECONDS[task.axis]})", ranked))
    return "; ".join(parts) + "."


def _leader(where: str, ranked: Sequence[tuple[str, Estimate]]) -> str:
    (best, estimate), *others = ranked
    level = [label for label, other in others if estimate.overlaps(other)]
    few = [label for label, other in others if not estimate.overlaps(other) and min(estimate.n, other.n) < ENOUGH_RUNS]
    text = f"{where} {best} leads with {with_interval(estimate)}"
    text += f", not separable from {_listed(level)}" if level else ""
    return text + (f", over {_listed(few)} only on fewer than {ENOUGH_RUNS} runs" if few else "")


def _ranking(best: str, estimate: Estimate, rivals: Sequence[tuple[str, Estimate]], where: str, what: str = "return") -> str:
    """Who is ahead of whom; two words for two kinds of evidence."""
    sentences = [f"{where[0].upper()}{where[1:]} {best} has the highest {what}: {with_interval(estimate)}."]
    ahead = [(label, other) for label, other in rivals if not estimate.overlaps(other)]
    for word, few in (("It is ahead of", False), (f"With fewer than {ENOUGH_RUNS} runs, it only seems to be ahead of", True)):
        named = [
            f"{label} ({with_interval(other)}) by {number(estimate.value - other.value)}"
            for label, other in ahead
            if (min(estimate.n, other.n) < ENOUGH_RUNS) == few
        ]
        if named:
            sentences.append(f"{word} {_listed(named)}.")
    level = [f"{label} ({with_interval(other)})" for label, other in rivals if estimate.overlaps(other)]
    if level:
        single = estimate.n < 2 or any(other.n < 2 for _, other in rivals)
        reason = "intervals overlap" + (" or, of a single run, are unknown" if single else "")
        sentences.append(f"Not separable from it: {_listed(level)}, as {reason}.")
    return " ".join(sentences)


def _own_ends(task: TaskResult) -> list[str]:
    if len({length for one in task.algorithms for length in one.length}) < 2:
        return []
    ends = [f"{one.label} {with_interval(one.at_own)} after {lengths(one)} steps" for one in task.algorithms]
    return [f"Each at its own end, which is no comparison of equals: {_listed(ends)}."]


def _cost(task: TaskResult) -> list[str]:
    if not task.axis:
        return ["What the runs cost is not known of all of them."]
    unit = SECONDS[task.axis]
    best, *others = task.algorithms
    spent = [f"{one.label} {number(one.seconds_at_common)}" for one in others]
    cost = f"To get there {best.label} took {number(best.seconds_at_common)} {unit} of training, {_listed(spent)}."
    ranked = sorted(
        ((one.label, one.at_seconds) for one in task.algorithms if one.at_seconds is not None), key=lambda pair: -pair[1].value
    )
    if len(ranked) < 2:
        return [cost]
    (first, estimate), *rest = ranked
    return [cost, _ranking(first, estimate, rest, f"at equal cost, {number(task.seconds)} {unit},")]


def _solved(task: TaskResult) -> list[str]:
    if task.threshold is None:
        return ["No threshold is known, so nothing is said about solving the task."]
    parts = []
    for one in task.algorithms:
        assert one.solving is not None
        median = one.solving.median_steps.value
        when = f"median {number(median)} steps" if math.isfinite(median) else f"median > {number(one.length[1])} steps"
        parts.append(f"{one.label} in {one.solving.reached} of {_runs(one)} ({when})")
    return [f"A return of {number(task.threshold)} was reached by {_listed(parts)}."]


def _prices(task: TaskResult) -> list[str]:
    unit = SECONDS[task.axis]
    solved = [one for one in task.algorithms if one.solving is not None and one.solving.reached == one.n]
    if not solved or not task.break_even:
        return []
    quickest = min(solved, key=lambda one: float(one.solving.crossing.timesteps.mean()) if one.solving else math.inf).label
    found = []
    for (a, b), price in ((pair, price) for pair, price in task.break_even.items() if pair[0] == quickest):
        limits = "" if math.isnan(price.low) else f" [{number(price.low)}, {number(price.high)}]"
        if price.kind == "above":
            found.append(
                f"{a} is a cheaper way to {number(task.threshold)} than {b} once an environment step costs more than "
                f"{number(price.price)} {unit}{limits}{', or sooner' if price.bound else ''}."
            )
        elif price.kind == "always":
            found.append(f"{a} gets to {number(task.threshold)} with fewer steps and no more {unit} than {b}.")
    if found and min(one.n for one in task.algorithms) < ENOUGH_RUNS:
        found.insert(0, f"With fewer than {ENOUGH_RUNS} runs of some, it only seems that:")
    return [" ".join(found)] if found else []


def _runs(result: AlgorithmResult) -> str:
    return f"{result.n} run{'s' * (result.n != 1)}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
