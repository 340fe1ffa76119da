"""Measures of uncertainty: by hand, by other formulas, and beside those of another library where it is installed."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_dreamer.common.predictions import GaussianPrediction
from sb3_dreamer.uncertainty import (
    area_under_sparsification_error,
    auroc,
    coverage,
    crps,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
    sharpness,
    sparsification_curve,
    spearman,
)

GOLDEN = np.zeros(500), np.full(500, 0.7), np.random.default_rng(0).normal(size=500)
"""Means, standard deviations and truths of which other programs' results are known."""
INTERVALS = np.linspace(0, 1, 100)[1:-1]
"""Probabilities of the central intervals at which uncertainty_toolbox looks, beside 0 and 1, where all agree."""
OF_GAUSSIANS: dict[str, Callable[..., Any]] = {
    "nll": negative_log_likelihood,
    "crps": crps,
    "ece": expected_calibration_error,
    "coverage": coverage,
}


def random_predictions(n: int, outputs: int, seed: int = 0, confidence: float = 1.0) -> tuple[np.ndarray, ...]:
    """Means, standard deviations, truths; the truths are further away the more confident the predictions are."""
    generator = np.random.default_rng(seed)
    mean, std = generator.normal(size=(n, outputs)), np.exp(generator.normal(size=(n, outputs)))
    return mean, std, mean + confidence * std * generator.normal(size=(n, outputs))


# ---- known numbers


def test_golden_numbers() -> None:
    assert negative_log_likelihood(*GOLDEN) == pytest.approx(1.61135, abs=1e-5)
    assert crps(*GOLDEN) == pytest.approx(0.584136, abs=1e-6)
    assert sharpness(GOLDEN[1]) == pytest.approx(0.7)
    gaps = np.array([float(coverage(*GOLDEN, level=level)) - level for level in INTERVALS])
    assert np.abs(gaps).sum() / 100 == pytest.approx(0.11952, abs=1e-5)
    # the area between the curve and the diagonal, exactly: triangles where it crosses over
    curve = np.array([0.0, *gaps, 0.0])
    first, second = np.abs(curve[:-1]), np.abs(curve[1:])
    crossed = curve[:-1] * curve[1:] < 0
    heights = np.where(crossed, (first**2 + second**2) / np.where(crossed, first + second, 1), first + second)
    assert heights.sum() / 2 / 99 == pytest.approx(0.120727, abs=1e-6)


def test_scores_by_hand() -> None:
    # z = 1 and 0; σ = 2 and 1
    mean, std, truth = [0.0, 5.0], [2.0, 1.0], [2.0, 5.0]
    normal = 0.5 * math.log(2 * math.pi)
    assert negative_log_likelihood(mean, std, truth) == pytest.approx((0.5 + math.log(2) + 2 * normal) / 2)
    at_1 = 2 * (math.erf(math.sqrt(0.5)) + 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi))
    at_0 = 2 / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)
    assert crps(mean, std, truth) == pytest.approx((at_1 + at_0) / 2)
    assert sharpness(std) == pytest.approx(math.sqrt(2.5))
    # a certain prediction has the absolute error
    assert crps([1.0], [1e-9], [4.0]) == pytest.approx(3.0)


def test_calibration_by_hand() -> None:
    # Φ(z) = 0.1587, 0.5, 0.8413 and nearly 1
    mean, std, truth = np.zeros(4), np.array([1.0, 1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 2.0, 9.0])
    expected, observed = reliability_curve(mean, std, truth, levels=[0.1, 0.2, 0.5, 0.9])
    assert expected.tolist() == [0.1, 0.2, 0.5, 0.9] and observed.tolist() == [0, 0.25, 0.5, 0.75]
    error = expected_calibration_error(mean, std, truth, levels=[0.1, 0.2, 0.5, 0.9])
    assert error == pytest.approx((0.1 + 0.05 + 0 + 0.15) / 4)
    assert reliability_curve(mean, std, truth).expected == pytest.approx(np.arange(0.05, 0.96, 0.05))
    shares = [float(coverage(mean, std, truth, level)) for level in (0.5, 0.68, 0.69, 0.99)]
    assert shares == [0.25, 0.25, 0.75, 0.75]
    assert coverage(mean, std, truth) == 0.75


