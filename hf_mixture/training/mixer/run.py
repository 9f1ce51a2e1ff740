"""`hf-mixture mixer`: trains every system of a recipe on every collection, in parts that are journaled.

Parts, in order: one training for each collection, seed and system, with its test errors and the adaptation to new
environments; the reload check. A run that is killed continues at the part it was in, and a training at its last
checkpoint.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.mixer.data import families_of, load_collection, trained_times, training_batch_rows
from hf_mixture.training.mixer.measure import by_family, errors_by_environment, family_purity, finite
from hf_mixture.training.mixer.outcome import conclude
from hf_mixture.training.mixer.recipe import MixerRecipe


def mixer_recipe(
    recipe: MixerRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
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
        FloatingPointError: If a training diverges.
        RuntimeError: If the saved model does not reload.
    """
    print(describe(recipe), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    for name in recipe.collections:
        data = load_collection(recipe, name)
        for planned in recipe.runs:
            part = part_of(*planned)
            if planned[0] == name:
                journal.measure(part, partial(_train, recipe, journal, data, planned))
    return conclude(recipe, journal, command)


def part_of(collection: str, system: str, seed: int) -> str:
    """Name of the part that trains one model."""
    return f"{collection}-{system}-{seed}"


def describe(recipe: MixerRecipe) -> str:
    """Format a plan for people."""
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), "", f"output folder  {recipe.output_dir}"]
    for name, spec in recipe.collections.items():
        seeds = ", ".join(map(str, spec.seeds or recipe.seeds))
        lines.append(f"{name:14} {', '.join(spec.candidates or recipe.candidates)}; seeds {seeds}")
    lines += ["", f"train          {recipe.training['max_steps']:,} steps of each of {len(recipe.runs)} models"]
    return "\n".join(lines)


def config_of(recipe: MixerRecipe, system: str, data: Any) -> Any:
    """The configuration of a system for a collection."""
    from hf_mixture.models.mixer.configuration_mixer import MixerConfig

    sizes = {"num_envs": len(families_of(data["train"])), "state_size": len(data["train"][0]["initial_state"])}
    return MixerConfig(**recipe.model | recipe.candidates[system] | sizes)


def _train(recipe: MixerRecipe, journal: Journal, data: Any, planned: tuple[str, str, int]) -> dict[str, Any]:
    """Train one model, save it, and measure it."""
    from transformers import TrainingArguments, set_seed

    from hf_mixture.models.mixer.modeling_mixer import MixerForTrajectoryReconstruction
    from hf_mixture.models.mixer.trainer import MixerSchedule, MixerTrainer
    from hf_mixture.training import report
    from hf_mixture.training.stage import train_on

    collection, system, seed = planned
    spec = recipe.collections[collection]
    rows = training_batch_rows(spec, data["train"])
    part = part_of(*planned)
    checkpoints = journal.folder / "checkpoints" / part
    set_seed(seed)
    model = MixerForTrajectoryReconstruction(config_of(recipe, system, data))
    arguments = TrainingArguments(
        output_dir=str(checkpoints), **_arguments(recipe, seed, len(rows)), eval_strategy="no"
    )
    trainer = MixerTrainer(model, arguments, schedule=MixerSchedule(**recipe.schedule), train_dataset=rows)
    began = time.process_time()
    _remove_checkpoints_without_state(checkpoints)
    train_on(trainer, checkpoints)
    seconds = time.process_time() - began
    folder = journal.folder / "models" / part
    model.eval().save_pretrained(folder)
    report.write_log(trainer.state.log_history, folder / "log.jsonl")
    return {
        "parameters": model.num_parameters(),
        "active_parameters": _active_parameters(model),
        "cpu_seconds": seconds,
        "gate_updates": trainer.gate_reports,
        **_measure(recipe, model, rows, data, collection),
    }


def _arguments(recipe: MixerRecipe, seed: int, num_rows: int) -> dict[str, Any]:
    """Arguments of the Trainer: by default all trajectories make one batch."""
    import torch

    steps = recipe.training["max_steps"]
    logging = max(1, steps // 40)
    return {
        "seed": seed,
        "report_to": "none",
        "logging_steps": logging,
        "save_steps": logging * 10,
        "save_total_limit": 2,
        "per_device_train_batch_size": num_rows,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **recipe.training,
    }


def _remove_checkpoints_without_state(folder: Path) -> None:
    """Remove checkpoints that lack what the schedule knows: the run was killed before it was written."""
    from hf_mixture.models.mixer.trainer import STATE_FILE

    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / STATE_FILE).is_file():
            shutil.rmtree(checkpoint)


def _active_parameters(model: Any) -> int:
    """Parameters of one expert."""
    return sum(parameter[0].numel() for parameter in model.experts.parameters())


def _measure(recipe: MixerRecipe, model: Any, rows: list[Any], data: Any, collection: str) -> dict[str, Any]:
    import torch

    families = families_of(data["train"])
    times = len(data["test"][0]["times"])
    seen = trained_times(recipe.collections[collection], times).stop
    test = list(data["test"])
    errors = errors_by_environment(model, test)
    with torch.no_grad():
        experts = model.gate(model.contexts.weight)[0].tolist()
    new = list(data["adapt_test"])
    contexts = model.adapt(
        data["adapt_train"], num_steps=recipe.adaptation.num_steps, learning_rate=recipe.adaptation.learning_rate
    )
    return {
        "train_error": finite(_mean(errors_by_environment(model, rows))),
        "test_error": finite(_mean(errors)),
        "test_error_trained_span": finite(_mean(errors_by_environment(model, test, until=seen))),
        "test_error_of_families": {name: finite(error) for name, error in by_family(errors, families).items()},
        "experts": experts,
        "purity": family_purity(experts, families),
        "new_error_zero": finite(_mean(errors_by_environment(model, new, contexts=torch.zeros_like(contexts)))),
        "new_error_adapted": finite(_mean(errors_by_environment(model, new, contexts=contexts))),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
