"""Tokens on their way to experts of other ranks and back, as all dispatchers here share it.

Letters: T tokens, K experts of a token, P pairs of token and expert that are sent, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard


def slice_shared_batch(tensors: tuple[Tensor, ...], tp_mesh: Any) -> tuple[Tensor, ...]:
    """The rows of this rank, of tensors that all ranks of a tensor-parallel group hold; gradients are gathered.

    Args:
        tensors: Tensors of as many rows [T, ...].
        tp_mesh: The tensor-parallel ranks, maybe only this one.

    Returns:
        This rank's rows of each, or the tensors themselves on one rank.
    """
    if tp_mesh.size() == 1:
        return tensors
    return tuple(
        DTensor.from_local(tensor, tp_mesh, [Replicate()], run_check=False)
        .redistribute(tp_mesh, [Shard(0)])
        .to_local()
        for tensor in tensors
    )


def gather_shared_batch(rows: Tensor, tp_mesh: Any, num_rows: int) -> Tensor:
    """All rows of a batch of which each rank of a tensor-parallel group holds some; undoes `slice_shared_batch`.

    Args:
        rows: This rank's rows [.., H].
        tp_mesh: The tensor-parallel ranks, maybe only this one.
        num_rows: Rows of all ranks.

    Returns:
        [num_rows, H].
    """
    if tp_mesh.size() == 1:
        return rows
    width = rows.shape[-1]
    whole: Tensor = DTensor.from_local(
        rows.contiguous(), tp_mesh, [Shard(0)], run_check=False, shape=torch.Size((num_rows, width)), stride=(width, 1)
    ).full_tensor()
    return whole


def run_experts(experts_forward: Callable[..., Tensor], tokens: Tensor, places: Tensor) -> Tensor:
    """Run the experts of this rank, each row by one, with weight 1: the weights are applied where tokens came from.

    Args:
        experts_forward: The forward pass of the experts module, on its own numbers of experts.
        tokens: [rows, H]; maybe none.
        places: The expert of each row [rows, 1].

    Returns:
        [rows, H].
    """
    num_tokens = len(tokens)
    if not num_tokens:
        # A row of zeros keeps the exchanges of the backward pass running on all ranks.
        tokens, places = tokens.sum(dim=0, keepdim=True), places.new_zeros(1, 1)
    output = experts_forward(tokens, places, tokens.new_ones(places.shape))
    return output[:num_tokens]


def combine(outputs: Tensor, pairs: Tensor, top_k_weights: Tensor) -> Tensor:
    """Add up what the experts of each token gave, by their weights.

    Args:
        outputs: Outputs of the pairs that were sent [P, H].
        pairs: Place of each among the pairs of token and expert, T x K of them [P].
        top_k_weights: [T, K].

    Returns:
        [T, H]; a pair that was not sent counts as zero.
    """
    whole = outputs.new_zeros(top_k_weights.numel(), outputs.shape[-1])
    whole = whole.index_copy(0, pairs, outputs)
    return (whole.view(*top_k_weights.shape, -1) * top_k_weights.unsqueeze(-1)).sum(dim=1)
