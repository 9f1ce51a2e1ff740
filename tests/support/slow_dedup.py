"""Deduplication with all rows in memory: the slow twin of the one over shards."""

from __future__ import annotations

from typing import Any

from hf_mixture.data.curation.dedup import EXACT, KEEP, PREFIX, SENTENCES
from hf_mixture.data.curation.hashing import hash_128
from hf_mixture.data.curation.keys import DedupOptions, KeyMaker


Row = tuple[str, str, str]  # source, id, text


def slow_verdicts(rows: list[Row], options: DedupOptions) -> dict[Row, int]:
    """Go through all rows in the order of (hash of the text, source, hash of the id), and remember what was seen."""
    make = KeyMaker(options)
    keys = {row: make(row[2], row[0]) for row in rows}
    order = sorted(rows, key=lambda row: (hash_128(row[2]), row[0], hash_128(row[1])))
    verdict = dict.fromkeys(rows, KEEP)
    for code, wanted, key_of in (
        (EXACT, options.exact, lambda row: keys[row].exact),
        (PREFIX, options.prefix, lambda row: keys[row].prefix),
    ):
        seen: set[Any] = set()
        for row in order if wanted else ():
            if verdict[row] == KEEP and key_of(row) is not None:
                if key_of(row) in seen:
                    verdict[row] = code
                seen.add(key_of(row))
    if options.sentence:
        left = [row for row in order if verdict[row] == KEEP]
        seen = set()
        for row in left:
            repeated = 0
            for key in keys[row].sentences.tolist():
                repeated += key in seen
                seen.add(key)
            if repeated > options.max_duplicate_sentences * len(keys[row].sentences):
                verdict[row] = SENTENCES
    return verdict
