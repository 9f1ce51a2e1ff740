"""Train, validation and test by a hash of a name: the same in every process, in any order of the rows."""

from __future__ import annotations

import hashlib


SPLITS = ("train", "validation", "test")


def split_of(key: str, held_out: float) -> str:
    """Return the split of the row or file named `key`.

    Args:
        key: A stable name, such as a path, or the text itself.
        held_out: Share of "validation", and of "test", in (0, 0.5).

    Returns:
        "train", "validation" or "test".

    Example:
        ```python
        >>> from collections import Counter
        >>> sorted(Counter(split_of(str(i), 0.1) for i in range(1000)).items())
        [('test', 109), ('train', 795), ('validation', 96)]

        ```
    """
    digest = hashlib.sha256(b"split:" + key.encode("utf-8", "surrogatepass")).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    if point < held_out:
        return "validation"
    return "test" if point < 2 * held_out else "train"
