"""Names and addresses of the Creative Commons licences, in the languages of their deeds."""

from __future__ import annotations

import re
from functools import cache

from hf_mixture.data.curation.rules.files import read_rules


FIRST = frozenset(
    [
        "cc",
        "creative",
        "creativecommons",
        "cc0",
        "cczero",
        "ccby",
        "ccbysa",
        "ccbync",
        "ccbynd",
        "ccbyncsa",
        "ccbyncnd",
        "attribution",
    ]
)
_HEAD = re.compile(r"creative[\s_-]{0,3}commons?|cc(?=by|0|zero)|cc(?![a-z0-9])|(?=attribution)")
_GAP = r"[\s_/,:&+(|\"-]*"
# "CC by Jane Doe" names a person; as an element "by" stands before another element, a version, a licence or an end.
_SHORT_BY = (
    r"by(?=nc|sa|nd|\s*(?:$|\n[\s*#>/]*\n|[-_/.,;:)\]\"'|+*\d<]|v\d|li[cz]en|(?:nc|sa|nd|non?)\b|non?c|share|attrib"
    r"|int))"
)
_VERSION = re.compile(rf"{_GAP}(?:version|ver\.?|v\.?)?\s*([1-5])(?:\.(\d)(?:\.0)?)?(?![\d.]*\d)")
_PORT = re.compile(r"[-/ ]\(?(igo)\b|[-/]([a-z]{2})(?![a-z])")
_MORE = re.compile(
    rf"{_GAP}(?:li[cz]en[a-z]*|internacional|internationale?|internazionale|intl|int|unported|generic|universal|"
    r"non[\s-]transpose|public\s+domain\s+dedication|public\s+licen[cs]e|deed)(?![a-z])"
)
# A name that goes on in a way that is not understood may say anything.
_UNREAD = re.compile(
    r"[a-z0-9]|[-_/](?!li[cz]en)[a-z]|[\s_/,:&+(-]+(?:non?|nc|nd|nicht|keine|pas|sin|sem|senza|geen|niet|nao)(?![a-z])"
    r"|[\s_/,:&+(-]*(?:non?-?(?:com|der)|sinder|sinobra|geenaf|nietcom|naocom)"
)
_UNPORTED = re.compile(r"CC-BY(?:-NC)?(?:-SA|-ND)?-(?:1\.0|2\.0|2\.5|3\.0|4\.0)")
_PORTED = {
    "CC-BY": "2.5-AU 3.0-AT 3.0-AU 3.0-DE 3.0-IGO 3.0-NL 3.0-US",
    "CC-BY-SA": "2.0-UK 2.1-JP 3.0-AT 3.0-DE 3.0-IGO",
    "CC-BY-NC": "3.0-DE",
    "CC-BY-NC-SA": "2.0-DE 2.0-FR 2.0-UK 3.0-DE 3.0-IGO",
    "CC-BY-NC-ND": "3.0-DE 3.0-IGO",
    "CC-BY-ND": "3.0-DE",
}
_URL = re.compile(
    r"creativecommons\.org/(?:(?:licen[cs]es?/(?P<elements>[a-z+-]+))|(?:publicdomain/(?P<free>zero|mark)))"
    r"(?:/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2,3})(?![a-z.]))?)?/?"
)
_ORDER = ("by", "nc", "sa", "nd")
# "A Creative Commons licence" is not one licence.
UNSTATED = "LicenseRef-CC-unstated"


@cache
def _elements() -> re.Pattern[str]:
    forms = read_rules("licence_names")["creative_commons"]
    groups = []
    for name in ("nc", "sa", "nd", "zero", "by"):
        short = name if len(name) == 2 else None
        words = [
            _SHORT_BY
            if word == "by"
            else rf"{word}(?=(?:nc|sa|nd)*(?![a-z]))"
            if word == short
            else rf"{word}(?![a-z])"
            for word in forms[name]
        ]
        groups.append(f"(?P<{name}>{'|'.join(words)})")
    return re.compile(rf"{_GAP}(?:and\s+|und\s+|et\s+|y\s+|e\s+)?(?:{'|'.join(groups)})")


def read(text: str, start: int) -> tuple[int, str | None] | None:
    """Read a Creative Commons name at a position of folded text.

    Returns:
        Its end and the SPDX identifier, None for a name that is not understood to the end; or None, when there is no
        such name.
    """
    head = _HEAD.match(text, start)
    if head is None:
        return None
    end, version, elements = head.end(), None, set[str]()
    while True:
        if found := _elements().match(text, end):
            elements.add(str(found.lastgroup))
        elif version is None and elements and (found := _VERSION.match(text, end)):
            version = f"{found[1]}.{found[2] or 0}"
        else:
            found = _MORE.match(text, end)
            if found is None:
                break
        end = found.end()
    if not elements:
        return (end, UNSTATED) if head.group().startswith("creative") else None
    if not head.group() and version is None:
        return None
    port = None
    if version is not None and (found := _PORT.match(text, end)):
        port, end = (found[1] or found[2]).upper(), found.end()
    if _UNREAD.match(text, end):
        return end, None
    return end, _identifier(elements, version, port)


def _identifier(elements: set[str], version: str | None, port: str | None) -> str | None:
    if "zero" in elements:
        return "CC0-1.0" if elements == {"zero"} and version in (None, "1.0") else None
    if "by" not in elements and not elements & {"nc", "nd"}:
        return None
    if "nd" in elements:
        elements = elements - {"sa"}
    key = "CC-" + "-".join(part.upper() for part in _ORDER if part in elements | {"by"})
    if version is None:
        return f"LicenseRef-{key}-unversioned"
    if port and f"{version}-{port}" in _PORTED.get(key, "").split():
        return f"{key}-{version}-{port}"
    known = f"{key}-{version}"
    return known if _UNPORTED.fullmatch(known) else f"LicenseRef-{key}-unversioned" if version == "2.1" else None


def read_url(text: str, start: int) -> tuple[int, str | None] | None:
    """Read an address of creativecommons.org at a position of folded text; returns as `read`."""
    match = _URL.match(text, start)
    if match is None:
        return None
    if match["free"]:
        return match.end(), "CC0-1.0" if match["free"] == "zero" else "CC-PDM-1.0"
    parts = set(re.split(r"[-+]", match["elements"].strip("-+")))
    if parts == {"publicdomain"}:
        return match.end(), "LicenseRef-scancode-public-domain"
    if not parts <= set(_ORDER):
        return match.end(), None
    return match.end(), _identifier(parts, match["version"], match["port"] and match["port"].upper())


def own_keys() -> frozenset[str]:
    """The keys that SPDX does not have: licences without a stated version."""
    forms = ("", "-NC", "-SA", "-ND", "-NC-SA", "-NC-ND")
    return frozenset([UNSTATED, *(f"LicenseRef-CC-BY{form}-unversioned" for form in forms)])
