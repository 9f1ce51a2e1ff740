"""The order of the sources inside a block of a mixed stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


Int64 = NDArray[np.int64]


def block_order(seed: int, block: int, quotas: Int64) -> Int64:
    """The source at each position of one block: the quotas, shuffled by Philox with the key (seed, block).

    Args:
        seed: Seed of the mixture.
        block: Number of the block.
        quotas: int64 [K]. Draws of each source in it.

    Returns:
        int64 [B].
    """
    grouped = np.repeat(np.arange(len(quotas)), quotas)
    # Raw output, because NumPy keeps the streams of its bit generators stable, not those of its shuffles. The low
    # bits make way for the position: sorting then gives the order, and faster than an argsort.
    low = np.uint64(2 ** len(grouped).bit_length() - 1)
    keys = np.random.Philox(key=[seed, block]).random_raw(len(grouped)) | low
    keys ^= low ^ np.arange(len(grouped), dtype=np.uint64)
    keys.sort()
    return grouped[keys & low]


def occurrences(labels: Int64, num_labels: int) -> tuple[Int64, Int64]:
    """The positions grouped by their label, in order, and how many each label has.

    Args:
        labels: int64 [M], in [0, num_labels).
        num_labels: Number of labels.

    Returns:
        int64 [M] and int64 [num_labels].
    """
    # NumPy sorts integers of 8 and 16 bits by radix, several times faster than longer ones.
    small = next(kind for kind in (np.uint8, np.uint16, np.int64) if num_labels - 1 <= np.iinfo(kind).max)
    return np.argsort(labels.astype(small), kind="stable"), np.bincount(labels, minlength=num_labels)
