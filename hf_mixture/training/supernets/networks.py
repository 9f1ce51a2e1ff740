"""The trainings of a run: one network, or one search, by the stock Trainer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hf_mixture.training.journal import Journal
from hf_mixture.training.supernets.parts import search_part
from hf_mixture.training.supernets.recipe import SuperNetsRecipe


def network_config(recipe: SuperNetsRecipe, names: list[str], **fields: Any) -> Any:
    """The configuration of a network of the recipe.

    Args:
        recipe: The recipe.
        names: Names of the classes.
        fields: Other fields.

    Returns:
        The configuration.
    """
    from hf_mixture.models.pooling_supernet.configuration_pooling_resnet import PoolingResNetConfig

    labels = {"id2label": dict(enumerate(names)), "label2id": {name: label for label, name in enumerate(names)}}
    return PoolingResNetConfig(**recipe.network | labels | fields)


def train_alone(
    recipe: SuperNetsRecipe, config: Any, images: Any, seed: int, folder: Path
) -> tuple[Any, dict[str, Any]]:
    """Train one network, and measure its accuracies.

    Args:
        recipe: The recipe.
        config: The network.
        images: The splits.
        seed: Seed of weights and order.
        folder: A folder for the Trainer, which writes nothing there.

    Returns:
        The model, in evaluation mode, and what was measured.
    """
    import torch
    from transformers import Trainer, TrainingArguments, set_seed

    from hf_mixture.models.pooling_supernet.modeling_pooling_resnet import PoolingResNetForImageClassification

    set_seed(seed)
    # Convolutions of few channels are faster with the channels last.
    model: Any = PoolingResNetForImageClassification(config).to(memory_format=torch.channels_last)
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{**_arguments(seed, recipe.alone["max_steps"]), "disable_tqdm": True, **recipe.search, **recipe.alone},
        save_strategy="no",
    )
    began = time.process_time()
    trainer = _quiet(Trainer(model, arguments, train_dataset=images["train"]))
    trainer.train()
    seconds = time.process_time() - began
    accuracies = {name: accuracy(model.eval(), images[name]) for name in ("validation", "test")}
    return model, {**accuracies, "cpu_seconds": seconds}


def accuracy(model: Any, rows: Any, batch_size: int = 500) -> float:
    """Measure the share of images that a model classifies rightly.

    Args:
        model: The model.
        rows: The images.
        batch_size: Images at once; networks without running statistics depend on it. Default: 500.

    Returns:
        From 0 to 1.
    """
    import torch

    right = 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            x, y = rows.pixel_values[start : start + batch_size], rows.labels[start : start + batch_size]
            right += int((model(x.to(model.device)).logits.argmax(dim=-1).cpu() == y).sum())
    return right / len(rows)


def search_in(
    recipe: SuperNetsRecipe, journal: Journal, images: Any, names: list[str], planned: tuple[str, int]
) -> dict[str, Any]:
    """Search in one way, save the mixture with its plot, and evaluate every path in every model.

    Args:
        recipe: The recipe.
        journal: The run.
        images: The splits.
        names: Names of the classes.
        planned: Name of the search, and seed.

    Returns:
        What was measured.
    """
    import torch
    from transformers import Trainer, TrainingArguments, set_seed

    from hf_mixture.models.pooling_supernet.configuration_balanced_supernet import BalancedSuperNetConfig
    from hf_mixture.models.pooling_supernet.modeling_balanced_supernet import BalancedSuperNetMixture
    from hf_mixture.models.pooling_supernet.plots import draw_search
    from hf_mixture.models.pooling_supernet.search import SuperNetSearchCallback
    from hf_mixture.training import report
    from hf_mixture.training.stage import train_on

    name, seed = planned
    spec = recipe.searches[name]
    set_seed(seed)
    config = BalancedSuperNetConfig(
        network_config=network_config(recipe, names),
        num_scales=recipe.num_scales,
        num_models=spec.num_models,
        assignment=spec.assignment,
        max_temperature=spec.max_temperature,
    )
    model: Any = BalancedSuperNetMixture(config).to(memory_format=torch.channels_last)
    steps = recipe.steps_of(name)
    checkpoints = journal.folder / "checkpoints" / search_part(name, seed)
    arguments = TrainingArguments(
        output_dir=str(checkpoints), **{**_arguments(seed, steps), **recipe.search, "max_steps": steps}
    )
    search = SuperNetSearchCallback(images["validation"], batch_size=recipe.validation_batch_size)
    began = time.process_time()
    trainer = Trainer(model, arguments, train_dataset=images["train"], callbacks=[search])
    train_on(trainer, checkpoints)
    accuracies = model.evaluate_paths(images["validation"])
    seconds = time.process_time() - began
    folder = journal.folder / "models" / search_part(name, seed)
    model.eval().save_pretrained(folder)
    report.write_log(trainer.state.log_history, folder / "log.jsonl")
    draw_search(folder / "search.png", model, trainer.state.log_history)
    return {
        "accuracies": accuracies.tolist(),
        "loads": model.visits.sum(dim=0).tolist(),
        "cpu_seconds": seconds,
    }


def _arguments(seed: int, steps: int) -> dict[str, Any]:
    import torch

    logging = max(1, steps // 40)
    return {
        "seed": seed,
        "report_to": "none",
        "logging_steps": logging,
        "save_steps": logging * 5,
        "save_total_limit": 2,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def _quiet(trainer: Any) -> Any:
    """Remove what prints the logs of a training that takes a second."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer
