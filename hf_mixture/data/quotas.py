"""How many rows of each source every block of a mixed stream holds.

Letters: K sources, w shares (sum 1), T blocks, N positions, n rows of a source, B block length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

MAX_EXAMPLES = 2**31
STRATEGIES = ("first_exhausted", "all_exhausted")


def num_examples(shares: Float64, sizes: Sequence[int], stopping_strategy: str) -> int:
    """Return the length of a stream whose shares count rows: min or max over the drawn sources of n_i / w_i.

    Raises:
        ValueError: The length is 0, or above 2**31.
    """
    drawn = np.flatnonzero(shares)
    limit = np.asarray(sizes, dtype=np.float64)[drawn] / shares[drawn]
    # 3 / 0.1 is a little below 30: a last row must not be lost to rounding, nor a repeat forced by it.
    if stopping_strategy == "first_exhausted":
        return check_length(math.floor(limit.min() * (1 + 1e-12)), stopping_strategy)
    return check_length(math.ceil(limit.max() * (1 - 1e-12)), stopping_strategy)


def check_length(length: float, stopping_strategy: str) -> int:
    """Return the length of a stream as an integer; raise ValueError when it is 0 or above 2**31."""
    if length < 1:
        raise ValueError(
            f"stopping_strategy={stopping_strategy!r} gives an empty stream: a drawn source has too few rows for "
            "its weight; "
            "pass num_examples, add rows, or lower the weight"
        )
    if length > MAX_EXAMPLES:
        raise ValueError(
            f"stopping_strategy={stopping_strategy!r} gives {length:.3g} examples, above {MAX_EXAMPLES}: a source "
            "of tiny "
            "weight takes that long to be exhausted; pass num_examples, or give it weight 0"
        )
    return int(length)


def by_examples(shares: Float64, length: int, block_size: int) -> Int64:
    """Return the prefix counts of a stream whose shares count rows.

    After n positions at a block end, source i has had floor(n w_i) or ceil(n w_i) draws, so every count is within 1 of
    n w_i. The floors are owed; what is left of the block goes to the sources whose next draw falls due first, at
    ceil(n w_i) / w_i. Serving the earliest due date is what keeps the bound for every later block, where the largest
    remainder alone can hand out a draw that a tiny share cannot take back (a negative quota). No block follows the
    last one, so there the largest remainders decide: a stream of one block is exactly the largest-remainder split.

    Args:
        shares: float64 [K], sum 1.
        length: N.
        block_size: B.

    Returns:
        int64 [T + 1, K].
    """
    ends = [*range(block_size, length, block_size), length]
    prefix = np.zeros((len(ends) + 1, len(shares)), dtype=np.int64)
    drawable = shares > 0
    for block, end in enumerate(ends):
        before = prefix[block]
        target = end * shares
        owed = np.floor(target).astype(np.int64)
        count = np.maximum(before, owed)
        num_left = end - int(count.sum())
        # A source above its floor had this draw early; the others may have it now.
        if end == length:
            due = owed - target
        else:
            due = np.divide(owed + 1, shares, out=np.full(len(shares), np.inf), where=drawable)
        due[~drawable | (count > owed)] = np.inf
        count[np.argsort(due, kind="stable")[:num_left]] += 1
        prefix[block + 1] = count
    return prefix


def by_lengths(
    shares: Float64,
    lengths: Sequence[Int64],
    lengths_in_order: Callable[[int, Int64], Int64],
    *,
    length: int | None,
    stopping_strategy: str,
    block_size: int,
) -> Int64:
    """Return the prefix counts of a stream whose shares count the tokens or bytes of the rows.

    Time is the mass of the whole stream. Draw r of source i is due when w_i times that mass passes the middle of the
    row, at (S_i(r) + l / 2) / w_i, with S_i(r) the mass of the earlier draws and l that of this row: each source is
    then always within half a row of its share, whatever the lengths, and no error accumulates.

    Args:
        shares: float64 [K], sum 1.
        lengths: K arrays int64 [n_i]: the lengths of the rows.
        lengths_in_order: Gives the lengths of the draws `ranks` of a source.
        length: N, or None to let `stopping_strategy` decide.
        stopping_strategy: See `MixturePlan.build`.
        block_size: B.

    Returns:
        int64 [T + 1, K].
    """
    drawn = np.flatnonzero(shares).tolist()
    # Mass of the stream at which each source has given all its rows once.
    laps = {i: float(lengths[i].sum()) / shares[i] for i in drawn}

    def due_times(end: float) -> list[Float64]:
        """Due times of each drawn source, over at least the epochs that begin before `end`."""
        times = []
        for i in drawn:
            # Division may lose the last epoch to rounding.
            num_epochs = math.floor(end / laps[i] * (1 + 1e-12)) + 1
            drawn_lengths = lengths_in_order(i, np.arange(num_epochs * len(lengths[i])))
            times.append((np.cumsum(drawn_lengths) - drawn_lengths / 2) / shares[i])
        return times

    if length is None:
        end = min(laps.values()) if stopping_strategy == "first_exhausted" else max(laps.values())
        check_length(sum(len(lengths[i]) * end / laps[i] for i in drawn), stopping_strategy)
        due = [times[times <= end * (1 + 1e-12)] for times in due_times(end)]
        length = check_length(sum(map(len, due)), stopping_strategy)
    else:
        end = length / sum(len(lengths[i]) / laps[i] for i in drawn)
        due = due_times(end)
        while sum(int(np.count_nonzero(times <= end)) for times in due) < length:
            end *= 1.05
            due = due_times(end)
    source = np.repeat(drawn, [len(times) for times in due])
    source = source[np.argsort(np.concatenate(due), kind="stable")[:length]]
    ends = np.asarray([*range(block_size, length, block_size), length])
    prefix = np.zeros((len(ends) + 1, len(shares)), dtype=np.int64)
    for i in drawn:
        prefix[1:, i] = np.searchsorted(np.flatnonzero(source == i), ends)
    return prefix
