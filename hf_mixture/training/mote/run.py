"""`hf-mixture mote run`: runs a recipe from new weights to a comparison, in parts that are journaled.

Parts of each seed, in order: pretrain, finetune, scan, evaluate, bake. A run that is killed continues at the part it
was in, a training at its last checkpoint, and an evaluation at its last condition.
"""

from __future__ import annotations

from typing import Any

from hf_mixture.training.journal import begin
from hf_mixture.training.mote.measure import bake_edits, evaluate
from hf_mixture.training.mote.outcome import conclude
from hf_mixture.training.mote.parts import FINETUNE, PRETRAIN, MoteRun, scan_experts, train
from hf_mixture.training.mote.plan import describe, make_plan
from hf_mixture.training.mote.recipe import MoteRecipe


def mote_recipe(
    recipe: MoteRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a recipe of expert edits.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
        RuntimeError: If no refusal emerges, or the baked model does not answer in a process without this package.
    """
    plan = make_plan(recipe)
    print(describe(recipe, plan), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    run = MoteRun(recipe=recipe, plan=plan, journal=journal, folder=journal.folder)
    for seed in recipe.seeds:
        train(run, PRETRAIN, seed)
        train(run, FINETUNE, seed)
        scan_experts(run, seed)
        evaluate(run, seed)
        bake_edits(run, seed)
    return conclude(run, command)
