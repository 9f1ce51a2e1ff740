"""Names of the GNU licences: family, version, and whether later versions may be chosen."""

from __future__ import annotations

import re


_HEAD = re.compile(
    r"(?:gnu\s+)?(?:(?P<long>lesser|library|affero)\s+)?general\s+public\s+licen[cs]e"
    r"|(?:gnu[\s-]+)?(?P<free>free\s+documentation\s+licen[cs]e|gfdl|fdl)"
    r"|(?:gnu[\s-]+)?(?P<short>[la]?gpl)"
)
_ABBREVIATION = re.compile(r"\s*\([a-z]?gpl\)")
_VERSION = re.compile(r"[\s,(-]{0,3}(?:version|ver\.?|v\.?)?\s*(?P<major>[123])(?:\.(?P<minor>\d))?(?!\d)(?!\.\d)")
_LATER = re.compile(
    r"\+|[\s,(;-]{0,3}or[\s(,-]+(?:\(?at your option\)?[\s,]*)?(?:any\s+)?(?:later|newer)(?:\s+version)?"
)
_ONLY = re.compile(r"[\s-]only")
_LICENCE = re.compile(r"\s+licen[cs]e")
_VERSIONS = {"GPL": "1.0 2.0 3.0", "LGPL": "2.0 2.1 3.0", "AGPL": "1.0 3.0", "GFDL": "1.1 1.2 1.3"}
FIRST = frozenset(
    ["gnu", "lesser", "library", "affero", "general", "gfdl"]
    + [f"{family}{v}{number}" for family in ("gpl", "lgpl", "agpl") for v in ("", "v") for number in ("", 1, 2, 3)]
)


def read(text: str, start: int) -> tuple[int, str] | None:
    """Read the name of a GNU licence at a position of folded text; returns its end and the SPDX identifier."""
    head = _HEAD.match(text, start)
    if head is None:
        return None
    end = head.end()
    if head["free"]:
        family = "GFDL"
    elif head["long"]:
        family = "AGPL" if head["long"] == "affero" else "LGPL"
    else:
        family = (head["short"] or "gpl").upper()
    if found := _ABBREVIATION.match(text, end):
        end = found.end()
    later, version = True, None
    if (found := _VERSION.match(text, end)) and (number := f"{found['major']}.{found['minor'] or 0}") in _VERSIONS[
        family
    ].split():
        version, later, end = number, False, found.end()
    for pattern, value in ((_LATER, True), (_ONLY, False)):
        if found := pattern.match(text, end):
            later, end = value if version else True, found.end()
            break
    if found := _LICENCE.match(text, end):
        end = found.end()
    version = version or _VERSIONS[family].split()[0]
    return end, f"{family}-{version}-{'or-later' if later else 'only'}"
