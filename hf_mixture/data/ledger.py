"""The prefix counts of a plan, block by block: computed when asked for, and again after a change of the weights.

Letters: K sources, T blocks, N positions, B block length.
"""

from __future__ import annotations

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.quotas import fill, share_block, share_blocks
from hf_mixture.data.timeline import Grid, Timeline


Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
UNCAPPED = 2**62
_AHEAD = 64
# Rows of a table at first, at most.
_ROWS = 4096


@dataclass(frozen=True)
class Section:
    """A timeline that holds from a block start on."""

    start: int
    timeline: Timeline


def _start(section: Section) -> int:
    return section.start


class Ledger(ABC):
    """How many draws each source had before each block.

    Args:
        num_sources: K.
        length: N.
        grid: The blocks.
        sections: The weights.
        caps: int64 [K]. Draws after which a source is drawn no more.
        stops: int64 [K]. Draws of a source after which its next one ends the stream.
        find_stop: Given a block, the counts before it and its counts, returns the first position inside it at which a
            source has had its last draw before the stop.
    """

    def __init__(
        self,
        num_sources: int,
        length: int,
        grid: Grid,
        sections: Sequence[Section],
        *,
        caps: Int64,
        stops: Int64,
        find_stop: Callable[[int, Int64, Int64], int],
    ) -> None:
        self.length = length
        self.grid, self.sections = grid, list(sections)
        self.caps, self.stops, self.find_stop = caps, stops, find_stop
        self.num_blocks = 0
        self.end: int | None = None
        num_blocks = min(grid.block_of(length - 1) + 2, _ROWS)
        self.prefix = np.zeros((num_blocks, num_sources), dtype=np.int64)

    @property
    def is_bounded(self) -> bool:
        """Whether a cap may end the stream before N."""
        return bool((np.minimum(self.caps, self.stops) < UNCAPPED).any())

    def reset(self, grid: Grid, sections: Sequence[Section], position: int) -> None:
        """Take other weights from a block start on."""
        self.grid, self.sections = grid, list(sections)
        self.num_blocks = min(self.num_blocks, grid.block_of(position))
        if self.end is not None and self.end > position:
            self.end = None

    def extend(self, block: int) -> bool:
        """Compute the counts up to the end of a block; whether the stream has that block."""
        while self.num_blocks <= block:
            if self.end is not None or self.grid.start(self.num_blocks) >= self.length:
                return False
            # Some blocks ahead: what they have in common is computed once.
            ends = self._ends(self.num_blocks)
            self._reserve(self.num_blocks + len(ends))
            first = self.num_blocks
            self._share(first, ends)
            for number, (start, stop) in enumerate(itertools.pairwise([self.grid.start(first), *ends]), first):
                before, after = self.prefix[number], self.prefix[number + 1]
                self.num_blocks = number + 1
                if (after > self.stops).any():
                    self.end = start + self.find_stop(number, before, after)
                elif (missing := stop - start - int((after - before).sum())) > 0:
                    self.end = stop - missing
                if self.end is not None:
                    break
        return True

    def _ends(self, block: int) -> list[int]:
        """Where a block and some that follow it end, under the same section."""
        start = self.grid.start(block)
        number = bisect.bisect_right(self.sections, start, key=_start)
        limit = min(self.length, self.sections[number].start if number < len(self.sections) else self.length)
        ends = []
        for number in range(block + 1, block + 1 + _AHEAD):
            ends.append(min(self.grid.start(number), limit))
            if ends[-1] == limit:
                break
        return ends

    def extend_to_end(self) -> int:
        """Compute all counts; the length of the stream."""
        last = self.grid.block_of(self.length - 1)
        self.extend(last)
        return self.length if self.end is None else self.end

    def section(self, position: int) -> Section:
        """The weights at a position."""
        return self.sections[bisect.bisect_right(self.sections, position, key=_start) - 1]

    def _reserve(self, num_blocks: int) -> None:
        """Make room for the counts of so many blocks."""
        if num_blocks >= len(self.prefix):
            self.prefix = _grown(self.prefix, num_blocks)

    @abstractmethod
    def _share(self, block: int, ends: Sequence[int]) -> None:
        """Enter the counts at the ends of a block and of those that follow it."""


