"""Shards of whole tensors, as transformers cuts them when it loads a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def local_shard(parameter: Any, whole: Tensor) -> Tensor:
    """What a rank has of a tensor that is laid out as a sharded parameter.

    Args:
        parameter: The parameter.
        whole: The tensor, of its shape.

    Returns:
        This rank's part.
    """
    from transformers.distributed.sharding_utils import DtensorShardOperation

    shard: Tensor = DtensorShardOperation(parameter).shard_tensor(whole)
    return shard


def is_spread(model: nn.Module) -> bool:
    """Whether weights of a model are spread over processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) for weight in model.parameters())
