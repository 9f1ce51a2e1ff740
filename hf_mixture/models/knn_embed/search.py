"""Lists of items: by a mixture, by one vector, by popularity.

Letters: U users, C components, K list length, S pairs of a user and an item that must not be listed, n_c candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hf_mixture.models.knn_embed.allocation import allocate_slots, spill_slots
from hf_mixture.models.knn_embed.index import ItemIndex
from hf_mixture.models.knn_embed.top_k import top_k


MIXTURE, ONE_VECTOR, POPULARITY = 0, 1, 2
# Scores of small clusters that are held at once.
_HELD = 2**22


@dataclass
class Lists:
    """Lists of items.

    Args:
        item_ids: Items, the best first [U, K]; -1 where there are no more.
        scores: Their scores [U, K]; minus infinity where there are no more.
        num_scored: Items that were scored for the user [U].
    """

    item_ids: Tensor
    scores: Tensor
    num_scored: Tensor

    @classmethod
    def empty(cls, num_users: int, k: int, like: Tensor) -> Lists:
        """Make lists without items."""
        return cls(
            torch.full((num_users, k), -1, dtype=torch.int64, device=like.device),
            torch.full((num_users, k), -torch.inf, dtype=like.dtype, device=like.device),
            torch.zeros(num_users, dtype=torch.float64, device=like.device),
        )


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        queries: Embeddings of the users [U, d].
        seen: Users, rising, and ids of the items that must not be listed [S], [S].
        k: K.
    """

    queries: Tensor
    seen: tuple[Tensor, Tensor]
    k: int

    def of_users(self, users: Tensor) -> Request:
        """The same for some of the users, who rise."""
        number = torch.full((len(self.queries),), -1, dtype=torch.int64, device=users.device)
        number[users] = torch.arange(len(users), device=users.device)
        theirs = number[self.seen[0]] >= 0
        return Request(self.queries[users], (number[self.seen[0][theirs]], self.seen[1][theirs]), self.k)


def one_vector_lists(request: Request, index: ItemIndex) -> Lists:
    """List the items with the largest scores.

    Args:
        request: What is asked for.
        index: The items.

    Returns:
        The lists.
    """
    lists = Lists.empty(len(request.queries), request.k, request.queries)
    depth = min(request.k, len(index.catalogue))
    if not len(request.queries) or not depth:
        return lists
    rank = index.rank[request.seen[1]]
    known = rank >= 0
    values, items, scored = index.best_of_all(request.queries, (request.seen[0][known], rank[known]), depth)
    there = values > -torch.inf
    lists.item_ids[:, :depth] = torch.where(there, items, -1)
    lists.scores[:, :depth] = values
    lists.num_scored += scored / len(request.queries)
    return lists


def popularity_lists(request: Request, popularity: Tensor, index: ItemIndex) -> Lists:
    """List the items with the most training edges.

    Args:
        request: What is asked for; its queries are not used.
        popularity: Training edges of each item [I].
        index: The items.

    Returns:
        The lists.
    """
    lists = Lists.empty(len(request.queries), request.k, request.queries)
    depth = min(request.k, len(index.catalogue))
    if not len(request.queries) or not depth:
        return lists
    scores = popularity[index.catalogue].to(request.queries.dtype).repeat(len(request.queries), 1)
    rank = index.rank[request.seen[1]]
    known = rank >= 0
    scores[request.seen[0][known], rank[known]] = -torch.inf
    values, places = top_k(scores, depth)
    lists.item_ids[:, :depth] = torch.where(values > -torch.inf, index.catalogue[places], -1)
    lists.scores[:, :depth] = values
    return lists


