"""Approximate search by the HNSW graphs of faiss (https://arxiv.org/abs/1603.09320).

Letters: I vectors, R queries, k results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_mixture._extras import is_installed, require


_LINKS, _BUILD_EFFORT = 32, 80


def has_faiss() -> bool:
    """Whether faiss is installed."""
    return is_installed("faiss")


def hnsw_index(vectors: Tensor) -> Any:
    """Build a graph for the largest inner products; on one thread, so that it is the same each time.

    Args:
        vectors: Vectors [I, d].

    Returns:
        The index.
    """
    faiss = require("faiss", used_for="approximate search", extra="retrieval")
    index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILD_EFFORT
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.add(vectors.cpu().float().numpy())
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def hnsw_search(index: Any, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Search a graph.

    Args:
        index: The index.
        queries: Queries [R, d].
        k: Number of results.

    Returns:
        Places [R, k], -1 where fewer were found, and inner products [R, k].
    """
    index.hnsw.efSearch = max(128, 2 * k)
    scores, places = index.search(queries.cpu().float().numpy(), k)
    return torch.from_numpy(places).to(queries.device), torch.from_numpy(scores).to(queries.device)
