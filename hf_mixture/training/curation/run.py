"""`hf-mixture curate`: curates, publishes on request, and compares models of the strictest tier and of all tiers.

Parts, in order: the curation, which has its own journal; the data of the models; each model with each seed. A run that
is killed continues at the part it was in, and a training at its last checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hf_mixture.data.curation.curated import CuratedDataset
from hf_mixture.data.curation.pipeline import curate
from hf_mixture.training import report
from hf_mixture.training.curation.outcome import conclude, describe_curated
from hf_mixture.training.curation.recipe import ALL, STRICT, CurateRecipe
from hf_mixture.training.curation.texts import domain_texts, shares
from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.models import config_of
from hf_mixture.training.prepare import Prepared, blocks_for, prepare, training_rows
from hf_mixture.training.recipe import Recipe
from hf_mixture.training.resolve import filled_arguments
from hf_mixture.training.scoring import learning_curve, mixture_scores
from hf_mixture.training.stage import train_stage


def curate_recipe(
    recipe: CurateRecipe,
    *,
    resume: bool = False,
    dry_run: bool = False,
    command: str = "",
    num_proc: int = 1,
    push: str | None = None,
) -> dict[str, Any]:
    """Run the recipe of a curation.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and results.
        num_proc: Processes that work on documents.
        push: Data set repository to publish to; "" is the one of the recipe. Default: none, nothing is published.

    Returns:
        The content of `results.json` with training, else the report of the curation; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
        RuntimeError: If a loss is not finite.
    """
    if push == "":
        push = recipe.recipe.publish.repo_id
        if push is None:
            raise ValueError("--push names no repository, and the recipe has no publish.repo_id; give one of them")
    if push is not None:
        _check_repository(push)
    print(describe(recipe), flush=True)
    if dry_run:
        return {}
    if recipe.training is None:
        curated = curate(None, recipe.recipe, output_dir=recipe.output_dir, num_proc=num_proc, resume=resume)
        _tell(curated, recipe, push)
        return curated.report
    journal = begin(recipe, resume=resume)
    curated = curate(None, recipe.recipe, output_dir=journal.folder / "curated", num_proc=num_proc, resume=True)
    _tell(curated, recipe, push)
    return _train_all(recipe, curated, journal, command)


def _check_repository(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"the repository to publish to is {name!r}: {error}") from None


def describe(recipe: CurateRecipe) -> str:
    """Format the plan of a recipe for people."""
    curation = recipe.recipe
    stages = [name for name in curation.to_dict()["stages"] if getattr(curation.stages, name) is not None]
    lines = [
        f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"),
        "",
        f"output folder  {recipe.output_dir}",
        f"stages         {', '.join(stages)}",
    ]
    for name, source in curation.sources.items():
        licence = source.facts.get("license") or source.facts.get("card_license") or "of each document"
        lines.append(f"source         {name}: {source.path or 'no path'}, licence {licence}")
    if curation.mixture is not None:
        weights = ", ".join(f"{name} {share:g}" for name, share in curation.mixture.weights.items())
        lines.append(f"mixture        by {curation.mixture.unit}: {weights}")
    if recipe.training is not None:
        steps = recipe.training.arguments["max_steps"]
        lines.append(
            f"training       {recipe.training.model['model_type']}, {steps:,} steps on the strictest tier and on all "
            f"tiers, seeds {', '.join(map(str, recipe.training.seeds))}"
        )
    return "\n".join(lines)


def _tell(curated: CuratedDataset, recipe: CurateRecipe, push: str | None) -> None:
    place = curated.folder
    lines = [f"data set  {place}/dataset", f"card      {place}/dataset/README.md", f"rejected  {place}/rejected"]
    print("\n".join(["", describe_curated(curated.report), "", *lines]), flush=True)
    if push is not None:
        print(f"published {curated.push_to_hub(push, private=recipe.recipe.publish.private)}", flush=True)


def _train_all(recipe: CurateRecipe, curated: CuratedDataset, journal: Journal, command: str) -> dict[str, Any]:
    training = recipe.training
    assert training is not None  # noqa: S101 - the caller has looked
    texts = domain_texts(curated, training.held_out)
    names = list(curated.report["configurations"])
    mixture = recipe.recipe.mixture
    weights = None if mixture is None else mixture.weights
    tiers = curated.report["configurations"]
    data = recipe.data_recipe(shares(texts, tiers[names[0]], weights), shares(texts, tiers[names[-1]], weights))
    number = _num_examples(recipe)
    if "prepare" not in journal.finished:
        needed = blocks_for(data, {STRICT: number, ALL: number})
        journal.finish("prepare", prepare(data, texts, needed, journal.folder / "prepared"))
    for seed in training.seeds:
        for stage, name in ((STRICT, names[0]), (ALL, names[-1])):
            _train(recipe, data, journal, stage=stage, name=name, seed=seed)
    shutil.rmtree(journal.folder / "checkpoints", ignore_errors=True)
    return conclude(recipe, data=data, curated=curated, journal=journal, names=(names[0], names[-1]), command=command)


def _num_examples(recipe: CurateRecipe) -> int:
    from transformers import TrainingArguments

    training = recipe.training
    assert training is not None  # noqa: S101 - the caller has looked
    arguments = TrainingArguments(output_dir=recipe.output_dir, **filled_arguments(training.arguments, 0))
    return arguments.max_steps * arguments.train_batch_size * arguments.gradient_accumulation_steps


def _train(recipe: CurateRecipe, data: Recipe, journal: Journal, *, stage: str, name: str, seed: int) -> None:
    """Train and score one model."""
    from transformers import AutoModelForCausalLM, set_seed

    from hf_mixture.data.encoding import separator_id

    part = f"{name}/{seed}"
    if part in journal.finished:
        return
    training = recipe.training
    assert training is not None  # noqa: S101 - the caller has looked
    print(f"\n== {name}, seed {seed}: {training.arguments['max_steps']:,} steps", flush=True)
    prepared = Prepared(journal.folder / "prepared")
    tokenizer = prepared.tokenizer()
    set_seed(seed)
    model = AutoModelForCausalLM.from_config(
        config_of(
            training.model,
            vocab_size=len(tokenizer),
            separator=separator_id(tokenizer),
            block_size=training.block_size,
        )
    )
    rows = training_rows(data, prepared, stage, _num_examples(recipe)).shuffle(seed=seed)
    validation = prepared.windows("validation", training.block_size)
    result = train_stage(
        model,
        rows,
        validation,
        filled_arguments(training.arguments, seed) | {"seed": seed},
        Path(journal.folder, "checkpoints", part),
    )
    logs = journal.folder / "logs"
    logs.mkdir(exist_ok=True)
    report.write_log(result.log, logs / f"{part.replace('/', '-')}.jsonl")
    scores = mixture_scores(
        model,
        prepared.windows("test", training.block_size),
        data.mixture(ALL).weights,
        batch_size=training.evaluation.batch_size,
        label=part,
    )
    journal.finish(
        part,
        {
            "parameters": model.num_parameters(),
            "seconds_per_step": result.seconds_per_step,
            "curve": learning_curve(result.log, validation),
            "test_bits_per_byte": scores,
        },
    )
