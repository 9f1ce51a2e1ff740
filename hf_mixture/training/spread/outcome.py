"""The end of a spread run: losses against one process, plot, report, card and results."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.reading import read_log
from hf_mixture.training import report as common
from hf_mixture.training.journal import Journal
from hf_mixture.training.spread import report
from hf_mixture.training.spread.card import write_card
from hf_mixture.training.spread.plan import SpreadPlan
from hf_mixture.training.spread.recipe import SpreadRecipe


def conclude(recipe: SpreadRecipe, plan: SpreadPlan, journal: Journal, folder: Path, command: str) -> dict[str, Any]:
    """Compare the systems, write what a finished run leaves, and print the table.

    Args:
        recipe: The recipe.
        plan: Its resolved plan.
        journal: What was measured.
        folder: The run folder.
        command: The command.

    Returns:
        The content of `results.json`.

    Raises:
        RuntimeError: If the losses of a system that drops nothing are not those of one process.
    """
    from hf_mixture.hub.cards import package_versions

    logs = {name: _steps_of(folder / "logs" / f"{name}.jsonl") for name in recipe.systems}
    rows = [row_of(recipe, plan, name, logs, journal.finished[name]) for name in recipe.systems]
    results = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "parameters": {"all": plan.parameters, "experts": plan.expert_parameters},
        "steps": plan.steps,
        "tolerance": recipe.tolerance,
        "reference": recipe.reference,
        "data": journal.finished["prepare"],
        "rows": rows,
    }
    common.write_results(folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    report.draw(folder / "comparison.png", logs, recipe.reference)
    common.write_report(folder / "report.md", shown, report.body(shown))
    published = folder / "models" / recipe.publish
    for name in ("comparison.png", "recipe.yaml"):
        shutil.copy(folder / name, published / name)
    write_card(published, shown, recipe=recipe)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    place = Path(recipe.output_dir)
    print(f"\n{report.table(shown)}\n")
    print(
        f"report   {place}/report.md\nplot     {place}/comparison.png\nmodel    {place}/models/{recipe.publish}, with "
        f"its card\nresults  {place}/results.json",
        flush=True,
    )
    unequal = [row for row in rows if not row["drops"] and row["largest_difference"] > recipe.tolerance]
    if unequal:
        row = unequal[0]
        raise RuntimeError(
            f"a loss of {row['name']} differs from that of one process by {row['largest_difference']:.2g}, and "
            f"tolerance is {recipe.tolerance:g}; see {place}/report.md"
        )
    return results


def row_of(
    recipe: SpreadRecipe,
    plan: SpreadPlan,
    name: str,
    logs: Mapping[str, list[dict[str, Any]]],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """A system beside the others."""
    system, log = recipe.systems[name], logs[name]
    differences = [
        abs(mine["loss"] - theirs["loss"]) for mine, theirs in zip(log, logs[recipe.reference], strict=True)
    ]
    imbalance = [entry["fssdp/imbalance"] for entry in log if "fssdp/imbalance" in entry]
    copies = [entry["fssdp/copies"] for entry in log if "fssdp/copies" in entry]
    num_processes = system.num_processes
    moved = None
    if copies:
        rounds = 3 if system.options.get("rematerialise") else 2
        # Fully sharded data parallelism gathers all experts twice, and reduces all gradients, on every process.
        everything = 3 * (num_processes - 1) / num_processes * plan.num_experts
        moved = rounds * statistics.mean(copies) / everything
    alone = num_processes == 1
    return {
        "name": name,
        "num_processes": num_processes,
        "implementation": "stock Trainer" if alone else system.ep_implementation,
        "etp": system.etp,
        "options": system.options,
        "drops": system.ep_implementation == "capacity" and not alone,
        "dropped": measured["dropped"],
        "online": measured.get("online"),
        "final_loss": log[-1]["loss"],
        "largest_difference": max(differences),
        "bits_per_byte": measured["bits_per_byte"],
        "imbalance": statistics.mean(imbalance) if imbalance else None,
        "copies": statistics.mean(copies) if copies else None,
        "moved_of_fsdp": moved,
        "seconds_per_step": statistics.median(measured["seconds"]),
    }


def _steps_of(path: Path) -> list[dict[str, Any]]:
    """The entries of a log that have a loss, one for each step."""
    entries = read_log(path)
    return [entry for entry in entries if "loss" in entry]
