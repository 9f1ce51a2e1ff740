"""Private surface of datasets that this package relies on."""

from __future__ import annotations

from typing import Any


def fingerprint_of(dataset: Any) -> str:
    """Return the fingerprint of a `datasets.Dataset`: equal fingerprints mean equal content."""
    return str(dataset._fingerprint)


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
