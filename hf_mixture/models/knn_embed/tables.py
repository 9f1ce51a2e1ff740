"""Items and users of a model as data sets, with an index of faiss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hf_mixture._extras import require


if TYPE_CHECKING:
    from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel


def item_table(model: KnnEmbedModel, *, index: bool) -> Any:
    """Make the table of items; see `KnnEmbedModel.item_table`."""
    from datasets import Dataset

    vectors = model.item_embeddings.weight.detach().cpu().float().numpy()
    table = Dataset.from_dict(
        {
            "item_id": np.arange(len(vectors)),
            "cluster": model.item_clusters.cpu().numpy(),
            "num_edges": model.popularity.cpu().numpy(),
            "embedding": vectors,
        }
    )
    return _indexed(table, vectors) if index else table


def user_table(model: KnnEmbedModel, *, index: bool) -> Any:
    """Make the table of users; see `KnnEmbedModel.user_table`."""
    from datasets import Dataset

    vectors = model.user_vectors().cpu().float().numpy()
    bounds = model.mixture_indptr.cpu().numpy()[1:-1]
    table = Dataset.from_dict(
        {
            "user_id": np.arange(len(vectors)),
            "clusters": np.split(model.mixture_clusters.cpu().numpy(), bounds),
            "weights": np.split(model.weights_of_mixtures(), bounds),
            "embedding": vectors,
        }
    )
    return _indexed(table, vectors) if index else table


def _indexed(table: Any, vectors: np.ndarray[Any, Any]) -> Any:
    faiss = require("faiss", used_for="an index of a table", extra="retrieval")
    table.add_faiss_index_from_external_arrays(
        vectors, "embedding", string_factory="HNSW32", metric_type=faiss.METRIC_INNER_PRODUCT
    )
    return table
