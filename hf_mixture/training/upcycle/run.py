"""`hf-mixture upcycle`: runs a recipe from text to a comparison, in parts that are journaled.

Parts, in order: prepare, pretrain, one training of each system with each seed, the reload check. A run that is killed
continues at the part it was in, and a training at its last checkpoint.
"""

from __future__ import annotations

from typing import Any

from hf_mixture.training.journal import begin
from hf_mixture.training.prepare import blocks_for, prepare
from hf_mixture.training.run import load_texts
from hf_mixture.training.upcycle.outcome import conclude
from hf_mixture.training.upcycle.plan import describe, make_plan
from hf_mixture.training.upcycle.recipe import UpcycleRecipe
from hf_mixture.training.upcycle.resolve import DENSE
from hf_mixture.training.upcycle.systems import UpcycleRun, continue_system, pretrain


def upcycle_recipe(
    recipe: UpcycleRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run an upcycling recipe.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and cards.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
        RuntimeError: If a loss is not finite, or a saved model does not reload.
    """
    data = recipe.data_recipe()
    texts = load_texts(data)
    plan = make_plan(recipe, texts)
    print(describe(recipe, plan), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    run = UpcycleRun(recipe=recipe, plan=plan, journal=journal, folder=journal.folder)
    if "prepare" not in journal.finished:
        print("\n== data", flush=True)
        needed = blocks_for(data, {"adapt": sum(plan.num_examples.values())})
        journal.finish("prepare", prepare(data, texts, needed, run.folder / "prepared"))
    pretrain(run)
    for seed in recipe.seeds:
        for system in (DENSE, *recipe.routers):
            continue_system(run, system, seed)
    return conclude(run, command)
