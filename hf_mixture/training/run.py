"""`hf-mixture train`: runs a recipe from data to model cards, in parts that are journaled one by one.

Parts, in order: prepare, base (trained, converted or taken as it is), untrained and base scores, one training for each
adapter and learning rate, the choice among the rates, the reload check. A run that is killed continues at the part it
was in, and a training part at its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_mixture.training.journal import check_folder, open_journal
from hf_mixture.training.outcome import conclude
from hf_mixture.training.parts import Run, choose_rate, make_base, train_adapter
from hf_mixture.training.plan import describe, make_plan
from hf_mixture.training.prepare import blocks_for, prepare
from hf_mixture.training.recipe import Recipe, source_of


def run_recipe(recipe: Recipe, *, resume: bool = False, dry_run: bool = False, command: str = "") -> dict[str, Any]:
    """Run a recipe.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for the model cards.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
        RuntimeError: If no learning rate of an adapter gives a finite loss, or a saved adapter does not reload.
    """
    from accelerate import PartialState

    process = PartialState(cpu=bool(recipe.adapt.training_arguments.get("use_cpu")))
    with process.main_process_first():
        texts = load_texts(recipe)
    plan = make_plan(recipe, texts)
    folder = Path(recipe.output_dir).resolve()
    if process.is_main_process:
        print(describe(recipe, plan), flush=True)
        if not dry_run:
            check_folder(folder, recipe.to_yaml(), resume=resume, num_processes=plan.num_processes)
    if dry_run:
        return {}
    with process.main_process_first():
        journal = open_journal(folder, recipe.to_yaml(), num_processes=plan.num_processes)
    run = Run(recipe=recipe, plan=plan, journal=journal, folder=folder, process=process)
    if not run.is_done("prepare"):
        run.announce("data")
        needed = blocks_for(recipe, plan.num_examples)
        counts = prepare(recipe, texts, needed, folder / "prepared") if process.is_main_process else None
        run.finish("prepare", counts)
    make_base(run)
    for name in recipe.adapters:
        for index, rate in enumerate(recipe.adapt.learning_rates):
            train_adapter(run, name, index, rate)
        choose_rate(run, name)
    return conclude(run, command) if process.is_main_process else {}


def load_texts(recipe: Recipe) -> dict[str, Any]:
    """Load the text of every domain of a recipe.

    Args:
        recipe: The recipe.

    Returns:
        For each domain a `DatasetDict` of train, validation and test with a column `text`.
    """
    from hf_mixture.data.domains import load_domains

    return dict(load_domains({name: source_of(name, values) for name, values in recipe.domains.items()}))
