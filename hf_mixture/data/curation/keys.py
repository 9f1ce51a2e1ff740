"""The keys by which duplicates are found: of the whole document, of its beginning, of its sentences.

All are xxh3 hashes with a fixed seed, so that they are the same in every process. A key is salted with the name of the
source where duplicates are only looked for inside a source.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from hf_mixture.data.curation.hashing import hash_64, hash_128
from hf_mixture.data.curation.schema import Count, Share


STEM = 4
SKIPPED_WORDS, LAST_WORD = 20, 220
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, kw_only=True)
class DedupOptions:
    """Options of the stage `dedup`.

    Args:
        scope: Where duplicates are looked for: inside each `source`, as MixtureVitae does, or over `all` of them.
            Default: `source`.
        exact: Whether documents with equal text are one; case, blanks and Unicode forms do not count. Default: true.
        prefix: Whether documents are one when words 21 to 220 have equal first four letters. Default: true.
        min_prefix_words: Least number of those words; a shorter document has no such key. Default: 30.
        sentence: Whether documents of repeated sentences go. Default: true.
        max_duplicate_sentences: Largest share of sentences that occur in a document that comes before, or earlier in
            the same one. Default: 0.75.
        min_sentence_chars: Length from which a sentence counts. Default: 31.
        near: Whether near duplicates are looked for, by MinHash. Default: false, as in MixtureVitae.
        near_bands: Bands of MinHash values; documents that agree in one band are one. Default: 14.
        near_rows: Values of a band. Default: 8.
        near_words: Words of a shingle. Default: 5.
    """

    scope: Literal["source", "all"] = "source"
    exact: bool = True
    prefix: bool = True
    min_prefix_words: Count = 30
    sentence: bool = True
    max_duplicate_sentences: Share = 0.75
    min_sentence_chars: Count = 31
    near: bool = False
    near_bands: Count = 14
    near_rows: Count = 8
    near_words: Count = 5


@dataclass(frozen=True)
class Keys:
    """The keys of one document.

    Args:
        exact: 128 bits of the normalised text.
        prefix: 128 bits of the stems of its beginning; None when it is too short.
        sentences: uint64 [s], in order.
        bands: uint64 [b]; empty unless near duplicates are looked for.
    """

    exact: int
    prefix: int | None
    sentences: NDArray[np.uint64]
    bands: NDArray[np.uint64]


def normalise(text: str) -> list[str]:
    """Return the words that keys are made of: NFKC, lower case, cut at blanks.

    Example:
        ```python
        >>> normalise("Ａ  Word\\n")
        ['a', 'word']

        ```
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.lower().split()


class KeyMaker:
    """Makes the keys of documents.

    Args:
        options: Which keys, and how.
    """

    def __init__(self, options: DedupOptions) -> None:
        self._options = options
        self._signature: Any = None
        if options.near:
            from hf_mixture._extras import require

            rensa = require("rensa", used_for="dedup.near", extra="curation")
            self._signature = rensa.RMinHash

    def __call__(self, text: str, source: str) -> Keys:
        """Make the keys of one document.

        Args:
            text: Its text.
            source: The source that it comes from.

        Returns:
            The keys.
        """
        options = self._options
        seed = hash_64(source) if options.scope == "source" else 0
        words = normalise(text)
        stems = [word[:STEM] for word in words[SKIPPED_WORDS:LAST_WORD]]
        prefix = None
        if options.prefix and len(stems) >= options.min_prefix_words:
            prefix = hash_128(" ".join(stems), seed)
        return Keys(
            exact=hash_128(" ".join(words), seed),
            prefix=prefix,
            sentences=self._sentences(text, seed),
            bands=self._bands(words, seed),
        )

    def _sentences(self, text: str, seed: int) -> NDArray[np.uint64]:
        if not self._options.sentence:
            return np.zeros(0, np.uint64)
        least = self._options.min_sentence_chars
        parts = [" ".join(normalise(part)) for part in _SENTENCE.split(text) if len(part) >= least]
        return np.array([hash_64(part, seed) for part in parts if len(part) >= least], np.uint64)

    def _bands(self, words: list[str], seed: int) -> NDArray[np.uint64]:
        options = self._options
        if not options.near or len(words) < options.near_words:
            return np.zeros(0, np.uint64)
        shingles = [" ".join(words[i : i + options.near_words]) for i in range(len(words) - options.near_words + 1)]
        minhash = self._signature(num_perm=options.near_bands * options.near_rows, seed=0)
        minhash.update(shingles)
        values = np.array(minhash.digest(), np.uint64).reshape(options.near_bands, options.near_rows)
        # The number of the band is part of the key: values of two bands are not compared.
        keys = [
            xxhash.xxh3_64_intdigest(number.to_bytes(2, "little") + band.tobytes(), seed)
            for number, band in enumerate(values)
        ]
        return np.array(keys, np.uint64)
