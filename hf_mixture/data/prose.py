"""Prose out of program files, and the test for text that was seen before."""

from __future__ import annotations

import ast
import email
import hashlib
import re
import warnings
from collections.abc import Iterator


_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_TRIPLE_QUOTED = re.compile(r'"""[\s\S]*?"""')
_MIN_DOCSTRING_CHARS = 120
_MIN_LINE_CHARS = 24


class Seen:
    """Remembers texts; tells copies and near copies.

    A text is a copy when it is equal up to white space, and a near copy when more than half of its longer lines
    occurred in texts that were accepted before.
    """

    def __init__(self) -> None:
        self._texts: set[bytes] = set()
        self._lines: set[str] = set()

    def is_new(self, text: str) -> bool:
        """Return whether `text` is neither a copy nor a near copy, and remember it if so."""
        digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
        lines = {line for line in map(str.strip, text.splitlines()) if len(line) >= _MIN_LINE_CHARS}
        if digest in self._texts or 2 * len(lines & self._lines) > len(lines):
            return False
        self._texts.add(digest)
        self._lines |= lines
        return True


def docstrings(source: str) -> str | None:
    """Return the longer documentation strings of a Python file, in order; None when it has little documentation.

    The file is parsed, not run.
    """
    # Parsing is the slow part: only files that are visibly a quarter documentation are worth it.
    if 4 * sum(len(match.group(0)) for match in _TRIPLE_QUOTED.finditer(source)) < len(source):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    texts = (ast.get_docstring(node) or "" for node in _definitions(tree))
    return "\n\n".join(text for text in texts if len(text) >= _MIN_DOCSTRING_CHARS)


def _definitions(node: ast.Module | _Definition) -> Iterator[ast.Module | _Definition]:
    """The module, its classes and functions and those inside them, in the order of the file."""
    yield node
    for child in node.body:
        if isinstance(child, _Definition):
            yield from _definitions(child)


def description(metadata: str) -> str:
    """Return the long description of a METADATA file."""
    message = email.message_from_string(metadata)
    return str(message.get_payload() or message.get("Description") or "").strip()


def is_prose(text: str) -> bool:
    """Return whether a text file is mostly words: tables of numbers and lists of file names are not."""
    letters = sum(char.isalpha() or char in " \n" for char in text)
    return letters >= 0.75 * len(text) and text.count(" ") >= 0.1 * len(text)
