"""All notices of licences, reservations and restrictions in a text, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from hf_mixture.data.curation.licences.expressions import is_version_of, normalise_licence, simplify
from hf_mixture.data.curation.licences.finding import Kind, Notice, Scope
from hf_mixture.data.curation.licences.fold import Folded, fold
from hf_mixture.data.curation.licences.language import folded_pattern, language
from hf_mixture.data.curation.licences.names import Name, find_names
from hf_mixture.data.curation.licences.sentences import (
    Clause,
    clause_of,
    joins,
    judge,
    judge_public_domain,
    linked,
    scope_of,
)
from hf_mixture.data.curation.rules.files import read_rules


PUBLIC_DOMAIN = "LicenseRef-scancode-public-domain"
US_GOVERNMENT = "LicenseRef-scancode-us-govt-public-domain"
_TAG = re.compile(r"spdx-license-identifier\s*:\s*([a-z0-9.+() -]{1,300})")
_LINK = re.compile(r"<(?:a|link)\s[^>]{0,400}>")
_REL = re.compile(r"rel\s*=\s*[\"']?[^\"'>]*\blicense\b")
_HREF = re.compile(r"href\s*=\s*[\"']?([^\"'\s>]+)")
# After the opening words of a licence the rest of it follows within this many characters.
_TEXT_REACH = 2500
# BSD and others open with "All rights reserved." and then grant them.
_GRANT_REACH = 400
_RESTRICTED = re.compile(r"-(NC|ND)(?=-|$)")


class Found(NamedTuple):
    """A notice in folded text, with how sure the reading is."""

    kind: Kind
    start: int
    end: int
    spdx: str | None
    scope: Scope = "text"
    restrictive: str | None = None
    confidence: float = 0.0


def restriction_of(spdx: str | None) -> str | None:
    """Return what a Creative Commons licence forbids by its name, or None."""
    match = _RESTRICTED.search(spdx) if spdx and "CC-" in spdx else None
    if match is None:
        return None
    return "noncommercial" if match[1] == "NC" else "no derivatives"


def read_notices(text: str) -> list[tuple[Notice, float]]:
    """Return the notices of a text in order, each with its confidence."""
    folded = fold(text)
    found = [*_tags(folded), *_links(folded), *_texts(folded), *_public_domain(folded), *_grants(folded)]
    found += _restrictions(folded, [item for item in found if item.kind in ("licence text", "tag")])
    out = []
    for item in sorted(found, key=lambda item: (item.start, item.end)):
        start, end = folded.original(item.start, item.end)
        notice = Notice(item.kind, start, end, text[start:end], item.spdx, item.scope, item.restrictive)
        out.append((notice, item.confidence))
    return out


def _tags(folded: Folded) -> Iterator[Found]:
    for match in _TAG.finditer(folded.text):
        expression = match[1].strip(" -")
        if expression.count(")") > expression.count("("):
            expression = expression.rstrip(")")
        spdx = normalise_licence(expression)
        end = match.start(1) + len(match[1].rstrip())
        yield Found("tag", match.start(), end, spdx, restrictive=restriction_of(spdx), confidence=1.0 if spdx else 0.0)


def _links(folded: Folded) -> Iterator[Found]:
    if "license" not in folded.text or "<" not in folded.text:
        return
    for match in _LINK.finditer(folded.text):
        href = _HREF.search(match.group())
        if href and _REL.search(match.group()):
            spdx = normalise_licence(href[1])
            clause = clause_of(folded.text, *match.span())
            scope = scope_of(folded.text, clause, *match.span())
            yield Found("link", *match.span(), spdx, scope, restriction_of(spdx), 0.95 if spdx else 0.0)


@cache
def _text_rules() -> list[tuple[str, re.Pattern[str], re.Pattern[str] | None, re.Pattern[str] | None]]:
    def optional(rule: dict[str, str], key: str) -> re.Pattern[str] | None:
        return re.compile(folded_pattern(rule[key])) if key in rule else None

    return [
        (
            rule["spdx"],
            re.compile(folded_pattern(rule["opening"])),
            optional(rule, "followed_by"),
            optional(rule, "not_followed_by"),
        )
        for rule in read_rules("licence_names")["texts"]
    ]


def _texts(folded: Folded) -> Iterator[Found]:
    for spdx, opening, needed, excluded in _text_rules():
        for match in opening.finditer(folded.text):
            rest = folded.text[match.end() : match.end() + _TEXT_REACH]
            if (needed is None or needed.search(rest)) and (excluded is None or not excluded.search(rest)):
                yield Found("licence text", *match.span(), spdx, confidence=0.95)


def _public_domain(folded: Folded) -> Iterator[Found]:
    rules = language()
    statements = (
        (("domain", "gemeinfrei", "dominio"), rules.public_domain, PUBLIC_DOMAIN),
        (("government",), rules.us_government, US_GOVERNMENT),
    )
    for anchors, pattern, spdx in statements:
        if not any(anchor in folded.text for anchor in anchors):
            continue
        for match in pattern.finditer(folded.text):
            clause = clause_of(folded.text, *match.span())
            grant = judge_public_domain(folded.text, clause, *match.span())
            kind: Kind = "public domain" if grant.confidence else "mention"
            yield Found(kind, clause.start, clause.end, spdx, grant.scope, confidence=grant.confidence)


def _grants(folded: Folded) -> Iterator[Found]:
    text = folded.text
    names = list(find_names(text))
    position, granted = 0, None
    while position < len(names):
        group, operators = [names[position]], []
        clause = clause_of(text, group[0].start, group[0].end)
        while position + len(group) < len(names):
            following = names[position + len(group)]
            operator = joins(text[group[-1].end : following.start])
            if operator is None:
                break
            group.append(following)
            operators.append(operator)
        position += len(group)
        item = _judge_group(text, group, operators, clause)
        # "This site is under CC BY 4.0 and its code under the GPL": what a grant goes on to name is granted with it.
        if (
            item.kind == "mention"
            and granted is not None
            and clause.start <= granted.start
            and linked(text, clause, group[0].start)
        ):
            item = item._replace(kind="grant", confidence=granted.confidence, scope=granted.scope)
        granted = item if item.kind == "grant" else granted
        yield item


def _judge_group(text: str, group: list[Name], operators: list[str], first: Clause) -> Found:
    """The notice of names that a text joins."""
    last = clause_of(text, group[-1].start, group[-1].end)
    clause = Clause(first.start, max(first.end, last.end))
    grant = judge(text, clause, group[0].start, group[-1].end)
    spdx = combine(group, operators)
    granted = grant.confidence > 0 and spdx is not None
    restrictive = next((reason for name in group if (reason := restriction_of(name.spdx))), None)
    if "OR" in operators:
        restrictive = None
    return Found(
        "grant" if granted else "mention",
        clause.start,
        clause.end,
        spdx,
        grant.scope,
        restrictive,
        grant.confidence if granted else 0.0,
    )


def combine(group: list[Name], operators: list[str]) -> str | None:
    """Return the expression of names that are joined; an address after a name says the name more exactly."""
    parts: list[str] = []
    for index, name in enumerate(group):
        if name.spdx is None:
            return None
        if index and name.is_url and not group[index - 1].is_url and _same(group[index - 1].spdx, name.spdx):
            parts[-1] = name.spdx
            continue
        if index:
            parts.append(operators[index - 1])
        parts.append(name.spdx)
    return simplify(" ".join(parts))


def _same(loose: str | None, exact: str) -> bool:
    """Whether an address states the licence that a name leaves open: the version, or all of it."""
    if loose in (exact, "LicenseRef-CC-unstated") or loose is None:
        return True
    return is_version_of(exact, loose)


def _restrictions(folded: Folded, grants: list[Found]) -> Iterator[Found]:
    text = folded.text
    for rule in language().restrictions:
        if not any(anchor.search(text) for anchor in rule.anchors):
            continue
        for match in rule.patterns.finditer(text):
            if rule.unless_before and rule.unless_before.search(text[max(0, match.start() - 40) : match.start()]):
                continue
            if rule.unless_after and rule.unless_after.search(text[match.end() : match.end() + 40]):
                continue
            if rule.reason == "all rights reserved" and any(
                -10 <= grant.start - match.end() <= _GRANT_REACH for grant in grants
            ):
                continue
            clause = clause_of(text, *match.span())
            scope = scope_of(text, clause, *match.span())
            yield Found("restriction", *match.span(), None, scope, rule.reason)
