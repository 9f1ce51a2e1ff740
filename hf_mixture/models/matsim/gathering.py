"""Comparing images across processes: what all processes hold, with gradients for one's own part.

Letters: W processes, B images of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_batch(parts: Sequence[Tensor]) -> list[Tensor]:
    """Concatenate each tensor over the processes; gradients flow to the own part.

    Args:
        parts: Tensors whose first size is B, the same on all processes.

    Returns:
        The same of all processes [W B, ...].

    Raises:
        ValueError: If processes hold different numbers of images.
    """
    rank, number = dist.get_rank(), dist.get_world_size()
    sizes = [torch.zeros((), dtype=torch.int64, device=parts[0].device) for _ in range(number)]
    dist.all_gather(sizes, torch.tensor(len(parts[0]), device=parts[0].device))
    if len({int(size) for size in sizes}) > 1:
        raise ValueError(
            f"processes hold {[int(size) for size in sizes]} images, and gather_across_processes needs equal numbers; "
            "use MaterialBatchSampler, or dataloader_drop_last"
        )
    gathered = []
    for part in parts:
        found = [torch.empty_like(part) for _ in range(number)]
        dist.all_gather(found, part.detach().contiguous())
        found[rank] = part
        gathered.append(torch.cat(found))
    return gathered


def with_gradient_of_all(loss: Tensor) -> Tensor:
    """The same value with W times the gradient.

    Each process differentiates the loss of the whole batch by its own embeddings only; data parallelism takes the mean
    of these parts, where their sum is the gradient.
    """
    return loss + (num_processes() - 1) * (loss - loss.detach())
