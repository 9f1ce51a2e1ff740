"""Small users, items and edges for tests of kNN-Embed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from hf_mixture import EdgeDataset, KnnEmbedConfig, KnnEmbedModel, NegativeCollator


def whole_vectors(rng: np.random.Generator, rows: int, size: int = 6) -> np.ndarray:
    """Vectors of small whole numbers, whose inner products have no rounding and many ties."""
    return rng.integers(-3, 4, (rows, size)).astype(np.float32)


def random_edges(rng: np.random.Generator, num_users: int, num_items: int, number: int) -> dict[str, np.ndarray]:
    """Edges that leave the last user without history and the last two items without users."""
    return {
        "user_ids": rng.integers(0, num_users - 1, number),
        "item_ids": (rng.integers(0, num_items - 2, number) * rng.random(number) ** 0.5).astype(int),
    }


def histories(edges: dict[str, np.ndarray], num_users: int) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(num_users)]
    for user, item in zip(edges["user_ids"].tolist(), edges["item_ids"].tolist(), strict=True):
        found[user].add(item)
    return found


def fitted(seed: int = 0, *, num_users: int = 40, num_items: int = 90, number: int = 300, **fields: Any) -> Any:
    """A fitted model of whole numbers, with its edges."""
    rng = np.random.default_rng(seed)
    edges = random_edges(rng, num_users, num_items, number)
    model = KnnEmbedModel.from_embeddings(
        whole_vectors(rng, num_users),
        whole_vectors(rng, num_items),
        **{"num_clusters": 7, "num_neighbours": 4, **fields},
    )
    model.fit_mixture(edges)
    return model, edges


def groups(*, num_users: int = 24, num_items: int = 36, num_groups: int = 3) -> dict[str, np.ndarray]:
    """Edges of users who each like most items of one group and none of the others."""
    rng = np.random.default_rng(0)
    pairs = [
        (user, item)
        for user in range(num_users)
        for item in range(num_items)
        if user % num_groups == item % num_groups and rng.random() < 0.6
    ]
    return {"user_ids": np.array([u for u, _ in pairs]), "item_ids": np.array([i for _, i in pairs])}


def trainer_of(folder: Path, *, fields: dict[str, Any] | None = None, negatives: Any = None, **arguments: Any) -> Any:
    """A stock Trainer of embeddings of the groups."""
    torch.manual_seed(0)
    fields = fields or {}
    model = KnnEmbedModel(
        KnnEmbedConfig(num_users=24, num_items=36, embedding_size=8, num_clusters=3, num_neighbours=3, **fields)
    )
    settings = TrainingArguments(
        str(folder),
        **{
            "max_steps": 40,
            "per_device_train_batch_size": 32,
            "learning_rate": 3e-2,
            "report_to": [],
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            **arguments,
        },
    )
    edges = EdgeDataset(groups(), 24, 36)
    collate = negatives(edges) if negatives else NegativeCollator(36, num_negatives=16, seed=1)
    return Trainer(model, settings, data_collator=collate, train_dataset=edges)