def mixture_lists(
    request: Request,
    index: ItemIndex,
    item_clusters: Tensor,
    components: Tensor,
    weights: np.ndarray,
    *,
    allocation: str,
    centroids: Tensor | None = None,
) -> Lists:
    """List the best items of each component, as many as its weight says.

    Items that must not be listed are taken out before the slots are filled. Slots that a cluster cannot fill go to
    the other clusters of the user, the largest weights first, then to the list of the one vector. A list is sorted
    by the scores of the user's embedding, ties by item id.

    Args:
        request: What is asked for.
        index: The items.
        item_clusters: Cluster of each item [I].
        components: Clusters of each user, by falling weight [U, C], -1 for none.
        weights: Their weights [U, C].
        allocation: `"proportional"`, `"even"` or `"pooled"`.
        centroids: What searches each component instead of the user's embedding [U, C, d].

    Returns:
        The lists.
    """
    num_users, k, device = len(components), request.k, request.queries.device
    values, items, available, scored = _scan(request, index, item_clusters, components, centroids)
    there = components.cpu().numpy() >= 0
    if allocation == "pooled":
        taken = available
    else:
        if allocation == "even":
            weights = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
        taken = spill_slots(allocate_slots(weights, k), available)
    chosen = torch.arange(values.shape[2], device=device) < torch.from_numpy(taken).to(device).unsqueeze(2)
    chosen &= values > -torch.inf
    users = chosen.nonzero()[:, 0]
    found, scores = items[chosen], values[chosen]
    if centroids is not None:
        vectors = index.vectors.new_zeros(len(item_clusters), index.vectors.shape[1])
        vectors[index.items] = index.vectors
        scores = (request.queries[users] * vectors[found]).sum(dim=1)
    lists = Lists.empty(num_users, k, request.queries)
    lists.num_scored = scored
    filled = _fill(lists, users, found, scores, torch.zeros(num_users, dtype=torch.int64, device=device))
    short = (filled < k).nonzero().squeeze(1)
    if len(short):
        _add_one_vector(lists, short, filled, request, index)
    return lists


