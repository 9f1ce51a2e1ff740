"""The prefix counts of a plan, block by block: computed when asked for, and again after a change of the weights.

Letters: K sources, T blocks, N positions, B block length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.quotas import fill, share_block
from hf_mixture.data.timeline import Grid, Timeline


Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
UNCAPPED = 2**62


@dataclass(frozen=True)
class Section:
    """A timeline that holds from a block start on."""

    start: int
    timeline: Timeline


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
        self.prefix = np.zeros((16, num_sources), dtype=np.int64)

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
            start = self.grid.start(self.num_blocks)
            if start >= self.length or self.end is not None:
                return False
            if self.num_blocks + 1 == len(self.prefix):
                self._grow()
            stop = min(self.grid.start(self.num_blocks + 1), self.length)
            before = self.prefix[self.num_blocks]
            after = self._share(self.num_blocks, start, stop, before)
            self.prefix[self.num_blocks + 1] = after
            if (after > self.stops).any():
                self.end = start + self.find_stop(self.num_blocks, before, after)
            elif (missing := stop - start - int((after - before).sum())) > 0:
                self.end = stop - missing
            self.num_blocks += 1
        return True

    def extend_to_end(self) -> int:
        """Compute all counts; the length of the stream."""
        last = self.grid.block_of(self.length - 1)
        self.extend(last)
        return self.length if self.end is None else self.end

    def section(self, position: int) -> Section:
        """The weights at a position."""
        return next(section for section in reversed(self.sections) if section.start <= position)

    def _grow(self) -> None:
        self.prefix = np.concatenate([self.prefix, np.zeros_like(self.prefix)])

    @abstractmethod
    def _share(self, block: int, start: int, stop: int, before: Int64) -> Int64:
        """The counts at the end of a block."""


class ExampleLedger(Ledger):
    """Shares that count rows: see `quotas.share_block`."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.targets = np.zeros_like(self.prefix, dtype=np.float64)

    def _grow(self) -> None:
        super()._grow()
        self.targets = np.concatenate([self.targets, np.zeros_like(self.targets)])

    def _share(self, block: int, start: int, stop: int, before: Int64) -> Int64:
        timeline = self.section(start).timeline
        reached = self.targets[block]
        meant = timeline.target(stop) - timeline.target(start)
        drawable = (meant > 0) & (before < self.caps)
        open_meant = np.where(drawable, meant, 0.0)
        if not drawable.any():
            self.targets[block + 1] = reached
            return before.copy()
        increments = open_meant * ((stop - start) / open_meant.sum())
        # A source that reaches its cap in this block gets exactly the rest.
        target = reached + fill(increments, np.maximum(self.caps - reached, 0.0))
        self.targets[block + 1] = target
        following = np.floor(target) + 1
        if stop == self.length:
            # No block follows: the largest remainders decide.
            due = following - target
        elif (self.caps < UNCAPPED).any():
            due = np.divide(following - target, open_meant, out=np.full(len(target), np.inf), where=open_meant > 0)
        else:
            due = timeline.reach(following - target + timeline.target(stop), stop)
        return share_block(before, target, due, drawable, self.caps, stop - start)


class LengthLedger(Ledger):
    """Shares that count the tokens or bytes of the rows.

    Time is the mass of the whole stream. Each source has a credit, which grows by its share of that mass; draw r is due
    when the credit passes the middle of its row. Each source is then always within about half a row of its share,
    whatever the lengths, and no error accumulates. What is over at the end of a block, or of a segment, is carried on.

    Args:
        lengths: Gives the lengths of the draws `ranks` of a source.
        mean_lengths: float64 [K]. Mean length of the rows of each source.
        args: See `Ledger`.
    """

    def __init__(
        self, lengths: Callable[[int, Int64], Int64], mean_lengths: Float64, *args: object, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.lengths, self.mean_lengths = lengths, mean_lengths
        self.mass = np.zeros_like(self.prefix)
        self.credit = np.zeros_like(self.prefix, dtype=np.float64)

    def _grow(self) -> None:
        super()._grow()
        self.mass = np.concatenate([self.mass, np.zeros_like(self.mass)])
        self.credit = np.concatenate([self.credit, np.zeros_like(self.credit)])

    def _share(self, block: int, start: int, stop: int, before: Int64) -> Int64:
        timeline = self.section(start).timeline
        meant = timeline.target(stop) - timeline.target(start)
        room = np.minimum(self.caps - before, stop - start)
        drawn = np.flatnonzero((meant > 0) & (room > 0))
        counts, mass, credit = before.copy(), self.mass[block].copy(), self.credit[block].copy()
        if len(drawn):
            shares = meant[drawn] / meant[drawn].sum()
            chosen, masses = self._first_due(
                drawn, shares, before[drawn], (mass - credit)[drawn], room[drawn], stop - start
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
        self.mass[block + 1], self.credit[block + 1] = mass, credit
        return counts

    def _first_due(
        self, drawn: Int64, shares: Float64, ranks: Int64, debts: Float64, room: Int64, num_positions: int
    ) -> tuple[Int64, Int64]:
        """Of the next draws of each source, how many belong to a block, and the mass of these."""
        pace = shares / self.mean_lengths[drawn]
        guess = np.minimum(room, np.ceil(1.25 * num_positions * pace / pace.sum()).astype(np.int64) + 8)
        while True:
            lengths = [
                self.lengths(i, np.arange(rank, rank + n)) for i, rank, n in zip(drawn, ranks, guess, strict=True)
            ]
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
