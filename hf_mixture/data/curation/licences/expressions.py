"""One form for statements of a licence: an SPDX expression over normalised keys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from hf_mixture._extras import require
from hf_mixture.data import spdx
from hf_mixture.data.curation.licences import creative_commons
from hf_mixture.data.curation.licences.fold import fold
from hf_mixture.data.curation.licences.names import Name, name_at
from hf_mixture.data.curation.rules.files import read_rules


MAX_EXPRESSION = 400
_OPERATOR = re.compile(r"\s*(?:\b(AND|OR|WITH)\b|([()]))\s*", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*[/|]\s*")
_LATER = re.compile(
    r"[\s,-]+(?:or|and)[\s-]+(?:\(?at your option\)?[\s,]*)?(?:any[\s-]+)?(?:later|newer)(?:[\s-]+versions?)?\b",
    re.IGNORECASE,
)
_REPEATED = re.compile(r"([^()]+?)\s*\(([^()]+)\)")
_IDENTIFIER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.+-]*[A-Za-z0-9+])?")
_LICENCE_WORD = re.compile(r"^(?:the\s+)|[\s,-]*(?:licen[cs]es?|lizenz|licencia|licenza|licenca|licentie)$")


@lru_cache(maxsize=16384)
def normalise_licence(text: str) -> str | None:
    """Return the normalised SPDX expression that a short statement of a licence means.

    Reads SPDX expressions (https://spdx.github.io/spdx-spec/v3.0.1/annexes/spdx-license-expressions/) in any case,
    identifiers of cards such as `cc-by-4.0`, names such as `Apache License, Version 2.0`, addresses of licences, and
    expressions over these. Deprecated identifiers become current ones, `AND` and `OR` are sorted and simplified. A
    name without the version that SPDX wants becomes a `LicenseRef-...-unversioned`.

    Args:
        text: The statement, not a whole document.

    Returns:
        The expression, or None when the statement is not understood. In an expression a member that is not understood
        becomes `LicenseRef-unknown-<member>`.

    Example:
        ```python
        >>> normalise_licence("mit or GPL-3.0")
        'GPL-3.0-only OR MIT'
        >>> normalise_licence("Apache License, Version 2.0")
        'Apache-2.0'
        >>> normalise_licence("CC BY-NC")
        'LicenseRef-CC-BY-NC-unversioned'
        >>> normalise_licence("see the file LICENSE") is None
        True

        ```
    """
    text = " ".join(text.split())
    if not text or len(text) > MAX_EXPRESSION:
        return None
    text = text.strip("\"'`.,;")
    if (single := _resolve(text)) is not None:
        return single
    if (repeated := _REPEATED.fullmatch(text)) and (twice := _same_twice(*repeated.groups())) is not None:
        return twice
    text = _LATER.sub("+", text)
    pieces = _pieces(text)
    if pieces is None:
        return None
    return simplify(" ".join(pieces))


def _same_twice(name: str, abbreviation: str) -> str | None:
    """The licence of a name with its abbreviation in brackets, when both are the same one."""
    first, second = _resolve(name), _resolve(abbreviation)
    if first is None or second is None:
        return None
    exact, loose = (second, first) if first.endswith("-unversioned") else (first, second)
    return exact if loose == exact or is_version_of(exact, loose) else None


def is_version_of(exact: str, loose: str) -> bool:
    """Whether a key is a version of a key that leaves the version open."""
    family = loose.removeprefix("LicenseRef-").removesuffix("-unversioned")
    return loose.endswith("-unversioned") and re.fullmatch(re.escape(family) + r"-\d.*", exact) is not None


def _pieces(text: str) -> list[str] | None:
    """Split an expression at its operators and normalise the members; None when it is none."""
    members = [part for part in _OPERATOR.split(text) if part and part.strip()]
    if len(members) == 1:
        members = [text]
        if _SEPARATOR.search(text) and "://" not in text:
            # Cargo and npm packages of old write the choice between licences with a slash.
            parts = _SEPARATOR.split(text)
            members = [item for part in parts for item in ("OR", part)][1:]
    if len(members) == 1:
        return None
    pieces, after_with = [], False
    for member in members:
        upper = member.upper()
        if upper in ("AND", "OR", "WITH") or member in "()":
            pieces.append(upper)
            after_with = upper == "WITH"
            continue
        key = _exception(member) if after_with else _resolve(member)
        if key is None and _IDENTIFIER.fullmatch(member):
            key = f"LicenseRef-unknown-{member.lower()}"
        if key is None:
            return None
        pieces.append(key)
        after_with = False
    return pieces


@cache
def _licensing() -> Any:
    library = require("license_expression", used_for="reading licence expressions", extra="curation")
    return library.get_spdx_licensing()


@cache
def _known() -> tuple[dict[str, str], dict[str, str]]:
    """SPDX and LicenseDB keys of licences and of exceptions, by lower case."""
    licences: dict[str, str] = {}
    exceptions: dict[str, str] = {}
    for key, symbol in _licensing().known_symbols.items():
        table = exceptions if symbol.is_exception else licences
        for name in (key, *symbol.aliases):
            table[name.lower()] = key
    return licences, exceptions


def is_known_key(key: str) -> bool:
    """Whether a key is in the SPDX list or the LicenseDB, or is a `LicenseRef-` of our own tables."""
    return key.lower() in _known()[0] or key in _own_keys()


def is_exception(key: str) -> bool:
    """Whether a key is an exception of the SPDX list or the LicenseDB, which adds permissions to a licence."""
    return key.lower() in _known()[1]


@cache
def _own_keys() -> frozenset[str]:
    rules = read_rules("licence_names")
    named = {rule["spdx"] for rule in rules["names"]} | set(rules["aliases"].values())
    own = frozenset(key for key in named if key.startswith("LicenseRef-"))
    return own | creative_commons.own_keys()


def _resolve(member: str) -> str | None:
    """The key of one licence, without operators, or None."""
    lower = member.lower()
    if (key := _known()[0].get(lower)) is not None:
        return key
    if lower.startswith("licenseref-") and _IDENTIFIER.fullmatch(member):
        return next((key for key in _own_keys() if key.lower() == lower), "LicenseRef-" + lower[11:])
    if lower.endswith("+") and (key := _known()[0].get(lower[:-1] + "-or-later")) is not None:
        return key
    folded = fold(member).text.strip()
    for candidate in (folded, _LICENCE_WORD.sub("", _LICENCE_WORD.sub("", folded)).strip()):
        if (key := _full_name(candidate)) is not None:
            return key
    squeezed = re.sub(r"[^a-z0-9.+]", "", _LICENCE_WORD.sub("", folded))
    if (key := read_rules_aliases().get(squeezed)) is not None:
        return key
    return spdx.NAMES.get(re.sub(r"[^a-z0-9]", "", squeezed))


@cache
def read_rules_aliases() -> dict[str, str]:
    """Short forms of licences by squeezed spelling."""
    return dict(read_rules("licence_names")["aliases"])


def _exception(member: str) -> str | None:
    lower = member.lower()
    if (key := _known()[1].get(lower)) is not None:
        return key
    squeezed = re.sub(r"[^a-z0-9.+]", "", lower)
    named = read_rules("licence_names")["exceptions"].get(squeezed)
    return str(named) if named else None


def _full_name(folded: str) -> str | None:
    """The licence of a name or an address that fills the whole text."""
    start = len(folded) - len(re.sub(r"^(?:https?://)?(?:www\.)?", "", folded))
    word = re.compile(r"[a-z0-9]+").match(folded, start)
    if word is None:
        return None
    name: Name | None = name_at(folded, word.start(), word.group())
    if name is None or name.spdx in (None, creative_commons.UNSTATED):
        return None
    rest = folded[name.end :]
    return (
        name.spdx
        if re.fullmatch(
            r"[\s/)\].,-]*(?:licen[cs]e)?[\s/)\].]*"
            if not name.is_url
            else r"(?:legalcode(?:\.[a-z-]+)?|deed(?:\.[a-z-]+)?)?/?(?:[?#].*)?",
            rest,
        )
        else None
    )


def all_of(licences: Iterable[str]) -> str | None:
    """Return the normalised expression by which every one of several has to be acceptable; None when there is none.

    Args:
        licences: Normalised expressions, each as often as it was stated.
    """
    return simplify(" AND ".join(f"({licence})" for licence in dict.fromkeys(licences)))


@lru_cache(maxsize=16384)
def simplify(expression: str) -> str | None:
    """Return the simplest form of an expression over normalised keys, of any length; None when it is malformed."""
    try:
        parsed = parse(expression)
    except ValueError:
        return None
    return str(parsed.simplify().render()) if parsed is not None else None


def parse(expression: str) -> Any:
    """Return the tree of a normalised expression, of `license_expression`.

    Raises:
        ValueError: The expression is malformed.
    """
    library = require("license_expression", used_for="reading licence expressions", extra="curation")
    try:
        return _licensing().parse(expression)
    except (library.ExpressionError, library.ExpressionParseError, AssertionError, IndexError) as error:
        # Brackets that hold nothing, or begin with an operator, fail inside the parser that the library stands on.
        raise ValueError(f"{expression!r} is not a licence expression; correct it") from error
