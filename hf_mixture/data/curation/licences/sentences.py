"""What a sentence says about a licence that it names: whether it grants it, and for what."""

from __future__ import annotations

import re
from typing import NamedTuple

from hf_mixture.data.curation.licences.finding import Scope
from hf_mixture.data.curation.licences.language import language


_REACH = 320
# Where a clause ends besides the end of a sentence: blank lines, items of lists, lines with a label, a contrast, HTML.
_BREAK = (
    r"\n[\s*#>/]*\n|\n\s*[-•·–]\s|\n(?=\s*[^\n:.]{1,30}:\s|\s*(?!https?:)[\"\'\w-]{1,30}\s*[:=])|,\s+(?:but|while|whereas|aber|mais|pero|ma)\s"
    r"|</(?:p|li|td|div|h\d)>"
)
# "v. 2.0" and "Inc. and others" end no sentence. The characters come first and what stands before them is checked
# after, because an expression that begins with plain characters is found many times faster.
_ABBREVIATION = "".join(rf"(?<!\b{short}\.)" for short in ("v", "ver", "vs", "inc", "ltd", "dr", "et al"))
_BOUNDARY = re.compile(rf"[.!?;]{_ABBREVIATION}[\"')\]]*\s+|{_BREAK}")
_END = re.compile(rf"[.!?;](?=[\"')\]]*(?:\s|$))|{_BREAK}")
_SENTENCE_END = re.compile(r"[.!?;](?=[\"')\]]*(?:\s|$))|\n[\s*#>/]*\n")
# What may follow "MIT", which is also a university, when it names a licence.
_AFTER_SHORT = re.compile(
    r"[\s-]*li[cz]en|\s*[.,;:!)\]}\"'<|*]|\s*$|\s*\n[\s*#>/]*\n"
    r"|\s+(?:\(|as|for|see|which|available|veroffentlicht|bereitgestellt|verfugbar)"
)
# "The pictures on this page": the page is only where they are.
_PLACE = re.compile(
    r"(?<![a-z])(?:on|of|in|from|at|within|auf|von|aus|im|des|der|sur|dans|de|du|en|del|su|nel|nella|sul|sulla|di)(?![a-z])"
)
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
_COPULA = re.compile(r"\b(?:is|are|ist|sind|est|sont|es|son|sono)\b")
_MAX_STRANGERS = 8
_SHORT = 6
# Names that are licences and nothing else.
_CLEAR = re.compile(r"licen|lizen|(?<![a-z])cc(?![a-z])|cc0|ccby|creative|gpl|gfdl|odbl|public.domain")


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


def judge(text: str, clause: Clause, start: int, end: int) -> Grant:
    """Judge what a clause says about the licence named at a span of folded text.

    Args:
        text: Folded text.
        clause: The clause around the name, or around the first and last of several.
        start: Position of the (first) name.
        end: Position after the (last) name.
    """
    rules = language()
    before, after = text[clause.start : start], text[end : clause.end]
    scope = _scope(text, clause, before, after)
    field = rules.field.search(before)
    strong = rules.strong_link.search(before)
    found = field or strong or rules.link.search(before)
    if found is None or _denied(before, _rest(text, end)) or text[clause.end : clause.end + 1] == "?":
        return Grant(0.0, scope)
    subject = before[: found.start()]
    clear = _CLEAR.search(text[start:end])
    if not clear and end - start <= _SHORT and not _AFTER_SHORT.match(after):
        return Grant(0.0, scope)
    if field:
        # A key of JSON, TOML or the like opens what stands after the comma.
        subject = re.split(r"[,{]", subject)[-1] if subject.endswith(('"', "'")) else subject
        own = _opens(subject) or rules.self_reference.search(subject) or rules.texts.search(subject)
        return Grant(0.85 if own else 0.0, scope)
    # "con", "by" and the like join more than licences.
    if not strong and not clear and not re.search("licen|lizen", before + after):
        return Grant(0.0, scope)
    granted = rules.verb.search(before) or rules.verb.search(after)
    return Grant(0.9 if granted and _is_self(subject) else 0.0, scope)


def _rest(text: str, end: int) -> str:
    """What follows a position in its sentence."""
    stop = _SENTENCE_END.search(text, end, end + 120)
    return text[end : stop.start() if stop else end + 120]


