"""Personal data that patterns can find: addresses of people and machines, and numbers with a check digit.

Names are not looked for: that takes a model, and none is shipped. MixtureVitae itself has no such stage. A line that
gives credit (a copyright notice, an author, a licence) is left as it stands, because its wording belongs to the
licence; what was found there is recorded as kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hf_mixture._extras import require
from hf_mixture.data.curation.schema import Number
from hf_mixture.data.curation.stage import Outcome, Row


_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])")
_DIGITS = re.compile(r"(?<![\w.+/-])\+?\d[\d .()-]{5,24}\d(?![\w/])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_CARD = re.compile(r"[3-6]\d{3}(?:[ -]?\d{3,6}){2,4}")
_SSN = re.compile(r"\d{3}-\d{2}-\d{4}")
_CREDIT = re.compile(
    r"copyright|\(c\)|©|licen[cs]e|spdx|all rights reserved|written by|author|maintain|contribut|attribution", re.I
)


class Span(NamedTuple):
    """One find.

    Args:
        start: First character.
        end: The character after the last one.
        kind: `email`, `ip`, `phone`, `card`, `iban` or `us_ssn`.
    """

    start: int
    end: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class PiiOptions:
    """Options of the stage `pii`.

    Args:
        action: `redact` puts `[EMAIL]` and the like in the place of what is found, `annotate` only records it,
            `reject` rejects documents with more finds than `max_spans`. Default: `redact`.
        max_spans: Finds that a document may have under `reject`. Default: 0.
    """

    action: Literal["redact", "annotate", "reject"] = "redact"
    max_spans: Number = 0


class Pii:
    """Finds personal data by patterns, and redacts it.

    Args:
        options: What to do with what is found.

    Raises:
        ImportError: phonenumbers or python-stdnum is not installed.
    """

    name = "pii"

    def __init__(self, options: PiiOptions) -> None:
        self._options = options
        self._checks = _checks()

    def __call__(self, row: Row) -> Outcome:
        """Add `pii_spans`, positions in the text as it stands afterwards; under `redact` also the new text."""
        text = row["text"]
        spans = list(self.find(text))
        if not spans:
            return {"pii_spans": []}, None
        if self._options.action == "redact":
            notice = row.get("license_text_ref")
            text, spans, moved = redact(text, spans, notice)
            added = {"text": text, "pii_spans": [_entry(span) for span in spans]}
            return added | ({} if notice is None else {"license_text_ref": moved}), None
        reason = "personal_data" if self._options.action == "reject" and len(spans) > self._options.max_spans else None
        return {"pii_spans": [_entry(span) for span in spans]}, reason

    def find(self, text: str) -> Iterator[Span]:
        """Find personal data.

        Args:
            text: The text.

        Yields:
            What was found, in order, without overlaps.
        """
        found = []
        if "@" in text:
            found += [Span(*match.span(), "email") for match in _EMAIL.finditer(text)]
        for match in _DIGITS.finditer(text):
            kind = self._kind(match.group())
            if kind is not None:
                found.append(Span(*match.span(), kind))
        found += [Span(*match.span(), "iban") for match in _IBAN.finditer(text) if self._checks["iban"](match.group())]
        end = 0
        for span in sorted(found):
            if span.start >= end:
                yield span
                end = span.end

    def _kind(self, digits: str) -> str | None:
        if digits[0] == "+":
            return "phone" if self._checks["phone"](digits) else None
        for kind, pattern in (("ip", _ADDRESS), ("us_ssn", _SSN), ("card", _CARD)):
            if pattern.fullmatch(digits) and self._checks[kind](digits):
                return kind
        return None


def redact(
    text: str, spans: Sequence[Span], notice: Sequence[int] | None = None
) -> tuple[str, list[Span], list[int] | None]:
    """Replace what was found, except in the licence notice and on lines that give credit.

    Args:
        text: The text.
        spans: What was found, in order.
        notice: Span of the licence notice in the text.

    Returns:
        The new text; the spans of the placeholders and of what was left; the span of the notice. Positions are those
        in the new text.

    Example:
        ```python
        >>> redact("Ask ann@a.org. MIT", [Span(4, 13, "email")], [15, 18])
        ('Ask [EMAIL]. MIT', [Span(start=4, end=11, kind='email')], [13, 16])

        ```
    """
    parts: list[str] = []
    found: list[Span] = []
    end = length = 0
    first, last = notice if notice is not None else (len(text), 0)
    moved = [first, last]
    for span in spans:
        line = text[text.rfind("\n", 0, span.start) + 1 : _line_end(text, span.end)]
        kept = _CREDIT.search(line) is not None or (span.start < last and first < span.end)
        put = text[span.start : span.end] if kept else f"[{span.kind.upper()}]"
        parts += [text[end : span.start], put]
        start = length + span.start - end
        found.append(Span(start, start + len(put), span.kind))
        end, length = span.end, start + len(put)
        shift = length - end
        moved = [place + shift if end <= place else new for place, new in zip((first, last), moved, strict=True)]
    return "".join([*parts, text[end:]]), found, None if notice is None else moved


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _entry(span: Span) -> dict[str, Any]:
    return span._asdict()


def _checks() -> dict[str, Callable[[str], bool]]:
    extra = {"used_for": "the stage 'pii'", "extra": "curation"}
    phones: Any = require("phonenumbers", **extra)
    luhn: Any = require("stdnum.luhn", **extra)
    iban: Any = require("stdnum.iban", **extra)
    ssn: Any = require("stdnum.us.ssn", **extra)

    def is_phone(digits: str) -> bool:
        try:
            return bool(phones.is_valid_number(phones.parse(digits)))
        except phones.NumberParseException:
            return False

    def is_public(address: str) -> bool:
        try:
            return ipaddress.ip_address(address).is_global
        except ValueError:
            return False

    def is_card(digits: str) -> bool:
        plain = re.sub(r"[ -]", "", digits)
        return 13 <= len(plain) <= 19 and len(set(plain)) > 3 and bool(luhn.is_valid(plain))

    return {
        "phone": is_phone,
        "ip": is_public,
        "card": is_card,
        "iban": lambda number: bool(iban.is_valid(number)),
        "us_ssn": lambda number: bool(ssn.is_valid(number)),
    }
