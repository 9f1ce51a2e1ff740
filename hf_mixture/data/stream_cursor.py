"""Reading one source in order, pass after pass: a place in it that can be stored, and taken up again exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from hf_mixture.data.permutation import permute


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Row = dict[str, Any]

# Rows are read this many at a time: much faster than one by one, and few enough to be held for every source.
_BATCH = 32
_SHOW_PROGRESS = 200_000


def _rows(batch: Any, name: str) -> list[Row]:
    """The rows of a batch of columns."""
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"source {name!r} is formatted as {type(batch).__name__}; a mixture gives rows: use with_format(None), or "
            "the formats 'numpy' and 'torch'"
        )
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


class StreamCursor:
    """The place of one reader in a `datasets.IterableDataset`, or in the shards of it that the reader owns.

    A pass is one iteration over the stream. Before each batch of rows the state of the stream is noted; the place is
    that state and an offset in the batch, so that taking it up reads at most one batch again. A stream with a shuffle
    buffer has no such state (`datasets` drops the buffer): its pass is read again from the start.

    Args:
        dataset: The stream; its epoch and its state belong to this cursor from now on.
        name: Name of the source, for messages.
        reshuffle: Whether pass e is read as epoch `epoch + e` of the stream, or every pass as epoch `epoch`.
        epoch: Epoch of the first pass.
        num_rows: Rows of a pass, where they are known; another number is an error.
        stride: The cursor keeps one row in `stride` rows of a pass.
        offset: The first row that it keeps, in [0, stride).
    """

    def __init__(
        self,
        dataset: IterableDataset,
        *,
        name: str,
        reshuffle: bool,
        epoch: int = 0,
        num_rows: int | None = None,
        stride: int = 1,
        offset: int = 0,
    ) -> None:
        from hf_mixture._compat.datasets import has_shuffle_buffer

        self._dataset, self.name = dataset, name
        self._reshuffle, self._epoch = reshuffle, epoch
        self._num_rows, self.stride, self._offset = num_rows, stride, offset
        self._has_buffer = has_shuffle_buffer(dataset)
        self.count = 0
        """Rows that were kept or skipped, over all passes."""
        self.num_passes = 0
        """Passes that came to their end."""
        self._restart()

    def _restart(self) -> None:
        self._batches: Iterator[Any] | None = None
        self._rows: list[Row] = []
        self._index = 0
        self._before: Any = None
        self._after: Any = None
        # Rows of the pass before the batch at hand, and rows to drop before the next one is kept.
        self._num_read = 0
        self._debt = self._offset
        self._num_kept = 0

    def peek(self) -> Row | None:
        """Return the next row without taking it, or None at the end of the pass."""
        if self._index + self._debt >= len(self._rows):
            is_short = self._debt < _SHOW_PROGRESS
            with tqdm(total=self._debt, desc=f"reading {self.name} up to its place", disable=is_short) as bar:
                while self._index + self._debt >= len(self._rows):
                    num_left = len(self._rows) - self._index
                    self._debt -= num_left
                    self._index += num_left
                    if not self._fill():
                        return None
                    bar.update(num_left)
        self._index += self._debt
        self._debt = 0
        return self._rows[self._index]

    def at_end(self) -> bool:
        """Whether the pass has no more rows."""
        return self.peek() is None

    def take(self) -> Row:
        """Return the next row; after the end of a pass, the first one of the next pass."""
        row = self.peek()
        if row is None:
            self.next_pass()
            row = self.peek()
            if row is None:
                raise self.is_empty()
        self._index += 1
        self._debt = self.stride - 1
        self._num_kept += 1
        self.count += 1
        return row

    def skip(self, num_rows: int) -> None:
        """Pass over the next `num_rows` rows."""
        if num_rows == 1:
            self.take()
            return
        target = self.count + num_rows
        with tqdm(total=num_rows, desc=f"skipping rows of {self.name}", disable=num_rows < _SHOW_PROGRESS) as bar:
            while self.count < target:
                if self.peek() is None:
                    self.next_pass()
                    if self.peek() is None:
                        raise self.is_empty()
                # With a row at hand, the others of its batch are there as well.
                step = min(target - self.count, -(-(len(self._rows) - self._index) // self.stride))
                self._index += (step - 1) * self.stride + 1
                self._debt = self.stride - 1
                self._num_kept += step
                self.count += step
                bar.update(step)

    def next_pass(self) -> None:
        """Begin the next pass; call it when `peek` has returned None."""
        if self._num_kept == 0:
            raise self.is_empty()
        num_read = self._num_read + len(self._rows)
        if self._num_rows is not None and num_read != self._num_rows:
            raise ValueError(
                f"source {self.name!r} gave {num_read} rows in a pass and sizes says {self._num_rows}; correct "
                "sizes, or leave the source out of it"
            )
        self.num_passes += 1
        self._restart()

    def is_empty(self) -> ValueError:
        """The error of a source that gives no rows."""
        share = "" if self.stride == 1 else f" beyond row {self._offset}, so reader {self._offset} gets none"
        return ValueError(
            f"source {self.name!r} gives no rows{share}; a drawn source must have rows for every reader: check it, "
            "read it with fewer processes and workers, pass num_lanes=1, or set its weight to 0"
        )

    def _fill(self) -> bool:
        """Read the next batch of the pass; return whether there is one."""
        if self._batches is None:
            self._dataset.set_epoch(self._epoch + (self.num_passes if self._reshuffle else 0))
            self._batches = self._dataset.iter(batch_size=_BATCH)
        batch = next(self._batches, None)
        if batch is None:
            return False
        self._num_read += len(self._rows)
        self._rows, self._index = _rows(batch, self.name), 0
        if not self._has_buffer:
            self._before, self._after = self._after, self._dataset.state_dict()
        if self._before is not None:
            # What was loaded holds for this iteration only, not for the next pass.
            self._dataset.load_state_dict({})
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the place as JSON values."""
        state = {"passes": self.num_passes, "count": self.count, "kept": self._num_kept, "debt": self._debt}
        if self._before is None:
            return {**state, "stream": None, "read": 0, "index": self._num_read + self._index}
        return {**state, "stream": self._before, "read": self._num_read, "index": self._index}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` returned."""
        self.num_passes, self.count = state["passes"], state["count"]
        self._restart()
        self._num_kept, self._num_read = state["kept"], state["read"]
        self._debt = state["index"] + state["debt"]
        if state["stream"] is not None:
            self._before = self._after = state["stream"]
            self._dataset.load_state_dict(state["stream"])


class RowCursor:
    """The same over a map-style source: its place is one number, the draw.

    Args:
        dataset: The source.
        name: Name of the source, for messages.
        seed: Seed of the orders.
        source: Number of the source in the mixture.
        shuffle: Whether each pass has an order of its own.
        stride: The cursor keeps one draw in `stride` draws.
        offset: The first draw that it keeps.
    """

    def __init__(
        self, dataset: Dataset, *, name: str, seed: int, source: int, shuffle: bool, stride: int = 1, offset: int = 0
    ) -> None:
        self._dataset, self.name = dataset, name
        self._seed, self._source, self._shuffle = seed, source, shuffle
        self.stride, self._offset = stride, offset
        self.count = 0
        self.num_passes = 0
        self._first, self._rows = 0, list[Row]()

    def rows_at(self, ranks: np.ndarray[Any, np.dtype[np.int64]]) -> list[Row]:
        """Return the rows of the draws `ranks`."""
        num_rows = len(self._dataset)
        seed, source = self._seed, self._source
        rows = permute(ranks, num_rows, seed=seed, source=source) if self._shuffle else ranks % num_rows
        return _rows(self._dataset[rows], self.name)

    def peek(self) -> Row | None:
        """Return the next row without taking it, or None at the end of the pass."""
        if self.at_end():
            return None
        if not self._first <= self.count < self._first + len(self._rows):
            self._first = self.count
            self._rows = self.rows_at((self.count + np.arange(_BATCH)) * self.stride + self._offset)
        return self._rows[self.count - self._first]

    def at_end(self) -> bool:
        """Whether the pass has no more rows."""
        return self.count * self.stride + self._offset >= (self.num_passes + 1) * len(self._dataset)

    def take(self) -> Row:
        """Return the next row; after the end of a pass, the first one of the next pass."""
        row = self.peek()
        while row is None:
            self.next_pass()
            row = self.peek()
        self.count += 1
        return row

    def skip(self, num_rows: int) -> None:
        """Pass over the next `num_rows` rows."""
        self.count += num_rows
        self.num_passes = max(
            self.num_passes, ((self.count - 1) * self.stride + self._offset) // len(self._dataset) if num_rows else 0
        )

    def next_pass(self) -> None:
        """Begin the next pass; call it when `peek` has returned None."""
        self.num_passes += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the place as JSON values."""
        return {"passes": self.num_passes, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` returned."""
        self.num_passes, self.count = state["passes"], state["count"]


Cursor = StreamCursor | RowCursor
