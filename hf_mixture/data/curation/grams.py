"""13-grams of MixtureVitae's decontamination: normal form, n-grams and their hashes.

Normal form (arXiv 2509.25531, `decontaminate/`): NFKC, lower case, the matches of `[a-z0-9]+(?:'[a-z0-9]+)?` without
40 stop words. An n-gram is 13 of these words joined by blanks, its hash the 8 bytes of blake2b with that digest size,
as a little-endian integer of 64 bits without sign.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray


NUM_WORDS = 13
_STOP_WORDS = """
a an and are as at be by for from has he in is it its of on that the to was were will with what which who when where
why how this these those or if then else not
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)?")


def lowered(text: str) -> str:
    """Return the text in NFKC and lower case, in which words are looked for."""
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()


def content_words(text: str) -> list[str]:
    """Return the words of a text in normal form.

    Example:
        ```python
        >>> content_words("What is the cat's ＮＡＭＥ?")
        ["cat's", 'name']

        ```
    """
    return [word for word in _WORD.findall(lowered(text)) if word not in STOP_WORDS]


def gram_hash(gram: str) -> int:
    """Return the hash of one n-gram: 64 bits of blake2b, little endian."""
    return int.from_bytes(hashlib.blake2b(gram.encode("utf-8"), digest_size=8).digest(), "little")


def gram_hashes(text: str) -> NDArray[np.uint64]:
    """Return the hash of each 13-gram of a text, in order and with repeats.

    Args:
        text: Any text; with fewer than 13 words left it has none.

    Returns:
        uint64 [n].

    Example:
        ```python
        >>> len(gram_hashes(" ".join(map(str, range(15)))))
        3

        ```
    """
    return hashes_of(content_words(text))


def hashes_of(words: list[str]) -> NDArray[np.uint64]:
    """Return the hash of each 13-gram of words in normal form: uint64 [max(0, w - 12)]."""
    starts = range(len(words) - NUM_WORDS + 1)
    return np.array([gram_hash(" ".join(words[start : start + NUM_WORDS])) for start in starts], np.uint64)


def windows(text: str) -> list[tuple[str, str]]:
    """Return each 13-gram of a text with the window of the text that it was taken from.

    Args:
        text: The text.

    Returns:
        Pairs of the n-gram and of what stands between its first and its last word, in NFKC and lower case, with stop
        words and punctuation and up to the next word on each side.
    """
    plain = lowered(text)
    found = [match for match in _WORD.finditer(plain) if match.group() not in STOP_WORDS]
    pairs = []
    for start in range(len(found) - NUM_WORDS + 1):
        inside = found[start : start + NUM_WORDS]
        begin = found[start - 1].end() if start else 0
        end = found[start + NUM_WORDS].start() if start + NUM_WORDS < len(found) else len(plain)
        pairs.append((" ".join(match.group() for match in inside), plain[begin:end]))
    return pairs
