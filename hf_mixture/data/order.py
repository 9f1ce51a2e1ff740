"""The order of the sources inside the blocks of a mixed stream.

Letters: K sources, T blocks, B positions of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


Int64 = NDArray[np.int64]
Labels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]


def block_orders(seed: int, first_block: int, quotas: Int64) -> Labels:
    """The source at each position of some consecutive blocks: their quotas, shuffled.

    Every position of a block gets 16 random bits, from Philox with the key (seed, block); the positions with the
    smallest ones go to source 0, the next to source 1, and so on. Equal bits are told apart by the position, which
    matters only to the few that stand where one source ends and the next begins.

    Args:
        seed: Seed of the mixture.
        first_block: Number of the first block.
        quotas: int64 [T, K]. Draws of each source in each block; all blocks have the same sum B > 0.

    Returns:
        Unsigned integers [T B].
    """
    num_blocks, num_sources = quotas.shape
    size = int(quotas[0].sum())
    # Raw output, because NumPy keeps the streams of its bit generators stable, not those of its shuffles.
    generator = np.random.Philox(key=[seed, first_block])
    fresh = generator.state
    num_words = -(-size // 4)
    words = np.empty((num_blocks, num_words), dtype="<u8")
    for turn in range(num_blocks):
        fresh["state"]["key"][1] = first_block + turn
        generator.state = fresh
        words[turn] = generator.random_raw(num_words)
    # NumPy sorts integers of 8 and 16 bits by radix, several times faster than longer ones.
    places = np.argsort(words.view("<u2")[:, :size], axis=1, kind="stable")
    places += np.arange(0, num_blocks * size, size)[:, None]
    labels = np.empty(num_blocks * size, dtype=label_type(num_sources))
    labels[places.ravel()] = np.repeat(np.tile(np.arange(num_sources, dtype=labels.dtype), num_blocks), quotas.ravel())
    return labels


def label_type(num_labels: int) -> type[np.unsignedinteger]:
    """The smallest type of the numbers below `num_labels`."""
    return np.uint8 if num_labels <= 2**8 else np.uint16 if num_labels <= 2**16 else np.uint32


def occurrences(labels: NDArray[np.integer], num_labels: int) -> tuple[Int64, Int64]:
    """The positions grouped by their label, in order, and how many each label has.

    Args:
        labels: Integers [M], in [0, num_labels).
        num_labels: Number of labels.

    Returns:
        int64 [M] and int64 [num_labels].
    """
    small = labels.astype(label_type(num_labels), copy=False)
    return np.argsort(small, kind="stable"), np.bincount(labels, minlength=num_labels)
