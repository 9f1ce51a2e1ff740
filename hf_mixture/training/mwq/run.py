"""`hf-mixture mwq run`: runs a recipe from text to a comparison, in parts that are journaled.

Parts, in order: prepare, the sparse model, quantising, one training of bit routers for each price, the quality of each
system, the speed of all, the reload check. A run that is killed continues at the part it was in, and a training at its
last checkpoint.
"""

from __future__ import annotations

from typing import Any

from hf_mixture.training.journal import begin
from hf_mixture.training.mwq.measure import measure_quality, measure_speed
from hf_mixture.training.mwq.outcome import conclude
from hf_mixture.training.mwq.parts import MwqRun, pretrain, quantise, train_routers
from hf_mixture.training.mwq.plan import describe, make_plan
from hf_mixture.training.mwq.recipe import MwqRecipe
from hf_mixture.training.prepare import blocks_for, prepare
from hf_mixture.training.run import load_texts


def mwq_recipe(recipe: MwqRecipe, *, resume: bool = False, dry_run: bool = False, command: str = "") -> dict[str, Any]:
    """Run a D2MoE recipe.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

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
    run = MwqRun(recipe=recipe, plan=plan, journal=journal, folder=journal.folder)
    if "prepare" not in journal.finished:
        print("\n== data", flush=True)
        needed = blocks_for(data, {"adapt": sum(plan.num_examples.values())})
        journal.finish("prepare", prepare(data, texts, needed, run.folder / "prepared"))
    pretrain(run)
    quantise(run)
    for alpha in recipe.bit_routers.alphas:
        train_routers(run, alpha)
    measure_quality(run)
    measure_speed(run)
    return conclude(run, command)
