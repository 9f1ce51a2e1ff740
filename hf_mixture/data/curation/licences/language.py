"""The words of licence notices, compiled from `rules/licence_language.yaml` to expressions over folded text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from hf_mixture.data.curation.licences.fold import fold
from hf_mixture.data.curation.rules.files import read_rules


# A blank of a rule: blanks and line breaks, and the marks that comments put at the start of a line.
BLANK = r"(?:(?:\s|[*#>/])+)"


def folded_pattern(pattern: str) -> str:
    """Return a rule's expression for folded text: accents gone, a blank standing for any blanks."""
    out, position, in_class = [], 0, False
    while position < len(pattern):
        char = pattern[position]
        if char == "\\":
            out.append(pattern[position : position + 2])
            position += 2
            continue
        if char in "[]":
            in_class = char == "["
        out.append((r"\s" if in_class else BLANK) if char == " " else fold(char).text)
        position += 1
    return "".join(out)


def alternatives(rules: Mapping[str, Iterable[str]] | Iterable[str]) -> str:
    """Return one expression for all rules of a list, or of the lists of all languages; longer rules first."""
    lists = rules.values() if isinstance(rules, Mapping) else [rules]
    patterns = {folded_pattern(pattern) for patterns in lists for pattern in patterns}
    return "|".join(sorted(patterns, key=lambda pattern: (-len(pattern), pattern)))


def words(rules: Mapping[str, Iterable[str]] | Iterable[str]) -> re.Pattern[str]:
    """Return an expression that finds any of the rules as whole words."""
    return re.compile(rf"(?<![^\W_])(?:{alternatives(rules)})(?![^\W_])")


class Restriction(NamedTuple):
    """A group of phrases that restrict a use.

    Args:
        reason: What they restrict.
        anchors: What a folded text with such a phrase has at least one of; each begins with plain letters.
        patterns: The phrases.
        unless_before: What takes a hit back when it stands before it.
        unless_after: What takes a hit back when it stands after it.
    """

    reason: str
    anchors: tuple[re.Pattern[str], ...]
    patterns: re.Pattern[str]
    unless_before: re.Pattern[str] | None
    unless_after: re.Pattern[str] | None


class Language(NamedTuple):
    """The compiled rules; see the file for what each list means."""

    link: re.Pattern[str]
    strong_link: re.Pattern[str]
    field: re.Pattern[str]
    joiner: re.Pattern[str]
    verb: re.Pattern[str]
    self_reference: re.Pattern[str]
    opening: re.Pattern[str]
    wholes: frozenset[str]
    parts: re.Pattern[str]
    auxiliary: re.Pattern[str]
    detour: re.Pattern[str]
    negation: re.Pattern[str]
    harmless: re.Pattern[str]
    revocation: re.Pattern[str]
    media: re.Pattern[str]
    texts: re.Pattern[str]
    works: re.Pattern[str]
    this_work: re.Pattern[str]
    exemption: re.Pattern[str]
    public_domain: re.Pattern[str]
    us_government: re.Pattern[str]
    restrictions: tuple[Restriction, ...]


@cache
def language() -> Language:
    """Read and compile the rules."""
    rules = read_rules("licence_language")
    filler = rf"(?:[^a-z0-9]+(?:{alternatives(rules['fillers'])}|\d(?:\.\d)?)(?![a-z]))*[^a-z0-9]*$"
    strong = alternatives(rules["links"]["strong"])
    nouns, demonstratives = alternatives(rules["works"]["nouns"]), alternatives(rules["works"]["demonstratives"])
    return Language(
        link=re.compile(rf"(?<![a-z])(?:{alternatives(rules['links'])}){filler}"),
        strong_link=re.compile(rf"(?<![a-z])(?:{strong}){filler}"),
        field=re.compile(rf"(?<![a-z])(?:{alternatives(rules['fields'])})['\"*_]*\s*(?:[:=|]+|\]|</?\w+>){filler}"),
        joiner=re.compile(
            rf"(?:[^a-z0-9.;!?]|(?<![a-z0-9])(?:{alternatives(rules['fillers'])}|or|und|et|y|e|u|see|siehe|its)(?![a-z0-9])"
            r"|https?://|www\.|v(?=ersion)|\.(?=\S))*"
        ),
        verb=words(rules["verbs"]),
        self_reference=words(rules["self"]),
        opening=re.compile(rf"[\W_]*(?:{alternatives(rules['openings'])})(?![^\W_])"),
        wholes=frozenset(fold(word).text for word in rules["wholes"]),
        parts=words(rules["parts"]),
        auxiliary=words(rules["auxiliaries"]),
        detour=words(rules["detours"]),
        negation=words(rules["negations"]),
        harmless=words(rules["harmless"]),
        revocation=words(rules["revocations"]),
        media=words(rules["media"]),
        texts=words(rules["texts"]),
        works=re.compile(rf"(?<![^\W_])(?:{nouns})(?![^\W_])"),
        this_work=re.compile(rf"(?<![^\W_])(?:{demonstratives})(?:{BLANK}[a-z-]+){{0,2}}{BLANK}(?:{nouns})(?![^\W_])"),
        exemption=words(rules["exemptions"]),
        public_domain=words(rules["public_domain"]),
        us_government=words(rules["us_government"]),
        restrictions=tuple(map(_restriction, rules["restrictions"])),
    )


def _restriction(rule: Mapping[str, Any]) -> Restriction:
    def optional(key: str) -> re.Pattern[str] | None:
        return re.compile(folded_pattern(rule[key])) if key in rule else None

    return Restriction(
        reason=rule["reason"],
        anchors=tuple(re.compile(folded_pattern(anchor)) for anchor in rule["anchors"]),
        patterns=re.compile(rf"(?<![a-z])(?:{alternatives(rule['patterns'])})(?![a-z])"),
        unless_before=optional("unless_before"),
        unless_after=optional("unless_after"),
    )
