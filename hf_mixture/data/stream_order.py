"""The order of a mixed stream as one reader sees it: which source comes next, and which of its rows.

The positions of the stream are dealt out in chunks: chunk c goes to reader c mod R and lies in lane c mod C. A source
that is split gives each lane shards of its own; the number of lanes is fixed, so that the stream stays the same when
the number of readers changes. Every other source is read in one order by everybody, and each reader keeps the rows
that fall on its positions.

Letters: K sources, R readers, C lanes, b positions of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_mixture.data.order import occurrences
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.stream_cursor import Cursor, Row, RowCursor, StreamCursor


Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

# Rows of map-style sources are fetched for this many positions of the reader at once.
_SLICE = 64
_SHOW_PROGRESS = 10_000
SHARED = -1


@dataclass(frozen=True)
class Lanes:
    """Which positions a reader reads.

    Args:
        reader: Number of the reader, in [0, R).
        num_readers: R.
        num_lanes: C.
        chunk: b.
    """

    reader: int
    num_readers: int
    num_lanes: int
    chunk: int

    @property
    def mine(self) -> list[int]:
        """The lanes that chunks of the reader lie in."""
        step = math.gcd(self.num_readers, self.num_lanes)
        return list(range(self.reader % step, self.num_lanes, step))


class Reader:
    """Gives (source, row) for each position of one reader, and can tell and take up its place.

    Args:
        plan: Which source stands where, or the weights along the stream.
        lanes: The positions of the reader.
        open_cursor: Gives the cursor of a source in a lane, or in `SHARED`, which all lanes share.
        split: bool [K]. Sources that have shards for each lane.
        end: Length of the stream.
        start_at: First position that is given.
        on_block: Called with the first and the last position + 1 of a block before it is read.
    """

    def __init__(
        self,
        plan: MixturePlan,
        lanes: Lanes,
        open_cursor: Callable[[int, int], Cursor],
        *,
        split: NDArray[np.bool_],
        end: int,
        start_at: int,
        on_block: Callable[[int, int], None],
    ) -> None:
        self.plan, self.lanes = plan, lanes
        self.split, self.end, self.start_at, self.on_block = split, end, start_at, on_block
        self._open = open_cursor
        self._cursors: dict[tuple[int, int], Cursor] = {}

    def cursor(self, source: int, lane: int) -> Cursor:
        """The cursor of a source in a lane; it is opened on first use."""
        key = source, lane
        if key not in self._cursors:
            self._cursors[key] = self._open(source, lane)
        return self._cursors[key]

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the place as JSON values."""
        return {"cursors": [[*key, cursor.state_dict()] for key, cursor in self._cursors.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` returned."""
        self._cursors.clear()
        for source, lane, place in state["cursors"]:
            self.cursor(source, lane).load_state_dict(place)


class PlannedReader(Reader):
    """Follows the draws of a plan; its stream is the plan's, whatever the number of readers.

    A cursor is moved on to the draw that stands at a position of the reader: the draws in between belong to others.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size, num = self.plan.block_size, len(self.split)
        self._block = self.start_at // size
        # Not known until the first block is located.
        self._taken = -1
        self._drawn = {lane: np.zeros(num, np.int64) for lane in (self.lanes.mine if self.split.any() else ())}
        if self._drawn:
            for block in tqdm(range(self._block), desc="finding the start", disable=self._block < _SHOW_PROGRESS):
                self._locate(block)

    def _locate(self, block: int) -> tuple[Int64, Int64, Int64]:
        """The source and the draw at each position of a block, and the positions of this reader, from its start."""
        lanes, first = self.lanes, block * self.plan.block_size
        positions = np.arange(first, min(first + self.plan.block_size, self.end))
        sources, ranks = self.plan.draws(positions)
        chunks = positions // lanes.chunk
        for lane, drawn in self._drawn.items():
            where = np.flatnonzero((chunks % lanes.num_lanes == lane) & self.split[sources])
            order, counts = occurrences(sources[where], len(drawn))
            inside = np.empty_like(where)
            inside[order] = np.arange(len(where)) - np.repeat(np.cumsum(counts) - counts, counts)
            ranks[where] = drawn[sources[where]] + inside
            self._drawn[lane] = drawn + counts
        return sources, ranks, np.flatnonzero(chunks % lanes.num_readers == lanes.reader)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        size = self.plan.block_size
        while (first := self._block * size) < self.end:
            self.on_block(first, min(first + size, self.end))
            before = dict(self._drawn)
            sources, ranks, own = self._locate(self._block)
            after, self._drawn = self._drawn, before
            if self._taken < 0:
                self._taken = int(np.searchsorted(own, self.start_at - first))
            for part in range(self._taken, len(own), _SLICE):
                where = own[part : part + _SLICE]
                yield from self._rows(sources[where], ranks[where], (first + where) // self.lanes.chunk)
            self._drawn, self._taken, self._block = after, 0, self._block + 1

    def _rows(self, sources: Int64, ranks: Int64, chunks: Int64) -> Iterator[tuple[int, Row]]:
        fetched: dict[int, Iterator[Row]] = {}
        lane_of = np.where(self.split[sources], chunks % self.lanes.num_lanes, SHARED).tolist()
        for source, rank, lane in zip(sources.tolist(), ranks.tolist(), lane_of, strict=True):
            cursor = self.cursor(source, lane)
            if isinstance(cursor, RowCursor):
                if source not in fetched:
                    fetched[source] = iter(cursor.rows_at(ranks[sources == source]))
                row = next(fetched[source])
            else:
                if rank > cursor.count:
                    cursor.skip(rank - cursor.count)
                row = cursor.take()
            self._taken += 1
            yield source, row

    def state_dict(self) -> dict[str, Any]:
        drawn = [[lane, counts.tolist()] for lane, counts in self._drawn.items()]
        return {**super().state_dict(), "block": self._block, "taken": self._taken, "drawn": drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._block, self._taken = state["block"], state["taken"]
        self._drawn = {lane: np.array(counts, np.int64) for lane, counts in state["drawn"]}


class Ending:
    """When a stream of unknown length ends.

    Args:
        drawn: The sources that may be drawn.
        stopping_strategy: "first_exhausted": before the first position whose source has no row left; "all_exhausted":
            after the row with which the last source has given all its rows at least once.
    """

    def __init__(self, drawn: Sequence[int], stopping_strategy: str) -> None:
        self.at_first = stopping_strategy == "first_exhausted"
        self.outstanding = set(drawn)
        self.reached = False

    def ends_at(self, cursor: Cursor) -> bool:
        """Whether the stream ends here, since the source that falls due has no row left.

        Raises:
            ValueError: The source has given no row at all.
        """
        if not (self.at_first and cursor.at_end()):
            return False
        if isinstance(cursor, StreamCursor) and cursor.count == 0:
            raise cursor.is_empty()
        self.reached = True
        return True

    def taken(self, source: int, cursor: Cursor) -> None:
        """Take notice of a row that was taken from a source."""
        if not self.at_first and source in self.outstanding and cursor.at_end():
            self.outstanding.discard(source)
            self.reached = not self.outstanding


class SearchingReader(Reader):
    """Follows the draws of a plan until sources are exhausted; reads every position, so that all readers see the end.

    Args:
        ending: When the stream ends.
    """

    def __init__(self, *args: Any, ending: Ending, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ending, self._position = ending, 0

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        size, lanes, ending = self.plan.block_size, self.lanes, self._ending
        while not ending.reached:
            first = self._position // size * size
            self.on_block(first, first + size)
            sources, _ = self.plan.draws(range(self._position, first + size))
            for source in sources.tolist():
                cursor = self.cursor(source, SHARED)
                if ending.ends_at(cursor):
                    return
                position = self._position
                mine = position // lanes.chunk % lanes.num_readers == lanes.reader and position >= self.start_at
                row = cursor.take() if mine else cursor.skip(1)
                ending.taken(source, cursor)
                self._position += 1
                if row is not None:
                    yield source, row
                if ending.reached:
                    return

    def state_dict(self) -> dict[str, Any]:
        ending = {"outstanding": sorted(self._ending.outstanding), "reached": self._ending.reached}
        return {**super().state_dict(), "position": self._position, **ending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._position = state["position"]
        self._ending.outstanding, self._ending.reached = set(state["outstanding"]), state["reached"]
