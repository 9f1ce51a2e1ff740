"""A small mixture of SuperNets and images of two kinds, for training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments

from hf_mixture import BalancedSuperNetConfig, BalancedSuperNetMixture, PoolingResNetConfig


class Rows(Dataset):
    """Images and labels as rows."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def stripes(number: int = 48, *, size: int = 8, seed: int = 0) -> Rows:
    """Horizontal (0) and vertical (1) stripes in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (number,), generator=generator)
    pattern = torch.tensor([1.0, -1.0]).repeat(size // 2).repeat(size, 1)
    images = torch.where(labels[:, None, None] == 1, pattern, pattern.T)
    return Rows((images + 0.5 * torch.randn(number, size, size, generator=generator))[:, None], labels)


def tiny_network(**fields: Any) -> PoolingResNetConfig:
    given = {"num_channels": 1, "layer_widths": [4, 4, 4, 8, 8], "num_labels": 2}
    return PoolingResNetConfig(**given | fields)


def tiny_mixture(**fields: Any) -> BalancedSuperNetMixture:
    torch.manual_seed(0)
    given = {"network_config": tiny_network(), "num_models": 3, "num_scales": 3}
    return BalancedSuperNetMixture(BalancedSuperNetConfig(**given | fields))


def arguments(folder: Path, **fields: Any) -> TrainingArguments:
    given = {
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.05,
        "optim": "sgd",
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 4,
        "seed": 3,
    }
    return TrainingArguments(str(folder), **given | fields)
