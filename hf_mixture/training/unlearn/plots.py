"""Plots of an unlearning run: what each weight trades, and how near each arm is to Gold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_mixture.training.unlearn.verdict import LEAST_V, MOST_Q


COLOURS = {
    "fine_tune": "0.5",
    "ascent": "C3",
    "ascent_retain": "C3",
    "reset_fine_tune": "C2",
    "sum": "C0",
    "alternate": "C9",
    "two_phase": "C8",
    "project": "C4",
    "mask": "C1",
    "reset": "C2",
    "refit": "C6",
}
MARKERS = {"fine_tune": "s", "ascent": "x", "reset_fine_tune": "D"}


def draw_trade_off(path: Path, cases: list[dict[str, Any]]) -> None:
    """What is left to forget (q) beside utility (v) for every setting of the first seed, one panel for each case.

    Args:
        path: The PNG file.
        cases: Entries of `results.json`.
    """
    figure, panels = _panels(cases, width=4.4, height=3.6)
    for panel, case in zip(panels, cases, strict=False):
        by_family: dict[str, list[dict[str, Any]]] = {}
        for point in case["curve"]:
            by_family.setdefault(point["family"], []).append(point)
        panel.axvspan(-MOST_Q, MOST_Q, color="C2", alpha=0.08)
        panel.axhline(LEAST_V, color="0.6", lw=0.8, ls=":")
        for family, points in by_family.items():
            panel.plot(
                [point["q"] for point in points],
                [point["v"] for point in points],
                MARKERS.get(family, "o") + "-",
                color=COLOURS[family],
                mfc="none" if family in ("reset", "ascent_retain") else None,
                ms=5,
                lw=0.9,
                label=family,
            )
        panel.plot(0, 1, "k*", ms=12, label="gold")
        original = next(row for row in case["rows"] if row["arm"] == "original")["by_seed"][0]
        panel.plot(1, original["v"], "kP", ms=8, label="original")
        ours = next(point for point in case["curve"] if point["arm"] == case["ours"])
        panel.plot(ours["q"], ours["v"], "o", color="k", mfc="none", ms=13, label="chosen on validation")
        panel.set(
            title=_title(case),
            xlabel="left to forget q (0 gold, 1 original)",
            ylabel="test recall / gold's (v)",
            ylim=(0, 1.08 * max(1.0, original["v"], *(point["v"] for point in case["curve"]))),
        )
        panel.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=120)


def draw_levels(path: Path, cases: list[dict[str, Any]]) -> None:
    """Forget recall and membership AUC of the arms, means over seeds, beside Gold.

    Args:
        path: The PNG file.
        cases: Entries of `results.json`.
    """
    figure, panels = _panels(cases, width=4.6, height=3.8)
    for panel, case in zip(panels, cases, strict=False):
        rows = case["rows"]
        places = list(range(len(rows)))
        gold = next(row for row in rows if row["arm"] == "gold")
        for key, colour, marker in (("forget_recall", "C0", "o"), ("membership_auc", "C1", "s")):
            panel.plot([row[key] for row in rows], places, marker, color=colour, label=key.replace("_", " "), ms=5)
            panel.axvline(gold[key], color=colour, lw=0.8, ls=":")
        panel.set(title=_title(case), yticks=places, xlim=(-0.02, 1.02), xlabel="dotted: gold")
        panel.set_yticklabels([row["arm"] + " *" * row["chosen"] for row in rows], fontsize=8)
        panel.invert_yaxis()
        panel.grid(axis="x", alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)


def _panels(cases: list[dict[str, Any]], *, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(max(width * columns, 6.4), height * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in panels[len(cases) :]:
        unused.set_axis_off()
    return figure, panels


def _title(case: dict[str, Any]) -> str:
    return f"{case['backbone']}, {100 * case['share']:g} % of {case['kind']}"
