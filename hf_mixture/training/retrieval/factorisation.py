"""Embeddings by implicit alternating least squares, of the library `implicit`."""

from __future__ import annotations

from typing import Any

from hf_mixture._extras import require


def als_embeddings(
    train: Any, *, embedding_size: int, alpha: float, regularisation: float, num_rounds: int, seed: int
) -> tuple[Any, Any]:
    """Factorise (Hu, Koren and Volinsky, 2008): confidence 1 + alpha for edges and 1 for all other pairs.

    Args:
        train: Training edges, a `csr_array` of ones [users, items].
        embedding_size: d.
        alpha: Weight of an edge beyond that of other pairs.
        regularisation: Weight of the squared lengths.
        num_rounds: Rounds of two half-steps.
        seed: Seed of the first embeddings.

    Returns:
        Embeddings of users and of items.
    """
    from scipy import sparse

    library = require("implicit.als", used_for="iALS", extra="retrieval")
    # The library takes what is stored for the confidence of an edge.
    confidence = sparse.csr_matrix((train.data * (1 + alpha), train.indices, train.indptr), shape=train.shape)
    # The library runs its own threads; those of BLAS inside of them would wait for one another.
    with require("threadpoolctl", used_for="iALS", extra="retrieval").threadpool_limits(1, "blas"):
        model = library.AlternatingLeastSquares(
            factors=embedding_size,
            regularization=regularisation,
            alpha=1.0,
            iterations=num_rounds,
            random_state=seed,
            use_gpu=False,
        )
        model.fit(confidence.astype("float32"), show_progress=False)
    return model.user_factors, model.item_factors
