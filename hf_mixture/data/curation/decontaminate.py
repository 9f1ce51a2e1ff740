"""Decontamination: documents that repeat 13-grams of the test split of a benchmark.

The rule of MixtureVitae: the index of a benchmark holds the 13-grams of its test split without those of its train
split and without the wording of exam papers; a piece of a document between `<|endoftext|>` marks is flagged when it
has at least `min_hits` distinct hits and these make up at least `min_coverage` of its distinct 13-grams. The paper
also counts by "at least one n-gram", so the rule that was used is part of every report.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.curation import grams
from hf_mixture.data.curation.hashing import hash_64
from hf_mixture.data.curation.scaffolding import is_scaffolding
from hf_mixture.data.curation.schema import Count, Share
from hf_mixture.data.curation.stage import Outcome, Row
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import check_format, parse_json, read_tensors


FORMAT = "hf_mixture_decontamination_index"
VERSION = "1"
SEPARATOR = "<|endoftext|>"
MAX_BENCHMARKS = 64
# Odd, so that multiplication modulo 2 ** 64 loses nothing.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_POWERS = np.array([pow(int(_BASE), 12 - place, 2**64) for place in range(grams.NUM_WORDS)], np.uint64)
_FILTER_BITS = 22

Mode = Literal["repaired", "reference"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSource:
    """The texts of one benchmark.

    Args:
        test: The fields of `Source`, or its `path` alone: the test split.
        train: The same for the train split, whose n-grams do not count. Default: none.
        columns: Columns that are joined to the text of an item, in order. Default: `text`.
    """

    test: Any
    train: Any = None
    columns: list[str] = field(default_factory=lambda: ["text"])


@dataclass(frozen=True, kw_only=True)
class DecontaminationOptions:
    """Options of the stage `decontamination`.

    Args:
        benchmarks: What documents are compared with, by name.
        mode: Where the expressions of exam papers are looked for: `repaired` in the window of the text, `reference` in
            the n-gram without stop words, as the published tool does. Default: `repaired`.
        min_hits: Least number of distinct hits of a flagged piece. Default: 3.
        min_coverage: Least share of hits among its distinct 13-grams. Default: 0.001.
    """

    benchmarks: dict[str, BenchmarkSource] = field(default_factory=dict)
    mode: Mode = "repaired"
    min_hits: Count = 3
    min_coverage: Share = 0.001


class Hits(NamedTuple):
    """What a document repeats.

    Args:
        entries: int64 [h], places of the distinct hits in the index, over all pieces.
        benchmarks: Bit mask of the benchmarks that the hits of flagged pieces belong to; 0 when none is flagged.
    """

    entries: NDArray[np.int64]
    benchmarks: int

    @property
    def flagged(self) -> bool:
        """Whether a piece is flagged."""
        return self.benchmarks != 0


class DecontaminationIndex:
    """The 13-grams of some benchmarks.

    Args:
        names: The benchmarks; the place of a name is its bit.
        hashes: uint64 [n], sorted, each once.
        masks: uint64 [n], the benchmarks of each.
        rolling: uint64 [n], the rolling hash of each, by which candidates are found fast.
        words: uint64 [v], sorted: hashes of the words that occur.

    Example:
        ```python
        >>> items = {"quiz": (["one two three four five six seven eight nine ten eleven twelve thirteen"], [])}
        >>> index = DecontaminationIndex.build(items)
        >>> len(index), len(index.scan("Zero, " + items["quiz"][0][0], min_hits=1, min_coverage=0).entries)
        (1, 1)

        ```
    """

    def __init__(
        self,
        names: Sequence[str],
        hashes: NDArray[np.uint64],
        masks: NDArray[np.uint64],
        rolling: NDArray[np.uint64],
        words: Mapping[str, int],
    ) -> None:
        self.names = tuple(names)
        self.hashes = hashes
        self.masks = masks
        self.rolling = rolling
        self.words = dict(words)
        self._filter = np.zeros(2**_FILTER_BITS, bool)
        self._filter[rolling >> np.uint64(64 - _FILTER_BITS)] = True
        self._sorted = np.sort(rolling)

    @classmethod
    def build(
        cls, benchmarks: Mapping[str, tuple[Iterable[str], Iterable[str]]], *, mode: Mode = "repaired"
    ) -> DecontaminationIndex:
        """Build the index.

        Args:
            benchmarks: For each name the texts of the items of the test split and of the train split.
            mode: As in `DecontaminationOptions`.

        Returns:
            The index.

        Raises:
            ValueError: There are no benchmarks, or more than 64.
        """
        if not 0 < len(benchmarks) <= MAX_BENCHMARKS:
            raise ValueError(f"{len(benchmarks)} benchmarks; give 1 to {MAX_BENCHMARKS}, one for each bit of a mask")
        masks: dict[str, int] = {}
        for number, (test, train) in enumerate(benchmarks.values()):
            left_out = {gram for text in train for gram, _ in grams.windows(text)}
            for text in test:
                for gram, window in grams.windows(text):
                    if gram not in left_out and not is_scaffolding(window if mode == "repaired" else gram):
                        masks[gram] = masks.get(gram, 0) | 1 << number
        hashes = np.array([grams.gram_hash(gram) for gram in masks], np.uint64)
        order = np.argsort(hashes)
        words = {word: hash_64(word) for word in sorted({w for gram in masks for w in gram.split()})}
        table = np.array([[words[word] for word in gram.split()] for gram in masks], np.uint64)
        rolling = (table.reshape(-1, grams.NUM_WORDS) * _POWERS).sum(axis=1, dtype=np.uint64)
        found = np.array(list(masks.values()), np.uint64)
        return cls(list(benchmarks), hashes[order], found[order], rolling[order], words)

    def __len__(self) -> int:
        return len(self.hashes)

    def sizes(self) -> dict[str, int]:
        """Return the number of n-grams of each benchmark."""
        return self.counts(np.arange(len(self)))

    def counts(self, entries: NDArray[np.int64]) -> dict[str, int]:
        """Return how many of some entries belong to each benchmark; one may belong to several.

        Args:
            entries: int64 [h], places in the index.

        Returns:
            Number by benchmark.
        """
        masks = self.masks[entries]
        return {name: int(((masks >> np.uint64(bit)) & np.uint64(1)).sum()) for bit, name in enumerate(self.names)}

    def scan(self, text: str, *, min_hits: int = 3, min_coverage: float = 0.001) -> Hits:
        """Look for the n-grams of the index in a document.

        Args:
            text: The document; pieces between `<|endoftext|>` marks are looked at one by one.
            min_hits: Least number of distinct hits of a flagged piece.
            min_coverage: Least share of hits among its distinct 13-grams.

        Returns:
            The hits, and the benchmarks that they flag the document for.
        """
        entries, flagged = [np.zeros(0, np.int64)], 0
        for piece in text.split(SEPARATOR):
            words = grams.content_words(piece)
            if not self._is_candidate(words):
                continue
            distinct = np.unique(grams.hashes_of(words))
            place = np.minimum(np.searchsorted(self.hashes, distinct), len(self) - 1)
            hits = place[self.hashes[place] == distinct]
            entries.append(hits)
            if len(hits) >= min_hits and len(hits) >= min_coverage * len(distinct) and len(hits):
                flagged |= int(np.bitwise_or.reduce(self.masks[hits]))
        return Hits(np.unique(np.concatenate(entries)), flagged)

    def _is_candidate(self, words: list[str]) -> bool:
        """Whether any 13-gram of the words may be in the index: no when it has a word or a rolling hash of none."""
        if len(words) < grams.NUM_WORDS or not len(self):
            return False
        known = self.words
        values = np.array([known.get(word, 0) for word in words], np.uint64)
        count = len(words) - grams.NUM_WORDS + 1
        # No word has the hash 0; a window with an unknown word gets a wrong sum, which the exact search refuses.
        rolling = np.zeros(count, np.uint64)
        for place, power in enumerate(_POWERS):
            rolling += values[place : place + count] * power
        likely = rolling[self._filter[rolling >> np.uint64(64 - _FILTER_BITS)]]
        if not len(likely):
            return False
        place = np.minimum(np.searchsorted(self._sorted, likely), len(self) - 1)
        return bool((self._sorted[place] == likely).any())

    def save(self, path: Path) -> None:
        """Write the index as safetensors; it appears whole."""
        from safetensors.numpy import save

        tensors = {"hashes": self.hashes, "masks": self.masks, "rolling": self.rolling}
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "names": json.dumps(self.names),
            "words": json.dumps(list(self.words)),
        }
        write_atomic(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> DecontaminationIndex:
        """Read an index that `save` wrote.

        Args:
            path: The file.

        Returns:
            The index.

        Raises:
            ValueError: The file is another one.
        """
        remedy = "build it again"
        metadata, tensors = read_tensors(path, framework="numpy", remedy=remedy)
        check_format(metadata, FORMAT, VERSION, where=str(path), remedy=remedy)
        with reading(path, remedy):
            words = {word: hash_64(word) for word in parse_json(metadata["words"], "words")}
            lengths = {len(tensors[name]) for name in ("hashes", "masks", "rolling")}
            if len(lengths) != 1:
                raise ValueError("its arrays are of different lengths")
            return cls(parse_json(metadata["names"], "names"), words=words, **tensors)


class Decontamination:
    """Rejects documents that repeat a benchmark.

    Args:
        index: The n-grams of the benchmarks.
        options: The rule.
    """

    name = "decontamination"

    def __init__(self, index: DecontaminationIndex, options: DecontaminationOptions) -> None:
        self._index = index
        self._options = options

    def __call__(self, row: Row) -> Outcome:
        """Add `decontam_hits`, the number of distinct hits, `decontam_benchmarks` and the entries of the index."""
        hits = self._index.scan(row["text"], min_hits=self._options.min_hits, min_coverage=self._options.min_coverage)
        names = [name for bit, name in enumerate(self._index.names) if hits.benchmarks >> bit & 1]
        added = {"decontam_hits": len(hits.entries), "decontam_benchmarks": names, "entries": hits.entries.tolist()}
        return added, "repeats_benchmark" if hits.flagged else None


def contamination_report(
    index: DecontaminationIndex,
    documents: Iterable[Sequence[str]],
    entries: NDArray[np.int64],
    options: DecontaminationOptions,
) -> dict[str, Any]:
    """Count contaminated documents and leaked n-grams.

    Args:
        index: The index.
        documents: For each flagged document the benchmarks that it is flagged for.
        entries: int64, the entries of the index that any document has.
        options: The rule that was used.

    Returns:
        `flagged_documents`, each document once; and for each benchmark `documents`, where a document counts for every
        benchmark that it repeats, `leaked_ngrams`, `indexed_ngrams` and `leak_percent`. Never sum the documents of the
        benchmarks.
    """
    per_benchmark = dict.fromkeys(index.names, 0)
    flagged = 0
    for names in documents:
        flagged += 1
        for name in names:
            per_benchmark[name] += 1
    sizes, leaked = index.sizes(), index.counts(np.unique(entries))
    return {
        "rule": {"min_hits": options.min_hits, "min_coverage": options.min_coverage, "mode": options.mode},
        "flagged_documents": flagged,
        "benchmarks": {
            name: {
                "documents": per_benchmark[name],
                "indexed_ngrams": sizes[name],
                "leaked_ngrams": leaked[name],
                "leak_percent": 100 * leaked[name] / sizes[name] if sizes[name] else 0.0,
            }
            for name in index.names
        },
    }
