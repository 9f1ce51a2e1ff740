"""The nearest users.

Letters: Q users who ask, V users among whom to look, k neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mixture.models.knn_embed.ann import hnsw_index, hnsw_search
from hf_mixture.models.knn_embed.clusters import normalise
from hf_mixture.models.knn_embed.top_k import top_k


def nearest_users(
    queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor, k: int, *, search: str = "exact"
) -> Tensor:
    """Find the k nearest users by the cosine of their embeddings, without the user; ties by user id.

    Args:
        queries: Embeddings of those who ask [Q, d].
        query_ids: Their ids [Q].
        candidates: Embeddings of the users with training history [V, d].
        candidate_ids: Their ids [V], rising.
        k: Number of neighbours.
        search: `"exact"`, or `"hnsw"` for an approximate search by faiss.

    Returns:
        Ids of the neighbours, the nearest first [Q, k]; -1 where there are fewer.
    """
    found = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    if not len(candidates):
        return found
    table, asked = normalise(candidates), normalise(queries)
    if search == "hnsw":
        # The user may be among the nearest.
        columns, scores = hnsw_search(hnsw_index(table), asked, min(k + 1, len(table)))
        ids = candidate_ids[columns.clamp(min=0)]
        scores = scores.masked_fill((ids == query_ids.unsqueeze(1)) | (columns < 0), -torch.inf)
        depth = min(k, scores.shape[1])
        values, order = top_k(scores, depth)
        ids = ids.gather(1, order)
        found[:, :depth] = torch.where(values > -torch.inf, ids, -1)
        return found
    depth = min(k, len(table))
    chunk = max(1, 2**25 // len(table))
    for start in range(0, len(asked), chunk):
        rows = slice(start, start + chunk)
        scores = asked[rows] @ table.T
        place = torch.searchsorted(candidate_ids, query_ids[rows]).clamp_(max=len(table) - 1)
        own = (candidate_ids[place] == query_ids[rows]).nonzero().squeeze(1)
        scores[own, place[own]] = -torch.inf
        values, columns = top_k(scores, depth)
        found[rows, :depth] = torch.where(values > -torch.inf, candidate_ids[columns], -1)
    return found
