"""Uncertainty of predictions: how good it is, how to correct it, how to look at it. It knows no model."""

from sb3_dreamer.common.predictions import GaussianPrediction
from sb3_dreamer.uncertainty.figures import plot_reliability, plot_sparsification, plot_uncertainty_map
from sb3_dreamer.uncertainty.metrics import (
    ReliabilityCurve,
    Sparsification,
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
from sb3_dreamer.uncertainty.recalibration import Temperature
from sb3_dreamer.uncertainty.report import UncertaintyReport, UncertaintyScore, judge_uncertainty

__all__ = [
    "GaussianPrediction",
    "ReliabilityCurve",
    "Sparsification",
    "Temperature",
    "UncertaintyReport",
    "UncertaintyScore",
    "area_under_sparsification_error",
    "auroc",
    "coverage",
    "crps",
    "expected_calibration_error",
    "judge_uncertainty",
    "negative_log_likelihood",
    "plot_reliability",
    "plot_sparsification",
    "plot_uncertainty_map",
    "reliability_curve",
    "sharpness",
    "sparsification_curve",
    "spearman",
]