def _grown(table: NDArray[Any], num_blocks: int) -> NDArray[Any]:
    """A table with room for more blocks."""
    more = np.zeros((max(num_blocks + 1, len(table) * 5 // 4), table.shape[1]), dtype=table.dtype)
    more[: len(table)] = table
    return more


class ExampleLedger(Ledger):
    """Shares that count rows: see `quotas.share_block`."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.targets = np.zeros_like(self.prefix, dtype=np.float64)

    def _reserve(self, num_blocks: int) -> None:
        super()._reserve(num_blocks)
        if num_blocks >= len(self.targets):
            self.targets = _grown(self.targets, num_blocks)

    def _share(self, block: int, ends: Sequence[int]) -> None:
        timeline = self.section(self.grid.start(block)).timeline
        bounds = np.array([self.grid.start(block), *ends])
        integrals = timeline.targets(bounds)
        if (self.caps < UNCAPPED).any():
            self._share_capped(block, ends, np.diff(integrals, axis=0))
            return
        targets = self.targets[block] + (integrals[1:] - integrals[0])
        drawable = np.diff(integrals, axis=0) > 0
        missing = np.floor(targets) + 1 - targets
        due = timeline.reach(missing + integrals[1:], bounds[1:])
        if ends[-1] == self.length:
            # No block follows: the largest remainders decide.
            due[-1] = missing[-1]
        self.targets[block + 1 : block + 1 + len(ends)] = targets
        counts = self.prefix[block : block + 1 + len(ends)]
        share_blocks(counts, targets, due, drawable, np.diff(bounds))

    def _share_capped(self, block: int, ends: Sequence[int], meant: Float64) -> None:
        for number, end in enumerate(ends):
            start = self.grid.start(block + number)
            before, reached = self.prefix[block + number], self.targets[block + number]
            drawable = (meant[number] > 0) & (before < self.caps)
            open_meant = np.where(drawable, meant[number], 0.0)
            target = reached
            if drawable.any():
                increments = open_meant * ((end - start) / open_meant.sum())
                # A source that reaches its cap in this block gets exactly the rest.
                target = reached + fill(increments, np.maximum(self.caps - reached, 0.0))
            following = np.floor(target) + 1
            due = following - target
            if end < self.length:
                due = np.divide(due, open_meant, out=np.full(len(target), np.inf), where=open_meant > 0)
            self.targets[block + number + 1] = target
            self.prefix[block + number + 1] = share_block(
                before, target, due, drawable, caps=self.caps, num_positions=end - start
            )


class LengthLedger(Ledger):
    """Shares that count the tokens or bytes of the rows.

    Time is the mass of the whole stream. Each source has a credit, which grows by its share of that mass; draw r is
    due when the credit passes the middle of its row. Each source is then always within about half a row of its share,
    whatever the lengths, and no error accumulates. What is over at the end of a block, or of a segment, is carried on.

    Args:
        lengths: Gives the lengths of the draws of a source between two numbers.
        mean_lengths: float64 [K]. Mean length of the rows of each source.
        args: See `Ledger`.
    """

    def __init__(
        self, lengths: Callable[[int, int, int], Int64], mean_lengths: Float64, *args: object, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.lengths, self.mean_lengths = lengths, mean_lengths
        self.mass = np.zeros_like(self.prefix)
        self.credit = np.zeros_like(self.prefix, dtype=np.float64)

    def _reserve(self, num_blocks: int) -> None:
        super()._reserve(num_blocks)
        if num_blocks >= len(self.mass):
            self.mass, self.credit = _grown(self.mass, num_blocks), _grown(self.credit, num_blocks)

    def _share(self, block: int, ends: Sequence[int]) -> None:
        for number, stop in enumerate(ends, block):
            self._share_one(number, self.grid.start(number), stop)

    def _share_one(self, block: int, start: int, stop: int) -> None:
        before = self.prefix[block]
        timeline = self.section(start).timeline
        meant = np.diff(timeline.targets(np.array([start, stop])), axis=0)[0]
        room = np.minimum(self.caps - before, stop - start)
        drawn = np.flatnonzero((meant > 0) & (room > 0))
        counts, mass, credit = before.copy(), self.mass[block].copy(), self.credit[block].copy()
        if len(drawn):
            shares = meant[drawn] / meant[drawn].sum()
            chosen, masses = self._first_due(
                drawn, shares, before[drawn], (mass - credit)[drawn], room[drawn], num_positions=stop - start
            )
            counts[drawn] += chosen
            mass[drawn] += masses
            # A source that has reached its cap was meant to get what it got.
            full = counts[drawn] >= self.caps[drawn]
            gains = shares * masses.sum()
            if full.any():
                gains[full] = (mass - credit)[drawn][full]
                rest = masses.sum() - gains[full].sum()
                open_shares = shares[~full].sum()
                gains[~full] = shares[~full] * (rest / open_shares) if open_shares else 0.0
            credit[drawn] += gains
        self.prefix[block + 1], self.mass[block + 1], self.credit[block + 1] = counts, mass, credit

    def _first_due(
        self, drawn: Int64, shares: Float64, ranks: Int64, debts: Float64, room: Int64, *, num_positions: int
    ) -> tuple[Int64, Int64]:
        """Of the next draws of each source, how many belong to a block, and the mass of these."""
        pace = shares / self.mean_lengths[drawn]
        guess = np.minimum(room, np.ceil(1.25 * num_positions * pace / pace.sum()).astype(np.int64) + 8)
        while True:
            lengths = [self.lengths(i, rank, rank + n) for i, rank, n in zip(drawn, ranks, guess, strict=True)]
            times = [
                (debt + np.cumsum(values) - values / 2) / share
                for values, debt, share in zip(lengths, debts, shares, strict=True)
            ]
            source = np.repeat(np.arange(len(drawn)), guess)
            order = np.argsort(np.concatenate(times), kind="stable")[:num_positions]
            chosen = np.bincount(source[order], minlength=len(drawn))
            # All candidates of a source were taken: the next might have been due as well.
            short = (chosen == guess) & (guess < room)
            if not short.any():
                return chosen, np.array([int(v[:n].sum()) for v, n in zip(lengths, chosen, strict=True)])
            guess = np.where(short, np.minimum(room, 2 * guess), guess)