def test_spearman_by_hand() -> None:
    assert spearman([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0]) == 1 and spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == -1
    # ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 · 4 / (5 · 24)
    assert spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]) == pytest.approx(0.8)
    # ranks 1.5 1.5 3 and 1 2 3
    assert spearman([7, 7, 9], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_sparsification_by_hand() -> None:
    uncertainty, error = [4.0, 3.0, 2.0, 1.0], [-2.0, 4.0, 1.0, 1.0]  # the two worst in the wrong order
    dropped, by_uncertainty, oracle = sparsification_curve(uncertainty, error, "mae")
    assert dropped.tolist() == [0, 0.25, 0.5, 0.75]
    assert by_uncertainty.tolist() == [1, 1, 0.5, 0.5]  # 8/4, 6/3, 2/2 and 1, over 2
    assert oracle == pytest.approx([1, 2 / 3, 0.5, 0.5])  # 4/3 without the 4
    assert area_under_sparsification_error(uncertainty, error, "mae") == pytest.approx((1 / 3) / 4)
    squared = sparsification_curve(uncertainty, error)
    assert squared.error == pytest.approx(np.sqrt([1, (18 / 3) / (22 / 4), 1 / (22 / 4), 1 / (22 / 4)]))
    assert squared.oracle == pytest.approx(np.sqrt([1, (6 / 3) / (22 / 4), 1 / (22 / 4), 1 / (22 / 4)]))
    # rows that are as uncertain count with their mean, whatever their order
    assert sparsification_curve([1, 1, 0], [3.0, 1.0, 2.0], "mae").error.tolist() == [1, 1, 1]


def test_auroc_by_hand() -> None:
    assert auroc([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1 and auroc([0.1, 0.2, 0.8, 0.9], [True, True, False, False]) == 0
    assert auroc([1, 2, 3, 4], [0, 1, 0, 1]) == 0.75
    assert auroc([1, 1, 1], [0, 1, 1]) == 0.5
    assert auroc([1, 2, 2, 3], [0, 0, 1, 1]) == (1 + 0.5 + 1 + 1) / 4


# ---- other formulas


@pytest.mark.parametrize("truth", [-3.0, 0.2, 1.5])
def test_crps_is_an_expectation(truth: float) -> None:
    """``E|X - y| - ½ E|X - X'|``, Gneiting and Raftery's eq. 20."""
    first, second = 0.5 + 1.7 * np.random.default_rng(0).normal(size=(2, 400_000))
    expected = np.abs(first - truth).mean() - 0.5 * np.abs(first - second).mean()
    assert crps([0.5], [1.7], [truth]) == pytest.approx(expected, abs=0.01)


def test_likelihood_is_torchs() -> None:
    mean, std, truth = random_predictions(50, 3)
    density = th.distributions.Normal(th.as_tensor(mean), th.as_tensor(std)).log_prob(th.as_tensor(truth))
    assert negative_log_likelihood(mean, std, truth) == pytest.approx(-density.mean(0).numpy())


def test_calibration_is_that_of_the_cumulative_distribution() -> None:
    mean, std, truth = random_predictions(200, 2, confidence=1.5)
    u = np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))((truth - mean) / std)
    curve = reliability_curve(mean, std, truth)
    for level, observed in zip(curve.expected, curve.observed, strict=True):
        assert observed.tolist() == (u <= level).mean(0).tolist()
    for level in (0.5, 0.9):
        assert coverage(mean, std, truth, level).tolist() == (np.abs(2 * u - 1) <= level).mean(0).tolist()


values = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=30)


@settings(max_examples=100, deadline=None)
@given(values, st.data())
def test_orders_by_brute_force(a: list[float], data: Any) -> None:
    """Whole numbers, among which many are equal."""
    b = data.draw(st.lists(st.integers(-5, 5).map(float), min_size=len(a), max_size=len(a)))

    def ranks(numbers: list[float]) -> np.ndarray:
        return np.array([sum(y < x for y in numbers) + (numbers.count(x) + 1) / 2 for x in numbers])

    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1], abs=1e-12)
    labels = [y > 0 for y in b]
    if len(set(labels)) > 1:
        pairs = [(x, y) for x, one in zip(a, labels, strict=True) if one for y, two in zip(a, labels, strict=True) if not two]
        assert auroc(a, labels) == pytest.approx(np.mean([(x > y) + 0.5 * (x == y) for x, y in pairs]))
    if any(b):
        assert area_under_sparsification_error(np.abs(b), b) == pytest.approx(0, abs=1e-12)
        curve = sparsification_curve(a, b, "mae")
        assert (curve.error >= curve.oracle - 1e-12).all() and curve.error[0] == curve.oracle[0] == 1


def test_sparsification_by_brute_force() -> None:
    generator = np.random.default_rng(0)
    uncertainty, error = generator.random(40), generator.normal(size=40)
    curve = sparsification_curve(uncertainty, error)
    for order, found in ((uncertainty, curve.error), (np.abs(error), curve.oracle)):
        kept = [error[np.argsort(-order)[i:]] for i in range(40)]
        assert found == pytest.approx([np.sqrt((rest**2).mean() / (error**2).mean()) for rest in kept])


