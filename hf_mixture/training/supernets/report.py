"""Table, plots and card of a search for where to pool."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training import report as common


PLOTS = ("search.png", "ranking.png", "alone.png")


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table: one row for each search, numbers of each seed."""
    return [
        {
            "search": row["search"],
            "models": row["models"],
            "steps (a model)": f"{row['steps']:,} ({row['steps_per_model']:,.0f})",
            "Spearman": _mean_of(row["spearman"]),
            "by seed": ", ".join(map(_shown, row["spearman"])),
            "Pearson": _mean_of(row["pearson"]),
            "Kendall": _mean_of(row["kendall"]),
            "chosen path": ", ".join(map(str, row["chosen"])),
            "its accuracy alone": ", ".join(f"{100 * value:.2f}" for value in row["accuracies"]),
            "its rank": ", ".join(map(str, row["ranks"])),
            "even loads": "yes" if all(row["loads_are_even"]) else "no",
            "CPU s": f"{statistics.fmean(row['cpu_seconds']):.0f}",
        }
        for row in results["rows"]
    ]


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    setting, references = results["setting"], results["references"]
    random, best = references["random"], references["best"]
    lines = [
        markdown_table(rows_of(results)),
        "",
        f"Correlations are those of a path's accuracy on {setting['validation']} validation images, in the model that "
        f"is best for it, with its accuracy on {setting['test']} test images when a network of that path is trained "
        f"alone ({setting['steps alone']} steps, {_seeds(setting['seeds'])}). Even loads: the share of the "
        "steps of every model is within three standard deviations of 1 / M.",
        "",
        f"Without a search: a random path reaches {100 * random['accuracy']:.2f} in the mean, and the worst "
        f"{100 * random['least']:.2f}; the best of all {len(results['paths'])}, {best['path']}, "
        f"{100 * best['accuracy']:.2f}." + _of_the_default(references.get("default")),
        "",
    ]
    if results["agreement_of_seeds"] is not None:
        lines += [
            "The truth is noisy as well: the accuracies of one seed rank the paths as the mean of the others does, "
            f"with a Spearman correlation of {results['agreement_of_seeds']:.2f}.",
            "",
        ]
    lines += [
        *(f"- {verdict}" for verdict in results["verdicts"]),
        "",
        "![The search](search.png)",
        "",
        "![Accuracies in the searches and alone](ranking.png)",
        "",
        "![Accuracies of all paths alone](alone.png)",
        "",
        *common.reproduce_lines(results),
    ]
    return "\n".join(lines)


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"mean of {number} seeds"


def _of_the_default(default: Mapping[str, Any] | None) -> str:
    if default is None:
        return ""
    return f" The default path {default['path']} reaches {100 * default['accuracy']:.2f}, rank {default['rank']}."


def draw_ranking(path: Path, truth: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy of each path in a search against its accuracy alone: a panel for each search, a colour for a seed."""
    figure, _ = _figure(3.1 * len(rows), 3.3, 0)
    panels = figure.subplots(1, len(rows), squeeze=False, sharex=True)[0]
    for panel, row in zip(panels, rows, strict=True):
        for number, (scores, seed) in enumerate(zip(row["scores"], row["seeds"], strict=True)):
            label = f"seed {seed}: {_shown(row['spearman'][number])}"
            panel.plot([100 * t for t in truth], [100 * s for s in scores], ".", color=f"C{number}", label=label)
        panel.set(title=row["search"], xlabel="test accuracy alone (%)")
        panel.grid(alpha=0.3)
        panel.legend(title="Spearman", fontsize=7, title_fontsize=7)
    panels[0].set_ylabel("validation accuracy in the search (%)")
    figure.savefig(path, dpi=120)


def draw_alone(path: Path, layers: Sequence[Sequence[int]], alone: Sequence[Sequence[float]]) -> None:
    """Accuracy of each path trained alone, with every seed."""
    figure, axes = _figure(max(6.4, 0.24 * len(layers)), 3.6, 1)
    for place, accuracies in enumerate(alone):
        axes.plot([place] * len(accuracies), [100 * a for a in accuracies], ".", color="C0", alpha=0.5)
        axes.plot(place, 100 * statistics.fmean(accuracies), "_", color="black", markersize=8)
    axes.set_xticks(range(len(layers)), [str(list(numbers)) for numbers in layers], rotation=90, fontsize=7)
    axes.set(ylabel="test accuracy alone (%)", xlabel="path: number of layers at each scale", title="every path alone")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)


def write_card(folder: Path, results: Mapping[str, Any], *, about_images: str, size: tuple[int, int]) -> None:
    """Write the `README.md` of a model folder that holds everything else already."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="image-classification",
        tags=["hf-mixture", "neural-architecture-search"],
    )
    published, (side, channels) = results["published"], size
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} Balanced Mixture of SuperNets, arXiv 2306.11982. This network pools as the search "
        f"found, {published['path']} layers at each scale, and was trained from scratch; its test accuracy is "
        f"{100 * published['accuracy']:.2f} percent. It is small, made to compare.",
        "",
        "## Usage",
        "",
        "`.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture  # registers the model type",
        "from PIL import Image",
        "from transformers import AutoImageProcessor, AutoModelForImageClassification",
        "",
        'processor = AutoImageProcessor.from_pretrained(".")',
        'model = AutoModelForImageClassification.from_pretrained(".")',
        f'image = Image.new("{"L" if channels == 1 else "RGB"}", ({side}, {side}))  # put your own here',
        'logits = model(**processor(image, return_tensors="pt")).logits',
        "print(model.config.id2label[int(logits.argmax())])",
        "```",
        "",
        body(results),
        "",
        "## Training data",
        "",
        about_images,
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")


def _figure(width: float, height: float, panels: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot() if panels else None


def _mean_of(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{statistics.fmean(numbers):.3f}" if len(numbers) == len(values) else "-"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
