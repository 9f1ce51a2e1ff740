"""What a claim is: a figure in a sentence or a hand-made table of a document, and the result that it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple


NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+")
Result = dict[str, Any]


class Claim(NamedTuple):
    """A piece of text with `{}` for each figure.

    Attributes:
        document: Path of the document.
        result: Name of the file in `results/`.
        text: The text, with one space where the document may break the line. It occurs once in the document.
        figures: The figures, formatted, from the content of the file.
    """

    document: str
    result: str
    text: str
    figures: Callable[[Result], list[str]]


def rounded(form: str, *values: float) -> list[str]:
    return [format(value, form) for value in values]


def system(result: Result, name: str, key: str = "system", **others: Any) -> Result:
    """The row of a system."""
    wanted = {key: name, **others}
    return next(row for row in result["rows"] if all(row[field] == value for field, value in wanted.items()))


def correct(claims: Iterable[Claim], document: str, text: str, results: Path) -> str:
    """Return the text of a document with the figures of all its claims as their results have them.

    Args:
        claims: All claims.
        document: Path of the document.
        text: Its text.
        results: Folder of the results.

    Returns:
        The text; unchanged where all figures are right.

    Raises:
        ValueError: The document lacks a claimed text, or has it twice, or a claim has too few figures.
    """
    for claim in claims:
        if claim.document != document:
            continue
        figures = claim.figures(json.loads((results / f"{claim.result}.json").read_text(encoding="utf-8")))
        # Lines break where they like.
        words = [re.escape(part).replace(r"\ ", r"\s+") for part in claim.text.split("{}")]
        found = list(re.finditer(f"({NUMBER.pattern})".join(f"{part}" for part in words), text))
        if len(found) != 1 or len(figures) != len(words) - 1:
            raise ValueError(
                f"{document} has {len(found)} times the text {claim.text!r} with {len(figures)} figures; correct "
                "benchmarks/claims.py where the text has changed"
            )
        for number in range(len(figures), 0, -1):
            start, end = found[0].span(number)
            text = text[:start] + figures[number - 1] + text[end:]
    return text
