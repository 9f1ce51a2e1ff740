"""What a search did, as a picture.

Letters: P paths, M models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mixture.models.pooling_supernet.modeling_balanced_supernet import BalancedSuperNetMixture
from hf_mixture.models.pooling_supernet.paths import layers_of


def draw_search(path: str | Path, mixture: BalancedSuperNetMixture, log: Sequence[Mapping[str, Any]]) -> None:
    """Draw which model trains which path, what every path reaches in every model, and the course of the search.

    Args:
        path: The PNG file.
        mixture: The mixture after its search; accuracies are drawn where `evaluate_paths` has measured them, and
            scores of what was tried otherwise.
        log: `trainer.state.log_history`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from hf_mixture import BalancedSuperNetConfig, BalancedSuperNetMixture
        >>> from hf_mixture.models.pooling_supernet.plots import draw_search
        >>> mixture = BalancedSuperNetMixture(BalancedSuperNetConfig(network_config={"layer_widths": [2, 2, 2, 4]}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_search(Path(folder) / "search.png", mixture, [{"step": 1, "loss": 2.0, "load": 1.0}])
        ...     (Path(folder) / "search.png").exists()
        True
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    shares, reached, course = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
    evaluated = bool((mixture.accuracies >= 0).all())
    found = mixture.accuracies if evaluated else mixture.scores
    values = np.ma.masked_array(found.numpy(force=True), (mixture.visits == 0).numpy(force=True) & (not evaluated))
    for axes, table, title, limits in (
        (shares, mixture.assignment().numpy(), "share of a path's steps\n(end of the search)", (0, 1)),
        (reached, values, "validation accuracy" if evaluated else "score of what was tried", (None, None)),
    ):
        image = axes.imshow(table, aspect="auto", interpolation="nearest", vmin=limits[0], vmax=limits[1])
        axes.set(title=title, xlabel="model", xticks=range(table.shape[1]))
        figure.colorbar(image, ax=axes)
    every = -(-len(mixture.paths) // 36)
    places = range(0, len(mixture.paths), every)
    shares.set_yticks(places, [str(list(layers_of(mixture.paths[place]))) for place in places], fontsize=7)
    shares.set_ylabel("path: number of layers at each scale")
    reached.set_yticks([])
    best = mixture.best() if evaluated or int(mixture.visits.sum()) else None
    if best is not None:
        reached.plot(best.model, best.path, "o", markerfacecolor="none", markeredgecolor="red", markersize=9)
    entries = [entry for entry in log if "loss" in entry]
    course.plot([e["step"] for e in entries], [e["loss"] for e in entries], color="C0", label="training loss (left)")
    loads = course.twinx()
    loads.plot([e["step"] for e in entries], [e["load"] for e in entries], color="C1", label="largest load (right)")
    loads.axhline(1 / table.shape[1], color="C1", linestyle=":", label="even load (right)")
    loads.set(ylim=(0, 1.05), ylabel="share of the steps so far")
    course.set(xlabel="optimizer step", ylabel="training loss", title="course of the search")
    course.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    course.grid(alpha=0.3)
    lines = [*course.get_lines(), *loads.get_lines()]
    loads.legend(lines, [str(line.get_label()) for line in lines], loc="upper right")
    figure.savefig(path, dpi=120)
