"""Deduplication over all shards: which rows are duplicates, whatever the order of the shards.

Rows have a total order: (hash of the text, source, hash of the id). Of equal rows the first in that order stays, not
the one that was seen first. Two passes: the keys of all rows are collected while the shards are annotated (`keys.py`);
here the first row of each key is found, and the others get a verdict.

Sentences are compared with all rows that are left by then: one that goes for its repeated sentences still counts as
the first place of those that it alone comes first with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.curation.keys import DedupOptions
from hf_mixture.data.curation.runs import MAX_RECORDS, read_ranges


KEEP = 0
REASONS = {1: "exact_duplicate", 2: "prefix_duplicate", 3: "duplicate_sentences", 4: "near_duplicate"}
EXACT, PREFIX, SENTENCES, NEAR = REASONS


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The runs that the annotated shards have left.

    Args:
        folders: Folder of each shard, with `rank.npy`, and `exact.npy`, `prefix.npy`, `sentence.npy` and `near.npy` of
            the rows that were still kept.
        offsets: Number of the first row of each shard in the whole, and the number of all rows at the end.
    """

    folders: Sequence[Path]
    offsets: Sequence[int]

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return self.offsets[-1]

    def ranges(self, name: str, max_records: int) -> Iterator[tuple[NDArray[np.void], NDArray[np.int64]]]:
        """Read one kind of run; see `read_ranges`."""
        paths = [folder / f"{name}.npy" for folder in self.folders]
        return read_ranges(paths, self.offsets[:-1], max_records=max_records)


def rank_rows(shards: Shards, order: NDArray[np.int64], *, max_records: int = MAX_RECORDS) -> None:
    """Order all rows by (hash of the text, source, hash of the id).

    Args:
        shards: The shards.
        order: int64 [rows]; gets the rows in that order.
        max_records: Records to hold in memory at once.
    """
    done = 0
    for records, rows in shards.ranges("rank", max_records):
        # Rows that agree in all of these are equal in everything; which is first does not matter.
        place = np.lexsort([records[name] for name in ("id_low", "id", "source", "low", "key")])
        order[done : done + len(rows)] = rows[place]
        done += len(rows)


def find_duplicates(
    shards: Shards,
    rank: NDArray[np.int64],
    verdict: NDArray[np.uint8],
    options: DedupOptions,
    *,
    max_records: int = MAX_RECORDS,
) -> None:
    """Give a verdict to every row that duplicates another one.

    Args:
        shards: The shards.
        rank: int64 [rows], the place of each row in the total order.
        verdict: uint8 [rows], `KEEP` for all; gets the key of `REASONS` for each duplicate.
        options: Which kinds of duplicates are looked for.
        max_records: Records to hold in memory at once.
    """
    for name, code, wanted in (("exact", EXACT, options.exact), ("prefix", PREFIX, options.prefix)):
        for records, rows in shards.ranges(name, max_records) if wanted else ():
            first = _first_of_each(records, rows, rank, verdict)
            verdict[rows[~first & (verdict[rows] == KEEP)]] = code
    if options.sentence:
        _find_repeated_sentences(shards, rank, verdict, options.max_duplicate_sentences, max_records)
    if options.near:
        _find_near(shards, rank, verdict, max_records)


def _first_of_each(records: Any, rows: NDArray[np.int64], rank: Any, verdict: Any) -> NDArray[np.bool_]:
    """Whether each record is the first of its key, among the rows that are still kept."""
    first = np.zeros(len(rows), bool)
    alive = np.flatnonzero(verdict[rows] == KEEP)
    place = alive[np.lexsort([rank[rows[alive]], records["low"][alive], records["key"][alive]])]
    key, low = records["key"][place], records["low"][place]
    changes = np.ones(len(place), bool)
    changes[1:] = (key[1:] != key[:-1]) | (low[1:] != low[:-1])
    first[place[changes]] = True
    return first


def _find_repeated_sentences(shards: Shards, rank: Any, verdict: Any, most: float, max_records: int) -> None:
    total = np.zeros(shards.num_rows, np.uint32)
    repeated = np.zeros(shards.num_rows, np.uint32)
    for all_records, all_rows in shards.ranges("sentence", max_records):
        alive = verdict[all_rows] == KEEP
        records, rows = all_records[alive], all_rows[alive]
        np.add.at(total, rows, 1)
        place = np.lexsort([records["place"], rank[rows], records["key"]])
        key = records["key"][place]
        again = np.zeros(len(place), bool)
        again[1:] = key[1:] == key[:-1]
        np.add.at(repeated, rows[place[again]], 1)
    verdict[(repeated > most * total) & (total > 0)] = SENTENCES


def _find_near(shards: Shards, rank: Any, verdict: Any, max_records: int) -> None:
    """Join rows that share a band; of each group that hangs together the first stays."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends: list[NDArray[np.int64]] = []
    for all_records, all_rows in shards.ranges("near", max_records):
        alive = verdict[all_rows] == KEEP
        records, rows = all_records[alive], all_rows[alive]
        place = np.lexsort([rank[rows], records["key"]])
        key, rows = records["key"][place], rows[place]
        same = np.flatnonzero(key[1:] == key[:-1])
        ends.append(np.stack([rows[same], rows[same + 1]]))
    if not any(pairs.size for pairs in ends):
        return
    pairs = np.concatenate(ends, axis=1)
    members, local = np.unique(pairs, return_inverse=True)
    left, right = local.reshape(2, -1)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(members), len(members)))
    _, group = connected_components(graph, directed=False)
    place = np.lexsort([rank[members], group])
    again = np.zeros(len(place), bool)
    again[1:] = group[place][1:] == group[place][:-1]
    verdict[members[place[again]]] = NEAR
