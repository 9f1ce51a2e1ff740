"""Safety: shares of flagged words at the head of a document, and marks of spam.

The rules and thresholds are those of MixtureVitae (arXiv 2509.25531, curation script): the first 1000 characters are
looked at, and a document goes when the flagged words pass a share alone, or a smaller one together with banned or
hateful words. The word lists are this package's: the published script does not ship all of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from hf_mixture.data.curation.schema import Count, Number, Share
from hf_mixture.data.curation.stage import Outcome, Row


RATIOS = ("flagged", "banned", "hate")
LISTS = (*RATIOS, "spam", "pharma", "dating")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class SafetyOptions:
    """Options of the stage `safety`.

    Args:
        num_chars: Characters at the head of the document that are looked at. Default: 1000.
        max_flagged: Largest share of flagged words. Default: 0.2.
        max_flagged_encyclopedic: The same for the sources named below. Default: 0.25.
        encyclopedic: Sources that write about everything, such as Wikipedia. Default: none.
        max_hate: Largest share of hateful words. Default: 0.1.
        max_joint: Share above which flagged words together with banned or hateful ones reject. Default: 0.05.
        max_spam: Largest number of spam phrases; with words of pharmacy or dating, none is allowed. Default: 3.
        lists: Text files, one word or phrase a line, that replace the shipped list of that name: `flagged`, `banned`,
            `hate`, `spam`, `pharma` or `dating`. No hateful words are shipped.
    """

    num_chars: Count = 1000
    max_flagged: Share = 0.2
    max_flagged_encyclopedic: Share = 0.25
    encyclopedic: list[str] = field(default_factory=list)
    max_hate: Share = 0.1
    max_joint: Share = 0.05
    max_spam: Number = 3
    lists: dict[str, str] = field(default_factory=dict)


class Safety:
    """Rejects documents with too many flagged words, or with spam.

    Args:
        options: The thresholds and lists.
    """

    name = "safety"

    def __init__(self, options: SafetyOptions) -> None:
        self._options = options
        lists = word_lists(options.lists)
        self._words = {name: frozenset(lists[name]) for name in (*RATIOS, "pharma", "dating")}
        phrases = sorted(lists["spam"], key=len, reverse=True)
        self._spam = re.compile(rf"\b(?:{'|'.join(map(re.escape, phrases))})\b") if phrases else None

    def __call__(self, row: Row) -> Outcome:
        """Add nothing; reject by the first rule that a document breaks."""
        head = row["text"][: self._options.num_chars].lower()
        words = _WORD.findall(head)
        if not words:
            return {}, None
        share = {name: _share(words, self._words[name]) for name in RATIOS}
        return {}, self._reason(share, head, words, row["source"])

    def _reason(self, share: Mapping[str, float], head: str, words: list[str], source: str) -> str | None:
        options = self._options
        most = options.max_flagged_encyclopedic if source in options.encyclopedic else options.max_flagged
        joint = share["flagged"] > options.max_joint
        if share["flagged"] > most:
            return "flagged_words"
        if joint and share["banned"] > options.max_joint:
            return "banned_words"
        if share["hate"] > options.max_hate or (joint and share["hate"] > options.max_joint):
            return "hate_words"
        if self._spam is not None:
            found = len(self._spam.findall(head))
            selling = found and any(word in self._words["pharma"] or word in self._words["dating"] for word in words)
            if found > options.max_spam or selling:
                return "spam"
        return None


def _share(words: list[str], group: frozenset[str]) -> float:
    """The share of words of a group."""
    # Most documents have none, which is found sooner than a count.
    return 0.0 if group.isdisjoint(words) else sum(map(group.__contains__, words)) / len(words)


def word_lists(replaced: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the words and phrases by list, lower case.

    Args:
        replaced: Files, one entry a line, in the place of shipped lists.

    Returns:
        The lists.

    Raises:
        ValueError: A list has an unknown name, or its file cannot be read.
    """
    lists = dict(_shipped())
    for name, path in replaced.items():
        if name not in LISTS:
            raise ValueError(f"stages.safety.lists has {name!r}; the lists are {', '.join(LISTS)}")
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"stages.safety.lists.{name}={path!r} cannot be read as UTF-8 text: {error}") from None
        lists[name] = tuple(line.strip().lower() for line in lines if line.strip())
    return lists


@cache
def _shipped() -> dict[str, tuple[str, ...]]:
    text = resources.files(__package__).joinpath("safety_terms.json").read_text(encoding="utf-8")
    return {name: tuple(terms) for name, terms in json.loads(text)["lists"].items()}
