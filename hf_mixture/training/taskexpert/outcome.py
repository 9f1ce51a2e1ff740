"""The end of a TaskExpert run: the comparison, pictures, report, card and results."""

from __future__ import annotations

import shutil
import statistics
from typing import Any

from hf_mixture.training import report as common
from hf_mixture.training.journal import Journal
from hf_mixture.training.mobilenet import ABOUT
from hf_mixture.training.taskexpert import pictures, report
from hf_mixture.training.taskexpert.data import SceneRows
from hf_mixture.training.taskexpert.measure import delta_m, predict, score
from hf_mixture.training.taskexpert.recipe import TaskExpertRecipe


def conclude(
    recipe: TaskExpertRecipe, journal: Journal, rows: SceneRows, scenes: Any, *, processor: Any, command: str
) -> dict[str, Any]:
    """Compare the systems, write what a finished run leaves, and print the table.

    Args:
        recipe: The recipe.
        journal: What was measured.
        rows: The prepared test scenes.
        scenes: The test scenes as they are, for pictures.
        processor: The image processor.
        command: The command.

    Returns:
        The content of `results.json`.

    Raises:
        RuntimeError: If the saved model does not reload.
    """
    from transformers import AutoModel

    from hf_mixture.hub.cards import package_versions

    first = recipe.seeds[0]
    published = journal.folder / "models" / f"{recipe.publish}-{first}"
    compared = [_row(recipe, journal, name) for name in recipe.candidates]
    results: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "setting": {"steps": recipe.training["max_steps"], "scenes": recipe.scenes.num_train},
        "tasks": recipe.tasks,
        "assets": [] if recipe.backbone.from_wheel is None else [ABOUT],
        "baseline": recipe.baseline,
        "seeds": recipe.seeds,
        "image_size": recipe.scenes.image_size,
        "rows": compared,
        "gates": {name: journal.finished[f"{name}-{first}"]["gates"] for name in recipe.candidates},
        "verdicts": _verdicts(recipe, compared),
    }
    common.write_results(journal.folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    model = AutoModel.from_pretrained(published)
    predictions, _ = predict(model, rows, batch_size=recipe.evaluation.batch_size)
    again = score(predictions, rows, model.config, recipe.evaluation)
    if again != journal.finished[f"{recipe.publish}-{first}"]["test"]:
        raise RuntimeError(f"the model in {published} does not predict what it did before it was saved")
    pictures.draw_predictions(journal.folder / "predictions.png", predictions, rows, scenes)
    pictures.draw_gates(journal.folder / "gates.png", results["gates"][recipe.publish])
    pictures.draw_comparison(journal.folder / "comparison.png", compared, recipe.baseline)
    logs = {name: journal.folder / "models" / f"{name}-{first}" / "log.jsonl" for name in recipe.candidates}
    pictures.draw_losses(journal.folder / "learning_curve.png", logs)
    common.write_report(journal.folder / "report.md", shown, report.body(shown))
    for name in (*report.PICTURES, "recipe.yaml"):
        shutil.copy(journal.folder / name, published / name)
    processor.save_pretrained(str(published))
    report.write_card(published, shown)
    shutil.rmtree(journal.folder / "checkpoints", ignore_errors=True)
    text = report.body(shown).partition("![")[0]
    common.print_outcome(recipe.output_dir, text, model=f"models/{published.name}")
    return results


def _row(recipe: TaskExpertRecipe, journal: Journal, name: str) -> dict[str, Any]:
    measured = [journal.finished[f"{name}-{seed}"] for seed in recipe.seeds]
    baseline = [journal.finished[f"{recipe.baseline}-{seed}"] for seed in recipe.seeds]
    return {
        "system": name,
        "parameters": measured[0]["parameters"],
        "test": {task: [entry["test"][task] for entry in measured] for task in recipe.tasks},
        "validation": {task: [entry["validation"][task] for entry in measured] for task in recipe.tasks},
        "delta_m": [delta_m(one["test"], other["test"]) for one, other in zip(measured, baseline, strict=True)],
        "cpu_seconds": [entry["cpu_seconds"] for entry in measured],
    }


def _verdicts(recipe: TaskExpertRecipe, rows: list[dict[str, Any]]) -> list[str]:
    """Each system beside the baseline, whatever the sign."""
    found = []
    by_name = {row["system"]: row for row in rows}
    of_baseline = by_name[recipe.baseline]["parameters"]
    for name, row in by_name.items():
        if name == recipe.baseline:
            continue
        gains = row["delta_m"]
        found.append(
            f"{name} against {recipe.baseline}: the mean task improvement is {statistics.median(gains):+.2f} % in the "
            f"median of {len(gains)} seed{'s' * (len(gains) > 1)} ({', '.join(f'{gain:+.2f}' for gain in gains)}), "
            f"above 0 in {sum(gain > 0 for gain in gains)}; parameters {row['parameters'] / of_baseline - 1:+.2%}."
        )
    return found
