"""The processes that share the work of a search: who does what, and how results come together."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed


T = TypeVar("T")

# A process waits for the others for as long as their last run takes.
_PATIENCE = timedelta(days=30)


class Peers:
    """The processes that `torchrun` or `accelerate launch` started; one where neither did. All must make it.

    Attributes:
        index (`int`): Number of this process.
        num (`int`): Number of processes.
        local_index (`int`): Number of this process on its machine.
    """

    def __init__(self) -> None:
        if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())
        is_distributed = distributed.is_initialized()
        self.index = distributed.get_rank() if is_distributed else 0
        self.num = distributed.get_world_size() if is_distributed else 1
        self.local_index = int(os.environ.get("LOCAL_RANK", "0")) if is_distributed else 0
        self._group = distributed.new_group(backend="gloo", timeout=_PATIENCE) if self.num > 1 else None

    def from_first(self, value: T) -> T:
        """Return the value that process 0 passed."""
        box: list[Any] = [value]
        if self._group is not None:
            distributed.broadcast_object_list(box, src=0, group=self._group)
        result: T = box[0]
        return result

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in their order."""
        values: list[Any] = [value] * self.num
        if self._group is not None:
            distributed.all_gather_object(values, value, group=self._group)
        return values
