"""
Do models know what they do not know? Single steps of the pendulum with noise in the velocity on one half of the circle, and
hardly any on the other; learnt where the pendulum hangs, judged there and where it has never been.

``python benchmarks/uncertainty.py [--seeds N ...]`` prints and records ``benchmarks/results/uncertainty/<part>.csv``:
``calibration``, an ensemble beside one network, dropout and a Bayesian last layer; ``noise``, what becomes of both kinds of
uncertainty as data grow; ``speed``, an ensemble that learns in one go, against a loop over its members. One torch thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.nn as nn
import torch.nn.functional as F
from shared import record_machine

from envs.pendulum import PendulumTask
from sb3_dreamer.common.predictions import GaussianPrediction
from sb3_dreamer.compare.records import write_csv
from sb3_dreamer.uncertainty import (
    Temperature,
    auroc,
    coverage,
    crps,
    expected_calibration_error,
    negative_log_likelihood,
    spearman,
)
from sb3_dreamer.world_models import DropoutWorldModel, EnsembleWorldModel, LaplaceWorldModel, ProbabilisticWorldModel
from sb3_dreamer.world_models.ensemble_fitting import fit_transitions, make_optimizer
from sb3_dreamer.world_models.members import Ensemble, nats
from sb3_dreamer.world_models.transitions import Transitions

RESULTS = Path(__file__).parent / "results" / "uncertainty"
NETWORK: dict[str, Any] = dict(units=64, layers=3)
MODELS: dict[str, Callable[..., ProbabilisticWorldModel]] = {
    "ensemble of 7": partial(EnsembleWorldModel.from_spaces, n_members=7, **NETWORK),
    "ensemble of 7, weights begin thrice as large": partial(
        EnsembleWorldModel.from_spaces, n_members=7, init_scale=3.0, **NETWORK
    ),
    "one network": partial(EnsembleWorldModel.from_spaces, n_members=1, **NETWORK),
    "dropout": partial(DropoutWorldModel.from_spaces, **NETWORK),
    "Bayesian last layer": partial(LaplaceWorldModel.from_spaces, **NETWORK),
}
NOISY, QUIET = 0.3, 0.02
Line = dict[str, Any]


def noise_at(state: np.ndarray, noisy: float = NOISY, quiet: float = QUIET) -> np.ndarray:
    """:return: deviation of the velocity after a step from there, rad/s, ``(n,)``"""
    return np.where(np.sin(state[:, 0]) > 0, noisy, quiet)


def steps(n: int, rng: np.random.Generator, inside: bool = True, **noise: float) -> tuple[Transitions, np.ndarray]:
    """
    :param n: how many
    :param rng: randomness
    :param inside: hanging, at most 2.2 rad to either side and 4 rad/s; else near the top, and up to 8 rad/s
    :param noise: see :func:`noise_at`
    :return: the steps, and the states they began in, ``(n, 2)``: angle from hanging, velocity
    """
    task = PendulumTask()
    if inside:
        state = rng.uniform([-2.2, -4.0], [2.2, 4.0], (n, 2))
    else:
        state = rng.uniform([2.4, -8.0], [2 * np.pi - 2.4, 8.0], (n, 2))
    start = np.stack([(state[:, 0] + np.pi + np.pi) % (2 * np.pi) - np.pi, state[:, 1]], axis=1)  # 0 is upright there
    action = rng.uniform(-2.0, 2.0, (n, 1))
    after, reward, _ = task.transition(start, action)
    after[:, 1] += noise_at(state, **noise) * rng.standard_normal(n)
    columns = (task.observe(start), action / 2.0, reward, task.observe(after), np.zeros(n))
    return Transitions(*(th.as_tensor(np.asarray(column), dtype=th.float32) for column in columns)), state


def predict(model: ProbabilisticWorldModel, data: Transitions) -> GaussianPrediction:
    """:return: of velocities alone, arrays ``(n,)``"""
    with th.no_grad():
        found = model.predict_states(data.x, data.action)
    return GaussianPrediction(*(part[:, -1].double().numpy() for part in (found.mean, found.aleatoric, found.epistemic)))


def fitted(name: str, data: Transitions, seed: int, **kwargs: Any) -> tuple[ProbabilisticWorldModel, float]:
    """:return: the model, and CPU seconds of fitting it"""
    task = PendulumTask()
    model = MODELS[name](task.observation_space, task.action_space, seed=seed)
    start = time.process_time()
    fit_transitions(model, data, **{"epochs": 150, "patience": 10, "seed": seed, **kwargs})
    return model, time.process_time() - start


def calibration(seed: int) -> list[Line]:
    """2,000 steps; velocity after a step, on fresh steps: half to find one temperature, half to judge."""
    rng = np.random.default_rng(seed)
    train, (tune, _), (test, _), (outside, _) = (
        steps(2000, rng)[0],
        steps(2000, rng),
        steps(4000, rng),
        steps(4000, rng, False),
    )
    lines = []
    for name in MODELS:
        model, seconds = fitted(name, train, seed)
        before, found, beyond = (predict(model, data) for data in (tune, test, outside))
        truth = test.next_x[:, -1].double().numpy()
        temperature = Temperature.fit(before.mean, before.std, tune.next_x[:, -1].double().numpy(), objective="calibration")
        std, unknown = temperature.apply(found.std), (found.epistemic**0.5, beyond.epistemic**0.5)
        if not unknown[0].any():  # one network has no opinion on that: its own deviation instead
            unknown = found.std, beyond.std
        error = np.abs(found.mean - truth)
        lines.append(
            dict(
                model=name,
                cpu_seconds=seconds,
                nll=negative_log_likelihood(found.mean, found.std, truth),
                crps=crps(found.mean, found.std, truth),
                ece=expected_calibration_error(found.mean, found.std, truth),
                ece_recalibrated=expected_calibration_error(found.mean, std, truth),
                coverage_90=coverage(found.mean, found.std, truth),
                coverage_90_recalibrated=coverage(found.mean, std, truth),
                spearman=spearman(unknown[0], error),
                auroc_outside=auroc(np.concatenate(unknown), np.arange(8000) >= 4000),
            )
        )
    return lines


def noise(seed: int) -> list[Line]:
    """An ensemble: what it takes for noise where that is strong and weak, and what it does not know, as data grow."""
    lines = []
    for n in (500, 2000, 5000, 20_000):
        rng = np.random.default_rng(seed)
        train, (test, state) = steps(n, rng)[0], steps(4000, rng)
        model, seconds = fitted("ensemble of 7", train, seed)
        found, loud = predict(model, test), noise_at(state) == NOISY
        parts = {
            f"{kind}_{where}": float(np.sqrt(getattr(found, kind)[rows].mean()))
            for kind in ("aleatoric", "epistemic")
            for where, rows in (("noisy", loud), ("quiet", ~loud))
        }
        lines.append(dict(rows=n, cpu_seconds=seconds, **parts))
    return lines


def plain_network(inputs: int, outputs: int) -> tuple[nn.Module, th.optim.Optimizer]:
    """:return: a network as one would write it without an ensemble in mind, and its optimizer"""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(inputs, 200), nn.SiLU()]
        inputs = 200
    network = nn.Sequential(*layers, nn.Linear(200, 2 * outputs))
    return network, th.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)


def speed(seed: int) -> list[Line]:
    """
    7 members of 4 x 200 on 5,000 rows, batches of 32 and 256: rows a second, all in one go; in a loop over the members, each
    an ensemble of one; and in a loop over plain networks with an optimizer each.
    """
    data, _ = steps(5000, np.random.default_rng(seed))
    task = PendulumTask()
    lines = []
    for batch in (32, 256):

        def ensembles(members: int, copies: int, batch: int = batch) -> Callable[[], None]:
            made = [
                EnsembleWorldModel.from_spaces(
                    task.observation_space, task.action_space, seed=i, n_members=members, units=200, layers=4
                )
                for i in range(copies)
            ]
            for model in made:
                model.learn_statistics(data)
            optimizers = [make_optimizer(model) for model in made]
            inputs, targets = made[0].normalized(data)

            def update() -> None:
                for model, optimizer in zip(made, optimizers, strict=True):
                    assert isinstance(model.members, Ensemble)
                    rows = th.randint(len(data), (members, batch))
                    optimizer.zero_grad(set_to_none=True)
                    model.members.loss(inputs[rows], targets[rows]).backward()
                    optimizer.step()

            return update

        def plain(batch: int = batch) -> Callable[[], None]:
            inputs, targets = th.cat([data.x, data.action], dim=-1), data.outcome
            made = [plain_network(inputs.shape[1], targets.shape[1]) for _ in range(7)]

            def update() -> None:
                for network, optimizer in made:
                    rows = th.randint(len(data), (batch,))
                    mean, log_var = network(inputs[rows]).chunk(2, dim=-1)
                    log_var = 0.5 - F.softplus(0.5 - log_var)
                    log_var = F.softplus(log_var + 10.0) - 10.0
                    optimizer.zero_grad(set_to_none=True)
                    nats((mean, log_var), targets[rows]).mean().backward()
                    optimizer.step()

            return update

        updates = dict(together=ensembles(7, 1), loop=ensembles(1, 7), plain_loop=plain())
        rates = {name: 7 * batch / seconds for name, seconds in fastest(updates).items()}
        ratios = {f"over_{name}": rates["together"] / rates[name] for name in ("loop", "plain_loop")}
        lines.append(dict(batch=batch, **{f"{name}_rows_per_second": rate for name, rate in rates.items()}, **ratios))
    return lines


def fastest(updates: dict[str, Callable[[], None]], rounds: int = 10, repeats: int = 20) -> dict[str, float]:
    """:return: CPU seconds of each at its best, taken in turns so that what else the machine does meets them alike"""
    best = dict.fromkeys(updates, float("inf"))
    for _ in range(rounds):
        for name, update in updates.items():
            start = time.process_time()
            for _ in range(repeats):
                update()
            best[name] = min(best[name], (time.process_time() - start) / repeats)
    return best


PARTS: dict[str, tuple[Callable[[int], list[Line]], str]] = {
    "calibration": (calibration, "model"),
    "noise": (noise, "rows"),
    "speed": (speed, "batch"),
}


def table(lines: Sequence[Line], key: str) -> str:
    """
    :param lines: of all seeds
    :param key: what tells the lines of a seed apart
    :return: Markdown, medians over the seeds
    """
    columns = [name for name in lines[0] if name not in ("seed", key)]
    rows = ["| " + " | ".join([key, *columns]) + " |", "|" + "---|" * (1 + len(columns))]
    for value in dict.fromkeys(line[key] for line in lines):
        group = [line for line in lines if line[key] == value]
        rows.append(
            "| " + " | ".join([str(value), *(f"{statistics.median(line[c] for line in group):.4g}" for c in columns)]) + " |"
        )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: the arguments, by default the command line's
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    th.set_num_threads(1)
    for part in args.parts:
        function, key = PARTS[part]
        lines = [
            dict(seed=seed, **line) for seed in (args.seeds if part != "speed" else args.seeds[:1]) for line in function(seed)
        ]
        write_csv(args.out / f"{part}.csv", list(lines[0]), [list(line.values()) for line in lines])
        print(f"{part}: {function.__doc__}\n\n{table(lines, key)}\n", flush=True)
    record_machine(args.out)


if __name__ == "__main__":
    main()
