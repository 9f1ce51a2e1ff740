"""`find_licences`: everything that is said about the licence of one document, in one finding."""

from __future__ import annotations

from collections.abc import Sequence

from hf_mixture.data.curation.licences.expressions import all_of, normalise_licence
from hf_mixture.data.curation.licences.finding import LicenceFinding, Notice, Origin
from hf_mixture.data.curation.licences.notices import read_notices, restriction_of
from hf_mixture.data.curation.licences.prefilter import may_state_licence


_GRANTING = ("tag", "link", "grant", "licence text", "public domain")
_CONFIDENCE: dict[Origin, float] = {"header": 1.0, "url": 0.8, "card": 0.6}


def find_licences(
    text: str,
    *,
    header: str | None = None,
    card: str | Sequence[str] | None = None,
    url: str | None = None,
) -> LicenceFinding:
    """Find the licence of a document, and what restricts its use.

    The most specific statement counts: the header of the document, then its text, then its address, then the card of
    its data set. Several licences of the same kind are joined with AND, so that each of them has to be acceptable. A
    licence counts when the document grants it for itself ("This article is licensed under ..."), not when it is only
    named, denied, or granted for a picture, a recording or the code of a paper. A restriction counts wherever it
    stands. The idea of parsing licences is that of https://arxiv.org/abs/2509.25531, section 3; the rules are those of
    `rules/licence_names.yaml` and `rules/licence_language.yaml`.

    Args:
        text: The document, whole.
        header: What is delivered with it: an SPDX expression, the `rel="license"` address, or a sentence.
        card: Licence of the data set that it is in, as on its card, or several, all of which apply.
        url: Licence that its address stands for: the address of a licence, or the licence that a `DomainRules` states.

    Returns:
        The finding.

    Raises:
        TypeError: `text` is not a string.

    Example:
        ```python
        >>> finding = find_licences("Some text. This article is licensed under CC BY-SA 4.0.", card="mit")
        >>> finding.spdx, finding.source, finding.notice
        ('CC-BY-SA-4.0', 'text', 'This article is licensed under CC BY-SA 4.0')
        >>> find_licences("Photo: Jane Doe, licensed under CC BY 4.0.").spdx is None
        True
        >>> find_licences("Free text.", card="cc-by-nc-4.0").restrictive
        'noncommercial: card'

        ```
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}; it must be a string: decode bytes first")
    notices = _read_text(text)
    stated: dict[Origin, tuple[str | None, str | None]] = {
        "header": _read_statement(header),
        "url": _read_statement(url),
        "card": _read_statements(card),
    }
    restrictive = _restriction([notice for notice, _ in notices], stated)
    kept = tuple(notice for notice, _ in notices)
    own = [
        (notice, sure)
        for notice, sure in notices
        if notice.kind in _GRANTING and notice.scope == "text" and notice.spdx
    ]
    tagged = [(notice, sure) for notice, sure in own if notice.kind in ("tag", "link")]
    if (spdx := stated["header"][0]) is not None:
        spdx = all_of([spdx, *(notice.spdx or "" for notice, _ in own)])
        return LicenceFinding(spdx, "header", 1.0, restrictive=restrictive, notices=kept)
    if own:
        first, sure = max(tagged or own, key=lambda item: item[1])
        spdx = all_of(notice.spdx or "" for notice, _ in own)
        return LicenceFinding(
            spdx, "header" if tagged else "text", sure, (first.start, first.end), first.text, "text", restrictive, kept
        )
    for origin in ("url", "card"):
        if stated[origin][0] is not None:
            return LicenceFinding(
                stated[origin][0], origin, _CONFIDENCE[origin], restrictive=restrictive, notices=kept
            )
    others = [notice for notice in kept if notice.scope != "text" and notice.spdx]
    if others:
        first = others[0]
        return LicenceFinding(None, None, 0.0, (first.start, first.end), first.text, first.scope, restrictive, kept)
    return LicenceFinding(restrictive=restrictive, notices=kept)


def _read_text(text: str) -> list[tuple[Notice, float]]:
    if not may_state_licence(text):
        return []
    if len(text) < 400 and (spdx := normalise_licence(text.strip())) is not None:
        stripped = text.strip()
        start = text.index(stripped)
        return [(Notice("tag", start, start + len(stripped), stripped, spdx, "text", restriction_of(spdx)), 0.9)]
    return read_notices(text)


def _read_statement(statement: str | None) -> tuple[str | None, str | None]:
    """The licence that a short statement means, and what it restricts."""
    if not statement or not statement.strip():
        return None, None
    if (spdx := normalise_licence(statement)) is not None:
        return spdx, _refusal(spdx)
    notices = [notice for notice, _ in _read_text(statement)]
    own = [notice.spdx for notice in notices if notice.kind in _GRANTING and notice.scope == "text" and notice.spdx]
    restrictive = next(
        (notice.restrictive for notice in notices if notice.restrictive and notice.scope != "media"), None
    )
    return all_of(own), restrictive


def _refusal(spdx: str) -> str | None:
    if spdx == "LicenseRef-all-rights-reserved":
        return "all rights reserved"
    return None if " OR " in spdx else restriction_of(spdx)


def _read_statements(card: str | Sequence[str] | None) -> tuple[str | None, str | None]:
    cards = [card] if isinstance(card, str) else list(card or ())
    read = [_read_statement(statement) for statement in cards]
    licences = [spdx for spdx, _ in read if spdx is not None]
    # A card with one licence that nobody understands grants nothing.
    spdx = all_of(licences) if len(licences) == len(cards) else None
    return spdx, next((reason for _, reason in read if reason), None)


def _restriction(notices: list[Notice], stated: dict[Origin, tuple[str | None, str | None]]) -> str | None:
    for notice in notices:
        # What is forbidden for a data set or a program may be forbidden for this text; what is for a picture is not.
        if notice.restrictive and notice.scope != "media":
            return f"{notice.restrictive}: {' '.join(notice.text.split())[:200]}"
    for origin, (_, reason) in stated.items():
        if reason:
            return f"{reason}: {origin}"
    return None
