"""Folding: one spelling for letters, dashes and blanks, with the way back to the positions of the original text.

Folded text is lower case and has no accents, every dash is "-", every blank but the line break is " ", quotation marks
are straight, and characters that nobody sees (soft hyphen, zero-width space, direction marks) are gone. Blanks in a
row are one, and so are those around line breaks: one break stays one, and more are an empty line. Without that, a rule
that allows for some blanks between two words misses what stands further apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple


_SPECIAL = {
    "ß": "ss", "ẞ": "ss", "ł": "l", "Ł": "l", "ø": "o", "Ø": "o", "œ": "oe", "Œ": "oe", "æ": "ae", "Æ": "ae",
    "đ": "d", "Đ": "d", "ı": "i", "−": "-",
    "‘": "'", "’": "'", "‚": "'", "´": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "\n": "\n", "\u2028": "\n", "\u2029": "\n", "\x85": "\n", "\x0b": "\n", "\x0c": "\n", "\r": " ",
}  # fmt: skip
# Categories of characters that leave no trace: marks on letters, and format characters.
_DROPPED = {"Mn", "Me", "Cf"}


class _Table(dict[int, str]):
    """Folded form of each character, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in _SPECIAL:
            value = _SPECIAL[char]
        elif unicodedata.category(char) == "Pd":
            value = "-"
        elif char.isspace():
            value = " "
        else:
            parts = unicodedata.normalize("NFKD", char).lower()
            value = "".join(part for part in parts if unicodedata.category(part) not in _DROPPED)
        self[code] = value
        return value


_TABLE = _Table()
_RUN = re.compile(r" *\n[ \n]+| +\n|  +")
_ASCII_BLANKS = str.maketrans(
    {"\r": " ", "\t": " ", "\x0b": "\n", "\x0c": "\n", **{chr(c): " " for c in range(28, 32)}}
)


class Folded(NamedTuple):
    """Folded text.

    Args:
        text: The folded text.
        offsets: For each of its characters the position in the original, and the length of the original at the end;
            None where positions are equal.
    """

    text: str
    offsets: Sequence[int] | None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original text that a span of the folded text stands for."""
        return (start, end) if self.offsets is None else (self.offsets[start], self.offsets[end])


def fold(text: str) -> Folded:
    """Return the folded text, with the positions of its characters in the original."""
    return _joined(_spelled(text))


def _joined(folded: Folded) -> Folded:
    """Make blanks in a row one."""
    text, parts, places, last = folded.text, [], [], 0
    for run in _RUN.finditer(text):
        start, end = run.span()
        num_breaks = run[0].count("\n")
        parts += [text[last:start], "\n" * min(num_breaks, 2) or " "]
        places += [*range(last, start), start, *([end - 1] if num_breaks > 1 else [])]
        last = end
    if not parts:
        return folded
    places += range(last, len(text) + 1)
    offsets = places if folded.offsets is None else [folded.offsets[place] for place in places]
    return Folded("".join([*parts, text[last:]]), offsets)


def _spelled(text: str) -> Folded:
    """Give letters, dashes and blanks one spelling."""
    if text.isascii():
        return Folded(text.lower().translate(_ASCII_BLANKS), None)
    if all(len(_TABLE[ord(char)]) == 1 for char in set(text)):
        return Folded(text.translate(_TABLE), None)
    parts, offsets = [], []
    for position, char in enumerate(text):
        part = _TABLE[ord(char)]
        parts.append(part)
        offsets.extend([position] * len(part))
    return Folded("".join(parts), [*offsets, len(text)])
