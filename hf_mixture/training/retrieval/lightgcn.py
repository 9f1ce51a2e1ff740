"""A LightGCN-type model (arXiv 2002.02126): embeddings that are averaged over the graph before they are compared.

Letters: U users, I items, d embedding size, B edges of a batch, N negatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_mixture.models.knn_embed.losses import bpr_loss


class LightGcn(nn.Module):
    """E = mean_l A^l E_0 with the symmetric normalisation A_ui = 1 / sqrt(deg u deg i); BPR on training edges.

    Args:
        train: Training edges, a `csr_array` of ones [U, I].
        embedding_size: d.
        num_layers: Number of propagations, at least 1.
        penalty: Weight of the mean squared length of the first embeddings of a batch in the loss.
    """

    def __init__(self, train: Any, *, embedding_size: int, num_layers: int, penalty: float) -> None:
        super().__init__()
        self.shape = train.shape
        self.num_layers = num_layers
        self.penalty = penalty
        self.embeddings = nn.Parameter(torch.empty(sum(train.shape), embedding_size).normal_(std=0.1))
        self._graph = normalised_graph(train)

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Embeddings of users [U, d] and of items [I, d]."""
        layer = total = self.embeddings
        for _ in range(self.num_layers):
            layer = _Propagate.apply(layer, self._graph)
            total = total + layer
        users, items = (total / (self.num_layers + 1)).split(list(self.shape))
        return users, items

    def forward(self, user_ids: Tensor, item_ids: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            user_ids: [B].
            item_ids: [B].
            negatives: [B, N].

        Returns:
            The loss.
        """
        users, items = self.propagated()
        query, own, others = users[user_ids], items[item_ids], items[negatives]
        loss = bpr_loss((query * own).sum(dim=1), torch.einsum("bd,bnd->bn", query, others))
        first_users, first_items = self.embeddings.split(list(self.shape))
        lengths = [
            part.square().sum(dim=-1).mean()
            for part in (first_users[user_ids], first_items[item_ids], first_items[negatives])
        ]
        return {"loss": loss + self.penalty * sum(lengths)}


class _Propagate(torch.autograd.Function):
    """The product with a symmetric sparse matrix, whose gradient is the product with the same matrix."""

    @staticmethod
    def forward(context: Any, vectors: Tensor, graph: Tensor) -> Tensor:
        context.graph = graph
        return graph @ vectors

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.graph @ gradient, None


def normalised_graph(train: Any) -> Tensor:
    """Make A, symmetric, of users and items together.

    Args:
        train: Training edges [U, I].

    Returns:
        A, a sparse tensor [U + I, U + I].
    """
    import warnings

    from scipy import sparse

    both = sparse.block_array([[None, train], [train.T, None]]).tocsr()
    degrees = np.maximum(np.asarray(both.sum(axis=1)).ravel(), 1)
    scale = sparse.diags_array(degrees**-0.5)
    scaled = (scale @ both @ scale).tocsr()
    indptr, columns = (torch.from_numpy(part.astype(np.int64)) for part in (scaled.indptr, scaled.indices))
    values = torch.from_numpy(scaled.data.astype(np.float32))
    with warnings.catch_warnings():
        # torch says in each process that its compressed sparse rows are in beta.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(indptr, columns, values, size=scaled.shape)
