"""Adding an update to a weight so that it can be taken out again without a trace.

In floating point `(W + D) - D` is not always W. Where it is not, the original values are kept; in low precision these
are few, because the roundings of the sum and of the difference mostly cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Correction:
    """Original values of the elements that a subtraction does not restore.

    Args:
        positions: Flat positions, int64 of shape (k,).
        values: Values there, of the type of the weight, of shape (k,).
    """

    positions: Tensor
    values: Tensor


def add_update(weight: Tensor, update: Tensor) -> tuple[Tensor, Correction]:
    """Sum of a weight and an update, rounded once to the type of the weight.

    Args:
        weight: Tensor of any shape and floating-point type.
        update: Tensor of the same shape.

    Returns:
        The sum and what `remove_update` needs to restore the weight exactly.

    Example:
        >>> import torch
        >>> weight, update = torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([1e-3, 300.0])
        >>> merged, correction = add_update(weight, update)
        >>> remove_update(merged, update, correction).tolist()
        [1.0, 3.0]
    """
    merged = (weight + update).to(weight.dtype)
    lost = (_difference(merged, update) != weight).flatten().nonzero().squeeze(1)
    return merged, Correction(lost, weight.flatten()[lost])


def remove_update(merged: Tensor, update: Tensor, correction: Correction) -> Tensor:
    """The weight that `add_update` was given.

    Args:
        merged: The sum.
        update: The same update.
        correction: The second result of `add_update`.

    Returns:
        The weight, bit for bit.
    """
    weight = _difference(merged, update).flatten()
    weight[correction.positions] = correction.values
    return weight.view_as(merged)


def _difference(merged: Tensor, update: Tensor) -> Tensor:
    return (merged - update).to(merged.dtype)
