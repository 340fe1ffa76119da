"""The report holds what the measures say, and the figures draw what they are given."""

import csv
import io
import math
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh

from sb3_dreamer.uncertainty import (
    GaussianPrediction,
    ReliabilityCurve,
    UncertaintyReport,
    area_under_sparsification_error,
    auroc,
    coverage,
    crps,
    expected_calibration_error,
    judge_uncertainty,
    negative_log_likelihood,
    plot_reliability,
    plot_sparsification,
    plot_uncertainty_map,
    reliability_curve,
    sharpness,
    sparsification_curve,
    spearman,
)

N, M = 400, 90
RNG = np.random.default_rng(0)
ALEATORIC, EPISTEMIC = np.exp(RNG.normal(size=(2, N, 2)))
"""Variances."""
OUTSIDE = 3 * np.exp(RNG.normal(size=(M, 2)))
TRUTH = RNG.normal(size=(N, 2))
MEAN = TRUTH + np.sqrt(ALEATORIC + EPISTEMIC) * RNG.normal(size=(N, 2))
STD = np.sqrt(ALEATORIC + EPISTEMIC)


def make_report(**kwargs: Any) -> UncertaintyReport:
    return judge_uncertainty(MEAN, ALEATORIC, EPISTEMIC, TRUTH, **kwargs)


# ---- report


def test_all_measures_of_every_output() -> None:
    report = make_report(outputs=["angle", "velocity"], epistemic_outside=OUTSIDE)
    assert [score.output for score in report.scores] == ["angle", "velocity"]
    for i, score in enumerate(report.scores):
        gaussian, error = (MEAN[:, i], STD[:, i], TRUTH[:, i]), np.abs(MEAN[:, i] - TRUTH[:, i])
        assert report.get(score.output) is score and score.n == N
        assert score.nll == pytest.approx(float(negative_log_likelihood(*gaussian)))
        constant = negative_log_likelihood(MEAN[:, i], np.full(N, np.sqrt(np.mean(error**2))), TRUTH[:, i])
        assert score.constant_nll == pytest.approx(float(constant)) and score.nll < score.constant_nll
        assert score.crps == pytest.approx(float(crps(*gaussian)))
        assert score.ece == pytest.approx(float(expected_calibration_error(*gaussian)))
        shares = score.coverage_50, score.coverage_90, score.coverage_95
        assert shares == pytest.approx([float(coverage(*gaussian, level)) for level in (0.5, 0.9, 0.95)])
        assert score.sharpness == pytest.approx(float(sharpness(STD[:, i])))
        assert score.spearman_epistemic == pytest.approx(float(spearman(np.sqrt(EPISTEMIC[:, i]), error)))
        assert score.spearman_total == pytest.approx(float(spearman(STD[:, i], error)))
        assert score.ause == pytest.approx(float(area_under_sparsification_error(STD[:, i], error)))
        labels = np.arange(N + M) >= N
        assert score.auroc == pytest.approx(auroc(np.concatenate([EPISTEMIC[:, i], OUTSIDE[:, i]]), labels))
        assert 0.7 < score.auroc < 0.9
    assert report.mean.output == "mean" and report.mean.n == N
    assert report.mean.nll == pytest.approx(negative_log_likelihood(MEAN, STD, TRUTH).mean())
    assert report.mean.auroc == pytest.approx((report.scores[0].auroc + report.scores[1].auroc) / 2)


def test_no_constant_deviation_is_better_than_the_one_it_is_compared_with() -> None:
    score = make_report().scores[0]
    for factor in (0.5, 0.9, 1.1, 2.0):
        std = factor * np.sqrt(np.mean((MEAN[:, 0] - TRUTH[:, 0]) ** 2))
        assert negative_log_likelihood(MEAN[:, 0], np.full(N, std), TRUTH[:, 0]) > score.constant_nll


def test_one_output_without_an_axis_and_tensors() -> None:
    arrays = [array[:, 0] for array in (MEAN, ALEATORIC, EPISTEMIC, TRUTH)]
    one = judge_uncertainty(*arrays, epistemic_outside=OUTSIDE[:, 0])
    assert [score.output for score in one.scores] == ["output"]
    named = make_report(epistemic_outside=OUTSIDE)
    assert [score.output for score in named.scores] == ["output[0]", "output[1]"]
    assert one.scores[0].nll == named.scores[0].nll and one.scores[0].auroc == named.scores[0].auroc
    prediction = GaussianPrediction(*(th.as_tensor(array).requires_grad_() for array in (MEAN, ALEATORIC, EPISTEMIC)))
    again = judge_uncertainty(prediction.mean, prediction.aleatoric, prediction.epistemic, TRUTH, epistemic_outside=OUTSIDE)
    assert again == named


