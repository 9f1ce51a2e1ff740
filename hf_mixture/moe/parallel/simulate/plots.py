"""Plots of a simulation: imbalance over iterations, time by part, bytes by link.

Each function draws on the given axes, or on new ones, and returns them; matplotlib is imported on first use.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.moe.parallel.simulate.flow import LINKS
from hf_mixture.moe.parallel.simulate.run import PARTS, PAYLOADS, Simulation


def _axes(axes: Any) -> Any:
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 4), layout="constrained").subplots()


def plot_imbalance(found: Simulation, *, axes: Any = None) -> Any:
    """Draw the largest over the mean load of a device, one line a system.

    Args:
        found: The simulation.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes; `axes.figure.savefig(path)` writes them.
    """
    axes = _axes(axes)
    for index, (name, result) in enumerate(found.systems.items()):
        # Systems that hold the same experts have the same line.
        axes.plot(result.imbalance, label=name, linestyle=("-", "--", ":")[index % 3])
    axes.set(xlabel="iteration", ylabel="largest / mean load of a device", yscale="log")
    axes.grid(color="0.93")
    axes.legend(fontsize=8)
    return axes


def plot_step_time(found: Simulation, *, axes: Any = None) -> Any:
    """Draw the time of a step as bars that are stacked by part.

    Args:
        found: The simulation.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes.
    """
    axes = _axes(axes)
    names = list(found.systems)
    seconds = np.array([result.seconds.mean(axis=1) for result in found.systems.values()])
    left = np.zeros(len(names))
    for part, column in zip(PARTS, 1e3 * seconds.T, strict=True):
        axes.barh(names, column, left=left, label=part)
        left += column
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds of a step")
    axes.legend(fontsize=8)
    return axes


def plot_bytes(found: Simulation, *, axes: Any = None) -> Any:
    """Draw what the busiest device of each link moves in a layer, by payload.

    Args:
        found: The simulation.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes.
    """
    axes = _axes(axes)
    names = list(found.systems)
    places = np.arange(len(names))
    moved = np.array([result.worst_bytes.mean(axis=2) for result in found.systems.values()])
    for link, (link_name, shift) in enumerate(zip(LINKS, (-0.2, 0.2), strict=True)):
        left = np.zeros(len(names))
        for payload, (payload_name, alpha) in enumerate(zip(PAYLOADS, (1.0, 0.45), strict=True)):
            column = moved[:, payload, link] / 1e9
            label = f"{payload_name}, {link_name}"
            axes.barh(places + shift, column, 0.38, left=left, color=f"C{link}", alpha=alpha, label=label)
            left += column
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlabel="GB of a layer, busiest device")
    axes.legend(fontsize=8)
    return axes


def write_plots(found: Simulation, folder: str | os.PathLike[str]) -> list[Path]:
    """Write all plots as images.

    Args:
        found: The simulation.
        folder: Where to; made where it does not exist.

    Returns:
        The files.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in {"imbalance": plot_imbalance, "step_time": plot_step_time, "bytes": plot_bytes}.items():
        image = io.BytesIO()
        draw(found).figure.savefig(image, format="png", dpi=120)
        written.append(path / f"{name}.png")
        write_atomic(written[-1], image.getvalue())
    return written
