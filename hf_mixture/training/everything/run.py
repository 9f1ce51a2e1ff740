"""`hf-mixture everything`: runs a recipe through all rooms, in parts that are journaled.

Parts, in order: curate, clusters, search, spread, quantise, train, edit, publish, push, pull. Curation, search and
both trainings are runs of their own, with journals of their own: a run that is killed goes on at the last shard, proxy
or checkpoint.
"""

from __future__ import annotations

import shutil
from typing import Any

from hf_mixture.training import report
from hf_mixture.training.everything import parts
from hf_mixture.training.everything.outcome import conclude, finish
from hf_mixture.training.everything.parts import EverythingRun
from hf_mixture.training.everything.publish import assemble, base_name, pull, push
from hf_mixture.training.everything.recipe import EverythingRecipe
from hf_mixture.training.journal import begin


def everything_recipe(
    recipe: EverythingRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a recipe through all rooms.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for reports and cards.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written. Or
            if the curated text does not make two domains.
        RuntimeError: If a process fails, a loss is not finite, or what was published does not load with the same
            outputs.
    """
    print(describe(recipe), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume, free=("hub",))
    run = EverythingRun(recipe=recipe, journal=journal, folder=journal.folder, command=command)
    if journal.finished.get("publish", {"base": base_name(run)}) != {"base": base_name(run)}:
        # A run that has ended without the Hub, or with another repository, is published anew.
        journal.forget(("publish", "push", "pull"))
    journal.measure(parts.CURATE, lambda: parts.curate_text(run))
    journal.measure(parts.CLUSTERS, lambda: parts.make_domains(run))
    journal.measure(parts.SEARCH, lambda: parts.find_mixture(run))
    journal.measure(parts.SPREAD, lambda: parts.train_model(run))
    journal.measure(parts.QUANTISE, lambda: parts.quantise_model(run))
    journal.measure(parts.TRAIN, lambda: parts.train_adapter(run))
    journal.measure(parts.EDIT, lambda: parts.edit_experts(run))
    journal.measure("publish", lambda: assemble(run))
    # Before the push, which takes the cards along.
    conclude(run)
    if recipe.hub is not None:
        journal.measure("push", lambda: push(run))
    journal.measure("pull", lambda: pull(run))
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    return finish(run)


def describe(recipe: EverythingRecipe) -> str:
    """Format a recipe for people."""
    spread, train = recipe.spread, recipe.train
    systems = ", ".join(
        f"{name} ({report.processes_text(system['num_processes'])})" for name, system in spread["systems"].items()
    )
    online = (spread.get("online") or {}).get("name", "nothing")
    (adapter,) = train["adapters"]
    return "\n".join(
        [
            f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"),
            "",
            f"output folder  {recipe.output_dir}",
            f"curate         {', '.join(recipe.curate['sources'])}",
            f"clusters       PPP, embeddings of {recipe.clusters.size}; at least {recipe.clusters.min_rows} documents",
            f"search         {recipe.search['method']['name']}, then {online} while the model trains",
            f"spread         {spread['model']['model_type']}, {spread['pretrain']['max_steps']:,} steps by {systems}",
            f"quantise       {recipe.quantise}",
            f"train          {adapter}, {train['adapt']['training_arguments']['max_steps']:,} steps",
            f"edit           {recipe.edits.num_off} experts off, for {recipe.edits.domain}",
            f"hub            {recipe.hub or 'nothing is pushed'}",
        ]
    )
