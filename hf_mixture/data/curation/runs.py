"""Sorted runs on disk, read together in ranges of keys: what lets duplicates be found in bounded memory.

Every shard leaves its keys sorted in a `.npy` file. Keys are hashes, so ranges of equal width hold about as many
records; a range is read from every run by bisection, and records with one key are never in two ranges.
"""

from __future__ import annotations

import bisect
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_mixture.hub.atomic import write_atomic


PAIR = np.dtype([("key", "<u8"), ("row", "<u4")])
RANK = np.dtype([("key", "<u8"), ("low", "<u8"), ("source", "<u2"), ("id", "<u8"), ("id_low", "<u8"), ("row", "<u4")])
DOCUMENT = np.dtype([("key", "<u8"), ("low", "<u8"), ("row", "<u4")])
SENTENCE = np.dtype([("key", "<u8"), ("row", "<u4"), ("place", "<u4")])

MAX_RECORDS = 4_000_000


def write_run(path: Path, records: NDArray[np.void]) -> None:
    """Write the records of a shard, sorted by their fields in order.

    Args:
        path: The file; it appears whole.
        records: A structured array whose first field is `key`.
    """
    buffer = io.BytesIO()
    np.save(buffer, np.sort(records, order=list(records.dtype.names or ())))
    write_atomic(path, buffer.getvalue())


def read_ranges(
    paths: Sequence[Path], offsets: Sequence[int], *, max_records: int = MAX_RECORDS
) -> Iterator[tuple[NDArray[np.void], NDArray[np.int64]]]:
    """Read sorted runs together, one range of keys after the other.

    Args:
        paths: The run of each shard.
        offsets: Number of the first row of each shard in the whole.
        max_records: About how many records a range may have.

    Yields:
        Records [n] of all runs with keys in the range, in no order, and the row of each in the whole, int64 [n]. Empty
        ranges are left out.
    """
    runs = [np.load(path, mmap_mode="r") for path in paths]
    num_ranges = max(1, math.ceil(sum(map(len, runs)) / max_records))
    width = -(-(2**64) // num_ranges)
    begins = [0] * len(runs)
    for number in range(1, num_ranges + 1):
        last = number == num_ranges
        parts, rows = [], []
        for index, run in enumerate(runs):
            end = len(run) if last else bisect.bisect_left(run["key"], number * width, lo=begins[index])
            part = np.asarray(run[begins[index] : end])
            begins[index] = end
            parts.append(part)
            rows.append(part["row"].astype(np.int64) + offsets[index])
        if any(map(len, parts)):
            yield np.concatenate(parts), np.concatenate(rows)
