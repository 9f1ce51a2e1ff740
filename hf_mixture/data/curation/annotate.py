"""The work on one shard: every stage annotates and decides, and the keys of duplicates are collected."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.data.curation import record
from hf_mixture.data.curation.hashing import halves, hash_128
from hf_mixture.data.curation.keys import KeyMaker, Keys
from hf_mixture.data.curation.recipe import CurationRecipe
from hf_mixture.data.curation.runs import DOCUMENT, PAIR, RANK, SENTENCE, write_run
from hf_mixture.data.curation.stage import Stage
from hf_mixture.data.curation.tables import read_arrow, write_arrow
from hf_mixture.data.curation.tokens import token_counter


KEEP, REJECT = "keep", "reject"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some consecutive rows of a source, as they were read.

    Args:
        source: Name of the source.
        number: Number of the shard in its source.
        folder: The folder `work` of the run.
    """

    source: str
    number: int
    folder: Path

    @property
    def name(self) -> str:
        """What names the shard."""
        return f"{self.source}-{self.number:06d}"

    @property
    def raw(self) -> Path:
        """The rows as they were read."""
        return self.folder / "raw" / f"{self.name}.arrow"

    @property
    def annotated(self) -> Path:
        """Folder of what the stages have added."""
        return self.folder / "annotated" / self.name

    @property
    def finished(self) -> Path:
        """What deduplication and decontamination have decided."""
        return self.folder / "finished" / f"{self.name}.arrow"


class Clock:
    """Processor time and documents by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.documents: Counter[str] = Counter()

    def measure(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function, and add what it takes to a stage.

        Args:
            name: The stage.
            function: What is called.
            *arguments: Its arguments.

        Returns:
            What it returns.
        """
        began = time.process_time()
        value = function(*arguments)
        self.seconds[name] += time.process_time() - began
        self.documents[name] += 1
        return value

    def facts(self) -> dict[str, list[float]]:
        """Return seconds and documents by stage, for the journal."""
        return {name: [self.seconds[name], self.documents[name]] for name in self.seconds}


class Annotator:
    """The stages that look at one document alone, in order.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: CurationRecipe) -> None:
        self.recipe = recipe
        self.stages = list(row_stages(recipe))
        self.keys = KeyMaker(recipe.stages.dedup) if recipe.stages.dedup is not None else None
        self.count_tokens = token_counter(recipe.tokenizer)
        self._numbers = {name: number for number, name in enumerate(sorted(recipe.sources))}

    def document(self, source: str, raw: dict[str, Any], clock: Clock) -> tuple[dict[str, Any], Keys | None]:
        """Take one document through the stages.

        Args:
            source: Its source.
            raw: The raw row.
            clock: Where processor time is added.

        Returns:
            The columns of the record, `text` only when it was changed, and the keys of a document that is kept.
        """
        spec = self.recipe.sources[source]
        own = json.loads(raw["facts"])
        row = {**spec.facts, **own, "text": raw["text"], "id": raw["id"], "source": source}
        added: dict[str, Any] = {name: row.get(name) for name in record.FACTS}
        added["license_declared"] = row.get("license") or row.get("card_license")
        reason = raw["fault"]
        for stage in self.stages if reason is None else ():
            if stage.name in spec.skip:
                continue
            columns, why = clock.measure(stage.name, stage, row)
            row.update(columns)
            added.update(columns)
            if why is not None:
                reason = f"{stage.name}/{why}"
                break
        added |= {"decision": KEEP if reason is None else REJECT, "reason": reason}
        keys = None
        if reason is None:
            added["num_tokens"] = clock.measure("tokens", self.count_tokens, row["text"])
            if self.keys is not None and "dedup" not in spec.skip:
                keys = clock.measure("dedup", self.keys, row["text"], source)
                added["dedup_key"] = f"{keys.exact:032x}"
        return added, keys

    def shard(self, shard: Shard) -> dict[str, Any]:
        """Annotate a shard; its files appear whole.

        Args:
            shard: The shard.

        Returns:
            Rows, and processor time by stage.
        """
        clock = Clock()
        raw = read_arrow(shard.raw)
        rows, ranks, runs = [], [], Runs()
        for number, document in enumerate(_rows(raw)):
            added, keys = self.document(shard.source, document, clock)
            rows.append(added)
            text = added.get("text", document["text"])
            ranks.append(
                (
                    *halves(hash_128(text)),
                    self._numbers[shard.source],
                    *halves(hash_128(document["id"])),
                    number,
                )
            )
            if keys is not None:
                runs.add(number, keys)
        shard.annotated.mkdir(parents=True, exist_ok=True)
        write_run(shard.annotated / "rank.npy", np.array(ranks, RANK))
        runs.write(shard.annotated)
        write_arrow(shard.annotated / "rows.arrow", rows, record.ADDED)
        return {"rows": len(rows), "cpu": clock.facts()}


class Runs:
    """The keys of the kept documents of a shard."""

    def __init__(self) -> None:
        self._exact: list[tuple[int, int, int]] = []
        self._prefix: list[tuple[int, int, int]] = []
        self._sentences: list[Any] = []
        self._bands: list[Any] = []

    def add(self, row: int, keys: Keys) -> None:
        """Add the keys of one document.

        Args:
            row: Its row in the shard.
            keys: Its keys.
        """
        self._exact.append((*halves(keys.exact), row))
        if keys.prefix is not None:
            self._prefix.append((*halves(keys.prefix), row))
        if len(keys.sentences):
            part = np.empty(len(keys.sentences), SENTENCE)
            part["key"], part["row"], part["place"] = keys.sentences, row, np.arange(len(part))
            self._sentences.append(part)
        if len(keys.bands):
            part = np.empty(len(keys.bands), PAIR)
            part["key"], part["row"] = keys.bands, row
            self._bands.append(part)

    def write(self, folder: Path) -> None:
        """Write the runs of all kinds, empty ones too."""
        write_run(folder / "exact.npy", np.array(self._exact, DOCUMENT))
        write_run(folder / "prefix.npy", np.array(self._prefix, DOCUMENT))
        write_run(folder / "sentence.npy", np.concatenate([np.zeros(0, SENTENCE), *self._sentences]))
        write_run(folder / "near.npy", np.concatenate([np.zeros(0, PAIR), *self._bands]))


def row_stages(recipe: CurationRecipe) -> Iterator[Stage]:
    """Make the stages that look at one document alone.

    Args:
        recipe: The recipe.

    Yields:
        The stages, in order.
    """
    from hf_mixture.data.curation.inclusion import Inclusion
    from hf_mixture.data.curation.language import Language
    from hf_mixture.data.curation.pii import Pii
    from hf_mixture.data.curation.quality import Quality
    from hf_mixture.data.curation.safety import Safety
    from hf_mixture.data.curation.tiering import Tiering

    stages = recipe.stages
    yield Inclusion(stages.inclusion)
    yield Tiering(stages.tier)
    if stages.safety is not None:
        yield Safety(stages.safety)
    if stages.language is not None:
        yield Language(stages.language)
    if stages.quality is not None:
        yield Quality(stages.quality)
    if stages.pii is not None:
        yield Pii(stages.pii)


def _rows(table: Any, batch: int = 256) -> Iterator[dict[str, Any]]:
    for part in table.to_batches(max_chunksize=batch):
        yield from part.to_pylist()


def texts_of(raw: Any, annotated: Any) -> Sequence[str]:
    """Return the texts of a shard as the stages have left them."""
    import pyarrow.compute as pc

    return pc.coalesce(annotated.column("text"), raw.column("text"))
