"""The order of a mixed stream whose shares count tokens or bytes, which are known only when a row has been read.

Every lane runs the same rule over sources of its own. Each source has one row at hand. While the lane gives mass
(tokens or bytes), source i earns credit w_i per unit of it and pays for its own rows; the row that comes next is the
one whose middle is reached first: argmin over i of (l_i / 2 - credit_i) / w_i. With constant weights that is the order
of the due times (S_i + l_i / 2) / w_i of `hf_mixture.data.quotas`: every source stays within half a row of its share
of the lane, and no error accumulates, also where the weights change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.stream_cursor import Cursor, Row
from hf_mixture.data.stream_order import Ending, Reader


Float64 = NDArray[np.float64]


class CreditLane:
    """The rows of one lane, in order.

    Args:
        num_sources: K.
        cursor: Gives the cursor of a source.
        length_of: Tokens or bytes of a row of a source.
        ending: When the stream ends, if its length is not known.
    """

    def __init__(
        self,
        num_sources: int,
        cursor: Callable[[int], Cursor],
        length_of: Callable[[int, Row], int],
        ending: Ending | None,
    ) -> None:
        self._cursor, self._length_of, self._ending = cursor, length_of, ending
        self.credit = np.zeros(num_sources)
        self.place = 0
        """Rows that the lane has given."""
        self._lengths = np.full(num_sources, np.nan)
        # What each source has given in its pass, as far as is known.
        self._mass = np.zeros(num_sources)
        self._drawn = np.zeros(0, np.int64)
        self._weights = np.zeros(num_sources)

    def next(self, weights: Float64) -> tuple[int, Row] | None:
        """Return the source and the row that come next under these weights; None at the end of the stream."""
        if weights is not self._weights:
            self._weights, self._drawn = weights, np.flatnonzero(weights)
            for source in self._drawn[np.isnan(self._lengths[self._drawn])].tolist():
                self._look(source)
        drawn = self._drawn
        due = (self._lengths[drawn] / 2 - self.credit[drawn]) / weights[drawn]
        source = int(drawn[due.argmin()])
        cursor = self._cursor(source)
        if self._ending is not None and self._ending.ends_at(cursor):
            return None
        row = cursor.take()
        length = self._lengths[source]
        self.credit += weights * length
        self.credit[source] -= length
        self._mass[source] += length
        self.place += 1
        if self._ending is not None:
            self._ending.taken(source, cursor)
        self._look(source)
        return source, row

    def _look(self, source: int) -> None:
        """Note the length of the row that a source has at hand."""
        cursor = self._cursor(source)
        row = cursor.peek()
        if row is None and self._ending is not None and self._ending.at_first:
            # The stream ends when this source falls due, so there is no row to measure.
            self._lengths[source] = 0
            return
        while row is None:
            if cursor.stride == 1 and cursor.count and not self._mass[source]:
                raise ValueError(
                    f"source {cursor.name!r} gave a whole pass of rows of length 0, which never fill its share; "
                    "filter such rows, or set its weight to 0"
                )
            self._mass[source] = 0
            cursor.next_pass()
            row = cursor.peek()
        self._lengths[source] = self._length_of(source, row)

    def state_dict(self) -> dict[str, Any]:
        """Return the place as JSON values."""
        return {"place": self.place, "credit": self.credit.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` returned; the cursors are at theirs already."""
        self.place, self.credit = state["place"], np.array(state["credit"])
        self._mass[:] = 1


class CreditReader(Reader):
    """Runs the lanes of one reader and gives the rows that fall on its positions.

    Args:
        length_of: Tokens or bytes of a row of a source.
        ending: When the stream ends, if its length is not known; the stream then has one lane.
    """

    def __init__(
        self, *args: Any, length_of: Callable[[int, Row], int], ending: Ending | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._ending = ending
        self._chunk = self.lanes.reader

        def lane(number: int) -> CreditLane:
            return CreditLane(len(self.split), lambda source: self.cursor(source, number), length_of, ending)

        self._lanes = {number: lane(number) for number in self.lanes.mine}
        self._block, self._weights = -1, np.zeros(0)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        lanes = self.lanes
        while self._chunk * lanes.chunk < self.end and not (self._ending and self._ending.reached):
            number = self._chunk % lanes.num_lanes
            lane = self._lanes[number]
            while (turn := lane.place // lanes.chunk * lanes.num_lanes + number) <= self._chunk:
                position = turn * lanes.chunk + lane.place % lanes.chunk
                if position >= self.end:
                    return
                given = lane.next(self._weights_at(position))
                if given is None:
                    return
                if turn == self._chunk and position >= self.start_at:
                    yield given
                if self._ending and self._ending.reached:
                    return
            self._chunk += lanes.num_readers

    def _weights_at(self, position: int) -> Float64:
        """The weights of the block of a position, taken at its start."""
        size = self.plan.block_size
        if position // size != self._block:
            self._block = position // size
            self.on_block(self._block * size, (self._block + 1) * size)
            self._weights = self.plan.weights_at(self._block * size)
        return self._weights

    def state_dict(self) -> dict[str, Any]:
        lanes = [[number, lane.state_dict()] for number, lane in self._lanes.items()]
        ending = self._ending and {"outstanding": sorted(self._ending.outstanding), "reached": self._ending.reached}
        return {**super().state_dict(), "chunk": self._chunk, "lanes": lanes, "ending": ending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._chunk = state["chunk"]
        for number, place in state["lanes"]:
            self._lanes[number].load_state_dict(place)
        if self._ending is not None:
            self._ending.outstanding = set(state["ending"]["outstanding"])
            self._ending.reached = state["ending"]["reached"]
