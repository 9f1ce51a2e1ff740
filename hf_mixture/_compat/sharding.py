"""Shards of whole tensors, as transformers cuts them when it loads a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.distributed.sharding_utils import DtensorShardOperation


def local_shard(parameter: Any, whole: Tensor) -> Tensor:
    """What a rank has of a tensor that is laid out as a sharded parameter.

    Args:
        parameter: The parameter.
        whole: The tensor, of its shape.

    Returns:
        This rank's part.
    """
    shard: Tensor = DtensorShardOperation(parameter).shard_tensor(whole)
    return shard
