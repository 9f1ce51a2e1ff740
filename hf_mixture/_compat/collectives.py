"""Collectives with a gradient, as the expert parallelism of transformers uses them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd
from transformers.distributed.parallel_utils import _WaitTensor


def exchange_rows(rows: Tensor, *, receive: list[int], send: list[int], group: Any) -> Tensor:
    """Send rows to the ranks of a group and receive theirs; backwards, gradients go back.

    Args:
        rows: Rows to send [N, H], in the order of the ranks.
        receive: Rows that come from each rank.
        send: Rows that go to each rank.
        group: The process group.

    Returns:
        The rows received, when they have arrived.
    """
    # Without the wait, kernels would get a result that is under way.
    result: Tensor = _WaitTensor.apply(all_to_all_single_autograd(rows, receive, send, group))
    return result
