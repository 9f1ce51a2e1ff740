"""A report of a trace: one page of HTML that needs nothing else, or one image.

Letters: L routers, E experts.
"""

from __future__ import annotations

import base64
import html
import io
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.moe.trace.statistics import max_over_mean, normalised_entropy, summarise_trace
from hf_mixture.moe.trace.trace import RouterTrace


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.lead { color: #5a6675; margin-top: 0; } img { width: 100%; }
.tiles { display: flex; gap: 1rem; flex-wrap: wrap; margin: 1.2rem 0; }
.tile { border: 1px solid #dde3ea; border-radius: 8px; padding: 0.6rem 1rem; min-width: 8rem; }
.tile b { display: block; font-size: 1.3rem; } .tile span { color: #5a6675; font-size: 0.85rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid #e6eaef; text-align: right; }
th:first-child, td:first-child, td.text, th.text { text-align: left; } th { color: #5a6675; font-weight: 600; }
td.bad { color: #a4262c; font-weight: 600; } code { font-size: 0.85rem; }
"""


def write_report(trace: RouterTrace, folder: str | PathLike[str], *, format: Literal["html", "png"] = "html") -> Path:
    """Write the report of a trace.

    Args:
        trace: The trace.
        folder: Where to; made where it does not exist.
        format: `"html"`, a page without scripts or links to other files, or `"png"`, the figures alone.

    Returns:
        The file, `report.html` or `report.png`.

    Raises:
        ValueError: If the format is another.
    """
    if format not in ("html", "png"):
        raise ValueError(f'format={format!r} must be "html" or "png"')
    image = io.BytesIO()
    draw_trace(trace).savefig(image, format="png")
    content = image.getvalue() if format == "png" else _page(trace, image.getvalue()).encode("utf-8")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    path /= f"report.{format}"
    write_atomic(path, content)
    return path


def draw_trace(trace: RouterTrace) -> Figure:
    """Draw the load of each expert by layer, and the curves of the load over steps.

    Args:
        trace: The trace.

    Returns:
        The figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    num_routers, num_experts = len(trace.routers), max(router.num_experts for router in trace.routers)
    loads = np.full((num_routers, num_experts), np.nan)
    for router, counts in zip(trace.routers, trace.counts, strict=True):
        total = counts.sum(axis=0)
        loads[router.ordinal, : router.num_experts] = total * router.num_experts / max(int(total.sum()), 1)
    height = float(np.clip(0.28 * num_routers + 1.3, 2.4, 12))
    figure = Figure(figsize=(11, height + 3.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3, height_ratios=[height, 2.7])
    axes = figure.add_subplot(grid[0, :])
    top = max(2.0, float(np.nanmax(loads)))
    image = axes.imshow(
        loads, aspect="auto", interpolation="nearest", cmap="RdBu_r", norm=TwoSlopeNorm(1.0, vmin=0.0, vmax=top)
    )
    axes.set_facecolor("0.85")
    bar = figure.colorbar(image, ax=axes, label="load / mean load", fraction=0.03, pad=0.01)
    bar.set_ticks(sorted({0.0, 0.5, 1.0, *(float(tick) for tick in np.linspace(1.0, top, 4)[1:].round(1))}))
    step = int(np.ceil(num_routers / 24))
    rows = list(range(0, num_routers, step))
    names = [router.ordinal if router.layer is None else router.layer for router in trace.routers]
    axes.set_yticks(rows, [str(names[row]) for row in rows])
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True, steps=[1, 2, 4, 5, 8, 10]))
    axes.set(xlabel="expert", ylabel="layer")
    axes.set_title("Load of each expert (dead experts crossed)", loc="left", fontsize=11)
    dead = np.argwhere(loads == 0)
    axes.plot(dead[:, 1], dead[:, 0], "x", color="white", markersize=5 if num_experts <= 64 else 2.5)
    panels = (
        ("Largest / mean load", max_over_mean, (1.0, None)),
        ("Entropy of the load (1 = even)", normalised_entropy, (None, 1.0)),
        ("Share of experts without tokens", lambda counts: (counts == 0).mean(axis=-1), (0.0, None)),
    )
    for column, (title, function, (low, high)) in enumerate(panels):
        axes = figure.add_subplot(grid[1, column])
        curves = np.array([function(counts) for counts in trace.counts])
        marker = "o" if len(trace.steps) == 1 else ""
        axes.plot(trace.steps, curves.T, color="0.75", linewidth=0.8, marker=marker, markersize=3)
        axes.plot(
            trace.steps, curves.mean(axis=0), color="#1f5fa8", linewidth=2, marker=marker, label="mean of layers"
        )
        axes.set_ylim(bottom=low, top=high)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("optimizer step")
        axes.grid(color="0.93")
        axes.spines[["top", "right"]].set_visible(False)
        if column == 0:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _page(trace: RouterTrace, image: bytes) -> str:
    numbers = summarise_trace(trace)
    steps, routers = numbers["steps"], numbers["routers"]
    model = html.escape(str(numbers["model_type"]))
    tiles = {
        "traced steps": f"{len(steps):,}",
        "routers": f"{len(routers):,}",
        "tokens": f"{max(router['num_tokens'] for router in routers):,}",
        "largest / mean, mean of layers": f"{np.mean([router['max_over_mean'] for router in routers]):.2f}",
        "dead experts": f"{numbers['num_dead_experts']:,}",
    }
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles.items())
    dead = [router for router in routers if router["dead_experts"]]
    dead_rows = "".join(
        f'<tr><td>{_layer(router)}</td><td class="text"><code>{html.escape(router["path"])}</code></td>'
        f"<td>{len(router['dead_experts'])} of {router['num_experts']}</td>"
        f'<td class="text">{", ".join(map(str, router["dead_experts"]))}</td></tr>'
        for router in dead
    )
    dead_table = (
        '<table><tr><th>layer</th><th class="text">router</th><th>dead</th><th class="text">experts</th></tr>'
        f"{dead_rows}</table>"
        if dead
        else "<p>Every expert served a token in the traced steps.</p>"
    )
    source = base64.b64encode(image).decode("ascii")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Router trace: {model}</title><style>{_STYLE}</style></head>
<body>
<h1>Router trace: {model}</h1>
<p class="lead">Optimizer steps {steps[0]} to {steps[-1]}, one in {numbers["sample_every"]}; padding left out.</p>
<div class="tiles">{cells}</div>
<img alt="Load of each expert by layer, and load curves over steps" src="data:image/png;base64,{source}">
<h2>Dead experts</h2>
{dead_table}
<h2>Layers</h2>
<table><tr><th>layer</th><th class="text">router</th><th>experts</th><th>top k</th><th>largest / mean</th><th>CoV</th>
<th>Gini</th><th>entropy</th><th>dead</th></tr>
{"".join(_row(router) for router in routers)}</table>
</body></html>
"""


def _row(router: dict[str, Any]) -> str:
    numbers = "".join(
        f"<td>{router[name]:.3f}</td>" for name in ("max_over_mean", "coefficient_of_variation", "gini", "entropy")
    )
    num_dead = len(router["dead_experts"])
    return (
        f'<tr><td>{_layer(router)}</td><td class="text"><code>{html.escape(router["path"])}</code></td>'
        f"<td>{router['num_experts']}</td><td>{router['top_k']}</td>{numbers}"
        f"<td{' class=bad' if num_dead else ''}>{num_dead}</td></tr>\n"
    )


def _layer(router: dict[str, Any]) -> str:
    return "" if router["layer"] is None else str(router["layer"])
