"""Small users, items and edges for tests of kNN-Embed."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture import KnnEmbedModel


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
