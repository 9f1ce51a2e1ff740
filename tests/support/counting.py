"""Bytes that collectives send to other ranks, counted where PyTorch dispatches them, forward and backward."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode


class CountingBytes(TorchDispatchMode):
    """Counts what all-to-all collectives of rows send to other ranks.

    Attributes:
        tokens: Bytes of exchanges with a gradient, forward and backward.
        parameters: Bytes of exchanges without one, but those of counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = self.parameters = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name == "_c10d_functional.all_to_all_single.default":
            rows, _, sizes, group = args
            self.tokens += _to_others(rows, sizes, _place_in(dist.distributed_c10d._resolve_process_group(group)))
        elif name == "c10d.alltoall_base_.default" and args[4]:
            self.parameters += _to_others(args[1], args[4], dist.ProcessGroup.unbox(args[2]).rank())
        return func(*args, **(kwargs or {}))


def _place_in(group: Any) -> int:
    return dist.get_rank(group)


def _to_others(rows: Any, sizes: list[int], own: int) -> int:
    others = sum(size for rank, size in enumerate(sizes) if rank != own)
    return others * rows[0].numel() * rows.element_size() if len(rows) else 0
