"""Plots of a search: predicted against true, mixtures as bars, three domains as a triangle, the trace of the best.

Each function draws on the given axes, or on new ones, and returns them; matplotlib is imported on first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture.data.search.ranks import spearman


def _axes(axes: Any) -> Any:
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(5, 4), layout="constrained").subplots()


def plot_predictions(
    predicted: npt.ArrayLike, true: npt.ArrayLike, *, name: str = "objective", axes: Any = None
) -> Any:
    """Draw predicted against true values of held-out runs, with their rank correlation.

    Args:
        predicted: Predictions of shape (n,).
        true: Values of shape (n,).
        name: Name of the objective.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes; `axes.figure.savefig(path)` writes them.
    """
    axes = _axes(axes)
    x, y = np.asarray(predicted), np.asarray(true)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
    axes.scatter(x, y, s=12)
    axes.set(
        xlabel=f"predicted {name}", ylabel=f"true {name}", title=f"rank correlation {spearman(x, y):.3f}, n = {len(x)}"
    )
    return axes


def plot_mixtures(mixtures: Mapping[str, Sequence[float]], domains: Sequence[str], *, axes: Any = None) -> Any:
    """Draw mixtures as groups of bars.

    Args:
        mixtures: Shares of shape (K,) by name of the mixture.
        domains: Names of the K domains.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes.
    """
    axes = _axes(axes)
    width = 0.8 / len(mixtures)
    places = np.arange(len(domains))
    for index, (name, shares) in enumerate(mixtures.items()):
        axes.bar(places + (index - (len(mixtures) - 1) / 2) * width, shares, width, label=name)
    axes.set_xticks(places, domains, rotation=90)
    axes.set(ylabel="share")
    axes.legend()
    return axes


def plot_ternary(weights: npt.ArrayLike, values: npt.ArrayLike, domains: Sequence[str], *, axes: Any = None) -> Any:
    """Draw runs over three domains in a triangle, coloured by value.

    Args:
        weights: Mixtures of shape (n, 3).
        values: Values of shape (n,).
        domains: Names of the 3 domains.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes.

    Raises:
        ValueError: There are not exactly three domains.
    """
    points = np.asarray(weights, dtype=np.float64)
    if len(domains) != 3 or points.shape[1] != 3:
        raise ValueError(f"domains={list(domains)} are {len(domains)}; a triangle shows exactly 3: use plot_mixtures")
    axes = _axes(axes)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    axes.plot(*np.vstack([corners, corners[:1]]).T, color="0.3", linewidth=1)
    places = points @ corners
    drawn = axes.scatter(places[:, 0], places[:, 1], c=np.asarray(values), s=24)
    axes.figure.colorbar(drawn, ax=axes)
    for corner, name in zip(corners, domains, strict=True):
        axes.annotate(name, corner, ha="center", va="bottom" if corner[1] > 0 else "top")
    axes.set_aspect("equal")
    axes.axis("off")
    return axes


def plot_trace(
    traces: Mapping[str, Sequence[tuple[float, float]]], *, name: str = "best value", axes: Any = None
) -> Any:
    """Draw the best measured value against the cost spent, one line a search.

    Args:
        traces: Pairs of cost and best value, as in the `trace` of a search, by name.
        name: Name of the objective.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes.
    """
    axes = _axes(axes)
    for label, trace in traces.items():
        axes.step([cost for cost, _ in trace], [value for _, value in trace], where="post", label=label)
    axes.set(xlabel="cost, in target runs", ylabel=name)
    axes.legend()
    return axes
