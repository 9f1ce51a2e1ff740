"""Texts that a regular expression is written for: one for each alternative of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any


_CLASSES = {
    op.CATEGORY_WORD: "q",
    op.CATEGORY_DIGIT: "2",
    op.CATEGORY_SPACE: " ",
    op.CATEGORY_NOT_WORD: "-",
    op.CATEGORY_NOT_SPACE: "q",
}


def samples(pattern: str, limit: int = 64) -> list[str]:
    """Return texts that the pattern matches, among them one for each branch; optional parts are left out."""
    return list(dict.fromkeys(itertools.islice(_sequence(_parser.parse(pattern)), limit)))


def _sequence(items: Any) -> Iterator[str]:
    choices = [list(_item(*item)) for item in items]
    # Each alternative of each part once, beside the first of the others: their product would be long.
    first = [texts[0] for texts in choices]
    yield "".join(first)
    for index, texts in enumerate(choices):
        for text in texts[1:]:
            yield "".join([*first[:index], text, *first[index + 1 :]])


def _item(kind: Any, value: Any) -> Iterator[str]:
    if kind is op.LITERAL:
        yield chr(value)
    elif kind is op.NOT_LITERAL or kind is op.ANY:
        yield "q"
    elif kind is op.IN:
        yield _member(value)
    elif kind is op.BRANCH:
        for branch in value[1]:
            yield from _sequence(branch)
    elif kind is op.SUBPATTERN:
        yield from _sequence(value[3])
    elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        least, most, body = value
        texts = list(_sequence(body))
        yield from (text * least for text in texts) if least else iter([""])
        if not least and most:
            yield from texts
    elif kind is op.ASSERT and value[0] > 0:
        yield from _sequence(value[1])
    elif kind in (op.ASSERT, op.ASSERT_NOT, op.AT):
        yield ""
    else:
        raise NotImplementedError(kind)


def _member(members: list[tuple[Any, Any]]) -> str:
    if members[0][0] is op.NEGATE:
        return "q"
    kind, value = members[0]
    if kind is op.LITERAL:
        return chr(value)
    return chr(value[0]) if kind is op.RANGE else _CLASSES[value]
