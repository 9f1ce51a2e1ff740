"""Plots of a retrieval run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


_MARKS = {"none": ("o", "MLE mixture"), "global": ("s", "global mixture"), "knn": ("D", "kNN-Embed")}


def draw_comparison(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Recall at 10 of each system, a point for each seed."""
    figure, axes = _figure(7, 1.2 + 0.28 * len(rows))
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(row["embedding"] for row in rows))}
    for place, row in enumerate(rows):
        values = [entry["recall@10"] for entry in row["seeds"]]
        axes.barh(place, statistics.fmean(values), color=colours[row["embedding"]], alpha=0.35)
        axes.plot(values, [place] * len(values), "o", color=colours[row["embedding"]], markersize=4)
    axes.set(xlabel="recall at 10 on the test", yticks=range(len(rows)), yticklabels=[row["system"] for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_gain(path: Path, ratios: Sequence[Mapping[str, Any]]) -> None:
    """Recall of mixtures over that of one vector, against the strength of the embeddings."""
    figure, axes = _figure(7.6, 4.2)
    names = list(dict.fromkeys(entry["embedding"] for entry in ratios))
    for entry in ratios:
        mark, _ = _MARKS[entry["method"]]
        colour = f"C{names.index(entry['embedding'])}"
        axes.plot(entry["one_vector"], entry["ratios"], mark, color=colour, alpha=0.8, markersize=6)
    axes.axhline(1, color="black", linewidth=0.8)
    for number, name in enumerate(names):
        axes.plot([], [], "-", color=f"C{number}", linewidth=4, label=name)
    for mark, text in _MARKS.values():
        axes.plot([], [], mark, color="grey", label=text)
    axes.set(xlabel="recall at 10 of one vector", ylabel="recall at 10 of the mixture / of one vector")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


def draw_choice(path: Path, choices: Mapping[str, Any]) -> None:
    """What was chosen by: validation recall during training, and of mixtures by their number of clusters."""
    figure, panels = _panels(2, 6.0, 4.0)
    for number, (name, choice) in enumerate(choices.items()):
        for candidate in choice["choose"]["tried"]:
            style = "-" if candidate is choice["choose"]["tried"][choice["choose"]["chosen"]] else ":"
            steps, recalls = zip(*candidate["curve"], strict=True)
            label = name if style == "-" else None
            panels[0].plot(steps, recalls, style, color=f"C{number}", marker="o", markersize=3, label=label)
        for method, (mark, _) in _MARKS.items():
            best: dict[int, float] = {}
            for entry in choice["mixtures"]["tried"]:
                if entry["smoothing"] == method:
                    m = entry["fields"]["num_clusters"]
                    best[m] = max(best.get(m, 0.0), entry["recall@10"])
            panels[1].plot(*zip(*sorted(best.items()), strict=True), f"-{mark}", color=f"C{number}")
        panels[1].axhline(choice["mixtures"]["one_vector"], color=f"C{number}", linestyle="--", linewidth=0.8)
    panels[0].set(xlabel="optimizer step (for als, rounds)", ylabel="validation recall at 10, one vector")
    panels[1].set(
        xscale="log", xlabel="number of clusters (dashed: one vector)", ylabel="validation recall at 10, best setting"
    )
    for mark, text in _MARKS.values():
        panels[1].plot([], [], mark, color="grey", label=text)
    numbers = sorted({e["fields"]["num_clusters"] for choice in choices.values() for e in choice["mixtures"]["tried"]})
    panels[1].set_xticks(numbers, [str(number) for number in numbers])
    panels[1].minorticks_off()
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


def draw_study(path: Path, studies: Mapping[str, Any]) -> None:
    """Recall of quarters of the users by one vector and by the mixture."""
    figure, panels = _panels(2 * len(studies), 3.4, 3.6)
    titles = {"interests": "effective number of clusters of a user", "history": "training items of a user"}
    for row, (name, found) in enumerate(studies.items()):
        for column, (by, title) in enumerate(titles.items()):
            panel = panels[2 * row + column]
            groups = [group for group in found["groups"] if group["by"] == by]
            for method, text in (("one_vector", "one vector"), ("knn", "kNN-Embed")):
                panel.plot(range(len(groups)), [group[method] for group in groups], "-o", label=text)
            labels = [f"{group['from']:.3g}-{group['to']:.3g}" for group in groups]
            panel.set(title=name, xlabel=title, ylabel="recall at 10", xticks=range(len(groups)), xticklabels=labels)
            panel.tick_params(axis="x", labelsize=7)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure, panels = _panels(1, width, height)
    return figure, panels[0]


def _panels(number: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * number, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, number, squeeze=False)[0]