def test_what_makes_no_sense_is_nan() -> None:
    single = judge_uncertainty(MEAN, ALEATORIC, np.zeros_like(MEAN), TRUTH)
    for score in single.scores:
        assert math.isnan(score.spearman_epistemic) and math.isnan(score.auroc)
        assert not math.isnan(score.spearman_total) and not math.isnan(score.ause)
    assert math.isnan(single.mean.auroc) and math.isnan(single.mean.spearman_epistemic)
    truth = np.stack([MEAN[:, 0], TRUTH[:, 1]], axis=1)  # the first output is always right
    right, other = judge_uncertainty(MEAN, ALEATORIC, EPISTEMIC, truth).scores
    for name in ("constant_nll", "spearman_epistemic", "spearman_total", "ause"):
        assert math.isnan(getattr(right, name)) and not math.isnan(getattr(other, name))
    report = UncertaintyReport((right, other))
    assert report.mean.ause == other.ause and report.mean.ece == pytest.approx((right.ece + other.ece) / 2)


def test_table() -> None:
    report = make_report(outputs=["angle", "velocity"])
    lines = report.table().splitlines()
    assert lines[0].startswith("| output | n | nll | constant_nll | crps |") and lines[1] == "|" + "---|" * 14
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| angle", "| velocity", "| mean"]
    assert all(line.count("|") == 15 for line in lines)
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[1] == str(N) and float(cells[2]) == pytest.approx(report.get("angle").nll, rel=1e-3) and cells[-1] == ""
    assert len(judge_uncertainty(MEAN[:, 0], ALEATORIC[:, 0], EPISTEMIC[:, 0], TRUTH[:, 0]).table().splitlines()) == 3


def test_csv(tmp_path: pathlib.Path) -> None:
    report = make_report(outputs=["angle", "velocity"])
    report.save_csv(tmp_path / "deep" / "report")
    with (tmp_path / "deep" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["output"] for row in rows] == ["angle", "velocity"]
    assert float(rows[1]["ause"]) == report.get("velocity").ause and int(rows[0]["n"]) == N


REPORT_ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "shapes": (lambda: judge_uncertainty(MEAN, ALEATORIC[:3], EPISTEMIC, TRUTH), "aleatoric must have the shape of mean"),
    "nan": (lambda: judge_uncertainty(MEAN, ALEATORIC, EPISTEMIC * np.nan, TRUTH), r"epistemic must be finite, got nan at"),
    "negative": (lambda: judge_uncertainty(MEAN, np.log(ALEATORIC), EPISTEMIC, TRUTH), "aleatoric must be at least 0, got -"),
    "both 0": (
        lambda: judge_uncertainty([1.0], [0.0], [0.0], [2.0]),
        r"aleatoric \+ epistemic must be positive, got 0 in 1 of 1",
    ),
    "names": (lambda: make_report(outputs=["angle"]), r"outputs must have 2 names, .* got 1: \['angle'\]"),
    "outside": (lambda: make_report(epistemic_outside=OUTSIDE[:, :1]), r"outside must have the shape \(m, 2\), got \(90, 1\)"),
    "outside axis": (
        lambda: judge_uncertainty([1.0], [1.0], [1.0], [1.0], epistemic_outside=OUTSIDE),
        r"epistemic_outside must have the shape \(m,\), got \(90, 2\)",
    ),
    "outside number": (lambda: make_report(epistemic_outside=1.0), r"epistemic_outside must have .* got \(\)"),
    "outside negative": (lambda: make_report(epistemic_outside=-OUTSIDE), "epistemic_outside must be at least 0"),
}


