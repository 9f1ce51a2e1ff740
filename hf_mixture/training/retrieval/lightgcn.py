"""A LightGCN-type model (arXiv 2002.02126): embeddings that are averaged over the graph before they are compared.

Letters: U users, I items, d embedding size, B edges of a batch, N negatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_mixture.models.knn_embed.losses import bpr_loss
from hf_mixture.models.mm_recommender.propagation import normalised_adjacency, propagate


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
        users, items = (torch.from_numpy(ids.astype(np.int64)) for ids in train.tocoo().coords)
        self._graph = normalised_adjacency(users, items, *train.shape)

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Embeddings of users [U, d] and of items [I, d]."""
        users, items = propagate(self.embeddings, self._graph, self.num_layers).split(list(self.shape))
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
