"""What gates tell: which experts and how much memory each task uses, and whether images differ in it.

Letters: L levels, B images, T tasks, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GateReadout:
    """A report on gates that needs no labels.

    Args:
        tasks: Names of the tasks.
        occupancy: Mean weight of each expert and, last, the memory [L, T, E + 1]; each row sums to 1.
        spread: Standard deviation of each weight over images [L, T, E + 1]; 0 for constant gates.
        entropy: Mean entropy of the weights of an image, divided by log(E + 1), [L, T]: 1 for equal weights, 0 where
            one expert, or the memory, has all.

    Example:
        >>> import torch
        >>> from hf_mixture import read_gates
        >>> read_gates(torch.tensor([[[[1.0, 0.0]]]]), ["depth"]).entropy.item()
        0.0
    """

    tasks: tuple[str, ...]
    occupancy: Tensor
    spread: Tensor
    entropy: Tensor

    def to_dict(self) -> dict[str, dict[str, list[list[float]] | list[float]]]:
        """Return plain numbers.

        Returns:
            By task: `occupancy` and `spread` by level and slot, `entropy` by level.
        """
        return {
            task: {
                "occupancy": self.occupancy[:, place].tolist(),
                "spread": self.spread[:, place].tolist(),
                "entropy": self.entropy[:, place].tolist(),
            }
            for place, task in enumerate(self.tasks)
        }


def read_gates(gate_scores: Tensor, tasks: Sequence[str]) -> GateReadout:
    """Summarise the gates of many images.

    Args:
        gate_scores: `gate_scores` of the model's output, batches joined along dimension 1: [L, B, T, E + 1].
        tasks: `config.tasks`.

    Returns:
        Occupancy, spread and entropy.

    Raises:
        ValueError: If the shape does not fit.

    Example:
        >>> import torch
        >>> from hf_mixture import read_gates
        >>> scores = torch.tensor([[[[0.25, 0.75]], [[0.75, 0.25]]]])
        >>> read_gates(scores, ["depth"]).to_dict()["depth"]["occupancy"]
        [[0.5, 0.5]]
    """
    if gate_scores.dim() != 4 or gate_scores.shape[1] == 0 or gate_scores.shape[2] != len(tasks):
        raise ValueError(
            f"gate_scores has the shape {tuple(gate_scores.shape)}; it must be [levels, images, {len(tasks)} tasks, "
            "experts + 1] with at least one image"
        )
    scores = gate_scores.detach().float()
    entropy = torch.special.entr(scores).sum(dim=-1) / torch.tensor(scores.shape[-1]).log()
    return GateReadout(
        tasks=tuple(tasks),
        occupancy=scores.mean(dim=1),
        spread=scores.std(dim=1, correction=0),
        entropy=entropy.mean(dim=1),
    )
