"""Reading a plan in stretches of whole blocks: what stands there, computed for many positions at a time and kept.

Letters: K sources, M positions of a stretch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.ledger import Ledger
from hf_mixture.data.order import block_orders


Int64 = NDArray[np.int64]
Numbers = NDArray[np.integer]
# The values of the draws `start` to `stop` of a source.
Values = Callable[[int, int, int], Numbers]

# Sorting is fast inside the cache of the processor.
_MAX_POSITIONS = 2**15
_GROWTH = 4
# Stretches for which values are computed at once: the cost of a call is spread over them.
_AHEAD = 12


class ReadAhead:
    """Values of the draws of each source, computed far ahead where requests follow one another.

    Args:
        values: Given a source and two of its draws, the values of those in between.
    """

    def __init__(self, values: Values) -> None:
        self.values = values
        self._kept: dict[int, tuple[int, Numbers]] = {}

    def clear(self) -> None:
        """Forget what was computed ahead."""
        self._kept.clear()

    def __call__(self, source: int, start: int, stop: int) -> Numbers:
        """The values of the draws `start` to `stop` of a source."""
        first, kept = self._kept.get(source, (-1, np.zeros(0, dtype=np.int64)))
        end = first + len(kept)
        if not first <= start <= stop <= end:
            num = stop - start
            if first <= start <= end:
                num = max(num, min(_AHEAD * num, _GROWTH * len(kept)))
            first, kept = start, self.values(source, start, start + num)
            self._kept[source] = first, kept
        return kept[start - first : stop - first]


@dataclass(frozen=True)
class Stretch:
    """Some consecutive blocks: the source at each position, and a value of its draw."""

    first_block: int
    next_block: int
    start: int
    sources: Numbers
    values: Numbers

    @property
    def stop(self) -> int:
        """The position after the last."""
        return self.start + len(self.sources)


class Reader:
    """Gives the source and a value of the draw at positions, and reads ahead where positions follow one another.

    Args:
        seed: Seed of the mixture.
        values: Given a source and two of its draws, the values of those in between.
        dtype: Type of the values.
    """

    def __init__(self, seed: int, values: Values, dtype: type[np.integer[Any]]) -> None:
        self.seed, self.values, self.dtype = seed, values, dtype
        self._kept: list[Stretch] = []

    def clear(self) -> None:
        """Forget what was read ahead."""
        self._kept.clear()

    def stretch(self, ledger: Ledger, block: int, num_positions: int = 0) -> Stretch:
        """Return a stretch with a block in it.

        Args:
            ledger: The counts; they reach beyond the block.
            block: Number of the block.
            num_positions: How many positions from there on are wanted.

        Returns:
            The stretch; it begins with the block unless it was kept.
        """
        for kept in self._kept:
            if kept.first_block <= block < kept.next_block:
                return kept
        follows = next((len(kept.sources) for kept in self._kept if kept.next_block == block), 0)
        wanted = min(max(num_positions, _GROWTH * follows), _MAX_POSITIONS)
        num_blocks = max(1, -(-wanted // ledger.grid.block_size))
        ledger.extend(block + num_blocks - 1)
        prefix = ledger.prefix[block : min(block + num_blocks, ledger.num_blocks) + 1]
        new = arrange(self.seed, block, prefix, start=ledger.grid.start(block), values=self.values, dtype=self.dtype)
        # The last one too, for readers whose batches straddle two.
        self._kept = [*self._kept[-1:], new]
        return new

    def read(self, ledger: Ledger, positions: Int64 | range, in_order: bool) -> tuple[Int64, Int64]:
        """Return the source and the value at each position.

        Args:
            ledger: The counts; they reach beyond the positions.
            positions: [M] numbers in the stream.
            in_order: Whether each follows the one before.

        Returns:
            Two int64 arrays [M].
        """
        sources, values = np.empty(len(positions), dtype=np.int64), np.empty(len(positions), dtype=np.int64)
        if in_order:
            if len(positions):
                self.fill(ledger, int(positions[0]), sources, values)
            return sources, values
        order = np.argsort(positions, kind="stable")
        ordered, done = np.asarray(positions)[order], 0
        while done < len(order):
            stretch = self.stretch(ledger, ledger.grid.block_of(int(ordered[done])))
            num = int(np.searchsorted(ordered[done:], stretch.stop))
            where, within = order[done : done + num], ordered[done : done + num] - stretch.start
            sources[where], values[where] = stretch.sources[within], stretch.values[within]
            done += num
        return sources, values

    def fill(self, ledger: Ledger, start: int, sources: Int64, values: Int64) -> None:
        """Enter what stands at consecutive positions.

        Args:
            ledger: The counts.
            start: The first position.
            sources: int64 [M], to be filled.
            values: int64 [M], to be filled.
        """
        done = 0
        while done < len(sources):
            block = ledger.grid.block_of(start + done)
            stretch = self.stretch(ledger, block, len(sources) - done)
            offset = start + done - stretch.start
            num = min(len(sources) - done, len(stretch.sources) - offset)
            sources[done : done + num] = stretch.sources[offset : offset + num]
            values[done : done + num] = stretch.values[offset : offset + num]
            done += num


def arrange(
    seed: int, block: int, prefix: Int64, *, start: int, values: Values, dtype: type[np.integer[Any]]
) -> Stretch:
    """Compute a stretch of blocks of equal length.

    Args:
        seed: Seed of the mixture.
        block: Number of the first block.
        prefix: int64 [T + 1, K]. Counts before the blocks and behind the last; a block of another length than the
            first, and what follows it, is left out.
        start: First position.
        values: See `Reader`.
        dtype: See `Reader`.
    """
    quotas = np.diff(prefix, axis=0)
    sizes = quotas.sum(axis=1)
    size = int(sizes[0])
    num_blocks = len(sizes) if (sizes == size).all() else int(np.argmax(sizes != size))
    quotas, num_sources = quotas[:num_blocks], prefix.shape[1]
    sources = block_orders(seed, block, quotas)
    order = np.argsort(sources, kind="stable")
    found = np.empty(len(sources), dtype=dtype)
    begin, end = prefix[0].tolist(), prefix[num_blocks].tolist()
    found[order] = np.concatenate([values(i, begin[i], end[i]) for i in range(num_sources) if begin[i] < end[i]])
    return Stretch(block, block + num_blocks, start, sources, found)
