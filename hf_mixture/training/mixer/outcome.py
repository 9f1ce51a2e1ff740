"""The end of a MixER run: the comparison, plots, report, card and results."""

from __future__ import annotations

import shutil
import statistics
from typing import Any

from hf_mixture.training import report as common
from hf_mixture.training.journal import Journal
from hf_mixture.training.mixer import report
from hf_mixture.training.mixer.data import families_of, load_collection
from hf_mixture.training.mixer.recipe import MixerRecipe


def conclude(recipe: MixerRecipe, journal: Journal, command: str) -> dict[str, Any]:
    """Compare the systems, write what a finished run leaves, and print the table.

    Args:
        recipe: The recipe.
        journal: What was measured.
        command: The command.

    Returns:
        The content of `results.json`.

    Raises:
        RuntimeError: If the saved model does not reload.
    """
    from transformers import AutoModel

    from hf_mixture.hub.cards import package_versions

    rows = [
        _row(recipe, journal, name, system)
        for name, spec in recipe.collections.items()
        for system in spec.candidates or recipe.candidates
    ]
    first = next(iter(recipe.collections))
    seed = (recipe.collections[first].seeds or recipe.seeds)[0]
    parts = {s: f"{first}-{s}-{seed}" for s in recipe.collections[first].candidates or recipe.candidates}
    published = journal.folder / "models" / parts[recipe.publish]
    data = load_collection(recipe, first)
    results: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "setting": {"steps": recipe.training["max_steps"]},
        "state_size": len(data["train"][0]["initial_state"]),
        "families": families_of(data["train"]),
        "rows": rows,
        "verdicts": _verdicts(recipe, rows),
    }
    common.write_results(journal.folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    report.draw_comparison(journal.folder / "comparison.png", rows)
    report.draw_losses(
        journal.folder / "learning_curve.png",
        {system: journal.folder / "models" / part / "log.jsonl" for system, part in parts.items()},
    )
    model = AutoModel.from_pretrained(published)
    if model.gate(model.contexts.weight)[0].tolist() != journal.finished[parts[recipe.publish]]["experts"]:
        raise RuntimeError(f"the model in {published} does not route as it did before it was saved")
    report.draw_trajectories(journal.folder / "trajectories.png", model, data["test"], results["families"])
    common.write_report(journal.folder / "report.md", shown, report.body(shown))
    for name in ("comparison.png", "learning_curve.png", "trajectories.png", "recipe.yaml"):
        shutil.copy(journal.folder / name, published / name)
    report.write_card(published, shown, collection=first)
    shutil.rmtree(journal.folder / "checkpoints", ignore_errors=True)
    text = report.body(shown).partition("![")[0]
    common.print_outcome(recipe.output_dir, text, model=f"models/{published.name}")
    return results


def _row(recipe: MixerRecipe, journal: Journal, collection: str, system: str) -> dict[str, Any]:
    seeds = recipe.collections[collection].seeds or recipe.seeds
    measured = [journal.finished[f"{collection}-{system}-{seed}"] for seed in seeds]

    def all_of(key: str) -> list[Any]:
        return [entry[key] for entry in measured]

    return {
        "collection": collection,
        "system": system,
        "seeds": seeds,
        "parameters": measured[0]["parameters"],
        "active_parameters": measured[0]["active_parameters"],
        "train_errors": all_of("train_error"),
        "test_errors": all_of("test_error"),
        "span_errors": all_of("test_error_trained_span"),
        "family_errors": all_of("test_error_of_families"),
        "purities": all_of("purity"),
        "experts": all_of("experts"),
        "zero_errors": all_of("new_error_zero"),
        "adapted_errors": all_of("new_error_adapted"),
        "gate_updates": all_of("gate_updates"),
        "cpu_seconds": all_of("cpu_seconds"),
    }


def _verdicts(recipe: MixerRecipe, rows: list[dict[str, Any]]) -> list[str]:
    """The published system beside each other one, on each collection, whatever the sign."""
    found = []
    by_name = {(row["collection"], row["system"]): row for row in rows}
    for (collection, system), row in by_name.items():
        ours = by_name.get((collection, recipe.publish))
        if ours is None or ours is row:
            continue
        for key, where in (("span_errors", "within the trained span"), ("test_errors", "over the whole time")):
            ratios = [_ratio(mine, theirs) for mine, theirs in zip(ours[key], row[key], strict=True)]
            better = sum(ratio < 1 for ratio in ratios)
            found.append(
                f"On {collection}, {where}, the test error of {recipe.publish} / {system} is "
                f"{statistics.median(ratios):.3g} in the median of {len(ratios)} seed{'s' * (len(ratios) > 1)}; "
                f"{recipe.publish} is better in {better}."
            )
    return found


def _ratio(mine: float | str, theirs: float | str) -> float:
    if isinstance(mine, str):
        return float("inf")
    return 0.0 if isinstance(theirs, str) else mine / theirs
