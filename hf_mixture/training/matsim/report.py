"""Table and card of a MatSim run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training import report as common
from hf_mixture.training.matsim.recipe import MatSimRecipe


PICTURES = ("comparison.png", "retrieval.png", "cosine_by_ratio.png", "learning_curve.png")


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table: one row for each system, means and ranges over seeds."""
    return [
        {
            "system": row["system"],
            "one-shot, all": mean_and_range(row["top1_all"]),
            "within families": mean_and_range(row["top1_subclass"]),
            "by votes, all": mean_and_range(row["votes_all"]),
            "mixtures of a set": mean_and_range(row["mixtures_top1"]),
            "Spearman": mean_and_range(row["spearman"]),
            "CPU s": f"{sum(row['cpu_seconds']) / len(row['cpu_seconds']):.0f}",
        }
        for row in results["rows"]
    ]


def mean_and_range(values: list[float]) -> str:
    """A mean, and the extremes where there are several values."""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    first = results["rows"][0]
    lines = [
        markdown_table(rows_of(results)),
        "",
        f"Class-balanced accuracies on {results['num_materials']} materials in {results['num_families']} families "
        "that no training has seen: how often the most similar image shows the same material, among all images "
        f"(chance {first['chance_all'][0]:.3f}), among those of its family (chance "
        f"{first['chance_subclass'][0]:.3f}), and by votes; and on mixtures of {results['num_sets']} new sets, how "
        f"often the most similar image of the set has the same ratio (chance {first['mixtures_chance'][0]:.3f}). "
        "Spearman: correlation of similarity and 1 - |df| over the pairs of a set. Several seeds: mean and range.",
        "",
        *(f"- {verdict}" for verdict in results["verdicts"]),
        "",
        "![Accuracies of the systems](comparison.png)",
        "",
        "![Most similar images](retrieval.png)",
        "",
        "The first image of ten materials, at equal distances in the list, and the five most similar ones; green "
        "frames are the same material, orange ones the same family, red ones neither.",
        "",
        "![Cosine by difference of ratios](cosine_by_ratio.png)",
        "",
        "![Loss in training](learning_curve.png)",
        "",
        *common.reproduce_lines(results),
    ]
    return "\n".join(lines)


def write_card(folder: Path, recipe: MatSimRecipe, results: Mapping[str, Any]) -> None:
    """Write the `README.md` of a model folder that holds everything else already."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="image-feature-extraction",
        tags=["hf-mixture", "material-similarity", "image-retrieval"],
    )
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} MatSim, arXiv 2212.00648. It is small, made to compare, and knows only procedural "
        "materials.".strip(),
        "",
        "## Usage",
        "",
        "`.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture  # registers the model type",
        "from PIL import Image",
        "from transformers import AutoImageProcessor, AutoModel, pipeline",
        "",
        'model = AutoModel.from_pretrained(".")',
        'processor = AutoImageProcessor.from_pretrained(".")',
        'image, mask = Image.open("example_image.png"), Image.open("example_mask.png")',
        'inputs = processor([image, image], [mask, None], return_tensors="pt")',
        "embeds = model(**inputs).image_embeds",
        "print(embeds.shape, (embeds[0] @ embeds[1]).item())",
        "",
        'extractor = pipeline("image-feature-extraction", model=".")',
        'print(len(extractor(image, image_processor_kwargs={"masks": mask})[0]))',
        "```",
        "",
        "The mask is 0 where the material is not; None marks the whole image. Cosines of embeddings order images by "
        "the similarity of their materials.",
        "",
        body(results),
        "",
        "## Training data",
        "",
        "Procedural materials and their mixtures by interpolation of parameters, drawn by "
        f"`hf_mixture.load_materials({', '.join(f'{k}={v!r}' for k, v in recipe.materials.items())})`.",
        *(f"\nWeights of the backbone at the start: {asset}." for asset in results["assets"]),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")
