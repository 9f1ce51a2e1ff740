"""Retrieval with a fitted model: which users get which kind of list, and what must not be in it.

Letters: B users, K list length, S pairs of a user and a seen item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_mixture.models.knn_embed.search import (
    MIXTURE,
    ONE_VECTOR,
    POPULARITY,
    Lists,
    Request,
    mixture_lists,
    one_vector_lists,
    popularity_lists,
)


if TYPE_CHECKING:
    from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel


@dataclass(frozen=True)
class RetrievalOutput:
    """What `KnnEmbedModel.retrieve` returns.

    Args:
        item_ids: Items, the best first [B, K]; -1 where there are no more.
        scores: Their scores [B, K]: (u + r) . i, or numbers of training edges where the source is popularity; minus
            infinity where there are no more.
        source: What made the list [B]: 0 the mixture, 1 the one vector, 2 popularity.
        num_scored: Items whose scores were computed [B], the mean over users that were searched for together.
    """

    item_ids: Tensor
    scores: Tensor
    source: Tensor
    num_scored: Tensor


def retrieve(
    model: KnnEmbedModel,
    users: Any,
    k: int,
    *,
    hidden: Any,
    mask_seen: bool,
    method: str,
    search: Any,
    batch_size: int,
) -> RetrievalOutput:
    """List items for checked users; see `KnnEmbedModel.retrieve`.

    Args:
        model: The model.
        users: Users [B].
        k: K.
        hidden: Items that must not be listed, a `csr_array` [B, items], or None.
        mask_seen: Whether to leave out training edges too.
        method: `"mixture"`, `"one_vector"` or `"popularity"`.
        search: `"exact"` or `"hnsw"`.
        batch_size: Users at once.

    Returns:
        The lists.
    """
    from tqdm.auto import tqdm

    index = model.item_index(search)
    history = (model.history_indptr.cpu().numpy(), model.history_items.cpu().numpy()) if mask_seen else None
    sources = _sources(model, users, method)
    device = model.item_clusters.device
    popularity = model.popularity if (sources == POPULARITY).any() else None
    lists = Lists.empty(len(users), k, model.user_vectors(users[:1]).float())
    for first in tqdm(range(0, len(users), batch_size), desc="retrieve", delay=2.0):
        rows = np.arange(first, min(first + batch_size, len(users)))
        pairs = _seen(users[rows], history, None if hidden is None else hidden[rows])
        seen = (torch.from_numpy(pairs[0]).to(device), torch.from_numpy(pairs[1]).to(device))
        request = Request(model.user_vectors(users[rows]).float(), seen, k)
        for source in (MIXTURE, ONE_VECTOR, POPULARITY):
            some = torch.from_numpy((sources[rows] == source).nonzero()[0]).to(device)
            if not len(some):
                continue
            part = request.of_users(some)
            if source == MIXTURE:
                found = _by_mixture(model, users[rows][some.cpu().numpy()], part, index)
            elif source == ONE_VECTOR:
                found = one_vector_lists(part, index)
            else:
                assert popularity is not None  # noqa: S101 - some users need it
                found = popularity_lists(part, popularity, index)
            for name in ("item_ids", "scores", "num_scored"):
                getattr(lists, name)[first + some] = getattr(found, name)
    return RetrievalOutput(
        item_ids=lists.item_ids,
        scores=lists.scores,
        source=torch.from_numpy(sources).to(device),
        num_scored=lists.num_scored,
    )


def _sources(model: KnnEmbedModel, users: Any, method: str) -> Any:
    """What makes the list of each user [B]."""
    if method == "popularity":
        return np.full(len(users), POPULARITY)
    ids = torch.from_numpy(users).to(model.item_clusters.device)
    known = model.user_is_known[ids].cpu().numpy()
    sources = np.where(known, ONE_VECTOR, POPULARITY)
    if method == "mixture":
        has_mixture = (model.mixture_indptr.diff()[ids] > 0).cpu().numpy()
        sources = np.where(has_mixture & known, MIXTURE, sources)
    return sources


def _by_mixture(model: KnnEmbedModel, users: Any, request: Request, index: Any) -> Lists:
    components, weights = model.components(users)
    places = torch.from_numpy(components).to(request.queries.device)
    centroids = _centroids(model, users, components, request.queries) if model.config.query == "centroid" else None
    return mixture_lists(
        request,
        index,
        model.item_clusters,
        places,
        weights,
        allocation=model.config.allocation,
        centroids=centroids,
    )


def _centroids(model: KnnEmbedModel, users: Any, components: Any, queries: Tensor) -> Tensor:
    """Mean embedding of the user's items in each component [B, C, d]; the user's own where there is none."""
    history = model.history[users]
    clusters = model.item_clusters.cpu().numpy()
    owners = np.repeat(np.arange(len(users)), np.diff(history.indptr))
    num_clusters = model.config.num_fitted_clusters + 1
    # The key of a pair of user and cluster; an item without a cluster has the last number.
    keys = owners * num_clusters + np.where(clusters[history.indices] < 0, num_clusters - 1, clusters[history.indices])
    names, place = np.unique(keys, return_inverse=True)
    device = queries.device
    vectors = model.item_embeddings.weight.detach().float()[torch.from_numpy(history.indices.astype(np.int64))]
    sums = vectors.new_zeros(len(names), vectors.shape[1]).index_add_(0, torch.from_numpy(place).to(device), vectors)
    means = sums / torch.from_numpy(np.bincount(place, minlength=len(names))).to(device).unsqueeze(1)
    wanted = np.arange(len(users))[:, None] * num_clusters + components
    at = np.searchsorted(names, wanted).clip(max=max(0, len(names) - 1))
    found = (components >= 0) & (names[at] == wanted if len(names) else False)
    filled = queries.unsqueeze(1).repeat(1, components.shape[1], 1)
    filled[torch.from_numpy(found)] = means[torch.from_numpy(at[found])]
    return filled


def _seen(users: Any, history: tuple[Any, Any] | None, hidden: Any) -> tuple[Any, Any]:
    """Pairs of a row and an item that must not be listed, rows rising [S], [S]."""
    rows, items = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    if history is not None:
        indptr, indices = history
        lengths = indptr[users + 1] - indptr[users]
        rows.append(np.repeat(np.arange(len(users)), lengths))
        within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        items.append(indices[np.repeat(indptr[users], lengths) + within])
    if hidden is not None:
        rows.append(np.repeat(np.arange(len(users)), np.diff(hidden.indptr)))
        items.append(hidden.indices.astype(np.int64))
    width = int(max(part.max(initial=0) for part in items)) + 1
    keys = np.unique(np.concatenate(rows) * width + np.concatenate(items))
    return keys // width, keys % width
