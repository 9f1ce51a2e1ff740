"""Plots of a fitted model: trajectories by class, how sure the classes are, and which optima the starts found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.training_curves import mean_curves


def draw_classes(
    path: Path,
    model: Any,
    data: TrajectoryData,
    posterior: Any,
    *,
    names: Sequence[str] | None = None,
    time_label: str = "time",
    value_label: str = "value",
) -> None:
    """Draw everybody's trajectory in the colour of their likeliest class, the mean curves, and class probabilities.

    Args:
        path: The PNG file.
        model: A fitted `TrajectoryMoEModel`.
        data: The trajectories; of several outcomes, the first is drawn.
        posterior: Class probabilities [N, K].
        names: Names of the classes. Default: their numbers.
        time_label: What time is.
        value_label: What the outcome is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = names or [f"class {k}" for k in range(posterior.shape[1])]
    likeliest = posterior.argmax(axis=1)
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for person in range(data.num_people):
        seen = data.mask[person, :, 0]
        left.plot(
            data.times[person, seen],
            data.values[person, seen, 0],
            color=f"C{likeliest[person]}",
            alpha=float(np.clip(20 / data.num_people, 0.06, 0.5)),
            linewidth=0.8,
        )
    places = np.linspace(0, 1, 200)
    first, length = model.units.times
    for k, curve in enumerate(mean_curves(model, places)):
        share = posterior[:, k].mean()
        left.plot(first + length * places, curve, color=f"C{k}", linewidth=2.5, label=f"{names[k]}, {share:.0%}")
    left.set(xlabel=time_label, ylabel=value_label, title="trajectories and mean curves")
    left.legend()
    bins = np.linspace(0, 1, 21)
    sure = posterior.max(axis=1)
    groups = [sure[likeliest == k] for k in range(posterior.shape[1])]
    right.hist(
        groups, bins=bins.tolist(), stacked=True, color=[f"C{k}" for k in range(len(groups))], label=list(names)
    )
    right.set(xlabel="probability of the likeliest class", ylabel="people", title="how sure the classes are")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_optima(path: Path, report: Mapping[str, Any]) -> None:
    """Draw where each start ended, above the best.

    Args:
        path: The PNG file.
        report: The content of `fit_report.json`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    optima = report["optima"]
    best = min(group["minus2ll"] for group in optima)
    heights = [max(group["minus2ll"] - best, 0.01) for group in optima]
    axes.scatter(range(1, len(optima) + 1), heights, s=[30 * group["hits"] for group in optima], alpha=0.7)
    for place, (height, group) in enumerate(zip(heights, optima, strict=True), start=1):
        axes.annotate(f"{group['hits']}", (place, height), textcoords="offset points", xytext=(8, 4))
    axes.set(
        yscale="log",
        xticks=range(1, len(optima) + 1),
        xlim=(0.5, len(optima) + 0.5),
        ylim=(0.005, 2 * max(heights)),
        xlabel="distinct optimum",
        ylabel="-2 log-likelihood above the best (0.01: the best)",
        title=f"distinct optima, and how many of {len(report['starts'])} starts ended there",
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
