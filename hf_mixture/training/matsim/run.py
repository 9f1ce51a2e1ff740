"""`hf-mixture matsim`: trains every candidate of a recipe with every seed, in parts that are journaled.

Parts, in order: features of colour; for each seed the untrained model, and one training for each candidate; then the
reload check. A run that is killed continues at the part it was in, and a training at its last checkpoint.
"""

from __future__ import annotations

import time
from functools import cached_property, partial
from typing import Any

from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.matsim.backbones import build_model
from hf_mixture.training.matsim.data import (
    Split,
    colour_histograms,
    image_processor,
    load_data,
    load_split,
    mean_colours,
)
from hf_mixture.training.matsim.measure import cosines_by_difference, embed, score
from hf_mixture.training.matsim.outcome import conclude
from hf_mixture.training.matsim.recipe import MatSimRecipe
from hf_mixture.training.mobilenet import MOBILENET


def matsim_recipe(
    recipe: MatSimRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
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
        RuntimeError: If the saved model does not reload.
    """
    print(describe(recipe), flush=True)
    if dry_run:
        return {}
    if recipe.backbone.from_wheel is not None:
        # A missing wheel is found before anything is written.
        MOBILENET.find("backbone.from_wheel")
    journal = begin(recipe, resume=resume)
    data = Data(recipe)
    _colour_baselines(recipe, journal, data)
    for seed in recipe.seeds:
        journal.measure(f"untrained-{seed}", partial(_untrained, recipe, data, seed))
        for candidate in recipe.candidates:
            journal.measure(f"{candidate}-{seed}", partial(_train, recipe, journal, data, candidate, seed))
    return conclude(recipe, journal, data, command)


class Data:
    """The splits of a run, read when they are needed.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: MatSimRecipe) -> None:
        self.recipe = recipe
        self.images = load_data(recipe)
        self.processor = image_processor(recipe)

    @cached_property
    def train(self) -> list[dict[str, Any]]:
        """Rows for the Trainer."""
        return load_split(self.images["train"], self.processor).rows()

    @cached_property
    def test(self) -> dict[str, Split]:
        """What is measured at the end: new materials, unmixed and mixed."""
        names = {"retrieval": "retrieval_test", "mixtures": "test"}
        return {name: load_split(self.images[split], self.processor) for name, split in names.items()}

    @cached_property
    def validation(self) -> dict[str, Split]:
        """The same of other new materials, for choices."""
        names = {"retrieval": "retrieval_validation", "mixtures": "validation"}
        return {name: load_split(self.images[split], self.processor) for name, split in names.items()}


def describe(recipe: MatSimRecipe) -> str:
    """Format a plan for people."""
    backbone = recipe.backbone
    name = (backbone.from_config or {}).get("model_type") or backbone.from_pretrained or backbone.from_wheel
    lines = [
        f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"),
        "",
        f"output folder  {recipe.output_dir}",
        f"backbone       {name}{'' if backbone.from_config else ', pretrained'}",
        f"candidates     {', '.join(recipe.candidates)}; seeds {', '.join(map(str, recipe.seeds))}",
        "",
        f"train          {recipe.training['max_steps']:,} steps of each of "
        f"{len(recipe.candidates) * len(recipe.seeds)} models",
    ]
    return "\n".join(lines)


def _colour_baselines(recipe: MatSimRecipe, journal: Journal, data: Data) -> None:
    splits = {"retrieval": data.images["retrieval_test"], "mixtures": data.images["test"]}
    for name, features, similarity in (
        ("mean_colour", mean_colours, "euclidean"),
        ("colour_histogram", colour_histograms, "dot"),
    ):
        if name not in journal.finished:
            print(f"\n== {name}", flush=True)
            found = {split: features(images) for split, images in splits.items()}
            measured = score(**found, splits=data.test, votes=recipe.votes, similarity=similarity)
            journal.finish(name, {"test": measured})


def _scores(recipe: MatSimRecipe, model: Any, data: Data) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stage, splits in (("validation", data.validation), ("test", data.test)):
        embeddings = {name: embed(model, split) for name, split in splits.items()}
        found[stage] = score(**embeddings, splits=splits, votes=recipe.votes)
    found["cosines"] = cosines_by_difference(embeddings["mixtures"], data.test["mixtures"])
    return found


def _untrained(recipe: MatSimRecipe, data: Data, seed: int) -> dict[str, Any]:
    return _scores(recipe, build_model(recipe, recipe.publish, seed), data)


def _train(recipe: MatSimRecipe, journal: Journal, data: Data, candidate: str, seed: int) -> dict[str, Any]:
    """Train one model, save it, and measure it."""
    from transformers import TrainingArguments

    from hf_mixture.models.matsim.trainer import MatSimTrainer
    from hf_mixture.training import report
    from hf_mixture.training.stage import train_on

    part = f"{candidate}-{seed}"
    checkpoints = journal.folder / "checkpoints" / part
    model = build_model(recipe, candidate, seed)
    trainer = MatSimTrainer(
        model,
        TrainingArguments(output_dir=str(checkpoints), **_arguments(recipe, seed), eval_strategy="no"),
        images_per_set=recipe.images_per_set,
        augments=recipe.augments,
        train_dataset=data.train,
    )
    began = time.process_time()
    train_on(trainer, checkpoints)
    seconds = time.process_time() - began
    folder = journal.folder / "models" / part
    model.eval().save_pretrained(folder)
    data.processor.save_pretrained(folder)
    report.write_log(trainer.state.log_history, folder / "log.jsonl")
    return {"parameters": model.num_parameters(), "cpu_seconds": seconds, **_scores(recipe, model, data)}


def _arguments(recipe: MatSimRecipe, seed: int) -> dict[str, Any]:
    import torch

    steps = recipe.training["max_steps"]
    logging = max(1, steps // 40)
    return {
        "seed": seed,
        "report_to": "none",
        "logging_steps": logging,
        "save_steps": logging * 10,
        "save_total_limit": 2,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **recipe.training,
    }
