"""Batches of packed rows: one tensor that behaves as a list of samples, and the collator that passes it on.

Letters: M rows of a batch, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


class PackedRows(Sequence[dict[str, Any]]):
    """A batch of equally long rows, held as one tensor.

    As a sequence it has M rows `{"input_ids": int64 [T]}`, as the items of any torch dataset, so that every collator
    takes it. `rows["input_ids"]` is the whole tensor, int64 [M, T]; `collate_packed` passes that on without a copy.

    Args:
        input_ids: int64 [M, T].
        extra: Further columns, each a sequence of M values.
    """

    def __init__(self, input_ids: torch.Tensor, extra: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.input_ids = input_ids
        self.extra = extra or {}

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.input_ids if key == "input_ids" else self.extra[key]
        if isinstance(key, slice):
            return [self[number] for number in range(*key.indices(len(self)))]
        return {"input_ids": self.input_ids[key], **{name: values[key] for name, values in self.extra.items()}}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # One call makes all the views, where indexing would make one at a time.
        for number, row in enumerate(self.input_ids.unbind(0)):
            yield {"input_ids": row, **{name: values[number] for name, values in self.extra.items()}}


def collate_packed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of packed rows, with `labels`: every token is predicted. The data collator of packs.

    Rows that lie side by side in memory, as a pack or a `MixtureDataset` over packs hands them out, become a batch
    without a copy, also after the Trainer has removed columns from each of them.

    Args:
        rows: M rows with `input_ids` of the same length; other columns of numbers or tensors are stacked, columns of
            text become lists.

    Returns:
        The columns as tensors [M, ...], and `labels`, which is `input_ids` unless the rows have their own.

    Raises:
        ValueError: The rows are not equally long.

    Example:
        ```python
        >>> import torch
        >>> from hf_mixture.data.packed_rows import collate_packed
        >>> collate_packed([{"input_ids": torch.tensor([1, 2])}, {"input_ids": torch.tensor([3, 4])}])["labels"]
        tensor([[1, 2],
                [3, 4]])

        ```
    """
    if isinstance(rows, PackedRows):
        ids, others = rows.input_ids, {name: [*values] for name, values in rows.extra.items()}
    else:
        ids = _stack("input_ids", [row["input_ids"] for row in rows])
        others = {name: [row[name] for row in rows] for name in rows[0] if name != "input_ids"}
    return {"input_ids": ids, "labels": ids, **{name: _stack(name, values) for name, values in others.items()}}


def _stack(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, str):
        return values
    if not isinstance(first, torch.Tensor):
        values = [torch.as_tensor(value) for value in values]
        first = values[0]
    if len({value.shape for value in values}) > 1:
        raise ValueError(
            f"column {name!r} has rows of the shapes {sorted({tuple(value.shape) for value in values})}; a batch "
            "needs equal ones: cut blocks of one size with pack.blocks(block_size), or use a collator that pads"
        )
    step = first.numel() * first.element_size()
    start = first.data_ptr()
    is_block = (
        first.dim() == 1
        and first.is_contiguous()
        and all(value.data_ptr() == start + step * number for number, value in enumerate(values))
        and first.untyped_storage().data_ptr() + first.untyped_storage().nbytes() >= start + step * len(values)
    )
    if is_block:
        return first.as_strided((len(values), len(first)), (len(first), 1))
    return torch.stack(values)
