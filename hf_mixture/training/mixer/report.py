"""Table, plots and card of a MixER run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.hub.reading import read_log
from hf_mixture.training import report as common


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table: one row for each collection and system, errors of each seed."""
    return [
        {
            "collection": row["collection"],
            "system": row["system"],
            "parameters (active)": f"{row['parameters']:,} ({row['active_parameters']:,})",
            "test error by seed": ", ".join(map(_shown, row["test_errors"])),
            "within the trained span": ", ".join(map(_shown, row["span_errors"])),
            "purity": ", ".join(f"{value:.2f}" for value in row["purities"]),
            "new environments, context 0": ", ".join(map(_shown, row["zero_errors"])),
            "adapted": ", ".join(map(_shown, row["adapted_errors"])),
            "CPU s": f"{sum(row['cpu_seconds']) / len(row['cpu_seconds']):.0f}",
        }
        for row in results["rows"]
    ]


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    lines = [
        markdown_table(rows_of(results)),
        "",
        "Errors are mean squared errors of trajectories from new initial states, over the whole time; those of new "
        "environments come before and after their contexts are fitted to one trajectory, with frozen weights. Purity "
        "is the share of environments that belong to the most frequent family of their expert.",
        "",
        *(f"- {verdict}" for verdict in results["verdicts"]),
        "",
        "![Errors of the systems](comparison.png)",
        "",
        "![Loss in training](learning_curve.png)",
        "",
        "![Trajectories](trajectories.png)",
        "",
        *common.reproduce_lines(results),
    ]
    return "\n".join(lines)


def draw_comparison(path: Path, rows: list[dict[str, Any]]) -> None:
    """Points of test errors by seed, for each collection and system."""
    figure, axes = _figure(7, 1.2 + 0.45 * len(rows))
    for place, row in enumerate(rows):
        there = [error for error in row["test_errors"] if error != "diverged"]
        axes.plot(there, [place] * len(there), "o", color="C0", alpha=0.7)
    axes.set(
        xscale="log",
        xlabel="mean squared error of test trajectories",
        yticks=range(len(rows)),
        yticklabels=[f"{row['system']} on {row['collection']}" for row in rows],
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_losses(path: Path, logs: Mapping[str, Path]) -> None:
    """Training losses of the systems on the first collection, first seed."""
    figure, axes = _figure(6.4, 4.0)
    for name, log in logs.items():
        entries = read_log(log)
        axes.plot(*zip(*((e["step"], e["loss"]) for e in entries if "loss" in e), strict=True), label=name)
    axes.set(yscale="log", xlabel="optimizer step", ylabel="training loss (mean squared error)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_trajectories(path: Path, model: Any, data: Any, families: list[str]) -> None:
    """The first test trajectory of one environment of each family, true and predicted."""
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hf_mixture.models.mixer.batches import collate_trajectories

    firsts = {family: environment for environment, family in reversed(list(enumerate(families)))}
    rows = {row["env_ids"]: row for row in reversed(list(data))}
    shown = dict(reversed(firsts.items()))
    figure = Figure(figsize=(3.2 * len(shown), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for panel, (family, environment) in zip(panels, shown.items(), strict=True):
        batch = collate_trajectories([rows[environment]])
        with torch.no_grad():
            predicted = model(**{k: v for k, v in batch.items() if k != "labels"}).trajectories[0]
        panel.plot(*batch["labels"][0, :, :2].T, color="black", label="true")
        panel.plot(*predicted[:, :2].T, "--", color="C1", label="predicted")
        panel.set(title=family, xlabel="y0", ylabel="y1")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def write_card(folder: Path, results: Mapping[str, Any], *, collection: str) -> None:
    """Write the `README.md` of a model folder that holds everything else already."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers", license="apache-2.0", tags=["hf-mixture", "mixture-of-experts", "neural-ode"]
    )
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} MixER, arXiv 2502.05335. It is small, made to compare, and knows only the "
        f"equations of the collection `{collection}`.".strip(),
        "",
        "## Usage",
        "",
        "`.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture  # registers the model type",
        "import torch",
        "from transformers import AutoModel",
        "",
        'model = AutoModel.from_pretrained(".")',
        f"initial_state = torch.full((1, {results['state_size']}), 0.5)",
        "times = torch.linspace(0, 1, 11)",
        "out = model(initial_state=initial_state, times=times, env_ids=torch.tensor([0]))",
        "print(out.trajectories.shape, out.router_indices)",
        "```",
        "",
        "For a new environment, `model.adapt(rows)` fits its context to observed trajectories; pass the result as "
        "`contexts=`.",
        "",
        body(results),
        "",
        "## Training data",
        "",
        "Trajectories simulated from published equations by scipy, with a relative tolerance of 1e-10.",
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
