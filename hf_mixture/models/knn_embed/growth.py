"""New users and items in a fitted model, without training.

Letters: Q new rows, R rows of the other side, d embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_mixture.models.knn_embed.clusters import normalise
from hf_mixture.models.knn_embed.edges import check_ids, sparse


if TYPE_CHECKING:
    from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel


# Weight of an edge beside that of a pair without one, and of the length of a vector, in the half-step.
_EDGE_WEIGHT, _PENALTY = 10.0, 1.0


def rows_of(histories: Sequence[Any], name: str, size: int, what: str) -> Any:
    """Make a sparse matrix of sets of ids.

    Args:
        histories: One sequence of ids for each row.
        name: Name of the argument.
        size: Number of things that ids refer to.
        what: What they are, for the message.

    Returns:
        A `csr_array` of ones [rows, size], rows sorted, each id once.

    Raises:
        ValueError: If an id is unknown.
    """
    found = [np.unique(check_ids(ids, f"{name}[{row}]", size, what)) for row, ids in enumerate(histories)]
    indices = np.concatenate([*found, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in found])]).astype(np.int64)
    return sparse().csr_array((np.ones(len(indices)), indices, indptr), shape=(len(found), size))


def fold_in(rows: Any, vectors: Tensor, *, chunk: int = 1024) -> Tensor:
    """Solve for the vectors of new rows by one half-step of implicit alternating least squares.

    x = argmin sum_j (1 + a y_j) (y_j - x . v_j)^2 + b |x|^2, y_j being 1 for the edges of the row and 0 for all
    others, a = 10 and b = 1.

    Args:
        rows: Edges, a `csr_array` of ones [Q, R].
        vectors: Vectors of the other side [R, d].
        chunk: Rows that are solved for at once.

    Returns:
        Vectors [Q, d], zero for rows without edges.
    """
    table = vectors.detach().cpu().double()
    gram = table.T @ table + _PENALTY * torch.eye(table.shape[1], dtype=table.dtype)
    found = torch.zeros(rows.shape[0], table.shape[1], dtype=table.dtype)
    for first in range(0, rows.shape[0], chunk):
        part = rows[first : first + chunk]
        # Row by row, so that no product of single edges is held.
        of_rows = [table[torch.from_numpy(ids.astype(np.int64))] for ids in np.split(part.indices, part.indptr[1:-1])]
        systems = gram + _EDGE_WEIGHT * torch.stack([own.T @ own for own in of_rows])
        sides = (1 + _EDGE_WEIGHT) * torch.stack([own.sum(dim=0) for own in of_rows])
        found[first : first + chunk] = torch.linalg.solve(systems, sides)
    return found.to(vectors.dtype).to(vectors.device)


def check_vectors(vectors: Any, name: str, shape: tuple[int, int]) -> Tensor:
    """Return vectors as a tensor, after checking them.

    Args:
        vectors: The vectors.
        name: Name of the argument.
        shape: The shape that they must have.

    Returns:
        The tensor, in float32.

    Raises:
        ValueError: If the shape is another, or a number is not finite.
    """
    tensor = torch.as_tensor(np.asarray(vectors, dtype=np.float32) if not torch.is_tensor(vectors) else vectors)
    tensor = tensor.detach().float()
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}; give {list(shape)}")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} has values that are not finite; remove or repair those rows")
    return tensor


@torch.no_grad()
def add_users(model: KnnEmbedModel, histories: Sequence[Any], embeddings: Any) -> list[int]:
    """Add users; see `KnnEmbedModel.add_users`."""
    _check_fitted(model)
    config = model.config
    rows = rows_of(histories, "histories", config.num_items, "items")
    number, before = len(histories), config.num_users
    if embeddings is None:
        searching = fold_in(rows, model.item_embeddings.weight)
        shift = 0 if model.translation is None else model.translation.weight
        vectors = torch.where(searching.abs().amax(dim=1, keepdim=True) > 0, searching - shift, 0)
        known = torch.from_numpy(np.diff(rows.indptr) > 0)
    else:
        vectors = check_vectors(embeddings, "embeddings", (number, config.embedding_size))
        known = vectors.cpu().abs().amax(dim=1) > 0
    history = sparse().vstack([model.history, rows]).tocsr()
    device = model.item_clusters.device
    old = [
        *(part.cpu().numpy() for part in (model.mixture_indptr, model.mixture_clusters)),
        model.weights_of_mixtures(),
    ]
    model.user_embeddings = _extended(model.user_embeddings, vectors)
    config.num_users = before + number
    model.user_is_known = torch.cat([model.user_is_known, known.to(device)])
    # Users who were added are no neighbours, so that it does not matter who was added together, or before.
    among = config.num_fitted_users or before
    new = model.mixtures_of(np.arange(before, before + number), history, "exact", among=among)
    model.take_history(history)
    model.take_mixture(
        np.concatenate([old[0], old[0][-1] + new[0][1:]]),
        np.concatenate([old[1], new[1]]),
        np.concatenate([old[2], new[2]]),
    )
    return list(range(before, before + number))


@torch.no_grad()
def add_items(model: KnnEmbedModel, users: Sequence[Any] | None, embeddings: Any) -> list[int]:
    """Add items; see `KnnEmbedModel.add_items`."""
    _check_fitted(model)
    config = model.config
    if users is None and embeddings is None:
        raise ValueError("add_items needs users who have the items, or embeddings; give one of them")
    number = len(embeddings) if users is None else len(users)
    rows = rows_of([[]] * number if users is None else users, "users", config.num_users, "users")
    if embeddings is None:
        without = (np.diff(rows.indptr) == 0).nonzero()[0]
        if len(without):
            raise ValueError(f"users[{without[0]}] is empty, so that nothing is known of that item; give embeddings")
        vectors = fold_in(rows, model.user_vectors())
    else:
        vectors = check_vectors(embeddings, "embeddings", (number, config.embedding_size))
    history = sparse().hstack([model.history, rows.T]).tocsr()
    history.sort_indices()
    device = model.item_clusters.device
    vectors = vectors.to(device)
    nearest = (normalise(vectors) @ normalise(model.cluster_centroids).T).argmax(dim=1)
    before = config.num_items
    model.item_embeddings = _extended(model.item_embeddings, vectors)
    config.num_items = before + number
    model.item_clusters = torch.cat([model.item_clusters, nearest])
    model.take_history(history)
    return list(range(before, before + number))


def _extended(table: nn.Embedding, vectors: Tensor) -> nn.Embedding:
    weight = torch.cat([table.weight, vectors.to(table.weight)])
    return nn.Embedding.from_pretrained(weight, freeze=not table.weight.requires_grad)


def _check_fitted(model: KnnEmbedModel) -> None:
    if not model.config.num_fitted_clusters:
        raise ValueError("the model has no clusters; call fit_mixture(edges) first")
