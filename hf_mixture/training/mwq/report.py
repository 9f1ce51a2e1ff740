"""Table, plot and report of a D2MoE run. Every figure comes from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training.report import reproduce_lines


def table(results: Mapping[str, Any]) -> str:
    """The systems: bits, bytes on disk and in memory, bits per byte, tokens per second."""
    return markdown_table(
        [
            {
                "experts": row["name"],
                "bits": _figure(row["bits"], ".2f"),
                "bytes on disk": _figure(row["disk_bytes"], ","),
                "peak bytes in memory": _figure(row["expert_bytes"], ","),
                "bits per byte": _figure(row["bits_per_byte"], ".4f"),
                "tokens/s": _figure(row["tokens_per_second"], ".1f"),
                "of bfloat16": _figure(row["of_bfloat16"], ".2f"),
            }
            for row in results["rows"]
        ]
    )


def draw(path: Path, results: Mapping[str, Any]) -> None:
    """Plot bits per byte against the bits of a weight.

    Args:
        path: The PNG file.
        results: The content of `results.json`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = {
        "nested, one width": ("nested at", "o-"),
        "one file for each width": ("only", "s--"),
        "nested, by gate and error": ("nested, by gate", "^"),
        "nested, bit routers": ("nested, bit routers", "D"),
    }
    for label, (beginning, style) in kinds.items():
        points = sorted((r["bits"], r["bits_per_byte"]) for r in results["rows"] if r["name"].startswith(beginning))
        axes.plot(*zip(*points, strict=True), style, markersize=5, label=label)
    [full] = [row["bits_per_byte"] for row in results["rows"] if row["name"] == "float32"]
    axes.axhline(full, color="grey", linewidth=0.8, label="float32")
    axes.set(xlabel="bits of a weight of the experts, on average over tokens", ylabel="held-out bits per byte")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    ratios, speed = results["ratios"], results["speed"]
    peers = "; ".join(f"{name}: {said}" for name, said in results["peers"].items())
    training = [
        {"alpha": f"{alpha:g}"} | {name.removeprefix("bits/"): f"{value:.3f}" for name, value in shares.items()}
        for alpha, shares in zip(results["alphas"], results["training"], strict=True)
    ]
    lines = [
        "## Comparison",
        "",
        table(results),
        "",
        "Bits are those of a weight, without scales, on average over the tokens of the test text. Bytes are those of "
        f"the experts alone. Tokens per second are medians of {speed['rounds']} rounds in which all systems generate "
        f"{speed['new_tokens']} tokens after a prompt of {speed['prompt_tokens']}, in turn. Experts on disk are read "
        "past the page cache: whatever the budget does not hold comes from the disk. Their answers are those of the "
        "same experts in memory, token by token.",
        "",
        f"Other libraries: {peers}.",
        "",
        "![Bits per byte against bits](comparison.png)",
        "",
        "## Ratios",
        "",
        markdown_table([{"ratio": name, "value": f"{value:.3f}"} for name, value in ratios.items()]),
        "",
        "## Training of the bit routers",
        "",
        "Cross-entropy to the full-precision model, expected bits, and the share of places at each width, over the "
        "last steps; with the capacities of the paper, beyond which places skip their expert while training.",
        "",
        markdown_table(training),
        "",
        *reproduce_lines(results),
    ]
    return "\n".join(lines)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
