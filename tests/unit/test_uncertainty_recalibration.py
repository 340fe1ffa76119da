"""Temperatures: the closed form, the search beside another library's, and what they restore."""

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_dreamer.uncertainty import Temperature, coverage, expected_calibration_error, negative_log_likelihood

GOLDEN = np.zeros(500), np.full(500, 0.7), np.random.default_rng(0).normal(size=500)
OBJECTIVES = ["likelihood", "calibration"]


def predictions(n: int, confidence: tuple[float, ...], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Means, standard deviations and truths, ``(n, outputs)``, each output as many times too sure."""
    generator = np.random.default_rng(seed)
    shape = (n, len(confidence))
    mean, std = generator.normal(size=shape), np.exp(generator.normal(size=shape))
    return mean, std, mean + np.array(confidence) * std * generator.normal(size=shape)


def test_the_likelihood_has_a_closed_form() -> None:
    by_hand = Temperature.fit([0.0, 0.0], [1.0, 2.0], [3.0, 2.0])  # z = 3 and 1
    assert float(by_hand.factors) == pytest.approx(np.sqrt(5)) and by_hand.factors.shape == ()
    found = float(Temperature.fit(*GOLDEN).factors)
    assert found == pytest.approx(np.sqrt(np.mean((GOLDEN[2] / 0.7) ** 2)))
    nll = [negative_log_likelihood(GOLDEN[0], factor * GOLDEN[1], GOLDEN[2]) for factor in (0.99 * found, found, 1.01 * found)]
    assert nll[1] < min(nll[0], nll[2])


def test_the_least_calibration_error() -> None:
    found = float(Temperature.fit(*GOLDEN, objective="calibration").factors)
    assert found == pytest.approx(1.462, rel=0.01)  # uncertainty_toolbox's, which looks at central intervals
    mean, std, truth = GOLDEN
    least = float(expected_calibration_error(mean, found * std, truth))
    assert least < min(float(expected_calibration_error(mean, factor * std, truth)) for factor in (1.0, 1.3, 1.44, 1.5, 2.0))
    everywhere = [float(expected_calibration_error(mean, factor * std, truth)) for factor in np.geomspace(1, 2, 3000)]
    assert least == pytest.approx(min(everywhere), abs=2 / 500 / 19)  # two rows more or less in one of the levels


def test_beside_uncertainty_toolbox() -> None:
    toolbox = pytest.importorskip("uncertainty_toolbox")
    mean, std, truth = (array[:, 0] for array in predictions(300, (2.5,)))
    theirs = toolbox.recalibration.optimize_recalibration_ratio(mean, std, truth)
    assert float(Temperature.fit(mean, std, truth, "calibration").factors) == pytest.approx(theirs, rel=0.1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_true_factors_are_found_and_coverage_is_restored(objective: Any) -> None:
    confidence = (3.0, 1.0, 0.01)
    temperature = Temperature.fit(*predictions(5_000, confidence, seed=1), objective=objective)
    assert temperature.factors == pytest.approx(confidence, rel=0.05)
    mean, std, truth = predictions(5_000, confidence, seed=2)  # others than it was fitted to
    assert coverage(mean, std, truth)[0] < 0.5 and coverage(mean, std, truth)[2] == 1
    after = temperature.apply(std)
    for level in (0.5, 0.9, 0.95):
        assert coverage(mean, after, truth, level) == pytest.approx(level, abs=0.03)
    assert (expected_calibration_error(mean, after, truth) < 0.02).all()
    assert after == pytest.approx(std * temperature.factors)


def test_calibration_cares_less_for_a_few_large_errors() -> None:
    mean, std, truth = predictions(2_000, (2.0,))
    truth[:10] += 1000 * std[:10]
    by_likelihood, by_calibration = (float(Temperature.fit(mean, std, truth, kind).factors[0]) for kind in OBJECTIVES)  # type: ignore[arg-type]
    assert by_calibration == pytest.approx(2.0, rel=0.1) and by_likelihood > 20


def test_apply_keeps_shape_and_kind() -> None:
    temperature = Temperature(np.array([2.0, 0.5]))
    std = np.ones((4, 3, 2), dtype=np.float32)
    assert temperature.apply(std).dtype == np.float32 and (temperature.apply(std) == [2, 0.5]).all()
    of_tensor = temperature.apply(th.ones(5, 2, requires_grad=True))
    assert of_tensor.dtype == th.float32 and of_tensor.requires_grad and of_tensor[0].tolist() == [2, 0.5]
    assert temperature.apply(np.array([1, 3])).tolist() == [2, 1.5] and temperature.apply(th.tensor([1, 3])).tolist() == [
        2,
        1.5,
    ]
    assert Temperature(np.array(3.0)).apply(np.ones(7)).tolist() == [3.0] * 7


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_outputs_are_fitted_each(objective: Any) -> None:
    arrays = predictions(200, (2.0, 0.5))
    each = [float(Temperature.fit(*(array[:, i] for array in arrays), objective=objective).factors) for i in range(2)]
    assert Temperature.fit(*arrays, objective=objective).factors == pytest.approx(each)


def test_errors() -> None:
    with pytest.raises(ValueError, match="objective must be 'likelihood' or 'calibration', got 'ece'"):
        Temperature.fit(*GOLDEN, objective="ece")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="std must be positive, got 0 at"):
        Temperature.fit([0.0], [0.0], [1.0])
    with pytest.raises(ValueError, match="truth equals mean in all 2 rows of an output"):
        Temperature.fit([[1.0, 0.0], [1.0, 0.0]], np.ones((2, 2)), [[2.0, 0.0], [3.0, 0.0]])
    with pytest.raises(ValueError, match=r"std must have the shape \(..., 2\), got \(5, 3\): the temperature was fitted to 2"):
        Temperature(np.ones(2)).apply(np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"got \(\)"):
        Temperature(np.ones(2)).apply(th.tensor(1.0))
