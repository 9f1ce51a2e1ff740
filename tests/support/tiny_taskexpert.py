"""A TaskExpert of a few thousand parameters, and labels for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, ResNetConfig, TrainingArguments

from hf_mixture import TaskExpertConfig, TaskExpertForMultiTaskVision


TASKS = ["semseg", "parts", "saliency", "normals", "edges", "depth"]
SIZE = 32


def resnet(**fields: Any) -> ResNetConfig:
    given = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    return ResNetConfig(**{**given, "out_indices": [1, 2], **fields})


def dinov2() -> Dinov2Config:
    return Dinov2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=8,
        out_indices=[1, 2, 3],
    )


def config(**fields: Any) -> TaskExpertConfig:
    given = {"backbone_config": resnet(), "expert_size": 8, "num_experts": 3, "num_semseg_labels": 5}
    return TaskExpertConfig(**{**given, **fields})


def model(**fields: Any) -> TaskExpertForMultiTaskVision:
    torch.manual_seed(0)
    made = TaskExpertForMultiTaskVision(config(**fields))
    # Gates that differ between images and tasks.
    for name, parameter in made.named_parameters():
        if ".gates." in name:
            torch.nn.init.normal_(parameter)
    return made


def images(number: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def labels(number: int = 3, seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def whole(classes: int) -> Tensor:
        return torch.randint(classes, (number, SIZE, SIZE), generator=generator)

    normals = torch.randn(number, 3, SIZE, SIZE, generator=generator)
    return {
        "semseg": whole(5),
        "parts": whole(7),
        "saliency": whole(2),
        "normals": torch.nn.functional.normalize(normals, dim=1),
        "edges": (torch.rand(number, SIZE, SIZE, generator=generator) < 0.1).long(),
        "depth": torch.rand(number, SIZE, SIZE, generator=generator) + 1,
    }


def rows(number: int = 8) -> list[dict[str, Any]]:
    maps = labels(number)
    return [
        {"pixel_values": image, "labels": {task: values[place] for task, values in maps.items()}}
        for place, image in enumerate(images(number))
    ]


def uneven_rows() -> list[dict[str, Any]]:
    """Sixteen rows with unequally many labels; depth is only in the first half, and no row but the first has edges."""
    made = rows(16)
    for place, row in enumerate(made):
        row["labels"]["semseg"][place:] = 255
        if place >= 8:
            row["labels"]["depth"] = None
        if place:
            row["labels"]["edges"][:] = 0
        if place % 3 == 0:
            row["labels"]["normals"] = None
    return made


def arguments(folder: Any, **fields: Any) -> TrainingArguments:
    given = {
        "max_steps": 3,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
        "optim": "sgd",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
    }
    return TrainingArguments(str(folder), **{**given, **fields})


def without_batch_norm() -> TaskExpertForMultiTaskVision:
    """A model whose images do not depend on the others of their batch in training either."""
    return model(backbone_config=dinov2(), norm="group", edge_positive_weight=None)
