"""Quality: heuristics of MixtureVitae, and two of Gopher (arXiv 2112.11446) against boilerplate.

datatrove has Gopher's filters, and each needs spaCy to cut words: its rules are repeated here on words between blanks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_mixture.data.curation.schema import Count, Number, Positive, Share
from hf_mixture.data.curation.stage import Outcome, Row


_STOP_WORDS = """
a about after all also an and any are as at be because been before but by can could do each for from had has have he
her his how i if in into is it its may more most my no not of on one or other our out over she should so some such than
that the their them then there these they this those to under up was we were what when where which who will with would
you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_SPECIAL = re.compile(r"[^\w\s]")
_PLAIN = bytes(code for code in range(128) if not _SPECIAL.match(chr(code)))


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """Options of the stage `quality`.

    Args:
        min_chars: Least length of a document, in characters. Default: 100.
        max_special_ratio: Largest share of characters that are neither letters, digits, underscores nor blanks.
            Default: 0.15.
        min_stop_word_ratio: Least share of English stop words among the words of the head; only asked of documents
            whose language is English or unknown. Default: 0.05.
        stop_word_chars: Characters of that head. Default: 500.
        min_word_length: Least mean length of a word, in characters (Gopher). Default: 3.
        max_word_length: Largest mean length of a word, in characters (Gopher). Default: 10.
        max_duplicate_lines: Largest share of lines that repeat an earlier one (Gopher). Default: 0.3.
    """

    min_chars: Number = 100
    max_special_ratio: Share = 0.15
    min_stop_word_ratio: Share = 0.05
    stop_word_chars: Count = 500
    min_word_length: Positive = 3.0
    max_word_length: Positive = 10.0
    max_duplicate_lines: Share = 0.3


class Quality:
    """Rejects documents that do not read like text.

    Args:
        options: The thresholds.
    """

    name = "quality"

    def __init__(self, options: QualityOptions) -> None:
        self._options = options

    def __call__(self, row: Row) -> Outcome:
        """Add nothing; reject by the first rule that a document breaks."""
        options, text = self._options, row["text"]
        if len(text) < options.min_chars:
            return {}, "too_short"
        if special_ratio(text) > options.max_special_ratio:
            return {}, "special_characters"
        words = text.split()
        length = sum(map(len, words)) / max(1, len(words))
        if not options.min_word_length <= length <= options.max_word_length:
            return {}, "word_length"
        if row.get("language") in ("en", None):
            head = text[: options.stop_word_chars].lower().split()
            if sum(map(STOP_WORDS.__contains__, head)) < options.min_stop_word_ratio * len(head):
                return {}, "stop_words"
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if len(lines) - len(set(lines)) > options.max_duplicate_lines * len(lines):
            return {}, "duplicate_lines"
        return {}, None


def special_ratio(text: str) -> float:
    """Return the share of characters that are neither letters, digits, underscores nor blanks.

    Example:
        ```python
        >>> special_ratio("a, b")
        0.25

        ```
    """
    if text.isascii():
        return len(text.encode().translate(None, delete=_PLAIN)) / max(1, len(text))
    return len(_SPECIAL.findall(text)) / max(1, len(text))
