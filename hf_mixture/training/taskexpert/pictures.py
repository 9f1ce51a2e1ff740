"""Pictures of a TaskExpert run: predictions beside truth, gates, the comparison, losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.reading import read_log
from hf_mixture.training.taskexpert.data import SceneRows


def draw_predictions(path: Path, predictions: Mapping[str, Any], rows: SceneRows, scenes: Any) -> None:
    """The first two test scenes of each domain: truth above, prediction below, all tasks side by side."""
    places = [place for domain in sorted(set(rows.domains)) for place in _first(rows.domains, domain, 2)]
    figure = _figure(1.55 * (1 + len(predictions)), 1.6 * 2 * len(places))
    panels = figure.subplots(2 * len(places), 1 + len(predictions), squeeze=False)
    for panel in panels.ravel():
        panel.set(xticks=[], yticks=[])
    for line, place in enumerate(places):
        above, below = panels[2 * line], panels[2 * line + 1]
        above[0].imshow(scenes[place]["image"])
        above[0].set_ylabel("truth")
        below[0].axis("off")
        below[0].text(1, 0.5, "prediction", ha="right", va="center", transform=below[0].transAxes)
        for column, (task, maps) in enumerate(predictions.items(), start=1):
            true, predicted = rows.labels[task][place].numpy(), maps[place].numpy()
            look = _look(task, true)
            above[column].imshow(_as_image(task, true), **look)
            below[column].imshow(_as_image(task, predicted), **look)
    for panel, title in zip(panels[0], ("image", *predictions), strict=True):
        panel.set_title(title)
    figure.savefig(path, dpi=100)


def draw_gates(path: Path, gates: Mapping[str, Any]) -> None:
    """Mean weights of experts and memory by task: one row of panels for all scenes, one for each domain."""
    names = list(gates)
    tasks = list(gates["all"])
    levels = len(gates["all"][tasks[0]]["occupancy"])
    slots = len(gates["all"][tasks[0]]["occupancy"][0])
    figure = _figure(0.8 + 0.55 * slots * levels, 0.8 + 0.4 * len(tasks) * len(names))
    panels = figure.subplots(len(names), levels, squeeze=False)
    for line, name in zip(panels, names, strict=True):
        for level, panel in enumerate(line):
            weights = np.array([gates[name][task]["occupancy"][level] for task in tasks])
            panel.imshow(weights, vmin=0, vmax=1, cmap="Blues", aspect="auto")
            for row, column in np.ndindex(*weights.shape):
                colour = "white" if weights[row, column] > 0.6 else "black"
                panel.text(column, row, f"{weights[row, column]:.2f}", ha="center", va="center", color=colour, size=7)
            panel.set_xticks(range(slots), [*(f"e{number}" for number in range(slots - 1)), "mem"], size=8)
            panel.set_yticks(range(len(tasks)), tasks if level == 0 else [], size=8)
            panel.set_title(f"level {level}, {name if name != 'all' else 'all scenes'}", size=9)
    figure.savefig(path, dpi=120)


def draw_comparison(path: Path, rows: list[dict[str, Any]], baseline: str) -> None:
    """Mean task improvement of each system and seed over the baseline."""
    figure = _figure(6.4, 1.2 + 0.45 * len(rows))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        axes.plot(row["delta_m"], [place] * len(row["delta_m"]), "o", color="C0", alpha=0.7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(
        xlabel=f"mean task improvement over {baseline} by seed (%)",
        yticks=range(len(rows)),
        yticklabels=[row["system"] for row in rows],
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_losses(path: Path, logs: Mapping[str, Path]) -> None:
    """Training losses of the systems, first seed."""
    figure = _figure(6.4, 4.0)
    axes = figure.add_subplot()
    for name, log in logs.items():
        entries = read_log(log)
        axes.plot(*zip(*((e["step"], e["loss"]) for e in entries if "loss" in e), strict=True), label=name)
    axes.set(yscale="log", xlabel="optimizer step", ylabel="training loss (weighted sum of the tasks)")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def _first(domains: list[int], domain: int, number: int) -> list[int]:
    return [place for place, found in enumerate(domains) if found == domain][:number]


def _look(task: str, true: Any) -> dict[str, Any]:
    """Colours that truth and prediction share."""
    if task in ("semseg", "parts"):
        return {"cmap": "tab10", "vmin": 0, "vmax": 9, "interpolation": "nearest"}
    if task == "depth":
        return {"cmap": "viridis", "vmin": float(true.min()), "vmax": float(true.max())}
    return {} if task == "normals" else {"cmap": "gray", "vmin": 0, "vmax": 1}


def _as_image(task: str, values: Any) -> Any:
    return np.clip(np.moveaxis(values, 0, -1) / 2 + 0.5, 0, 1) if task == "normals" else values


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
