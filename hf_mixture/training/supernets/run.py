"""`hf-mixture supernets`: trains every path alone, searches in several ways, and compares; in journaled parts.

Parts, in order: one training for each path and seed; one search for each seed and way; the best path, trained once
more to be published. A run that is killed continues at the part it was in, and a search at its last checkpoint.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hf_mixture.training.journal import begin
from hf_mixture.training.supernets.data import load_images
from hf_mixture.training.supernets.networks import network_config, search_in, train_alone
from hf_mixture.training.supernets.outcome import conclude
from hf_mixture.training.supernets.parts import alone_part, paths_of_recipe, search_part
from hf_mixture.training.supernets.recipe import SuperNetsRecipe


def supernets_recipe(
    recipe: SuperNetsRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a recipe.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
        RuntimeError: If the published model does not reload.
    """
    from tqdm.auto import tqdm

    print(describe(recipe), flush=True)
    if dry_run:
        return {}
    images, names = load_images(recipe)
    journal = begin(recipe, resume=resume)
    paths = paths_of_recipe(recipe)
    alone = [(index, seed) for seed in recipe.seeds for index in range(len(paths))]
    for index, seed in tqdm(alone, desc="paths alone"):
        if alone_part(index, seed) not in journal.finished:
            config = network_config(recipe, names, pooling_path=list(paths[index]))
            measured = train_alone(recipe, config, images, seed, journal.folder / "checkpoints")[1]
            journal.finish(alone_part(index, seed), measured)
    for seed in recipe.seeds:
        for name in recipe.searches:
            journal.measure(search_part(name, seed), partial(search_in, recipe, journal, images, names, (name, seed)))
    return conclude(recipe, journal, images, names, command)


def describe(recipe: SuperNetsRecipe) -> str:
    """Format a plan for people."""
    paths = len(paths_of_recipe(recipe))
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), "", f"output folder  {recipe.output_dir}"]
    lines += [f"images         {recipe.images.name}, {recipe.images.image_size} x {recipe.images.image_size}"]
    seeds = ", ".join(map(str, recipe.seeds))
    lines += [f"alone          {paths} paths, {recipe.alone['max_steps']:,} steps each; seeds {seeds}"]
    for name, spec in recipe.searches.items():
        steps = recipe.steps_of(name)
        per_model = f"{steps / spec.num_models:,.0f} a model"
        models = f"{spec.num_models} model{'s' * (spec.num_models > 1)}"
        lines.append(f"{name:14} {models}, {spec.assignment}; {steps:,} steps, {per_model}")
    return "\n".join(lines)
