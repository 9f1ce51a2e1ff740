"""LightGCN-type propagation of identity rows over the graph of users and items (arXiv 2002.02126).

Letters: U users, I items, N = U + I nodes, E interactions, d embedding size, L layers.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def normalised_adjacency(
    users: Tensor, items: Tensor, num_users: int, num_items: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The symmetric matrix with 1 / sqrt(degree(u) degree(i)) at (u, U + i) and (U + i, u).

    Args:
        users: User of each interaction [E]; no pair occurs twice.
        items: Item of each interaction [E].
        num_users: U.
        num_items: I.
        dtype: Type of the numbers. Default: float32.

    Returns:
        Sparse in rows [N, N]; the rows of nodes without interactions are empty.

    Example:
        >>> import torch
        >>> from hf_mixture.models.mm_recommender.propagation import normalised_adjacency
        >>> normalised_adjacency(torch.tensor([0]), torch.tensor([1]), 1, 2).to_dense().tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    nodes = num_users + num_items
    ends = torch.stack([users, items + num_users])
    degrees = torch.bincount(ends.flatten(), minlength=nodes).to(dtype)
    values = (degrees[ends[0]] * degrees[ends[1]]).rsqrt()
    matrix = torch.sparse_coo_tensor(
        torch.cat([ends, ends.flip(0)], dim=1), torch.cat([values, values]), (nodes, nodes), check_invariants=False
    )
    with warnings.catch_warnings():
        # PyTorch says once in each process that compressed rows are in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return matrix.coalesce().to_sparse_csr()


class _SymmetricProduct(torch.autograd.Function):
    """A @ x for a constant symmetric sparse A; the gradient is A @ g, without a transposed copy of A."""

    @staticmethod
    def forward(ctx, matrix: Tensor, rows: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.matrix = matrix
        return matrix @ rows

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:  # type: ignore[no-untyped-def]
        with torch.autocast(gradient.device.type, enabled=False):
            return None, ctx.matrix @ gradient.contiguous()


def propagate(rows: Tensor, adjacency: Tensor, num_layers: int) -> Tensor:
    """Mean over the layers 0 to L of A^l rows, in the type of A.

    Args:
        rows: Identity rows of users, then of items [N, d].
        adjacency: From `normalised_adjacency` [N, N].
        num_layers: L.

    Returns:
        Propagated rows [N, d] in the type of the rows; of a node without interactions its own row divided by L + 1.

    Example:
        >>> import torch
        >>> from hf_mixture.models.mm_recommender.propagation import normalised_adjacency, propagate
        >>> graph = normalised_adjacency(torch.tensor([0]), torch.tensor([0]), 1, 2)
        >>> propagate(torch.tensor([[2.0], [4.0], [6.0]]), graph, 1).tolist()
        [[3.0], [3.0], [3.0]]
    """
    # Sparse products know no half precision on a CPU, and degrees overflow it.
    with torch.autocast(rows.device.type, enabled=False):
        total = layer = rows.to(adjacency.dtype)
        for _ in range(num_layers):
            layer = _SymmetricProduct.apply(adjacency, layer)
            total = total + layer
        return (total / (num_layers + 1)).to(rows.dtype)
