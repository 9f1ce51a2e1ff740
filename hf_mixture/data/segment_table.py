"""The weight changes of a growing plan: an append-only table that several processes read.

One process writes: first the rows, then the count. A reader that sees the count sees the rows, so no lock is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


Float64 = NDArray[np.float64]

_COUNT, _GENERATION = 0, 1


class SegmentTable:
    """Rows (position, weights), at most `capacity` of them.

    Args:
        num_sources: K.
        capacity: Most rows.
    """

    def __init__(self, num_sources: int, capacity: int) -> None:
        self.capacity = capacity
        self._shared: Any = None
        self._header = np.zeros(2, dtype=np.int64)
        self._rows = np.zeros((capacity, 1 + num_sources), dtype=np.float64)

    @property
    def version(self) -> tuple[int, int]:
        """Number of rows and of replacements: changes whenever the content does."""
        return int(self._header[_COUNT]), int(self._header[_GENERATION])

    def rows(self, first: int, last: int) -> list[tuple[int, Float64]]:
        """The position and the weights [K] of the changes number `first` to `last`, in the order they were made."""
        return [(int(row[0]), row[1:].copy()) for row in self._rows[first:last]]

    def extend(self, changes: Sequence[tuple[int, Float64]]) -> None:
        """Add changes: all of them, or none where they do not fit."""
        count = int(self._header[_COUNT])
        if count + len(changes) > self.capacity:
            raise ValueError(
                f"{len(changes)} weight changes beside {count} are more than {self.capacity}, the most that fit in "
                "this plan; change the weights less often"
            )
        for row, (position, weights) in enumerate(changes, start=count):
            self._rows[row, 0] = position
            self._rows[row, 1:] = weights
        self._header[_COUNT] = count + len(changes)

    def replace(self, rows: Sequence[tuple[int, Float64]]) -> None:
        """Put other changes in the place of all."""
        if len(rows) > self.capacity:
            raise ValueError(f"{len(rows)} weight changes are more than the {self.capacity} that fit in this plan")
        self._header[_COUNT] = 0
        self._header[_GENERATION] += 1
        self.extend(rows)

    def share_memory(self) -> None:
        """Move the table into memory that forked and spawned processes see."""
        if self._shared is None:
            import torch

            self._attach(tuple(torch.from_numpy(array).share_memory_() for array in (self._header, self._rows)))

    def _attach(self, tensors: tuple[Any, Any]) -> None:
        self._shared = tensors
        self._header, self._rows = (tensor.numpy() for tensor in tensors)

    def __getstate__(self) -> dict[str, Any]:
        # Tensors in shared memory travel as handles, arrays as copies.
        arrays = None if self._shared else (self._header, self._rows)
        return {"capacity": self.capacity, "tensors": self._shared, "arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.capacity, self._shared = state["capacity"], None
        if state["tensors"]:
            self._attach(state["tensors"])
        else:
            self._header, self._rows = state["arrays"]
