"""What a sentence says about a licence that it names: whether it grants it, and for what."""

from __future__ import annotations

import re
from typing import NamedTuple

from hf_mixture.data.curation.licences.finding import Scope
from hf_mixture.data.curation.licences.language import language


_REACH = 320
# Where a clause ends besides the end of a sentence: blank lines, items of lists, lines with a label, a contrast, HTML.
_BREAK = (
    r"\n[\s*#>/]*\n|\n\s*[-•·–]\s|\n(?=\s*[^\n:.]{1,30}:\s)|,\s+(?:but|while|whereas|aber|mais|pero|ma)\s"
    r"|</(?:p|li|td|div|h\d)>"
)
_ABBREVIATION = r"(?<!\bv)(?<!\bver)(?<!\bvs)(?<!\binc)(?<!\bltd)(?<!\bdr)(?<!\bet al)"
_BOUNDARY = re.compile(rf"{_ABBREVIATION}[.!?;][\"')\]]*\s+|{_BREAK}")
_END = re.compile(rf"[.!?;](?=[\"')\]]*(?:\s|$))|{_BREAK}")
_COPYRIGHT_LINE = re.compile(
    r"(?:copyright|©|\(c\))[^\n]{0,60}\b(?:19|20)\d\d\b|\b(?:19|20)\d\d\b[^\n]{0,20}(?:copyright|©)"
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_PLATFORM = re.compile(
    r"^[^a-z]{0,6}(?:via|from|on|at|by|source|quelle|:)?[\s:]*(?:wikimedia|flickr|unsplash|pixabay|soundcloud|freesound|youtube|vimeo|jamendo)"
)
_OR = re.compile(r"(?<![a-z])(?:or|oder|ou|o|u)(?![a-z])|/(?![/\w]*\.)|\|")
_ADVERBS = frozenset(
    [
        "also",
        "hereby",
        "freely",
        "publicly",
        "now",
        "jointly",
        "dual",
        "dually",
        "and",
        "or",
        "is",
        "are",
        "the",
        "be",
        "it",
        "its",
        "to",
        "all",
        "copyright",
        "by",
    ]
)
_MAX_STRANGERS = 8


class Clause(NamedTuple):
    """The clause of a text that a name stands in: from `start` to `end`, `after` is what ends it."""

    start: int
    end: int


def clause_of(text: str, start: int, end: int) -> Clause:
    """Return the clause around a span of folded text."""
    left = max(0, start - _REACH)
    boundary = left
    for match in _BOUNDARY.finditer(text, left, start):
        boundary = match.end()
    right = _END.search(text, end, min(len(text), end + _REACH))
    return Clause(boundary, right.start() if right else min(len(text), end + _REACH))


def joins(between: str) -> str | None:
    """Return how two names are joined by the text between them: "OR", "AND", or None when they are not."""
    if not language().joiner.fullmatch(between) or len(between) > 80:
        return None
    return "OR" if _OR.search(between) else "AND"


class Grant(NamedTuple):
    """What a clause grants: for which scope and with what confidence; 0 when it only names the licence."""

    confidence: float
    scope: Scope


def judge(text: str, clause: Clause, start: int, end: int, *, bare: bool) -> Grant:
    """Judge what a clause says about the licence named at a span of folded text.

    Args:
        text: Folded text.
        clause: The clause around the name, or around the first and last of several.
        start: Position of the (first) name.
        end: Position after the (last) name.
        bare: Whether the name alone could be something else (MIT, Apache), so that the clause must speak of licences.
    """
    rules = language()
    before, after = text[clause.start : start], text[end : clause.end]
    scope = _scope(text, clause, before, after)
    field = rules.field.search(before)
    strong = rules.strong_link.search(before)
    found = field or strong or rules.link.search(before)
    if found is None or _denied(before, after) or text[clause.end : clause.end + 1] == "?":
        return Grant(0.0, scope)
    subject = before[: found.start()]
    if field:
        own = _opens(subject) or rules.self_reference.search(subject) or rules.texts.search(subject)
        return Grant(0.85 if own else 0.0, scope)
    # "con", "by" and the like join more than licences.
    if not strong and bare and not re.search("licen|lizen", before + after):
        return Grant(0.0, scope)
    granted = rules.verb.search(before) or rules.verb.search(after)
    return Grant(0.9 if granted and _is_self(subject) else 0.0, scope)


def _denied(before: str, after: str) -> bool:
    rules = language()
    plain = rules.exemption.sub(" ", rules.harmless.sub(" ", before))
    return bool(rules.negation.search(plain)) or bool(rules.revocation.search(after[:120]))


def _opens(subject: str) -> bool:
    """Whether nothing but verbs and marks stands before the grant on its line."""
    line = subject.rsplit("\n", 1)[-1]
    rules = language()
    return all(word in _ADVERBS for word in _WORD.findall(rules.verb.sub(" ", line)))


def _is_self(subject: str) -> bool:
    """Whether the grant is for the document: its subject is the document, a copyright line of it, or left out."""
    rules = language()
    plain = rules.exemption.sub(" ", rules.harmless.sub(" this ", subject))
    if _opens(plain):
        return True
    if _COPYRIGHT_LINE.search(plain):
        return not rules.detour.search(plain)
    references = list(rules.self_reference.finditer(plain))
    if not references:
        return False
    between = plain[references[0].end() :]
    if rules.detour.search(between) or len(_WORD.findall(between)) > _MAX_STRANGERS:
        return False
    return bool(
        rules.auxiliary.search(between) or rules.auxiliary.search(references[-1].group()) or not _WORD.search(between)
    )


def _scope(text: str, clause: Clause, before: str, after: str) -> Scope:
    rules = language()
    plain = rules.exemption.sub(" ", before)
    if _PLATFORM.search(after):
        return "media"
    if rules.media.search(plain):
        return "text" if rules.texts.search(plain) else "media"
    if rules.texts.search(plain):
        return "text"
    if rules.works.search(plain) and not rules.this_work.search(plain):
        return "work"
    # "Photo by Jane Doe. Licensed under CC BY 4.0." speaks of the photo.
    paragraph = re.split(r"\n[\s*#>/]*\n", text[max(0, clause.start - 160) : clause.start])[-1]
    previous = _BOUNDARY.split(paragraph.rstrip())[-1] if paragraph.strip() else ""
    if rules.media.search(previous) and not rules.texts.search(previous):
        return "media"
    return "text"


def judge_public_domain(text: str, clause: Clause, verb: int, end: int) -> Grant:
    """Judge a clause that says, at a span of folded text, that something is in the public domain."""
    rules = language()
    subject, after = text[clause.start : verb], text[end : clause.end]
    scope = _scope(text, clause, subject, after)
    if _denied(text[clause.start : end], after) or text[clause.end : clause.end + 1] == "?":
        return Grant(0.0, scope)
    plain = rules.exemption.sub(" ", rules.harmless.sub(" this ", subject))
    references = list(rules.self_reference.finditer(plain))
    if not references and _WORD.search(plain):
        return Grant(0.0, scope)
    between = plain[references[0].end() :] if references else ""
    plain_enough = not rules.detour.search(between) and len(_WORD.findall(between)) <= _MAX_STRANGERS
    return Grant(0.9 if plain_enough else 0.0, scope)
