"""`hf-mixture thoughts`: runs a recipe from text to a comparison, in parts that are journaled.

Parts, in order: documents, the data and the training of each new expert, the scores of the experts alone, one training
of each system with each learning rate (first seed) or the chosen one (other seeds) and its test scores, the reload
check. A run that is killed continues at the part it was in, and a training at its last checkpoint.
"""

from __future__ import annotations

from typing import Any

from hf_mixture.training.journal import begin
from hf_mixture.training.recipe import source_of
from hf_mixture.training.thoughts.outcome import conclude
from hf_mixture.training.thoughts.parts import ThoughtsRun, make_documents, score_experts_alone, train_expert
from hf_mixture.training.thoughts.plan import describe, make_plan
from hf_mixture.training.thoughts.recipe import ThoughtsRecipe
from hf_mixture.training.thoughts.systems import SYSTEMS, choose_rate, score_system, train_candidate


def thoughts_recipe(
    recipe: ThoughtsRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a recipe of thoughts.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written. Or
            if a document is too long for an expert, which is known once the tokenizers are trained.
        RuntimeError: If no learning rate of a system gives a finite loss, or the saved mixture does not reload.
    """
    from hf_mixture.data.domains import load_domains

    texts = dict(load_domains({name: source_of(name, values) for name, values in recipe.domains.items()}))
    plan = make_plan(recipe, texts)
    print(describe(recipe, plan), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    run = ThoughtsRun(recipe=recipe, plan=plan, journal=journal, folder=journal.folder)
    make_documents(run, texts)
    for name in recipe.new_experts:
        train_expert(run, name)
    score_experts_alone(run)
    for system in SYSTEMS:
        first, *others = recipe.seeds
        for rate in recipe.learning_rates:
            train_candidate(run, system, first, rate)
        rate = choose_rate(run, system)
        for seed in others:
            train_candidate(run, system, seed, rate)
        for seed in recipe.seeds:
            score_system(run, system, seed, rate)
    return conclude(run, command)
