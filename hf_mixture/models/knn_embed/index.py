"""Vectors of items in the order of their clusters, and exact or approximate search in parts of them.

Letters: I items, W items of one part, R queries, d embedding size, k results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_mixture.models.knn_embed.ann import hnsw_index, hnsw_search
from hf_mixture.models.knn_embed.top_k import top_k


# Below this size of a part a graph saves nothing.
ANN_LEAST = 1024
# Scores that are held at once.
_CHUNK = 2**25
# Above this size a cluster is searched alone; below, in blocks of so many queries.
_ALONE, _BLOCK = 2048, 64


class ItemIndex:
    """Items sorted by cluster.

    Args:
        vectors: Embeddings of all items [I, d].
        clusters: Cluster of each item [I], -1 for none.
        num_clusters: m.
        search: `"exact"`, or `"hnsw"` for approximate search in parts of at least `ANN_LEAST` items.

    Attributes:
        items: Ids of all items that have a cluster; those of one cluster adjoin, and rise.
        starts: Where the items of a cluster begin, and the end of the last one [m + 1].
        place: Place of each item among those of its cluster [I], -1 for none.
    """

    def __init__(self, vectors: Tensor, clusters: Tensor, num_clusters: int, search: str) -> None:
        inside = (clusters >= 0).nonzero().squeeze(1)
        order = torch.argsort(clusters[inside], stable=True)
        self.items = inside[order]
        self.vectors = vectors[self.items]
        sizes = torch.bincount(clusters[inside], minlength=num_clusters)
        self.starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.place = torch.full_like(clusters, -1)
        ordered = clusters[self.items]
        self.place[self.items] = torch.arange(len(ordered), device=clusters.device) - self.starts[ordered]
        self.catalogue = inside
        self.catalogue_vectors = vectors[inside]
        self.rank = torch.full_like(clusters, -1)
        self.rank[inside] = torch.arange(len(inside), device=clusters.device)
        self.search = search
        self._graphs: dict[int, Any] = {}

    def best_of_cluster(
        self, cluster: int, queries: Tensor, seen: tuple[Tensor, Tensor], k: int
    ) -> tuple[Tensor, Tensor, int]:
        """Find the best items of a cluster.

        Args:
            cluster: The cluster.
            queries: Queries [R, d].
            seen: Rows of the queries, rising, and places in the cluster of the items that must not be found.
            k: Number of results, at most the size of the cluster.

        Returns:
            Scores [R, k], minus infinity where there is nothing more, ids [R, k], and the number of scored pairs.
        """
        start, end = int(self.starts[cluster]), int(self.starts[cluster + 1])
        values, places, scored = self._best(cluster, self.vectors[start:end], queries, seen, k)
        return values, self.items[start:end][places], scored

    def is_searched_alone(self, size: int) -> bool:
        """Whether a cluster of a size is searched by `best_of_cluster`, rather than with others."""
        return size > _ALONE or (self.search == "hnsw" and size >= ANN_LEAST)

    def best_of_clusters(
        self, clusters: Tensor, queries: Tensor, seen: tuple[Tensor, Tensor], k: int
    ) -> tuple[Tensor, Tensor]:
        """Find the best items of the cluster of each query, all at once: few large steps instead of many small ones.

        Args:
            clusters: Cluster of each query, rising [R].
            queries: Queries [R, d].
            seen: Rows of the queries, rising, and places in their cluster of the items that must not be found.
            k: Number of results, at most the size of the largest of these clusters.

        Returns:
            Scores [R, k], minus infinity where there is nothing more, and ids [R, k].
        """
        names, counts = torch.unique_consecutive(clusters, return_counts=True)
        # Blocks of queries with one cluster, the last of a cluster padded.
        blocks = (counts + _BLOCK - 1) // _BLOCK
        first_block, first_row = blocks.cumsum(0) - blocks, counts.cumsum(0) - counts
        within = torch.arange(len(clusters), device=clusters.device) - first_row.repeat_interleave(counts)
        block = first_block.repeat_interleave(counts) + within // _BLOCK
        row = within % _BLOCK
        starts, sizes = self.starts[names], self.starts[names + 1] - self.starts[names]
        columns = torch.arange(int(sizes.max()), device=clusters.device)
        places = (starts.unsqueeze(1) + columns).clamp_(max=len(self.items) - 1).repeat_interleave(blocks, dim=0)
        padded = queries.new_zeros(len(places), _BLOCK, queries.shape[1])
        padded[block, row] = queries
        scores = torch.bmm(padded, self.vectors[places].transpose(1, 2))[block, row]
        scores.masked_fill_(columns >= sizes.repeat_interleave(counts).unsqueeze(1), -torch.inf)
        scores[seen] = -torch.inf
        values, found = top_k(scores, k)
        return values, self.items[places[block].gather(1, found)]

    def best_of_all(self, queries: Tensor, seen: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor, int]:
        """Find the best items of all that have a cluster; see `best_of_cluster`.

        Args:
            queries: Queries [R, d].
            seen: Rows, rising, and ranks in the catalogue of the items that must not be found.
            k: Number of results, at most the size of the catalogue.

        Returns:
            As `best_of_cluster`.
        """
        values, places, scored = self._best(-1, self.catalogue_vectors, queries, seen, k)
        return values, self.catalogue[places], scored

    def _best(
        self, name: int, vectors: Tensor, queries: Tensor, seen: tuple[Tensor, Tensor], k: int
    ) -> tuple[Tensor, Tensor, int]:
        if self.search == "hnsw" and len(vectors) >= ANN_LEAST:
            return self._approximate(name, vectors, queries, seen, k)
        chunk = max(1, _CHUNK // len(vectors))
        if len(queries) <= chunk:
            scores = queries @ vectors.T
            scores[seen] = -torch.inf
            return *top_k(scores, k), scores.numel()
        found = []
        for first in range(0, len(queries), chunk):
            rows = (seen[0] >= first) & (seen[0] < first + chunk)
            part = (seen[0][rows] - first, seen[1][rows])
            found.append(self._best(name, vectors, queries[first : first + chunk], part, k))
        values = torch.cat([part[0] for part in found])
        places = torch.cat([part[1] for part in found])
        return values, places, sum(part[2] for part in found)

    def _approximate(
        self, name: int, vectors: Tensor, queries: Tensor, seen: tuple[Tensor, Tensor], k: int
    ) -> tuple[Tensor, Tensor, int]:
        """Search deeper by what a query has seen; queries that still find too little are searched exactly."""
        if name not in self._graphs:
            self._graphs[name] = hnsw_index(vectors)
        width = len(vectors)
        per_row = torch.bincount(seen[0], minlength=len(queries))
        depth = min(width, k + int(per_row.max()) if len(queries) else k)
        places, scores = hnsw_search(self._graphs[name], queries, depth)
        keys, _ = (seen[0] * width + seen[1]).sort()
        if len(keys):
            wanted = torch.arange(len(queries), device=places.device).unsqueeze(1) * width + places
            hit = keys[torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)] == wanted
            scores = scores.masked_fill(hit, -torch.inf)
        scores = scores.masked_fill(places < 0, -torch.inf)
        values, order = top_k(scores, min(k, depth))
        places = places.gather(1, order).clamp(min=0)
        short = ((values > -torch.inf).sum(dim=1) < (width - per_row).clamp(max=k)).nonzero().squeeze(1)
        scored = len(queries) * max(128, 2 * depth)
        if len(short):
            rank = torch.full((len(queries),), -1, device=places.device)
            rank[short] = torch.arange(len(short), device=places.device)
            theirs = rank[seen[0]] >= 0
            exact = queries[short] @ vectors.T
            exact[rank[seen[0][theirs]], seen[1][theirs]] = -torch.inf
            values[short], places[short] = top_k(exact, k)
            scored += exact.numel()
        return values, places, scored
