"""Table, plot and report of a spread run. Every figure comes from `results.json` and the logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training.report import reproduce_lines


def table(results: Mapping[str, Any]) -> str:
    """The systems: losses against one process, quality, balance, traffic."""
    return markdown_table(
        [
            {
                "system": row["name"],
                "processes": row["num_processes"],
                "tokens go by": row["implementation"] + (f", etp {row['etp']}" if row["etp"] > 1 else ""),
                "last loss": f"{row['final_loss']:.4f}",
                "largest difference": f"{row['largest_difference']:.1e}",
                "bits per byte": f"{row['bits_per_byte']['mean']:.4f}",
                "imbalance": _figure(row["imbalance"], ".3f"),
                "copies": _figure(row["copies"], ".2f"),
                "moved / FSDP": _figure(row["moved_of_fsdp"], ".3f"),
                "dropped": _figure(row["dropped"], ".1%"),
            }
            for row in results["rows"]
        ]
    )


def draw(path: Path, logs: Mapping[str, list[dict[str, Any]]], reference: str) -> None:
    """Plot how far losses are from those of one process, and the balance of the ranks, over the steps.

    Args:
        path: The PNG file.
        logs: Entries of each system, one for each step.
        reference: The system of one process.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, log in logs.items():
        steps = range(1, len(log) + 1)
        if name != reference:
            # A log axis has no place for zero.
            apart = [
                max(abs(mine["loss"] - theirs["loss"]), 1e-8)
                for mine, theirs in zip(log, logs[reference], strict=True)
            ]
            left.plot(steps, apart, label=name, linewidth=1)
        if "fssdp/imbalance" in log[0]:
            right.plot(steps, [entry["fssdp/imbalance"] for entry in log], label=name, linewidth=1)
    left.set(xlabel="step", ylabel="loss, difference from one process", yscale="log")
    right.set(xlabel="step", ylabel="tokens of the busiest rank over the mean, minus 1")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend()
    figure.savefig(path, dpi=120)


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    seconds = [
        {"system": row["name"], "seconds for a step": f"{row['seconds_per_step']:.3f}"} for row in results["rows"]
    ]
    lines = [
        "## Comparison",
        "",
        table(results),
        "",
        f"All systems begin with the same weights and train {results['steps']:,} steps on the same batches. The "
        f"largest difference is that of any step's loss from that of `{results['reference']}`; systems that drop no "
        f"tokens may differ by {results['tolerance']:g} in float32. Imbalance is the tokens of the busiest rank over "
        "those of the mean, minus 1, on average over layers and steps; copies are those that a rank holds of one "
        "layer. Moved is what goes over links for experts and their gradients, over what fully sharded data "
        "parallelism moves.",
        "",
        "![Losses and balance over the steps](comparison.png)",
        "",
        "## Time",
        "",
        "Processes share the processors of one machine, so that their times say nothing of a cluster.",
        "",
        markdown_table(seconds),
        "",
        *reproduce_lines(results),
    ]
    return "\n".join(lines)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