def linked(text: str, clause: Clause, start: int) -> bool:
    """Return whether a word such as "under" makes the name at a position of folded text the object of a grant."""
    return language().strong_link.search(text[clause.start : start]) is not None


def scope_of(text: str, clause: Clause, start: int, end: int) -> Scope:
    """Return what the clause around a span of folded text speaks of."""
    return _scope(text, clause, text[clause.start : start], text[end : clause.end])


def _denied(before: str, rest: str) -> bool:
    rules = language()
    plain = rules.exemption.sub(" ", rules.harmless.sub(" ", before))
    return bool(rules.negation.search(plain)) or bool(rules.revocation.search(rest))


def _opens(subject: str) -> bool:
    """Whether nothing but verbs and marks stands before the grant in its clause, wherever its lines break."""
    return all(word in _ADVERBS for word in _WORD.findall(language().verb.sub(" ", subject)))


def _is_self(subject: str) -> bool:
    """Whether the grant is for the document: its subject is the document, a copyright line of it, or left out."""
    rules = language()
    plain = rules.exemption.sub(" ", rules.harmless.sub(" ", subject))
    if _opens(plain):
        return True
    if _COPYRIGHT_LINE.search(plain):
        return not rules.detour.search(plain)
    between = _predicate(plain)
    if between is None:
        return False
    # German puts the verb before its subject: "stehen die Inhalte dieser Seite unter ...".
    return bool(rules.auxiliary.search(plain)) or not _WORD.search(between)


def _predicate(subject: str) -> str | None:
    """What a subject that is the document leaves before the grant; None when it is something else."""
    rules = language()
    reference = rules.opening.match(subject) or rules.self_reference.search(subject)
    if reference is None:
        return None
    before = _WORD.findall(rules.media.sub(" ", rules.verb.sub(" ", subject[: reference.start()])))
    between = subject[reference.end() :]
    if not all(word in rules.wholes for word in before):
        return None
    # With a second verb another subject begins: "This is a page that ...", "This is how a page is licensed ...".
    strays = rules.detour.search(between) or len(_COPULA.findall(between)) > 1
    return None if strays or len(_WORD.findall(between)) > _MAX_STRANGERS else between


def _scope(text: str, clause: Clause, before: str, after: str) -> Scope:
    rules = language()
    plain = rules.exemption.sub(" ", before)
    if _PLATFORM.search(after):
        return "media"
    if rules.parts.search(plain):
        return "work"
    nouns = list(rules.texts.finditer(plain))
    if media := rules.media.search(plain):
        return "text" if any(_beside(plain, media, noun) for noun in nouns) else "media"
    if not nouns and rules.works.search(plain) and not rules.this_work.search(plain):
        return "work"
    return "media" if not nouns and _follows_media(text, clause.start) else "text"


def _follows_media(text: str, start: int) -> bool:
    """Whether the sentence before is of media: "Photo by Jane Doe. Licensed under CC BY 4.0." speaks of the photo."""
    rules = language()
    paragraph = re.split(r"\n[\s*#>/]*\n", text[max(0, start - 160) : start])[-1]
    previous = _BOUNDARY.split(paragraph.rstrip())[-1] if paragraph.strip() else ""
    return bool(rules.media.search(previous)) and not rules.texts.search(previous)


def _beside(clause: str, media: re.Match[str], noun: re.Match[str]) -> bool:
    """Whether a clause speaks of its text as well as of media, and not of media in a text or of the text of media."""
    first, second = sorted((media, noun), key=lambda match: match.start())
    return not _PLACE.search(clause[first.end() : second.start()])


def judge_public_domain(text: str, clause: Clause, verb: int, end: int) -> Grant:
    """Judge a clause that says, at a span of folded text, that something is in the public domain."""
    rules = language()
    subject, after = text[clause.start : verb], text[end : clause.end]
    scope = _scope(text, clause, text[clause.start : end], after)
    if _denied(text[clause.start : end], _rest(text, end)) or text[clause.end : clause.end + 1] == "?":
        return Grant(0.0, scope)
    plain = rules.exemption.sub(" ", rules.harmless.sub(" ", subject))
    named = rules.self_reference.search(text[verb:end]) or not _WORD.search(plain)
    return Grant(0.9 if named or _predicate(plain) is not None else 0.0, scope)
