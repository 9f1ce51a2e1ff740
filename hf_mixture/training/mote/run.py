"""`hf-mixture mote run`: runs a recipe from new weights to a comparison, in parts that are journaled.

Parts of each seed, in order: pretrain, finetune, scan, evaluate, bake. A run that is killed continues at the part it
was in, a training at its last checkpoint, and an evaluation at its last condition.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_mixture.training.journal import check_folder, open_journal
from hf_mixture.training.mote.outcome import conclude
from hf_mixture.training.mote.parts import FINETUNE, PRETRAIN, MoteRun, bake_edits, evaluate, scan_experts, train
from hf_mixture.training.mote.plan import describe
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
    print(describe(recipe), flush=True)
    if dry_run:
        return {}
    folder = Path(recipe.output_dir).resolve()
    check_folder(folder, recipe.to_yaml(), resume=resume, num_processes=1)
    run = MoteRun(recipe=recipe, journal=open_journal(folder, recipe.to_yaml(), num_processes=1), folder=folder)
    for seed in recipe.seeds:
        train(run, PRETRAIN, seed)
        train(run, FINETUNE, seed)
        scan_experts(run, seed)
        evaluate(run, seed)
        bake_edits(run, seed)
    return conclude(run, command)
