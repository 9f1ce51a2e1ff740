"""What was found about the licence of a document, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


Origin = Literal["header", "text", "url", "card"]
Scope = Literal["text", "media", "work"]
Kind = Literal["tag", "link", "grant", "licence text", "public domain", "mention", "restriction"]


@dataclass(frozen=True)
class Notice:
    """One notice in the text of a document, kept word for word.

    Args:
        kind: "tag" (an SPDX tag), "link" (`rel="license"`), "grant" (a sentence or a field by which the document
            states its licence), "licence text", "public domain", "mention" (a licence that is named and not granted)
            or "restriction".
        start: Position of its first character in the text.
        end: Position after its last character.
        text: The notice itself: attribution that the licence asks to keep.
        spdx: The licence that it names, or None.
        scope: What it speaks of: the "text", "media" such as pictures or music, or another "work" such as the code or
            the data set of a paper.
        restrictive: What it restricts, or None.
    """

    kind: Kind
    start: int
    end: int
    text: str
    spdx: str | None = None
    scope: Scope = "text"
    restrictive: str | None = None


@dataclass(frozen=True)
class LicenceFinding:
    """The licence of one document.

    Args:
        spdx: Normalised SPDX expression, or None when no licence is stated for the text.
        source: Where it was found: "header", "text", "url" or "card"; None without a licence.
        confidence: How sure the reading is, in [0, 1]: a fixed value for each kind of statement, not a probability.
        text_ref: Span of the notice in the text, or None when it stands elsewhere.
        notice: The notice word for word, or None.
        scope: "text"; "media" or "work" when the only licence found belongs to those and not to the text.
        restrictive: Why the text may not be used in spite of a licence ("noncommercial: ..."), or None.
        notices: All notices of the text, in order.
    """

    spdx: str | None = None
    source: Origin | None = None
    confidence: float = 0.0
    text_ref: tuple[int, int] | None = None
    notice: str | None = None
    scope: Scope = "text"
    restrictive: str | None = None
    notices: tuple[Notice, ...] = ()
