"""Duplicates over shards, against a slow twin that looks at all rows at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_data import documents, draws, sentence, text
from slow_dedup import Row, slow_verdicts

from hf_mixture.data.curation.annotate import Runs
from hf_mixture.data.curation.dedup import EXACT, KEEP, NEAR, PREFIX, SENTENCES, Shards, find_duplicates, rank_rows
from hf_mixture.data.curation.hashing import halves, hash_128
from hf_mixture.data.curation.keys import DedupOptions, KeyMaker
from hf_mixture.data.curation.runs import DOCUMENT, RANK, read_ranges, write_run


def fast_verdicts(rows: list[Row], options: DedupOptions, folder: Path, shard_rows: int, max_records: int) -> Any:
    """The same through shards on disk."""
    make, sources = KeyMaker(options), sorted({row[0] for row in rows})
    folders, offsets = [], [0]
    for start in range(0, len(rows), shard_rows):
        part, runs, ranks = rows[start : start + shard_rows], Runs(), []
        place = folder / str(start)
        place.mkdir(parents=True)
        for number, (source, name, body) in enumerate(part):
            runs.add(number, make(body, source))
            ranks.append((*halves(hash_128(body)), sources.index(source), *halves(hash_128(name)), number))
        runs.write(place)
        write_run(place / "rank.npy", np.array(ranks, RANK))
        folders.append(place)
        offsets.append(offsets[-1] + len(part))
    shards = Shards(folders=folders, offsets=offsets)
    order, verdict = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint8)
    rank_rows(shards, order, max_records=max_records)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(rows))
    find_duplicates(shards, rank, verdict, options, max_records=max_records)
    return dict(zip(rows, verdict.tolist(), strict=True))


def rows_with_copies(seed: int, number: int = 500) -> list[Row]:
    bodies = [row["text"] for row in documents(number, seed)]
    rng = draws(seed)
    return [(rng.choice("ab"), f"{index}", body) for index, body in enumerate(bodies)]


@pytest.mark.parametrize("scope", ["source", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_the_slow_twin(scope: Any, seed: int, tmp_path: Path) -> None:
    rows, options = rows_with_copies(seed), DedupOptions(scope=scope)
    slow = slow_verdicts(rows, options)
    assert {EXACT, PREFIX, SENTENCES, KEEP} == set(slow.values())
    # Ranges of about 37 records: most keys are read in another pass than their neighbours.
    assert fast_verdicts(rows, options, tmp_path / "small", 41, 37) == slow
    draws(9).shuffle(rows)
    assert fast_verdicts(rows, options, tmp_path / "shuffled", 300, 10**6) == slow


@pytest.mark.parametrize("off", ["exact", "prefix", "sentence"])
def test_each_kind_can_be_left_out(off: str, tmp_path: Path) -> None:
    rows = rows_with_copies(5)
    options = DedupOptions(**{off: False})
    found = fast_verdicts(rows, options, tmp_path, 50, 10**6)
    assert found == slow_verdicts(rows, options)
    assert {"exact": EXACT, "prefix": PREFIX, "sentence": SENTENCES}[off] not in found.values()


def test_the_smallest_of_equal_rows_is_kept_not_the_first_seen(tmp_path: Path) -> None:
    body = text(draws(0))
    rows = [("b", "9", body), ("a", "7", body), ("a", "2", body)]
    options = DedupOptions(scope="all")
    (kept,) = (row for row, code in fast_verdicts(rows, options, tmp_path, 1, 2).items() if code == KEEP)
    assert kept == min(rows, key=lambda row: (row[0], hash_128(row[1])))


def test_duplicates_of_other_sources_stay_inside_a_source(tmp_path: Path) -> None:
    body = text(draws(0))
    rows = [("a", "1", body), ("b", "1", body)]
    assert set(fast_verdicts(rows, DedupOptions(), tmp_path, 5, 10).values()) == {KEEP}


def test_near_duplicates_by_minhash(tmp_path: Path) -> None:
    rng = draws(3)
    base = [sentence(rng) for _ in range(40)]
    near = [*base[:39], sentence(rng)]
    rows = [("a", "1", " ".join(base)), ("a", "2", " ".join(near)), ("a", "3", text(rng, 40))]
    options = DedupOptions(near=True, prefix=False, sentence=False)
    found = fast_verdicts(rows, options, tmp_path / "near", 1, 3)
    assert sorted(found.values()) == [KEEP, KEEP, NEAR]
    assert found[rows[2]] == KEEP
    assert set(fast_verdicts(rows, DedupOptions(prefix=False, sentence=False), tmp_path / "off", 1, 3).values()) == {
        KEEP
    }


def test_a_key_is_never_in_two_ranges(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 50, np.uint64, endpoint=False)
    keys[:3] = [0, 2**63, 2**64 - 1]
    for number in range(4):
        records = np.zeros(200, DOCUMENT)
        records["key"], records["row"] = rng.choice(keys, 200), np.arange(200)
        write_run(tmp_path / f"{number}.npy", records)
    paths = [tmp_path / f"{number}.npy" for number in range(4)]
    parts = list(read_ranges(paths, [0, 200, 400, 600], max_records=60))
    assert len(parts) > 5
    assert sorted(np.concatenate([rows for _, rows in parts]).tolist()) == list(range(800))
    seen: set[int] = set()
    for records, _ in parts:
        here = set(records["key"].tolist())
        assert not here & seen
        seen |= here
