"""Rows of a data set as batches, for what the stock Trainer does not batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def rows_of(dataset: Any, indices: Iterable[int]) -> list[dict[str, Any]]:
    """Read rows, at once where the data set can.

    Args:
        dataset: Rows by index.
        indices: Which.

    Returns:
        The rows.
    """
    chosen = [int(index) for index in indices]
    if hasattr(dataset, "__getitems__"):
        return list(dataset.__getitems__(chosen))
    return [dataset[index] for index in chosen]


def collate_rows(rows: list[dict[str, Any]], data_collator: Any, device: torch.device) -> dict[str, Any]:
    """Make a batch of rows.

    Args:
        rows: Rows with `pixel_values` and `labels`.
        data_collator: Makes the batch. None for that of transformers.
        device: Where to.

    Returns:
        Tensors by name.

    Raises:
        ValueError: The batch has no images or no labels, or the images are not all of one shape.
    """
    from transformers import default_data_collator

    try:
        batch = (data_collator or default_data_collator)(rows)
    except (RuntimeError, ValueError) as error:
        shapes = sorted({str(tuple(torch.as_tensor(row["pixel_values"]).shape)) for row in rows})
        raise ValueError(f"rows with pixel_values of the shapes {', '.join(shapes)} make no batch: {error}") from error
    for name in ("pixel_values", "labels"):
        if name not in batch:
            raise ValueError(f"a batch has {', '.join(batch)} and no {name}; give rows with pixel_values and labels")
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