@dataclass(frozen=True)
class _Searches:
    """All searches of a user in a cluster, those of one cluster side by side and the users rising.

    Args:
        slots: Place of each search in the flattened components [R].
        clusters: [R].
        users: [R].
        queries: [R, d].
        seen: Searches, rising, and places in the cluster of the items that they must not find.
    """

    slots: Tensor
    clusters: Tensor
    users: Tensor
    queries: Tensor
    seen: tuple[Tensor, Tensor]

    def seen_of(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """The same for some of the searches, counted from the first of them."""
        first, last = torch.searchsorted(self.seen[0], self.seen[0].new_tensor([start, end])).tolist()
        return self.seen[0][first:last] - start, self.seen[1][first:last]


def _scan(
    request: Request,
    index: ItemIndex,
    item_clusters: Tensor,
    components: Tensor,
    centroids: Tensor | None,
) -> tuple[Tensor, Tensor, np.ndarray, Tensor]:
    """Search each component: scores and items [U, C, K], number of candidates [U, C], number of scored items [U]."""
    num_users, width = components.shape
    k, queries = request.k, request.queries
    flat = components.flatten()
    slots = (flat >= 0).nonzero().squeeze(1)
    slots = slots[torch.argsort(flat[slots], stable=True)]
    clusters, users = flat[slots], slots // width
    searching = queries[users] if centroids is None else centroids.flatten(0, 1)[slots]
    seen = _seen_rows(request, index, item_clusters, clusters, users)
    searches = _Searches(slots, clusters, users, searching, seen)
    values = torch.full((len(flat), k), -torch.inf, dtype=queries.dtype, device=queries.device)
    items = torch.full((len(flat), k), -1, dtype=torch.int64, device=queries.device)
    sizes = index.starts.diff()
    scored = torch.zeros(len(slots), dtype=torch.float64, device=queries.device)
    for start, end in _stretches(clusters, sizes, index):
        cluster = int(clusters[start])
        depth = min(k, int(sizes[clusters[start:end]].max()))
        hidden = searches.seen_of(start, end)
        if index.is_searched_alone(int(sizes[cluster])):
            found, ids, number = index.best_of_cluster(cluster, searching[start:end], hidden, depth)
            scored[start:end] = number / (end - start)
        else:
            found, ids = index.best_of_clusters(clusters[start:end], searching[start:end], hidden, depth)
            scored[start:end] = sizes[clusters[start:end]].double()
        values[slots[start:end], :depth], items[slots[start:end], :depth] = found, ids
    left = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    left[slots] = sizes[clusters] - torch.bincount(seen[0], minlength=len(slots))
    shape = (num_users, width)
    available = left.clamp_(max=k).view(shape).cpu().numpy()
    per_user = torch.zeros(num_users, dtype=torch.float64, device=queries.device).index_add_(0, users, scored)
    return values.view(*shape, k), items.view(*shape, k), available, per_user


def _stretches(clusters: Tensor, sizes: Tensor, index: ItemIndex) -> list[tuple[int, int]]:
    """Cut searches into stretches: one of each large cluster, and of small ones as many as are held at once."""
    names, counts = torch.unique_consecutive(clusters, return_counts=True)
    found: list[tuple[int, int]] = []
    end, begin, held, widest = 0, 0, 0, 0
    for size, count in zip(sizes[names].tolist(), counts.tolist(), strict=True):
        alone = index.is_searched_alone(size)
        if held and (alone or (held + count) * max(widest, size) > _HELD):
            found.append((begin, end))
            begin, held, widest = end, 0, 0
        end += count
        if alone:
            found.append((begin, end))
            begin = end
        else:
            held, widest = held + count, max(widest, size)
    return [*found, (begin, end)] if held else found


def _seen_rows(
    request: Request, index: ItemIndex, item_clusters: Tensor, clusters: Tensor, users: Tensor
) -> tuple[Tensor, Tensor]:
    """The searches that would find an item that must not be listed, rising, and its place in the cluster."""
    num_users = max(1, len(request.queries))
    keys = clusters * num_users + users
    of_item = item_clusters[request.seen[1]]
    wanted = of_item * num_users + request.seen[0]
    if not len(keys):
        return wanted[:0], wanted[:0]
    row = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    hit = (keys[row] == wanted) & (of_item >= 0)
    row, order = row[hit].sort(stable=True)
    return row, index.place[request.seen[1][hit][order]]


def _fill(lists: Lists, users: Tensor, items: Tensor, scores: Tensor, filled: Tensor) -> Tensor:
    """Append items to lists, by falling score, as far as there is room; returns how many items lists have."""
    order = torch.argsort(items, stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    order = order[torch.argsort(users[order], stable=True)]
    users = users[order]
    counts = torch.bincount(users, minlength=len(filled))
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(users), device=users.device) - first[users] + filled[users]
    room = rank < lists.item_ids.shape[1]
    lists.item_ids[users[room], rank[room]] = items[order][room]
    lists.scores[users[room], rank[room]] = scores[order][room]
    return (filled + counts).clamp(max=lists.item_ids.shape[1])


def _add_one_vector(lists: Lists, short: Tensor, filled: Tensor, request: Request, index: ItemIndex) -> None:
    """Fill up lists by the list of the one vector, without what they have, and sort them again."""
    theirs = request.of_users(short)
    rows, columns = (lists.item_ids[short] >= 0).nonzero(as_tuple=True)
    users = torch.cat([theirs.seen[0], rows])
    seen_items = torch.cat([theirs.seen[1], lists.item_ids[short][rows, columns]])
    users, order = users.sort(stable=True)
    more = one_vector_lists(Request(theirs.queries, (users, seen_items[order]), request.k), index)
    lists.num_scored[short] += more.num_scored
    wanted = torch.arange(request.k, device=short.device) < (request.k - filled[short]).unsqueeze(1)
    wanted &= more.item_ids >= 0
    inside = lists.item_ids[short] >= 0
    items = torch.cat([lists.item_ids[short][inside], more.item_ids[wanted]])
    scores = torch.cat([lists.scores[short][inside], more.scores[wanted]])
    owners = torch.cat([inside.nonzero()[:, 0], wanted.nonzero()[:, 0]])
    again = Lists.empty(len(short), request.k, lists.scores)
    _fill(again, owners, items, scores, torch.zeros(len(short), dtype=torch.int64, device=short.device))
    lists.item_ids[short], lists.scores[short] = again.item_ids, again.scores
