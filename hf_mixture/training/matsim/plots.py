"""Plots of a MatSim run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.reading import read_log
from hf_mixture.training.matsim.measure import similarities


_SHOWN = 5
_QUERIES = 10
_FRAMES = {"material": "tab:green", "family": "tab:orange", "neither": "tab:red"}


def draw_comparison(path: Path, rows: list[dict[str, Any]]) -> None:
    """Retrieval among all and within families, and the correlation, of each system and seed."""
    figure, panels = _figure(10, 1.4 + 0.35 * len(rows), columns=3)
    titles = {"top1_all": "one-shot, all", "top1_subclass": "one-shot, within families", "spearman": "Spearman"}
    chances = {"top1_all": "chance_all", "top1_subclass": "chance_subclass"}
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        for place, row in enumerate(rows):
            panel.plot(row[key], [place] * len(row[key]), "o", color="C0", alpha=0.7)
        if key in chances:
            panel.axvline(rows[0][chances[key]][0], color="black", linestyle=":", label="chance")
            panel.legend(fontsize=8)
        panel.set(title=title, yticks=range(len(rows)), yticklabels=[row["system"] for row in rows])
        panel.invert_yaxis()
        panel.grid(axis="x", alpha=0.3)
        panel.label_outer()
    figure.savefig(path, dpi=120)


def draw_losses(path: Path, logs: Mapping[str, Path]) -> None:
    """Training losses of the candidates, first seed; losses of different objectives are not comparable."""
    figure, [axes] = _figure(6.4, 4.0)
    for name, log in logs.items():
        entries = read_log(log)
        axes.plot(*zip(*((e["step"], e["loss"]) for e in entries if "loss" in e), strict=True), label=name)
    axes.set(xlabel="optimizer step", ylabel="training loss (each objective has its own scale)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_cosines(path: Path, cosines: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Quartiles of cosines against |df| within new sets, and of different sets."""
    figure, panels = _figure(2.6 * len(cosines), 3.2, columns=len(cosines))
    for panel, (name, quartiles) in zip(panels, cosines.items(), strict=True):
        places = [*range(len(quartiles) - 1), len(quartiles) - 0.5]
        low, median, high = np.array(list(quartiles.values())).T
        panel.errorbar(places, median, [median - low, high - median], fmt="o", capsize=3)
        panel.set(title=name, xlabel="|df| within a set", xticks=places, xticklabels=list(quartiles))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("cosine (median, quartiles)")
    figure.savefig(path, dpi=120)


def draw_grid(path: Path, embeddings: Any, images: Any) -> None:
    """Queries at equal distances in the list of materials, and their most similar images, with frames."""
    materials, families = list(images["material"]), list(images["family"])
    firsts = [row for row, name in enumerate(materials) if row == 0 or name != materials[row - 1]]
    queries = firsts[:: max(1, len(firsts) // _QUERIES)][:_QUERIES]
    scores = similarities(embeddings)
    np.fill_diagonal(scores, -np.inf)
    figure, panels = _figure(1.2 * (_SHOWN + 1), 1.2 * len(queries) + 0.3, columns=_SHOWN + 1, rows=len(queries))
    for line, query in enumerate(queries):
        near = np.argsort(-scores[query], kind="stable")[:_SHOWN]
        for column, row in enumerate([query, *near.tolist()]):
            panel = panels[line * (_SHOWN + 1) + column]
            panel.imshow(np.asarray(images[row]["image"]))
            panel.set(xticks=[], yticks=[])
            same = "family" if families[row] == families[query] else "neither"
            same = "material" if materials[row] == materials[query] and families[row] == families[query] else same
            for side in panel.spines.values():
                side.set(color="black" if column == 0 else _FRAMES[same], linewidth=1 if column == 0 else 3)
    panels[0].set_title("query", fontsize=9)
    panels[1].set_title("most similar", fontsize=9)
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float, *, columns: int = 1, rows: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    shared = rows == 1 and columns > 1
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey="row" if shared else False).flat)
