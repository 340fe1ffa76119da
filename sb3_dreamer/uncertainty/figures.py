"""
Figures of uncertainties: whether they are calibrated, whether they point at the errors, where they are large. Each function
returns a matplotlib ``Figure``, which is neither shown nor saved: ``figure.savefig("reliability.png")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sb3_dreamer.uncertainty.inputs import Values, read_array
from sb3_dreamer.uncertainty.metrics import ReliabilityCurve, Sparsification
from sb3_dreamer.world_models.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_reliability(curves: Mapping[str, ReliabilityCurve]) -> Figure:
    """
    Reliability diagram: how often what was predicted with some probability came. Calibrated predictions are on the diagonal,
    overconfident ones make a flatter curve, underconfident ones a steeper one in the middle. The calibration error stands
    beside the name.

    :param curves: by name, of one output each, from :func:`~sb3_dreamer.uncertainty.metrics.reliability_curve`
    :return: the figure
    :raises ValueError: there are none, or one is of several outputs
    """
    _check_curves({name: curve.observed for name, curve in curves.items()})
    figure = new_figure(6.4, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1, label="calibrated")
    for name, (expected, observed) in curves.items():
        error = np.abs(observed - expected).mean()
        axes.plot(expected, observed, marker=".", linewidth=1.2, label=f"{name} (error {error:.3f})")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title="Reliability")
    axes.set(xlabel="predicted probability to lie below", ylabel="observed share of rows")
    _finish(axes)
    return figure


def plot_sparsification(curves: Mapping[str, Sparsification]) -> Figure:
    """
    How the error falls as the most uncertain rows are dropped, and (dotted) how it would if the errors themselves were known.
    The area between the two stands beside the name.

    :param curves: by name, of one output each, from :func:`~sb3_dreamer.uncertainty.metrics.sparsification_curve`
    :return: the figure
    :raises ValueError: there are none, or one is of several outputs
    """
    _check_curves({name: curve.error for name, curve in curves.items()})
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for name, curve in curves.items():
        area = np.mean(curve.error - curve.oracle)
        (line,) = axes.plot(curve.dropped, curve.error, linewidth=1.4, label=f"{name} (area {area:.3f})")
        axes.plot(curve.dropped, curve.oracle, ":", color=line.get_color(), linewidth=1.2)
    axes.plot([], [], ":", color="0.4", linewidth=1.2, label="perfect order")
    axes.set(xlim=(0, 1), ylim=(0, None), title="Sparsification")
    axes.set(xlabel="share of rows dropped, the most uncertain first", ylabel="error of the rest / error of all")
    _finish(axes)
    return figure


def plot_uncertainty_map(
    x: Values,
    y: Values,
    values: Values,
    data: Values | None = None,
    labels: tuple[str, str, str] = ("x", "y", "epistemic standard deviation"),
) -> Figure:
    """
    An uncertainty over a plane, such as the angle and the velocity of a pendulum, as colours, and where there was data.

    :param x: of the grid's columns, increasing, ``(nx,)``
    :param y: of the grid's rows, increasing, ``(ny,)``
    :param values: at each point, ``(ny, nx)``
    :param data: points to draw in, such as those the model has learnt from, ``(n, 2)``
    :param labels: what x, y and the colours are
    :return: the figure
    :raises ValueError: shapes do not fit, x or y does not increase, empty, or not finite
    """
    x, y, values = read_array("x", x), read_array("y", y), read_array("values", values)
    for name, axis in (("x", x), ("y", y)):
        if axis.ndim != 1 or not (np.diff(axis) > 0).all():
            raise ValueError(
                f"{name} must have the shape (n,) and increase, got the shape {axis.shape}: sort the grid's places."
            )
    if values.shape != (len(y), len(x)):
        raise ValueError(f"values must have the shape (len(y), len(x)), ({len(y)}, {len(x)}), got {values.shape}: transpose?")
    figure = new_figure(6.8, 5)
    axes = figure.subplots()
    colors = axes.pcolormesh(x, y, values, shading="nearest", cmap="viridis")
    figure.colorbar(colors, ax=axes, label=labels[2])
    if data is not None:
        points = read_array("data", data)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"data must have the shape (n, 2), got {points.shape}: give x and y of every point.")
        axes.scatter(points[:, 0], points[:, 1], s=5, color="white", edgecolors="black", linewidths=0.3, label="data")
        axes.legend(loc="upper right", fontsize="small")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    return figure


def _check_curves(curves: Mapping[str, np.ndarray]) -> None:
    if not curves:
        raise ValueError("curves is empty: give at least one, by its name.")
    for name, curve in curves.items():
        if np.ndim(curve) != 1:
            raise ValueError(
                f"The curve {name!r} has the shape {np.shape(curve)}: give a curve for each output, from its column."
            )


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
