"""Keyed orders of the rows of a source, without a table: one bijection on [0, n) for each (seed, source, epoch).

A number x is split in two parts, hi in [0, c) and lo of b bits, c being the least that makes c 2^b >= n. Rounds mix lo
into hi modulo c, hi into lo, and lo in itself (a multiplication by an odd number and a shift), each of which can be
undone. What falls outside [0, n) is fed through again until it falls inside (cycle walking), which keeps the map a
bijection; with b about half the bits of n that is less than one number in sqrt(n).

Below 512 rows the parts are too small to mix one another well: lo then takes all bits, c is 1, and more rounds follow.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray


Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Keys = list[tuple[UInt32, UInt32]]

MAX_ROWS = 2**32

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.uint32(0x2C1B3C6D)
_HALF = np.uint32(16)
_SMALL = 512
# Working sets of this size stay in the cache of the processor.
_CHUNK = 2**15


def _mix(x: UInt64) -> UInt64:
    """Scramble 64-bit integers (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _round_keys(seed: int, source: int, epochs: UInt64, num_rounds: int) -> Keys:
    """Two pairs of an addend and an odd factor per round, for each of the epochs."""
    key = _mix(np.full(1, seed, np.uint64) + _GOLDEN)
    key = _mix((key ^ np.uint64(source)) + _GOLDEN)
    key = _mix((key ^ epochs) + _GOLDEN)
    keys = [_mix(key + np.full(1, turn + 1, np.uint64) * _GOLDEN) for turn in range(2 * num_rounds)]
    return [(key.astype(np.uint32), (key >> np.uint64(32)).astype(np.uint32) | np.uint32(1)) for key in keys]


def permute(ranks: Int64, num_rows: int, *, seed: int, source: int) -> Int64:
    """Map the draws of one source to its rows: each epoch of `num_rows` draws visits every row once, in its own order.

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
        if (epoch := int(epochs[0])) == epochs.max() and epoch == epochs.min():
            keys = _epoch_keys(seed, source, epoch, _num_rounds(num_rows))
        else:
            keys = _round_keys(seed, source, epochs.astype(np.uint64), _num_rounds(num_rows))
        rows[chunk] = _walk(inside.astype(np.uint32), num_rows, keys)
    return rows


def permute_range(start: int, stop: int, num_rows: int, *, seed: int, source: int) -> UInt32:
    """Return `permute` of the draws from `start` to `stop`, faster.

    Args:
        start: First draw.
        stop: Draw after the last.
        num_rows: See `permute`.
        seed: See `permute`.
        source: See `permute`.

    Returns:
        uint32 [stop - start].
    """
    if (stop - 1) // num_rows - start // num_rows > (stop - start) // _SMALL:
        return permute(np.arange(start, stop), num_rows, seed=seed, source=source).astype(np.uint32)
    rows = np.empty(stop - start, dtype=np.uint32)
    position = start
    while position < stop:
        epoch, inside = divmod(position, num_rows)
        num = min(stop - position, num_rows - inside)
        ranks = np.arange(inside, inside + num, dtype=np.uint32)
        rows[position - start : position - start + num] = _walk(
            ranks, num_rows, _epoch_keys(seed, source, epoch, _num_rounds(num_rows))
        )
        position += num
    return rows


@functools.lru_cache(maxsize=1024)
def _epoch_keys(seed: int, source: int, epoch: int, num_rounds: int) -> Keys:
    return _round_keys(seed, source, np.full(1, epoch, np.uint64), num_rounds)


def _num_rounds(num_rows: int) -> int:
    return 12 if num_rows < _SMALL else 3


def _walk(ranks: UInt32, num_rows: int, keys: Keys) -> UInt32:
    """Apply the rounds to each value until it is below `num_rows`."""
    num_bits = max(num_rows - 1, 1).bit_length()
    num_low = num_bits if num_rows < _SMALL else num_bits // 2
    num_high = -(-num_rows // 2**num_low)
    rows = np.empty_like(ranks)
    for start in range(0, len(ranks), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        part = [(add[chunk], factor[chunk]) if len(add) > 1 else (add, factor) for add, factor in keys]
        rows[chunk] = _rounds(ranks[chunk], num_low, num_high, part)
    # 2**32 rows leave no uint32 outside.
    limit = np.uint32(num_rows - 1)
    todo = np.flatnonzero(rows > limit)
    values = rows[todo]
    keys = [(add[todo], factor[todo]) if len(add) > 1 else (add, factor) for add, factor in keys]
    while len(todo):
        values = _rounds(values, num_low, num_high, keys)
        rows[todo] = values
        outside = np.flatnonzero(values > limit)
        todo, values = todo[outside], values[outside]
        keys = [(add[outside], factor[outside]) if len(add) > 1 else (add, factor) for add, factor in keys]
    return rows


def _rounds(x: UInt32, num_low: int, num_high: int, keys: Keys) -> UInt32:
    """A bijection on [0, num_high 2^num_low)."""
    low_bits, mask = np.uint32(num_low), np.uint32(2**num_low - 1)
    top, shift = np.uint32(32 - num_low), np.uint32((num_low + 1) // 2)
    count = np.uint32(num_high)
    high, low = x >> low_bits, x & mask
    step = np.empty_like(x)
    for (add, factor), (low_add, low_factor) in zip(keys[::2], keys[1::2], strict=True):
        if num_high > 1:
            np.multiply(low, factor, out=step)
            step += add
            step ^= step >> np.uint32(15)
            step *= _SPREAD
            step >>= _HALF
            # 16 random bits, scaled to [0, num_high).
            step *= count
            step >>= _HALF
            high += step
            # The wrapped difference is the larger one where there is nothing to subtract.
            np.subtract(high, count, out=step)
            np.minimum(high, step, out=high)
        np.multiply(high, low_factor, out=step)
        step += low_add
        step ^= step >> np.uint32(15)
        step *= _SPREAD
        step >>= top
        low += step
        low *= low_factor
        low &= mask
        np.right_shift(low, shift, out=step)
        low ^= step
    high <<= low_bits
    high |= low
    return high
