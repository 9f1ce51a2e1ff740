"""The end of a MatSim run: the comparison, plots, report, card and results."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.training import report as common
from hf_mixture.training.journal import Journal
from hf_mixture.training.matsim import plots, report
from hf_mixture.training.matsim.measure import embed
from hf_mixture.training.matsim.recipe import MatSimRecipe
from hf_mixture.training.mobilenet import ABOUT


if TYPE_CHECKING:
    from hf_mixture.training.matsim.run import Data


def conclude(recipe: MatSimRecipe, journal: Journal, data: Data, command: str) -> dict[str, Any]:
    """Compare the systems, write what a finished run leaves, and print the table.

    Args:
        recipe: The recipe.
        journal: What was measured.
        data: The data of the run.
        command: The command.

    Returns:
        The content of `results.json`.

    Raises:
        RuntimeError: If the saved model does not reload.
    """
    from hf_mixture.hub.cards import package_versions

    published = journal.folder / "models" / f"{recipe.publish}-{recipe.seeds[0]}"
    embeddings = _reloaded_embeddings(recipe, journal, data, published)
    rows = _rows(recipe, journal)
    split = data.test["retrieval"]
    results: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "setting": {"steps": recipe.training["max_steps"], "pixels": int(split.pixels.shape[-1])},
        "num_materials": len(set(split.materials)),
        "num_families": len(set(split.families)),
        "num_sets": len(set(data.test["mixtures"].families)),
        "publish": recipe.publish,
        "assets": [] if recipe.backbone.from_wheel is None else [ABOUT],
        "rows": rows,
        "cosines": {
            name: journal.finished[f"{name}-{recipe.seeds[0]}"]["cosines"]
            for name in ("untrained", *recipe.candidates)
        },
        "verdicts": _verdicts(recipe, rows),
    }
    common.write_results(journal.folder / "results.json", results)
    plots.draw_comparison(journal.folder / "comparison.png", rows)
    plots.draw_losses(
        journal.folder / "learning_curve.png",
        {name: journal.folder / "models" / f"{name}-{recipe.seeds[0]}" / "log.jsonl" for name in recipe.candidates},
    )
    plots.draw_cosines(journal.folder / "cosine_by_ratio.png", results["cosines"])
    images = data.images["retrieval_test"]
    plots.draw_grid(journal.folder / "retrieval.png", embeddings, images)
    shown = results | {"versions": package_versions()}
    common.write_report(journal.folder / "report.md", shown, report.body(shown))
    for name in (*report.PICTURES, "recipe.yaml"):
        shutil.copy(journal.folder / name, published / name)
    for name in ("image", "mask"):
        images[0][name].save(published / f"example_{name}.png")
    report.write_card(published, recipe, shown)
    shutil.rmtree(journal.folder / "checkpoints", ignore_errors=True)
    text = report.body(shown).partition("![")[0]
    common.print_outcome(recipe.output_dir, text, model=f"models/{published.name}")
    return results


def _reloaded_embeddings(recipe: MatSimRecipe, journal: Journal, data: Data, published: Path) -> Any:
    """Embeddings of the saved model, which score as the trained one did."""
    from transformers import AutoModel

    from hf_mixture.metrics import load_metric

    split = data.test["retrieval"]
    embeddings = embed(AutoModel.from_pretrained(published), split)
    again = load_metric("one_shot_retrieval").compute(
        embeddings=embeddings, classes=split.materials, superclasses=split.families, votes=recipe.votes
    )["top1_all"]
    before = journal.finished[published.name]["test"]["top1_all"]
    # The last bits of an embedding may differ and turn a tie.
    if abs(again - before) > 0.02:
        raise RuntimeError(f"the model in {published} retrieves {again:.3f} of the images, and {before:.3f} before")
    return embeddings


def _rows(recipe: MatSimRecipe, journal: Journal) -> list[dict[str, Any]]:
    found = []
    for name in ("mean_colour", "colour_histogram", "untrained", *recipe.candidates):
        of_colour = name in journal.finished
        parts = [name] if of_colour else [f"{name}-{seed}" for seed in recipe.seeds]
        entries = [journal.finished[part] for part in parts]
        found.append(
            {
                "system": name,
                "seeds": [] if of_colour else recipe.seeds,
                "parameters": entries[0].get("parameters", 0),
                "cpu_seconds": [entry.get("cpu_seconds", 0.0) for entry in entries],
                **{key: [entry["test"][key] for entry in entries] for key in entries[0]["test"]},
            }
        )
    return found


def _verdicts(recipe: MatSimRecipe, rows: list[dict[str, Any]]) -> list[str]:
    """The published candidate beside each other system, whatever the sign."""
    by_name = {row["system"]: row for row in rows}
    ours = by_name[recipe.publish]
    verdicts = []
    for name, row in by_name.items():
        if row is ours:
            continue
        parts = []
        for key, what in (("top1_all", "points of retrieval"), ("spearman", "of Spearman correlation")):
            theirs = row[key] if len(row[key]) == len(ours[key]) else row[key] * len(ours[key])
            gains = [mine - other for mine, other in zip(ours[key], theirs, strict=True)]
            unit = 100 if key == "top1_all" else 1
            form = "+.1f" if unit == 100 else "+.3f"
            parts.append(
                f"{statistics.median(gains) * unit:{form}} {what} (from {min(gains) * unit:{form}} to "
                f"{max(gains) * unit:{form}})"
            )
        number = len(ours["top1_all"])
        verdicts.append(
            f"{recipe.publish} less {name}, median of {number} seed{'s' * (number > 1)}: {'; '.join(parts)}."
        )
    return verdicts