@pytest.mark.parametrize(("wrong", "message"), REPORT_ERRORS.values(), ids=REPORT_ERRORS)
def test_report_errors(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_no_score_of_that_name() -> None:
    with pytest.raises(KeyError, match="no score of 'speed': there are"):
        make_report().get("speed")


# ---- figures


def lines(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By the label's first word."""
    found = {str(line.get_label()).split(" (")[0]: line for line in axes.lines}
    return {label: (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for label, line in found.items()}


def test_reliability_figure() -> None:
    curves = {
        name: reliability_curve(MEAN[:, 0], factor * STD[:, 0], TRUTH[:, 0]) for name, factor in (("raw", 1), ("half", 0.5))
    }
    (axes,) = plot_reliability(curves).axes
    drawn = lines(axes)
    assert list(drawn) == ["calibrated", "raw", "half"]
    assert [list(numbers) for numbers in drawn["calibrated"]] == [[0, 1], [0, 1]]
    for name, curve in curves.items():
        x, y = drawn[name]
        assert np.array_equal(x, curve.expected) and np.array_equal(y, curve.observed)
    error = float(expected_calibration_error(MEAN[:, 0], 0.5 * STD[:, 0], TRUTH[:, 0]))
    assert axes.get_legend().get_texts()[2].get_text() == f"half (error {error:.3f})"


def test_sparsification_figure() -> None:
    error = MEAN - TRUTH
    curves = {
        name: sparsification_curve(values[:, 0], error[:, 0]) for name, values in (("total", STD), ("epistemic", EPISTEMIC))
    }
    (axes,) = plot_sparsification(curves).axes
    drawn = lines(axes)
    for name, curve in curves.items():
        x, y = drawn[name]
        assert np.array_equal(x, curve.dropped) and np.array_equal(y, curve.error)
    solid, dotted = ([line for line in axes.lines if line.get_linestyle() == style] for style in ("-", ":"))
    for line, oracle, curve in zip(solid, dotted, curves.values(), strict=False):
        assert np.array_equal(oracle.get_ydata(), curve.oracle) and line.get_color() == oracle.get_color()
    area = float(area_under_sparsification_error(STD[:, 0], error[:, 0]))
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[0] == f"total (area {area:.3f})" and texts[-1] == "perfect order"


def test_map_of_uncertainty() -> None:
    x, y = np.linspace(-3, 3, 7), np.linspace(-8, 8, 5)
    values, data = x[None] ** 2 + y[:, None], RNG.normal(size=(11, 2))
    figure = plot_uncertainty_map(x, y, values, data, ("angle", "velocity", "doubt"))
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("angle", "velocity", "doubt")
    (mesh,) = [part for part in axes.collections if isinstance(part, QuadMesh)]
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(5, 7), values)
    corners = np.asarray(mesh.get_coordinates())  # (6, 8, 2): the grid's places are the middles of the cells
    assert (corners[:-1, :-1] + corners[1:, 1:]) / 2 == pytest.approx(np.stack(np.meshgrid(x, y), axis=-1))
    (dots,) = [part for part in axes.collections if isinstance(part, PathCollection)]
    assert np.array_equal(dots.get_offsets(), data)
    assert axes.get_legend().get_texts()[0].get_text() == "data"
    assert axes.get_xlim() == pytest.approx((-3.5, 3.5)) and axes.get_ylim() == pytest.approx((-10, 10))


def test_map_without_data_and_of_tensors() -> None:
    figure = plot_uncertainty_map(th.arange(3), th.arange(2), th.rand(2, 3))
    assert len(figure.axes[0].collections) == 1 and figure.axes[0].get_legend() is None
    assert figure.axes[1].get_ylabel() == "epistemic standard deviation"


def test_figures_can_be_saved_without_warnings() -> None:
    figures = [
        plot_reliability({"raw": reliability_curve(MEAN[:, 0], STD[:, 0], TRUTH[:, 0])}),
        plot_sparsification({"total": sparsification_curve(STD[:, 0], TRUTH[:, 0])}),
        plot_uncertainty_map([0, 1], [0, 1], [[1, 2], [3, 4]], [[0, 5]]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in figures:
            file = io.BytesIO()
            figure.savefig(file, dpi=40)
            assert file.getvalue().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


PLANE = np.ones((2, 3))
FIGURE_ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "no curves": (lambda: plot_reliability({}), "curves is empty"),
    "no areas": (lambda: plot_sparsification({}), "curves is empty"),
    "outputs": (lambda: plot_reliability({"raw": ReliabilityCurve(np.ones(3), PLANE)}), r"curve 'raw' has the shape \(2, 3\)"),
    "more": (lambda: plot_sparsification({"all": sparsification_curve(STD, MEAN)}), r"curve 'all' has the shape \(400, 2\)"),
    "order": (lambda: plot_uncertainty_map([0, 2, 1], [0, 1], PLANE), r"x must have the shape \(n,\) and increase"),
    "axis": (lambda: plot_uncertainty_map([0, 1, 2], [[0, 1]], PLANE), r"y must have .* got the shape \(1, 2\)"),
    "values": (lambda: plot_uncertainty_map([0, 1, 2], [0, 1], PLANE.T), r"\(2, 3\), got \(3, 2\): transpose"),
    "nan": (lambda: plot_uncertainty_map([0, 1, 2], [0, 1], PLANE * np.nan), r"values must be finite, got nan at \[0, 0\]"),
    "data": (lambda: plot_uncertainty_map([0, 1, 2], [0, 1], PLANE, [1, 2]), r"data must have the shape \(n, 2\), got \(2,\)"),
}


@pytest.mark.parametrize(("wrong", "message"), FIGURE_ERRORS.values(), ids=FIGURE_ERRORS)
def test_figure_errors(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "sb3-dreamer\[compare\]"'):
        plot_uncertainty_map([0, 1, 2], [0, 1], PLANE)
