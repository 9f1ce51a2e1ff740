"""Private surface of datasets that this package relies on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray


if TYPE_CHECKING:
    from datasets import Dataset, Features


def fingerprint_of(dataset: Any) -> str:
    """Return the fingerprint of a `datasets.Dataset`: equal fingerprints mean equal content."""
    return str(dataset._fingerprint)


def select_rows(dataset: Dataset, rows: NDArray[np.int64], fingerprint: str) -> Dataset:
    """Return `dataset.select(rows, new_fingerprint=fingerprint)` without going through a list of Python integers.

    Args:
        dataset: A dataset with n rows.
        rows: int64 [M], in [0, n).
        fingerprint: Fingerprint of the result.

    Returns:
        The dataset with the M rows; nothing is copied but their numbers.
    """
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    indices = pa.array(rows.view(np.uint64))
    if dataset._indices is not None:
        indices = dataset._indices.column(0).take(indices)
    selected = Dataset(
        dataset.data,
        info=dataset.info.copy(),
        split=dataset.split,
        indices_table=InMemoryTable(pa.Table.from_arrays([indices], names=["indices"])),
        fingerprint=fingerprint,
    )
    kept = dataset.format
    selected.set_format(kept["type"], kept["columns"], kept["output_all_columns"], **kept["format_kwargs"])
    # A format does not change the rows, so `select` leaves it out of the fingerprint as well.
    selected._fingerprint = fingerprint
    return selected


def features_agree(first: Features, second: Features) -> bool:
    """Whether the columns that two datasets share have the same types; nulls go with every type."""
    from datasets.features.features import _check_if_features_can_be_aligned

    try:
        _check_if_features_can_be_aligned([first, second])
    except ValueError:
        return False
    return True


def has_shuffle_buffer(stream: Any) -> bool:
    """Whether a `datasets.IterableDataset` shuffles in a buffer somewhere, which its state does not contain."""
    from datasets.iterable_dataset import BufferShuffledExamplesIterable

    todo = [stream._ex_iterable]
    while todo:
        node = todo.pop()
        if isinstance(node, BufferShuffledExamplesIterable):
            return True
        inner = getattr(node, "ex_iterable", None)
        todo += [*getattr(node, "ex_iterables", ()), *([] if inner is None else [inner])]
    return False


def is_split_by_node(stream: Any) -> bool:
    """Whether a `datasets.IterableDataset` gives the rows of one process only (`split_dataset_by_node`)."""
    return stream._distributed is not None


def streams_tables(stream: Any) -> bool:
    """Whether a `datasets.IterableDataset` reads Arrow tables, so that a format "arrow" decodes nothing."""
    return stream._ex_iterable.iter_arrow is not None
