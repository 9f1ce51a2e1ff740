"""Names of licences in folded text: which licence a name means, without judging what the sentence says about it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from hf_mixture.data.curation.licences import creative_commons, gnu
from hf_mixture.data.curation.rules.files import read_rules


_WORD = re.compile(r"[a-z0-9]+")
# What may follow a name directly: "MIT-licensed" and "MIT/Apache-2.0", but not "mit.edu", "MIT-style" or "MIT's".
_FOLLOWS = re.compile(
    r"(?![a-z0-9])(?![-_@+](?!li[cz]en)[a-z0-9])(?!\.[a-z0-9])(?!'[a-z])(?!/(?!(?:apache|bsd|mit|[al]?gpl|x11|isc|unlicense|cc)))"
)
_PRECEDES = re.compile(r"(?:[a-z0-9][-_]|[@.])$")


class Name(NamedTuple):
    """A name of a licence in folded text.

    Args:
        start: Position of its first character.
        end: Position after its last character.
        spdx: The licence, or None for a name that is not understood to the end.
        is_url: Whether it is an address.
    """

    start: int
    end: int
    spdx: str | None
    is_url: bool = False


@cache
def _tables() -> tuple[dict[str, list[tuple[re.Pattern[str], str]]], dict[str, list[tuple[re.Pattern[str], str]]]]:
    """Patterns of names and of addresses by their first word."""
    rules = read_rules("licence_names")
    names, urls = defaultdict(list), defaultdict(list)
    for rule in rules["names"]:
        for word in rule["first"]:
            names[word].append((re.compile(rule["pattern"]), rule["spdx"]))
    for rule in rules["urls"]:
        urls[rule["pattern"].partition("\\")[0]].append(
            (re.compile(rule["pattern"] + r"(?![a-z0-9])(?!\.[a-z0-9])"), rule["spdx"])
        )
    return dict(names), dict(urls)


def find_names(text: str) -> Iterator[Name]:
    """Yield the names of licences in folded text, from left to right, none inside another."""
    position, first = 0, _first_words()
    for word in _WORD.finditer(text):
        if word.group() not in first or word.start() < position:
            continue
        if (name := name_at(text, word.start(), word.group())) is not None:
            position = name.end
            yield name


@cache
def _first_words() -> frozenset[str]:
    """The words that names and addresses start with."""
    names, urls = _tables()
    return frozenset({*names, *urls, *creative_commons.FIRST, *gnu.FIRST})


def name_at(text: str, start: int, word: str) -> Name | None:
    """Return the longest name that starts with this word of folded text, or None."""
    names, urls = _tables()
    if (word in urls or word == "creativecommons") and (name := _url_at(text, start, word)) is not None:
        return name
    if _PRECEDES.search(text, max(0, start - 2), start):
        return None
    if word in creative_commons.FIRST:
        found = creative_commons.read(text, start)
        if found is not None:
            return Name(start, *found)
    candidates = [
        Name(start, match.end(), spdx)
        for pattern, spdx in names.get(word, ())
        if (match := pattern.match(text, start)) and _FOLLOWS.match(text, match.end())
    ]
    if word in gnu.FIRST and (found := gnu.read(text, start)) and _FOLLOWS.match(text, found[0]):
        candidates.append(Name(start, *found))
    return max(candidates, key=lambda name: name.end, default=None)


def _url_at(text: str, start: int, word: str) -> Name | None:
    before = text[max(0, start - 4) : start]
    if before[-1:] in ("/", ".", "-", "@", "_") and not before.endswith(("//", "www.")):
        return None
    if word == "creativecommons":
        found = creative_commons.read_url(text, start)
        return Name(start, *found, is_url=True) if found else None
    candidates = [
        Name(start, match.end(), spdx, is_url=True)
        for pattern, spdx in _tables()[1][word]
        if (match := pattern.match(text, start))
    ]
    return max(candidates, key=lambda name: name.end, default=None)