def test_ties_are_dropped_as_if_in_a_random_order() -> None:
    uncertainty, error = np.array([2.0, 2.0, 2.0, 1.0, 1.0]), np.array([1.0, 2.0, 6.0, 1.0, 3.0])
    generator = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        order = np.lexsort((generator.random(5), -uncertainty))
        found.append([error[order[i:]].mean() / error.mean() for i in range(5)])
    assert sparsification_curve(uncertainty, error, "mae").error == pytest.approx(np.mean(found, axis=0), abs=0.02)


# ---- another library


def test_beside_uncertainty_toolbox() -> None:
    toolbox = pytest.importorskip("uncertainty_toolbox")
    for seed, confidence in enumerate((0.5, 1.0, 2.0)):
        mean, std, truth = (array[:, 0] for array in random_predictions(300, 1, seed, confidence))
        assert negative_log_likelihood(mean, std, truth) == pytest.approx(toolbox.nll_gaussian(mean, std, truth))
        assert crps(mean, std, truth) == pytest.approx(toolbox.crps_gaussian(mean, std, truth))
        assert sharpness(std) == pytest.approx(toolbox.sharpness(std))
        theirs = toolbox.mean_absolute_calibration_error(mean, std, truth, prop_type="quantile")
        ours = expected_calibration_error(mean, std, truth, tuple(INTERVALS))  # they count 0 and 1 as well: no error there
        assert ours * 98 / 100 == pytest.approx(theirs)
        for level in (0.5, 0.9, 0.95):
            proportion = toolbox.metrics_calibration.get_proportion_in_interval(mean, std, truth, level)
            assert coverage(mean, std, truth, level) == pytest.approx(proportion)


def test_beside_scipy_and_scikit_learn() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = np.random.default_rng(0).integers(0, 20, size=(2, 300))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    learn = pytest.importorskip("sklearn.metrics")
    assert auroc(a, b > 12) == pytest.approx(learn.roc_auc_score(b > 12, a))


# ---- properties


def test_true_distributions_are_calibrated() -> None:
    n = 20_000
    mean, std, truth = random_predictions(n, 2)
    curve = reliability_curve(mean, std, truth)
    deviation = np.sqrt(curve.expected * (1 - curve.expected) / n)
    assert (np.abs(curve.observed - curve.expected[:, None]) < 4 * deviation[:, None]).all()
    assert (expected_calibration_error(mean, std, truth) < 4 * 0.3 / np.sqrt(n)).all()
    for level in (0.5, 0.9, 0.95):
        assert coverage(mean, std, truth, level) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / n))


def test_the_calibration_error_of_chance_is_what_is_said() -> None:
    truths = np.random.default_rng(0).normal(size=(400, 500))
    errors = expected_calibration_error(np.zeros((400, 500)), np.ones((400, 500)), truths)
    assert errors.mean() * np.sqrt(400) == pytest.approx(0.32, abs=0.02)


@pytest.mark.parametrize("score", [negative_log_likelihood, crps])
def test_nobody_gains_by_saying_something_else(score: Callable[..., Any]) -> None:
    mean, std, truth = random_predictions(20_000, 1)
    honest = score(mean, std, truth)
    for others in ((mean + 0.3 * std, std), (mean, 0.8 * std), (mean, 1.25 * std)):
        assert score(*others, truth) > honest


def test_confidence_shows_in_the_curve() -> None:
    """Too sure: more below the low quantiles and less below the high ones, fewer inside the intervals."""
    mean, std, truth = random_predictions(5_000, 1, confidence=2.0)
    observed = reliability_curve(mean, std, truth).observed[:, 0]
    assert observed[0] > 0.15 and observed[-1] < 0.85 and observed[9] == pytest.approx(0.5, abs=0.03)
    assert coverage(mean, std, truth)[0] == pytest.approx(math.erf(1.6449 / 2 / math.sqrt(2)), abs=0.03)


@pytest.mark.parametrize("name", OF_GAUSSIANS)
@pytest.mark.parametrize("kind", ["float32", "tensor"])
def test_outputs_are_measured_each(name: str, kind: str) -> None:
    function, arrays = OF_GAUSSIANS[name], random_predictions(60, 3)
    one_by_one = [float(function(*(array[:, i] for array in arrays))) for i in range(3)]
    assert function(*arrays) == pytest.approx(one_by_one) and np.ndim(function(*(array[:, 0] for array in arrays))) == 0
    given_as = [th.as_tensor(array).requires_grad_() if kind == "tensor" else array.astype(kind) for array in arrays]
    assert function(*given_as) == pytest.approx(one_by_one, rel=1e-4)


