"""SPDX licence expressions of installed distributions, read from their metadata and licence texts.

Newer packages state an SPDX expression (PEP 639). Older ones have free text, a classifier, or only the licence itself;
these are recognised when they are unambiguous, and stay `NOASSERTION` when they are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


UNKNOWN = "NOASSERTION"

# Lower case, letters and digits only: "Apache 2.0 License" and "apache-2.0" are one name.
NAMES = {
    "0bsd": "0BSD",
    "apache20": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apachelicense20": "Apache-2.0",
    "apachelicenseversion20": "Apache-2.0",
    "apachesoftwarelicense20": "Apache-2.0",
    "bsd2clause": "BSD-2-Clause",
    "2clausebsd": "BSD-2-Clause",
    "simplifiedbsd": "BSD-2-Clause",
    "freebsd": "BSD-2-Clause",
    "bsd3clause": "BSD-3-Clause",
    "3clausebsd": "BSD-3-Clause",
    "newbsd": "BSD-3-Clause",
    "modifiedbsd": "BSD-3-Clause",
    "cc010": "CC0-1.0",
    "isc": "ISC",
    "mit": "MIT",
    "mitcmu": "MIT-CMU",
    "hpnd": "HPND",
    "mpl20": "MPL-2.0",
    "mozillapubliclicense20": "MPL-2.0",
    "mozillapubliclicense20mpl20": "MPL-2.0",
    "psf20": "PSF-2.0",
    "unlicense": "Unlicense",
    "zlib": "Zlib",
}

_CLASSIFIERS = {
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
}

# Phrases of the text itself, in lower case with single spaces; all of a row must occur, the first full row decides.
_TEXTS = (
    ("Apache-2.0", ("apache license", "version 2.0, january 2004")),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("MIT", ("permission is hereby granted, free of charge", "the above copyright notice and this permission notice")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose with or without fee",)),
    ("BSD-3-Clause", ("redistributions in binary form must reproduce", "endorse or promote")),
    ("BSD-2-Clause", ("redistributions in binary form must reproduce", "redistributions of source code must retain")),
)

_ID = r"(?:LicenseRef-)?[A-Za-z0-9][A-Za-z0-9.+-]*"
_EXPRESSION = re.compile(rf"^\(*{_ID}\)*(?: (?:AND|OR|WITH) \(*{_ID}\)*)*$")
_FILE_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]+)")
# A licence written by several hands (numpy, torch) opens with its own terms; the rest lists what is bundled.
_HEAD = 20_000


def is_expression(text: str) -> bool:
    """Return whether `text` has the form of an SPDX expression; the identifiers are not looked up."""
    return bool(_EXPRESSION.match(text))


def recognise_text(text: str) -> str | None:
    """Return the SPDX identifier of a licence text, or None when it is none of the common ones."""
    head = " ".join(text[:_HEAD].lower().split())
    for identifier, phrases in _TEXTS:
        if all(phrase in head for phrase in phrases):
            return identifier
    return None


def of_distribution(
    expression: str | None, free_text: str | None, classifiers: Sequence[str], licence_texts: Sequence[str]
) -> str:
    """Return the SPDX expression of a distribution.

    Args:
        expression: The `License-Expression` of its metadata.
        free_text: The `License` field.
        classifiers: Its classifiers.
        licence_texts: Its licence files.

    Returns:
        The first of these that is unambiguous: the expression; the free text, when it is a known name or an
        expression; the classifiers, when they agree; the one licence that the licence files hold; `NOASSERTION`.

    Example:
        ```python
        >>> of_distribution(None, "Apache 2.0 License", [], [])
        'Apache-2.0'
        >>> of_distribution(None, "BSD", ["License :: OSI Approved :: BSD License"], [])
        'NOASSERTION'

        ```
    """
    if expression and is_expression(expression.strip()):
        return expression.strip()
    name = (free_text or "").strip()
    key = re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("the")
    for candidate in (key, key.removesuffix("license"), key.removesuffix("licence")):
        if candidate in NAMES:
            return NAMES[candidate]
    if re.search(r" (AND|OR|WITH) ", name) and is_expression(name):
        return name
    labels = [text.split(" :: ")[-1] for text in classifiers if text.startswith("License ::")]
    found = {_CLASSIFIERS.get(label, UNKNOWN) for label in labels}
    if len(found) == 1 and found != {UNKNOWN}:
        return found.pop()
    texts = {recognise_text(text) for text in [*licence_texts, name if len(name) > 200 else ""] if text}
    texts.discard(None)
    return texts.pop() or UNKNOWN if len(texts) == 1 else UNKNOWN


def of_file(text: str) -> str | None:
    """Return the expression of an `SPDX-License-Identifier` tag near the top of a file, or None without one."""
    match = _FILE_TAG.search(text[:2000])
    if match is None:
        return None
    tag = " ".join(match.group(1).strip(" -").split())
    return tag if is_expression(tag) else None
