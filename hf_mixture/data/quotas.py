"""How many rows of each source every block of a mixed stream holds.

Letters: K sources, w shares (sum 1), N positions, n rows of a source, B block length, T the targets: the integrals of
the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

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


def num_examples_by_lengths(
    shares: Float64,
    lengths: Sequence[Int64],
    lengths_in_order: Callable[[int, int, int], Int64],
    stopping_strategy: str,
) -> int:
    """Return the length of a stream whose shares count tokens or bytes: the draws that fall due until the first, or
    the last, drawn source has given all its rows once.

    Args:
        shares: float64 [K], sum 1.
        lengths: K arrays int64 [n_i]: the lengths of the rows.
        lengths_in_order: Gives the lengths of the draws of a source between two numbers.
        stopping_strategy: One of `STRATEGIES`.

    Raises:
        ValueError: The length is 0, or above 2**31.
    """
    drawn = np.flatnonzero(shares).tolist()
    # Mass of the stream at which each source has given all its rows once.
    laps = {i: float(lengths[i].sum()) / shares[i] for i in drawn}
    end = min(laps.values()) if stopping_strategy == "first_exhausted" else max(laps.values())
    check_length(sum(len(lengths[i]) * end / laps[i] for i in drawn), stopping_strategy)
    total = 0
    for i in drawn:
        # Division may lose the last epoch to rounding.
        num_epochs = math.floor(end / laps[i] * (1 + 1e-12))
        size = len(lengths[i])
        values = lengths_in_order(i, num_epochs * size, (num_epochs + 1) * size)
        mass = num_epochs * int(lengths[i].sum()) + np.cumsum(values) - values / 2
        total += num_epochs * size + int(np.count_nonzero(mass / shares[i] <= end * (1 + 1e-12)))
    return check_length(total, stopping_strategy)


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


def share_block(
    before: Int64, target: Float64, due: Float64, drawable: Bool, *, caps: Int64, num_positions: int
) -> Int64:
    """Return the counts at the end of a block whose shares count rows.

    At a block end, source i has had floor(T_i) or ceil(T_i) draws, so every count is within 1 of T_i. The floors are
    owed; what is left of the block goes to the sources whose next draw falls due first, where T_i reaches the next
    integer. Serving the earliest due date is what keeps the bound for every later block, where the largest remainder
    alone can hand out a draw that a tiny share cannot take back (a negative quota).

    The bound may give way where nobody could know what comes: when weights change after earlier blocks were shared
    out, or drop to 0. The block then goes to the sources that are furthest behind.

    Args:
        before: int64 [K]. Counts at the start of the block.
        target: float64 [K]. T at the end of the block.
        due: float64 [K]. Where the next draw after floor(T_i) falls due, in any unit.
        drawable: bool [K]. Sources that may be drawn in this block.
        caps: int64 [K]. Most draws of each source.
        num_positions: Positions of the block.

    Returns:
        int64 [K]; fewer than `num_positions` draws when all drawable sources are at their caps.
    """
    owed = np.minimum(np.floor(target).astype(np.int64), caps)
    counts = np.where(drawable, np.maximum(before, owed), before)
    num_left = num_positions - int(counts.sum() - before.sum())
    if num_left > 0:
        # A source above its floor had this draw early; the others may have it now.
        open_now = np.flatnonzero(drawable & (counts == owed) & (counts < caps))
        chosen = open_now[np.argsort(due[open_now], kind="stable")[:num_left]]
        counts[chosen] += 1
        num_left -= len(chosen)
    step = 1 if num_left > 0 else -1
    for _ in range(abs(num_left)):
        # Whom a further draw, or the loss of one, leaves closest to its target.
        able = drawable & (counts < caps) if step > 0 else counts > before
        if not able.any():
            break
        counts[np.argmax(np.where(able, step * (target - counts), -np.inf))] += step
    return counts


def share_blocks(counts: Int64, targets: Float64, due: Float64, drawable: Bool, sizes: Int64) -> None:
    """Call `share_block` for consecutive blocks without caps, faster.

    Args:
        counts: int64 [T + 1, K]. The first row is given; the others, the counts at the ends of the blocks, are filled.
        targets: float64 [T, K]. See `share_block`.
        due: float64 [T, K]. See `share_block`.
        drawable: bool [T, K]. See `share_block`.
        sizes: int64 [T]. Positions of each block.
    """
    owed = np.floor(targets).astype(np.int64)
    orders = np.argsort(np.where(drawable, due, np.inf), axis=1, kind="stable")
    num_drawable = drawable.sum(axis=1).tolist()
    caps = np.full(counts.shape[1], 2**62)
    total = int(counts[0].sum())
    for block, size in enumerate(sizes.tolist()):
        before, floor, order = counts[block], owed[block], orders[block, : num_drawable[block]]
        total += size
        after = np.maximum(before, floor)
        if num_drawable[block] < len(floor):
            after = np.where(drawable[block], after, before)
        num_left = total - int(after.sum())
        # A source above its floor had this draw early; the others may have it now.
        chosen = order[(after == floor)[order]][: max(num_left, 0)]
        if len(chosen) == num_left:
            after[chosen] += 1
        else:
            after = share_block(before, targets[block], due[block], drawable[block], caps=caps, num_positions=size)
        counts[block + 1] = after


def fill(increments: Float64, room: Float64) -> Float64:
    """Limit what each source is meant to get in a block to its room, and give the surplus to the others by weight."""
    result = increments.copy()
    while True:
        over = result > room
        surplus = float((result[over] - room[over]).sum())
        result[over] = room[over]
        others = np.where(result < room, increments, 0.0)
        if surplus <= 0 or not others.any():
            return result
        result += surplus * others / others.sum()