def test_orders_are_measured_each() -> None:
    a, b, _ = random_predictions(60, 3)
    assert spearman(a, b) == pytest.approx([float(spearman(a[:, i], b[:, i])) for i in range(3)])
    areas = [float(area_under_sparsification_error(a[:, i], b[:, i])) for i in range(3)]
    assert area_under_sparsification_error(a, b) == pytest.approx(areas)
    assert sparsification_curve(a, b).error.shape == (60, 3)
    assert sharpness(b) == pytest.approx([float(sharpness(b[:, i])) for i in range(3)])


@pytest.mark.parametrize("kind", [np.array, th.tensor])
def test_a_prediction_adds_its_variances(kind: Callable[..., Any]) -> None:
    prediction = GaussianPrediction(kind([[1.0, 2.0]]), kind([[9.0, 1.0]]), kind([[16.0, 0.0]]))
    assert prediction.total.tolist() == [[25.0, 1.0]] and prediction.std.tolist() == [[5.0, 1.0]]
    assert type(prediction.std) is type(prediction.mean)


# ---- errors

ONES, TWO = [1.0, 1.0, 1.0], np.ones((3, 2))
ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "shapes": (lambda: crps(ONES, ONES, [1.0]), r"truth must have the shape of mean, \(3,\), got \(1,\): reshape"),
    "no broadcasting": (lambda: crps(ONES, np.ones((3, 1)), ONES), r"std must have the shape of mean, \(3,\), got \(3, 1\)"),
    "axes": (lambda: sharpness(np.ones((3, 2, 1))), r"std must have the shape \(n,\) or \(n, outputs\), got \(3, 2, 1\)"),
    "number": (lambda: sharpness(1.0), r"std must have the shape .* got \(\)"),
    "empty": (lambda: negative_log_likelihood([], [], []), r"mean is empty, its shape is \(0,\): give at least one"),
    "no outputs": (lambda: sharpness(np.ones((3, 0))), r"std is empty, its shape is \(3, 0\)"),
    "nan": (lambda: crps(TWO, TWO, [[1, 2], [3, 4], [5, np.nan]]), r"truth must be finite, got nan at \[2, 1\] \(1 of 6\)"),
    "infinite": (lambda: crps(ONES, [1, np.inf, 1], ONES), r"std must be finite, got inf at \[1\]"),
    "std": (lambda: coverage(ONES, [1, 0, -1], ONES), r"std must be positive, got 0 at \[1\] \(2 of 3\): give standard dev"),
    "sharpness": (lambda: sharpness([-1.0]), r"std must be positive, got -1 at \[0\]"),
    "level": (lambda: coverage(ONES, ONES, ONES, 90), "level must lie between 0 and 1, got 90: 0.9 stands for 90 %"),
    "level 0": (lambda: coverage(ONES, ONES, ONES, 0.0), "level must lie between 0 and 1, got 0.0"),
    "level nan": (lambda: coverage(ONES, ONES, ONES, math.nan), "level must lie between 0 and 1, got nan"),
    "levels": (lambda: reliability_curve(ONES, ONES, ONES, [0.5, 1.0]), "levels must lie between 0 and 1, got 1.0"),
    "no levels": (lambda: reliability_curve(ONES, ONES, ONES, []), "levels is empty"),
    "constant": (lambda: spearman([1, 2, 3], ONES), "b is 1 in all 3 rows: a rank correlation needs values that differ"),
    "constant output": (lambda: spearman([[1, 5], [2, 5]], [[1, 5], [2, 6]]), "a is 5 in all 2 rows in output 1"),
    "spearman": (lambda: spearman([1, 2], [1, 2, 3]), r"b must have the shape of a, \(2,\), got \(3,\)"),
    "measure": (lambda: sparsification_curve(ONES, ONES, "mse"), "measure must be 'rmse' or 'mae', got 'mse'"),  # type: ignore[arg-type]
    "no errors": (lambda: area_under_sparsification_error(TWO, [[0, 1], [0, 1], [0, 1]]), "error is 0 in all 3 rows"),
    "error": (lambda: sparsification_curve(ONES, [1.0]), r"error must have the shape of uncertainty, \(3,\), got \(1,\)"),
    "labels": (lambda: auroc(ONES, [0, 1, 2]), "labels must be 0 or 1, got 2"),
    "one class": (lambda: auroc(ONES, [1, 1, 1]), "labels must have both 0 and 1, got 0 times 0 and 3 times 1"),
    "scores": (lambda: auroc(TWO, np.zeros((3, 2))), r"scores must have the shape \(n,\), got \(3, 2\)"),
}


@pytest.mark.parametrize(("wrong", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
