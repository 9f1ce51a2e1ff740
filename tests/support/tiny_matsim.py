"""A small MatSim and rows to train it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import ConvNextConfig, TrainingArguments, set_seed

from hf_mixture import MatSimConfig, MatSimModel, MatSimTrainer


def tiny_backbone(**fields: Any) -> ConvNextConfig:
    sizes = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "layer_scale_init_value": 1.0}
    return ConvNextConfig(**{"num_channels": 4, "initializer_range": 0.1, **sizes, **fields})


def tiny_matsim(**fields: Any) -> MatSimModel:
    set_seed(0)
    return MatSimModel(MatSimConfig(backbone_config=tiny_backbone(), embedding_size=8, **fields))


def material_rows(num_sets: int, *, ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)) -> list[dict[str, Any]]:
    """Flat colours that go from one to another, with some noise: enough to learn from."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(num_sets):
        first, second = torch.randn(2, 4, 1, 1, generator=generator)
        for ratio in ratios:
            pixels = (1 - ratio) * first + ratio * second + 0.2 * torch.randn(4, 32, 32, generator=generator)
            pixels[3] = 1.0
            rows.append({"pixel_values": pixels, "set_ids": number, "ratios": ratio})
    return rows


def train_on_one_batch(folder: Path, *, world_size: int) -> dict[str, torch.Tensor]:
    """Take three steps on all rows, which make one batch however many processes share it."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=40 // world_size,
        learning_rate=0.05,
        optim="sgd",
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=0.0,
    )
    assert arguments.world_size == world_size
    model = tiny_matsim(gather_across_processes=True)
    MatSimTrainer(model, arguments, images_per_set=5, train_dataset=material_rows(8)).train()
    return model.state_dict()
