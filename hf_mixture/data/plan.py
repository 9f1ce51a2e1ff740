"""The static plan of a mixture: a pure function from global position to (source, row).

The stream is cut in blocks. `hf_mixture.data.quotas` says how many rows of each source a block holds; a shuffle keyed
by (seed, block) orders them; the j-th draw of a source takes row perm(j mod n) of its epoch j div n, where perm is a
keyed bijection that needs no table. Any position can therefore be computed alone, from the K prefix counts of its
block.

Letters: K sources, T blocks, N positions, n rows of one source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data import quotas


Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]

BLOCK_SIZE = 4096
MAX_ROWS = 2**32
VERSION = 1

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_1 = np.uint32(0x7FEB352D)
_ROUND_2 = np.uint32(0x846CA68B)
_HALF = np.uint32(16)
# Working sets of this size stay in the cache of the processor.
_CHUNK = 2**15
_SHOW_PROGRESS = 10_000_000


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


@dataclass(frozen=True, eq=False)
class MixturePlan:
    """Which row of which source stands at each position of a mixed stream.

    Build one with `MixturePlan.build`. A plan is a pure function of its arguments: the same on every machine, in any
    order of access, for any number of readers.

    Args:
        prefix: int64 [T + 1, K]. Draws of each source before each block; the last row holds the totals.
        sizes: Rows of each source.
        seed: Seed of the orders.

    Example:
        ```python
        >>> from hf_mixture.data.plan import MixturePlan
        >>> plan = MixturePlan.build([0.75, 0.25], sizes=[100, 10], num_examples=8, seed=0)
        >>> plan.counts.tolist()
        [6, 2]
        >>> source, row = plan.locate([7])
        >>> all_sources, all_rows = plan.locate(range(8))
        >>> (source[0], row[0]) == (all_sources[7], all_rows[7])
        True

        ```
    """

    prefix: Int64
    sizes: tuple[int, ...]
    seed: int

    @classmethod
    def build(
        cls,
        weights: Sequence[float],
        sizes: Sequence[int],
        *,
        num_examples: int | None = None,
        stopping_strategy: str = "first_exhausted",
        lengths: Sequence[NDArray[np.integer] | None] | None = None,
        seed: int = 0,
        block_size: int = BLOCK_SIZE,
    ) -> MixturePlan:
        """Plan a stream.

        Args:
            weights: K shares; normalised by their sum. A source of share 0 is never drawn.
            sizes: K numbers of rows.
            num_examples: N, the length of the stream. Default: decided by `stopping_strategy`.
            stopping_strategy: "first_exhausted": the stream ends before any source repeats a row; "all_exhausted": it
                ends when each drawn source has given every row at least once.
            lengths: For each source an int array [n] with the tokens or bytes of its rows: the shares then count these
                instead of rows. An entry of a source of share 0 is not read.
            seed: Seed of the orders.
            block_size: Positions of a block. Default: 4096.

        Returns:
            The plan.

        Raises:
            ValueError: The stream would be empty, or too long, or a source has more than 2**32 rows.
        """
        if max(sizes) > MAX_ROWS:
            raise ValueError(f"a source has {max(sizes)} rows; a plan numbers at most {MAX_ROWS}: split the source")
        shares = np.asarray(weights, dtype=np.float64)
        shares = shares / shares.sum()
        if lengths is None:
            total = quotas.num_examples(shares, sizes, stopping_strategy) if num_examples is None else num_examples
            prefix = quotas.by_examples(shares, total, block_size)
        else:
            arrays = [np.zeros(0, np.int64) if values is None else np.asarray(values, np.int64) for values in lengths]

            def lengths_in_order(source: int, ranks: Int64) -> Int64:
                return arrays[source][permute(ranks, sizes[source], seed=seed, source=source)]

            prefix = quotas.by_lengths(
                shares,
                arrays,
                lengths_in_order,
                length=num_examples,
                stopping_strategy=stopping_strategy,
                block_size=block_size,
            )
        return cls(prefix, tuple(int(size) for size in sizes), seed)

    def __len__(self) -> int:
        return int(self.prefix[-1].sum())

    @property
    def counts(self) -> Int64:
        """int64 [K]: draws of each source in the whole stream."""
        return self.prefix[-1]

    def locate(self, positions: Sequence[int] | Int64 | range) -> tuple[Int64, Int64]:
        """Return the source and the row at each position.

        Args:
            positions: [M] numbers in [0, N), in any order.

        Returns:
            Two int64 arrays [M]: the number of the source and the row in it.

        Raises:
            IndexError: A position lies outside the stream.
        """
        wanted = np.asarray(positions, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"position {wanted.min()} or {wanted.max()} lies outside [0, {len(self)})")
        starts = self.prefix.sum(axis=1)
        block_of = np.searchsorted(starts, wanted, side="right") - 1
        sources, ranks = np.empty_like(wanted), np.empty_like(wanted)
        for block, where in self._groups(block_of, len(starts) - 1):
            source = self._order(block)
            order = np.argsort(source, kind="stable")
            rank = np.empty_like(source)
            quota = np.bincount(source, minlength=len(self.sizes))
            first = np.cumsum(quota) - quota - self.prefix[block]
            rank[order] = np.arange(len(source)) - first[source[order]]
            inside = wanted[where] - starts[block]
            sources[where], ranks[where] = source[inside], rank[inside]
        rows = np.empty_like(wanted)
        for number, where in self._groups(sources, len(self.sizes)):
            rows[where] = permute(ranks[where], self.sizes[number], seed=self.seed, source=number)
        return sources, rows

    def materialise(self) -> tuple[Int64, Int64]:
        """Return the source and the row at every position: `locate(range(len(plan)))`, faster.

        Returns:
            Two int64 arrays [N]: the number of the source and the row in it.
        """
        from tqdm.auto import tqdm

        blocks = tqdm(range(len(self.prefix) - 1), desc="planning the mixture", disable=len(self) < _SHOW_PROGRESS)
        sources = np.concatenate([self._order(block) for block in blocks])
        rows = np.empty_like(sources)
        for source, where in self._groups(sources, len(self.sizes)):
            rows[where] = permute(np.arange(len(where)), self.sizes[source], seed=self.seed, source=source)
        return sources, rows

    def _order(self, block: int) -> Int64:
        """The source at each position of one block."""
        grouped = np.repeat(np.arange(len(self.sizes)), self.prefix[block + 1] - self.prefix[block])
        # Raw output, because NumPy keeps the streams of its bit generators stable, not those of its shuffles. The low
        # bits make way for the position: sorting then gives the order, and faster than an argsort.
        low = np.uint64(2 ** len(grouped).bit_length() - 1)
        keys = np.random.Philox(key=[self.seed, block]).random_raw(len(grouped)) | low
        keys ^= low ^ np.arange(len(grouped), dtype=np.uint64)
        keys.sort()
        return grouped[keys & low]

    @staticmethod
    def _groups(labels: Int64, num_labels: int) -> Iterator[tuple[int, Int64]]:
        """Each label that occurs, with the positions where it does, in order."""
        # NumPy sorts 16-bit integers by radix, several times faster than 64-bit ones.
        order = np.argsort(labels.astype(np.uint16) if num_labels < 2**16 else labels, kind="stable")
        ends = np.cumsum(np.bincount(labels, minlength=num_labels))
        for label in range(num_labels):
            start = ends[label - 1] if label else 0
            if start < ends[label]:
                yield label, order[start : ends[label]]
