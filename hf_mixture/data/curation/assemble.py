"""The files of the data set: all rows in their total order, cut into files, kept ones by tier, rejected ones apart.

The order is that of a hash of the text, and so are the cuts: the files are the same whatever the order of the shards
was, and a file is a sample of all sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_mixture.data.curation.annotate import KEEP, Shard, texts_of
from hf_mixture.data.curation.finish import FINISHED
from hf_mixture.data.curation.record import COLUMNS
from hf_mixture.data.curation.tables import read_arrow, write_parquet
from hf_mixture.data.curation.tiers import TIERS


REJECT_COLUMNS = ("id", "source", "url", "license_spdx", "license_declared", "tier", "domain", "reason")
"""What is published of a rejected document; its text is not."""


def tier_folder(tier: str) -> str:
    """Name of the folder of the documents of one tier."""
    return f"tier{tier}"


class Assembler:
    """Writes the files of ranges of the total order.

    Args:
        shards: The shards, in the order of their rows in the whole.
        offsets: Number of the first row of each shard, and of all rows at the end.
        folder: The output folder.
        rows_per_file: Rows of a range.
    """

    def __init__(self, shards: Sequence[Shard], offsets: Sequence[int], folder: Path, rows_per_file: int) -> None:
        self._shards = shards
        self._offsets = np.array(offsets)
        self._folder = folder
        self._rows_per_file = rows_per_file

    def range(self, number: int) -> dict[str, Any]:
        """Write the files of one range; they appear whole.

        Args:
            number: The range.

        Returns:
            Documents and tokens by tier and source.
        """
        order = np.load(self._folder / "work" / "order.npy", mmap_mode="r")
        rows = np.array(order[number * self._rows_per_file : (number + 1) * self._rows_per_file])
        shard_of = np.searchsorted(self._offsets, rows, side="right") - 1
        parts, places = [], []
        for index in np.unique(shard_of):
            here = np.flatnonzero(shard_of == index)
            parts.append(self._take(self._shards[index], rows[here] - self._offsets[index]))
            places.append(here)
        # Rows were taken shard by shard; the inverse permutation puts them back in order.
        table = pa.concat_tables(parts).take(np.argsort(np.concatenate(places))).combine_chunks()
        kept = np.array([decision == KEEP for decision in table.column("decision").to_pylist()], bool)
        tiers = np.array([tier or "" for tier in table.column("tier").to_pylist()])
        facts: dict[str, Any] = {}
        for tier in TIERS:
            facts[tier] = self._write(f"dataset/data/{tier_folder(tier)}", number, table, kept & (tiers == tier))
        self._write("rejected", number, table, ~kept)
        self._write("dataset/data/rejected", number, table.select(REJECT_COLUMNS), ~kept)
        return {"documents": facts}

    def _write(self, folder: str, number: int, table: Any, wanted: Any) -> dict[str, list[int]]:
        path = self._folder / folder / f"{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = table.filter(pa.array(wanted))
        if not len(part):
            return {}
        write_parquet(path, part)
        documents, tokens = Counter[str](), Counter[str]()
        if "num_tokens" in part.column_names:
            for source, count in zip(
                part.column("source").to_pylist(), part.column("num_tokens").to_pylist(), strict=True
            ):
                documents[source] += 1
                tokens[source] += count or 0
        return {source: [documents[source], tokens[source]] for source in sorted(documents)}

    def _take(self, shard: Shard, rows: Any) -> Any:
        """The complete record of some rows of a shard."""
        indices = pa.array(rows)
        raw, annotated, finished = (
            read_arrow(path).take(indices) for path in (shard.raw, shard.annotated / "rows.arrow", shard.finished)
        )
        columns = {
            "id": raw.column("id"),
            "source": pa.repeat(shard.source, len(rows)),
            "text": texts_of(raw, annotated),
            "meta": raw.column("meta"),
            **{name: finished.column(name) for name in FINISHED.names},
        }
        for name in COLUMNS.names:
            if name not in columns:
                columns[name] = annotated.column(name)
        return pa.table({name: columns[name] for name in COLUMNS.names}, schema=COLUMNS)
