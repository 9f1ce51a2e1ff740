"""Table and card of a TaskExpert run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.models.taskexpert.tasks import TASKS
from hf_mixture.training import report as common


PICTURES = ("comparison.png", "gates.png", "learning_curve.png", "predictions.png")
_HEADINGS = {
    "semseg": "semseg mIoU",
    "parts": "parts mIoU",
    "saliency": "saliency maxF",
    "normals": "normals degrees",
    "edges": "edges odsF",
    "depth": "depth RMSE",
}


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table: one row for each system, the mean of each score over seeds, and the gain of each seed."""
    return [
        {
            "system": row["system"],
            "parameters": f"{row['parameters']:,}",
            **{
                f"{_HEADINGS[task]} {'↑' if TASKS[task].higher_is_better else '↓'}": _spread(row["test"][task])
                for task in results["tasks"]
            },
            f"Δm against {results['baseline']}, by seed": ", ".join(f"{gain:+.2f} %" for gain in row["delta_m"]),
            "CPU s": f"{statistics.mean(row['cpu_seconds']):.0f}",
        }
        for row in results["rows"]
    ]


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    lines = [
        markdown_table(rows_of(results)),
        "",
        f"Scores on test scenes, mean and half the range over seeds {', '.join(map(str, results['seeds']))}. Δm is "
        "the mean over tasks of the relative change to the better. Arrows say what is better.",
        "",
        *(f"- {verdict}" for verdict in results["verdicts"]),
        "",
        "![Predictions beside truth](predictions.png)",
        "",
        "![Weights of experts and memory](gates.png)",
        "",
        "![Mean task improvement](comparison.png)",
        "",
        "![Loss in training](learning_curve.png)",
        "",
        *common.reproduce_lines(results),
    ]
    return "\n".join(lines)


def write_card(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the `README.md` of a model folder that holds everything else already."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        tags=["hf-mixture", "mixture-of-experts", "multi-task-learning", "semantic-segmentation", "depth-estimation"],
    )
    size = results["image_size"]
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} It is small, made to compare, and knows only procedural scenes.".strip(),
        "",
        "The method is TaskExpert, arXiv 2307.15324 (ICCV 2023). **No reference code was ever released: this is an "
        "independent implementation, from the paper's description. No number of the paper is claimed**; its data sets "
        "are not used here.",
        "",
        "## Usage",
        "",
        "`.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture  # registers the model type",
        "import numpy as np",
        "from transformers import AutoImageProcessor, AutoModel",
        "",
        'processor = AutoImageProcessor.from_pretrained(".")',
        'model = AutoModel.from_pretrained(".")',
        f"image = np.full(({size}, {size}, 3), 128, dtype=np.uint8)",
        'out = model(**processor(image, return_tensors="pt"))',
        "(maps,) = processor.post_process_tasks(out)",
        "print({task: tuple(values.shape) for task, values in maps.items()})",
        "print(hf_mixture.read_gates(out.gate_scores, model.config.tasks).occupancy.shape)",
        "```",
        "",
        body(results),
        "",
        "## Training data",
        "",
        "Scenes of `hf_mixture.load_scenes`, ray-cast from a seed, with exact labels. Not real images: the model is "
        "of no use for photographs.",
        *(f"\nWeights of the backbone at the start: {asset}." for asset in results["assets"]),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")


def _spread(values: list[float]) -> str:
    middle = f"{statistics.mean(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ± {(max(values) - min(values)) / 2:.2g}"
