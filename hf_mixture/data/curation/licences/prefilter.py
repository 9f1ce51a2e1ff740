"""The test that most documents end at: no word of any licence, nothing to read."""

from __future__ import annotations

import re
from functools import cache

from hf_mixture.data.curation.licences.fold import fold
from hf_mixture.data.curation.rules.files import read_rules


# Characters that folding drops or turns into plain letters; a text with one is folded before words are looked for.
_DROPPED = re.compile(
    "[\u00ad\u0300-\u036f\u200b-\u200f\u2060\u2100-\u214f\u24b6-\u24e9\ufb00-\ufb06\ufeff\uff21-\uff5a\U0001d400-\U0001d7ff]"
)


@cache
def _anchors() -> tuple[tuple[str, ...], tuple[str, ...], tuple[re.Pattern[str], ...]]:
    rules = read_rules("licence_language")
    anchors = rules["anchors"]
    plain = tuple(anchor for anchor in anchors if anchor.isascii())
    patterns = rules["anchor_patterns"]
    return plain, tuple(anchor for anchor in anchors if not anchor.isascii()), tuple(map(re.compile, patterns))


def may_state_licence(text: str) -> bool:
    """Return whether a text has any word of a licence, a reservation or a restriction.

    Args:
        text: The document.

    Example:
        ```python
        >>> may_state_licence("Dieser Text steht unter der Lizenz CC BY-SA 4.0.")
        True
        >>> may_state_licence("A walk along the river, and what grew there.")
        False

        ```
    """
    lower = text.lower()
    plain, others, patterns = _anchors()
    if not text.isascii():
        if _DROPPED.search(lower):
            lower = fold(text).text
            others = tuple(fold(anchor).text for anchor in others)
        if any(anchor in lower for anchor in others):
            return True
    return any(anchor in lower for anchor in plain) or any(pattern.search(lower) for pattern in patterns)
