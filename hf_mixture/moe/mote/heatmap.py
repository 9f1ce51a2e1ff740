"""Heat map of experts, layer by expert, as PNG; matplotlib is imported on first use.

Letters: L layers with a router, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WRITTEN_CELLS = 128
_NAMED_EXPERTS = 12


def draw_expert_map(
    values: npt.ArrayLike,
    *,
    layers: Sequence[int | str] | None = None,
    edited: Iterable[tuple[int, int]] = (),
    diverging: bool = True,
    title: str = "",
    label: str = "",
) -> Figure:
    """Draw a map of experts: one row for each router, one column for each expert, edited experts outlined.

    A diverging map has its white at 0 and colours of equal strength on both sides, so that a differential map shows
    sign and size; an other map runs from 0 to its maximum. Up to 12 edited experts are named at the edge.

    Args:
        values: Map [L, E]; NaN where a layer has no such expert, drawn as empty.
        layers: Names of the L rows, usually layer indices of the model. Default: 0 to L - 1.
        edited: Positions (row, expert) to outline; the row counts routers, not layers of the model.
        diverging: Whether 0 is the middle of the colours.
        title: Title of the figure.
        label: What the colours mean, with its unit.

    Returns:
        The figure; `figure.savefig(path)` writes it.

    Raises:
        ValueError: `values` is not [L, E] with a finite number in it, `layers` has another length, or an edited expert
            lies outside.

    Example:
        ```python
        >>> from hf_mixture.moe.mote.heatmap import draw_expert_map
        >>> figure = draw_expert_map([[0.5, -0.25], [0.0, 0.1]], layers=[3, 4], edited=[(0, 1)])
        >>> figure.axes[0].get_ylabel()
        'layer'

        ```
    """
    grid = np.asarray(values, dtype=float)
    names, cells = _checked(grid, layers, edited)

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    num_layers, num_experts = grid.shape
    is_small = grid.size <= _WRITTEN_CELLS
    cell = 0.55 if is_small else float(np.clip(14 / num_experts, 0.055, 0.2))
    width = float(np.clip(num_experts * cell, 4.5, 15))
    height = float(np.clip(num_layers * (0.42 if is_small else max(cell, 0.12)), 1.2, 12))
    figure = Figure(figsize=(width + 2.2, height + 1.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    limit = float(np.nanmax(np.abs(grid))) or 1.0
    # Lines between pixels would blur a map of thousands of cells.
    image = axes.imshow(
        grid,
        aspect="auto",
        interpolation="nearest",
        cmap="RdBu_r" if diverging else "viridis",
        vmin=-limit if diverging else 0.0,
        vmax=limit,
    )
    axes.set_facecolor("0.85")
    figure.colorbar(image, ax=axes, label=label, fraction=0.04, pad=0.015)
    axes.set(title=title, xlabel="expert", ylabel="layer")
    axes.set_xticks(_ticks(num_experts, 16))
    rows = _ticks(num_layers, 20)
    axes.set_yticks(rows, [str(names[row]) for row in rows])
    if is_small:
        _write_values(axes, grid, limit, diverging)
    for row, expert in cells:
        axes.add_patch(
            Rectangle(
                (expert - 0.5, row - 0.5),
                1,
                1,
                fill=False,
                edgecolor="black" if diverging else "red",
                linewidth=2.0 if cell > 0.1 else 1.2,
                clip_on=False,
                zorder=3,
            )
        )
    if not is_small:
        _point_at(axes, cells, names)
    return figure


def save_expert_map(path: str | PathLike[str], values: npt.ArrayLike, **options: Any) -> Path:
    """Draw a map of experts and write it as PNG.

    Args:
        path: The file.
        values: Map [L, E].
        options: Those of `draw_expert_map`.

    Returns:
        The path.

    Raises:
        ValueError: As `draw_expert_map`.
    """
    figure = draw_expert_map(values, **options)
    figure.savefig(path, format="png")
    return Path(path)


def _checked(
    grid: npt.NDArray[np.float64], layers: Sequence[int | str] | None, edited: Iterable[tuple[int, int]]
) -> tuple[list[int | str], list[tuple[int, int]]]:
    if grid.ndim != 2 or not np.isfinite(grid).any():
        raise ValueError(
            f"values has the shape {list(grid.shape)}, with {int(np.isfinite(grid).sum())} finite numbers; a map has "
            "the shape [layers, experts] and at least one finite number"
        )
    names: list[int | str] = list(range(len(grid)) if layers is None else layers)
    if len(names) != len(grid):
        raise ValueError(f"layers has {len(names)} names and values {len(grid)} rows; give one name for each row")
    cells = sorted(set(edited))
    for row, expert in cells:
        if not (0 <= row < grid.shape[0] and 0 <= expert < grid.shape[1]):
            raise ValueError(
                f"edited has row {row}, expert {expert}, outside the map of {grid.shape[0]} rows and {grid.shape[1]} "
                "experts; count rows by router, not by layer of the model"
            )
    return names, cells


def _ticks(count: int, most: int) -> list[int]:
    """At most `most` positions from 0 on, a round number apart."""
    steps = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 512, 1024)
    step = next((step for step in steps if math.ceil(count / step) <= most), count)
    return list(range(0, count, step))


def _write_values(axes: Any, grid: npt.NDArray[np.float64], limit: float, diverging: bool) -> None:
    for (row, expert), value in np.ndenumerate(grid):
        if np.isfinite(value):
            share = abs(value) / limit
            is_dark = share > 0.6 if diverging else share < 0.55
            text = f"{value:.2g}" if value else "0"
            axes.text(expert, row, text, ha="center", va="center", fontsize=7, color="white" if is_dark else "black")


def _point_at(axes: Any, cells: Sequence[tuple[int, int]], names: Sequence[int | str]) -> None:
    """Write the names of the edited experts beside their cells, towards the middle of the map."""
    if len(cells) > _NAMED_EXPERTS:
        return
    left, right = axes.get_xlim()
    clusters: list[list[tuple[int, int]]] = []
    for row, expert in cells:
        # The name of one would cover the next.
        if clusters and clusters[-1][0][0] == row and expert - clusters[-1][-1][1] < (right - left) / 12:
            clusters[-1].append((row, expert))
        else:
            clusters.append([(row, expert)])
    for cluster in clusters:
        is_right = cluster[0][1] > (left + right) / 2
        axes.annotate(
            ", ".join(f"{names[row]}:{expert}" for row, expert in cluster),
            cluster[0][::-1] if is_right else cluster[-1][::-1],
            xytext=(-7 if is_right else 7, 0),
            textcoords="offset points",
            ha="right" if is_right else "left",
            va="center",
            fontsize=7,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "0.6", "linewidth": 0.5},
            zorder=4,
        )
