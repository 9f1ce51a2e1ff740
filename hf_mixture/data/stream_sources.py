"""The sources of a mixed stream: which of them are split among the readers, how they are opened, and their rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data import stream_checks as checks
from hf_mixture.data.lengths import row_length
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.mixture_plan import drawn
from hf_mixture.data.stream_cursor import Cursor, Row, RowCursor, StreamCursor
from hf_mixture.data.stream_order import SHARED, Lanes


logger = logging.getLogger(__name__)


class StreamSources:
    """The sources of a `MixtureIterableDataset`, checked against its mixture.

    Args:
        sources: By name, or a list in the order of the mixture.
        mixture: The mixture.
        sizes: Rows of the streams whose number is known.
        length_column: Column that tells the length of a row.
        provenance_column: Column to add.
        may_split: Whether streams may be split among the readers.

    Raises:
        ValueError: The sources do not match the mixture, or an argument breaks its rule.
        TypeError: A source is neither a stream nor map-style.
    """

    def __init__(
        self,
        sources: Any,
        mixture: Mixture,
        *,
        sizes: Mapping[str, int] | None,
        length_column: str | None,
        provenance_column: str | None,
        may_split: bool,
    ) -> None:
        self.mixture = mixture
        self.drawn = drawn(mixture)
        self._sources = checks.match_sources(sources, mixture)
        self.sizes = checks.known_sizes(self._sources, sizes)
        self._columns = checks.all_columns(self._sources, mixture, provenance_column)
        self._provenance_column = provenance_column
        self._length_column = checks.length_column(mixture, length_column, self._sources)
        self._may_split = may_split

    def split(self, lanes: Lanes) -> NDArray[np.bool_]:
        """bool [K]: the streams whose shards are dealt out to the lanes; the others are read by every reader."""
        policies = self.mixture.policies
        return np.array(
            [
                self._may_split
                and checks.is_stream(dataset)
                and 1 < lanes.num_lanes <= dataset.num_shards
                and (name not in policies or policies[name].max_epochs is None)
                for name, dataset in self._sources.items()
            ]
        )

    def tell_repeated(self, lanes: Lanes) -> None:
        """Name the streams that every reader reads."""
        if lanes.num_readers == 1 or lanes.reader > 0:
            return
        used = set(self.drawn)
        repeated = [
            name
            for (name, dataset), is_split in zip(self._sources.items(), self.split(lanes), strict=True)
            if name in used and not is_split and checks.is_stream(dataset)
        ]
        if repeated:
            logger.warning(
                "Each of the %d readers reads all rows of %s and keeps its own. A stream is split when it has at "
                "least %d shards, num_examples is given and the source has no max_epochs.",
                lanes.num_readers,
                repeated,
                max(lanes.num_lanes, 2),
            )

    def opener(self, lanes: Lanes, epoch: int) -> Callable[[int, int], Cursor]:
        """How a reader opens the cursor of a source in a lane.

        In `SHARED` it reads all rows of the source. In a lane of its own it reads the shards of that lane or, of a
        source that is not split, one row in C.
        """
        split, names, mixture = self.split(lanes), self.mixture.names, self.mixture
        policies = mixture.policies

        def open_cursor(source: int, lane: int) -> Cursor:
            name = names[source]
            dataset: Any = self._sources[name]
            shuffle = name not in policies or policies[name].shuffle
            is_strided = lane != SHARED and not split[source]
            place = {"stride": lanes.num_lanes, "offset": lane} if is_strided else {}
            if not checks.is_stream(dataset):
                seed = (mixture.seed + epoch) % 2**63
                return RowCursor(dataset, name=name, seed=seed, source=source, shuffle=shuffle, **place)
            # `shard` also makes a stream with a state and an epoch of its own.
            parts = {"num_shards": lanes.num_lanes, "index": lane} if split[source] else {"num_shards": 1, "index": 0}
            return StreamCursor(
                dataset.shard(**parts, contiguous=False),
                name=name,
                reshuffle=shuffle,
                epoch=dataset.epoch + epoch,
                num_rows=None if split[source] else self.sizes[name],
                **place,
            )

        return open_cursor

    def length_of(self, source: int, row: Row) -> int:
        """Tokens or bytes of a row."""
        return row_length(row, self._length_column, unit=self.mixture.unit, name=self.mixture.names[source])

    def finish(self, source: int, row: Row) -> Row:
        """The row with the columns that other sources have, and the name of its domain."""
        if self._columns is not None and len(row) < len(self._columns):
            row = {column: row.get(column) for column in self._columns}
        if self._provenance_column is not None:
            # The columns of some sources are known from their rows only.
            checks.check_column_is_free(self._provenance_column, row, self.mixture.names[source])
            row[self._provenance_column] = self.mixture.names[source]
        return row
