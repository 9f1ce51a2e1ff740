"""xxh3 hashes of texts, with seeds that are fixed: the same in every process and on every machine."""

from __future__ import annotations

import xxhash


_MASK = 2**64 - 1


def hash_64(text: str, seed: int = 0) -> int:
    """Return 64 bits of the UTF-8 form of a text.

    Example:
        ```python
        >>> hash_64("heron")
        15039564747764654765

        ```
    """
    return xxhash.xxh3_64_intdigest(text.encode(), seed)


def hash_128(text: str, seed: int = 0) -> int:
    """Return 128 bits of the UTF-8 form of a text."""
    return xxhash.xxh3_128_intdigest(text.encode(), seed)


def halves(key: int) -> tuple[int, int]:
    """Return the high and the low 64 bits of a key of 128 bits.

    Example:
        ```python
        >>> halves(2**64 + 5)
        (1, 5)

        ```
    """
    return key >> 64, key & _MASK
