"""The last word on every row: what deduplication over all shards has found, then decontamination."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_mixture.data.curation.annotate import KEEP, REJECT, Clock, Shard, texts_of
from hf_mixture.data.curation.decontaminate import Decontamination, DecontaminationIndex
from hf_mixture.data.curation.dedup import REASONS
from hf_mixture.data.curation.recipe import CurationRecipe
from hf_mixture.data.curation.runs import write_run
from hf_mixture.data.curation.tables import read_arrow, write_arrow


INDEX = "decontamination.safetensors"
FINISHED = pa.schema(
    [
        ("decision", pa.string()),
        ("reason", pa.string()),
        ("decontam_hits", pa.int64()),
        ("decontam_benchmarks", pa.list_(pa.string())),
    ]
)
ENTRY = np.dtype([("key", "<u8")])


class Finisher:
    """Decides about the rows of one shard after all shards were annotated.

    Args:
        recipe: The recipe.
        folder: The folder `work` of the run.
    """

    def __init__(self, recipe: CurationRecipe, folder: Path) -> None:
        self.recipe = recipe
        self._folder = folder
        options = recipe.stages.decontamination
        self._scan = None
        if options is not None:
            self._scan = Decontamination(DecontaminationIndex.load(folder / INDEX), options)

    def shard(self, shard: Shard, first: int) -> dict[str, Any]:
        """Decide about a shard; its files appear whole.

        Args:
            shard: The shard.
            first: The number of its first row in the whole.

        Returns:
            Rows by reason (`kept` is one), flagged documents, and processor time.
        """
        clock, counts, entries = Clock(), Counter[str](), [np.zeros(0, np.int64)]
        raw, annotated = read_arrow(shard.raw), read_arrow(shard.annotated / "rows.arrow")
        verdict = np.load(self._folder / "verdict.npy", mmap_mode="r")[first : first + len(raw)]
        texts = texts_of(raw, annotated)
        scan = None if "decontamination" in self.recipe.sources[shard.source].skip else self._scan
        rows, flagged = [], []
        for number, reason in enumerate(annotated.column("reason").to_pylist()):
            row: dict[str, Any] = {"reason": reason}
            if reason is None and verdict[number] in REASONS:
                row["reason"] = f"dedup/{REASONS[int(verdict[number])]}"
            elif reason is None and scan is not None:
                columns, why = clock.measure(scan.name, scan, {"text": texts[number].as_py()})  # type: ignore[attr-defined]
                entries.append(np.array(columns.pop("entries"), np.int64))
                row |= columns
                if why is not None:
                    row["reason"] = f"{scan.name}/{why}"
                    flagged.append(columns["decontam_benchmarks"])
            row["decision"] = KEEP if row["reason"] is None else REJECT
            counts[row["reason"] or "kept"] += 1
            rows.append(row)
        shard.finished.parent.mkdir(exist_ok=True)
        found = np.unique(np.concatenate(entries)).astype(np.uint64).view(ENTRY)
        write_run(shard.finished.with_suffix(".npy"), found)
        write_arrow(shard.finished, rows, FINISHED)
        return {"counts": dict(sorted(counts.items())), "flagged": flagged, "cpu": clock.facts()}
