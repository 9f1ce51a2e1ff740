"""Keyed orders of the rows of a source, without a table: one bijection on [0, n) for each (seed, source, epoch)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]

MAX_ROWS = 2**32

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_1 = np.uint32(0x7FEB352D)
_ROUND_2 = np.uint32(0x846CA68B)
_HALF = np.uint32(16)
# Working sets of this size stay in the cache of the processor.
_CHUNK = 2**15


def _mix(x: UInt64) -> UInt64:
    """Scramble 64-bit integers (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _round_keys(seed: int, source: int, epochs: UInt64, num_rounds: int) -> list[UInt32]:
    """One key per Feistel round, for each of the epochs."""
    key = _mix(np.full(1, seed, np.uint64) + _GOLDEN)
    key = _mix((key ^ np.uint64(source)) + _GOLDEN)
    key = _mix((key ^ epochs) + _GOLDEN)
    keys = [_mix(key + np.full(1, turn + 1, np.uint64) * _GOLDEN) for turn in range(num_rounds)]
    return [(key >> np.uint64(32)).astype(np.uint32) for key in keys]


def _scramble(half: UInt32, key: UInt32) -> UInt32:
    """16 keyed bits of each value; half of a Feistel round."""
    mixed = half ^ key
    mixed *= _ROUND_1
    mixed ^= mixed >> _HALF
    mixed *= _ROUND_2
    mixed >>= _HALF
    return mixed


def permute(ranks: Int64, num_rows: int, *, seed: int, source: int) -> Int64:
    """Map the draws of one source to its rows: each epoch of `num_rows` draws visits every row once, in its own order.

    A Feistel network permutes the smallest power of two >= `num_rows`; a value outside is fed through again until it
    falls inside (cycle walking), which keeps the map a bijection. Few bits need more rounds to mix: 8 rounds leave a
    visible bias below about 50 rows, 16 do not.

    Args:
        ranks: int64 [M], >= 0. Numbers of draws within the source.
        num_rows: Rows of the source, in [1, 2**32].
        seed: Seed of the mixture.
        source: Number of the source in the mixture.

    Returns:
        int64 [M]: rows in [0, num_rows).
    """
    rows = np.empty(len(ranks), dtype=np.int64)
    for start in range(0, len(ranks), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        epochs, inside = np.divmod(ranks[chunk], num_rows)
        if epochs.min() == epochs.max():
            epochs = epochs[:1]
        keys = _round_keys(seed, source, epochs.astype(np.uint64), 8 if num_rows >= 256 else 16)
        rows[chunk] = _walk(inside.astype(np.uint32), num_rows, keys)
    return rows


def _walk(x: UInt32, num_rows: int, keys: list[UInt32]) -> UInt32:
    """Apply the Feistel network to each value until it is below `num_rows`."""
    bits = max(num_rows - 1, 1).bit_length()
    low_bits = np.uint32((bits + 1) // 2)
    low_mask = np.uint32((1 << ((bits + 1) // 2)) - 1)
    high_mask = np.uint32((1 << (bits // 2)) - 1)
    todo, values = np.arange(len(x)), x
    while len(todo):
        low, high = values & low_mask, values >> low_bits
        for turn, key in enumerate(keys):
            # The halves take turns, so that they may differ in width by one bit.
            if turn % 2:
                low ^= _scramble(high, key) & low_mask
            else:
                high ^= _scramble(low, key) & high_mask
        values = (high << low_bits) | low
        x[todo] = values
        outside = values >= num_rows
        todo, values = todo[outside], values[outside]
        keys = [key[outside] if len(key) > 1 else key for key in keys]
    return x
