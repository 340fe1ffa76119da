"""
Does what was lived through in one episode help in the next? Pendulums of unknown mass and length, two episodes each.

``python benchmarks/meta_learning.py [--parts prediction control buttons] [--groups GROUP ...] [--seeds N ...]`` runs what is
missing, records it in ``benchmarks/results/meta_learning/<part>/<group>-seed<N>.csv``, a line a method and held-out task,
prints tables and draws ``meta_learning.png``. Held out are 20 pendulums drawn from the ranges of training (``inside``), and 20
heavier and longer than any of these (``outside``). ``prediction``: errors of one step, learnt from trials of random actions.
``control``: returns of agents. ``buttons``: returns of agents that look for the button that pays. A group is a model or an
agent, with all methods that begin from it; several may run at once. One torch thread; ``--scale 0.01 --out DIR`` shows that
all of it runs.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import meta_buttons
import meta_control
import meta_prediction
import numpy as np
import torch as th
from matplotlib.figure import Figure
from meta_tasks import Line
from shared import read_csv, record_machine

from sb3_dreamer.compare.records import write_atomically, write_csv

RESULTS = Path(__file__).parent / "results" / "meta_learning"
PARTS: dict[str, ModuleType] = {"prediction": meta_prediction, "control": meta_control, "buttons": meta_buttons}
KEYS = ("seed", "method", "tasks", "task")
WAYS = (("memoryless", "told"), ("memoryless", "optimum"), ("no context", "told"))
"""From whom to whom: how much of the way the others have gone, in the second episode."""
PANELS = {
    "prediction": ("second_episode", "error of one step in the second episode, in deviations", "log"),
    "control": ("second_return", "return of the second episode", "linear"),
    "buttons": ("second_return", "return of the second episode", "linear"),
}
"""What is drawn of each part: a column, what it is, and the scale of its axis."""
Table = dict[str, dict[str, np.ndarray]]
"""A column of a group of tasks: for each method and seed, values by task."""


def columns(lines: Sequence[Line], where: str, column: str) -> Table:
    """
    :param lines: of all seeds and methods
    :param where: which tasks
    :param column: which numbers
    :return: in the order of the lines; tasks in the same order everywhere
    """
    found: dict[str, dict[str, list[float]]] = {}
    for line in sorted(lines, key=lambda line: (int(line["seed"]), int(line["task"]))):
        if line["tasks"] == where:
            found.setdefault(line["method"], {}).setdefault(str(line["seed"]), []).append(float(line[column]))
    return {
        method: {seed: np.array(values) for seed, values in found[method].items()}
        for method in dict.fromkeys(line["method"] for line in lines)
        if method in found
    }


def interval(statistic: Callable[..., float], *by_seed: Sequence[np.ndarray], draws: int = 2000) -> tuple[float, float, float]:
    """
    :param statistic: of the methods' values, each ``(seeds, tasks)``
    :param by_seed: for each method: values by task, an array a seed; the same tasks in all
    :param draws: of a bootstrap over seeds, and over tasks in them, the same for all methods
    :return: the statistic, and the 2.5th and 97.5th percentile of those drawn
    """
    values, rng, drawn = [np.stack(method) for method in by_seed], np.random.default_rng(0), []
    n_seeds, n_tasks = values[0].shape
    for _ in range(draws):
        seeds, tasks = rng.integers(n_seeds, size=n_seeds), rng.integers(n_tasks, size=(n_seeds, n_tasks))
        drawn.append(statistic(*(method[seeds[:, None], tasks] for method in values)))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return statistic(*values), float(low), float(high)


def share(values: np.ndarray, bottom: np.ndarray, top: np.ndarray) -> float:
    """:return: how much of the way from the bottom to the top, in means"""
    return float((values.mean() - bottom.mean()) / (top.mean() - bottom.mean()))


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _cell(found: tuple[float, float, float]) -> str:
    return "{:.3g} ({:.3g} to {:.3g})".format(*found)


def means_table(lines: Sequence[Line]) -> str:
    """
    :param lines: of all seeds and methods
    :return: Markdown: means and 95 % intervals
    """
    names = [name for name in lines[0] if name not in KEYS]
    rows = ["| tasks | method | seeds | " + " | ".join(names) + " |", "|" + "---|" * (3 + len(names))]
    for where in dict.fromkeys(line["tasks"] for line in lines):
        tables = {name: columns(lines, where, name) for name in names}
        for method, by_seed in tables[names[0]].items():
            cells = [_cell(interval(_mean, list(tables[name][method].values()))) for name in names]
            rows.append(f"| {where} | {method} | {len(by_seed)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def ways_table(lines: Sequence[Line]) -> str:
    """
    :param lines: of agents
    :return: Markdown: in the second episode, how far from one of ``WAYS`` to the other
    """
    rows = ["| tasks | method | " + " | ".join(f"{a} = 0, {b} = 1" for a, b in WAYS) + " |", "|" + "---|" * (2 + len(WAYS))]
    for where in dict.fromkeys(line["tasks"] for line in lines):
        table = columns(lines, where, "second_return")
        for method, own in table.items():
            cells = []
            for bottom, top in WAYS:
                cell = ""
                if bottom in table and top in table and method not in (bottom, top):
                    cell = _cell(interval(share, *(list(values.values()) for values in (own, table[bottom], table[top]))))
                cells.append(cell)
            rows.append(f"| {where} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def recorded(out: Path, part: str) -> list[Line]:
    """
    :param out: folder of the results
    :param part: of ``PARTS``
    :return: all lines there, group by group, of the seeds that all methods have: each seed has tasks of its own
    """
    paths = [path for group in PARTS[part].GROUPS for path in sorted((out / part).glob(f"{group}-seed*.csv"))]
    lines = [line for path in paths for line in read_csv(path)]
    seeds: dict[str, set[str]] = {}
    for line in lines:
        seeds.setdefault(line["method"], set()).add(line["seed"])
    common = set.intersection(*seeds.values()) if seeds else set()
    return [line for line in lines if line["seed"] in common]


def draw(out: Path) -> None:
    """
    Draw what has been recorded: means and 95 % intervals, a row a part, a panel a group of tasks.

    :param out: folder of the results
    """
    found = {part: recorded(out, part) for part in PARTS}
    parts = [part for part, lines in found.items() if lines]
    if not parts:
        return
    figure = Figure(figsize=(12, 1 + 3 * len(parts)), layout="constrained")
    for row, part in zip(figure.subplots(len(parts), 2, squeeze=False), parts, strict=True):
        column, label, scale = PANELS[part]
        groups = list(dict.fromkeys(line["tasks"] for line in found[part]))
        for panel, where in zip(row, groups, strict=False):
            table = columns(found[part], where, column)
            for place, by_seed in enumerate(table.values()):
                mean, low, high = interval(_mean, list(by_seed.values()))
                panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3)
            panel.set_yticks(range(len(table)), list(table))
            panel.invert_yaxis()
            panel.set(xscale=scale, xlabel=label, title=f"{part}: {where}")
            panel.grid(alpha=0.3)
        for panel in row[len(groups) :]:
            panel.set_axis_off()
    write_atomically(out / "meta_learning.png", lambda path: figure.savefig(path, format="png", dpi=110))


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: the arguments, by default the command line's
    """
    every = [group for part in PARTS.values() for group in part.GROUPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--groups", nargs="+", default=every, choices=every, metavar="GROUP", help=", ".join(every))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps, updates and tasks")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    if args.scale != 1.0 and args.out == RESULTS:
        parser.error(f"results of --scale {args.scale:g} are not the ones to be recorded: choose another --out.")
    th.set_num_threads(1)
    for part in args.parts:
        module: Any = PARTS[part]
        for seed in args.seeds:
            for group in (group for group in module.GROUPS if group in args.groups and not args.table_only):
                path = args.out / part / f"{group}-seed{seed}.csv"
                if not path.exists():
                    print(f"{part}, {group}, seed {seed}", flush=True)
                    lines = module.run(group, seed, args.scale)
                    write_csv(path, list(lines[0]), [list(line.values()) for line in lines])
                    record_machine(args.out)
        lines = recorded(args.out, part)
        if lines:
            print(f"{part}: {module.__doc__}\n\n{means_table(lines)}\n", flush=True)
            if part != "prediction":
                print(ways_table(lines) + "\n", flush=True)
    draw(args.out)


if __name__ == "__main__":
    main()
