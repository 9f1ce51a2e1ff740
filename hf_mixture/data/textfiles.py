"""Plain text files as a data set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset

DOCUMENT_CHARS = 2000
MANY = 100


def read_text(path: Path) -> str | None:
    """Return the text of a file, or None when it is gone, is not a plain file, or is not UTF-8 text."""
    try:
        if not path.is_file():
            return None
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text.replace("\r\n", "\n").removeprefix("\ufeff")


def documents(text: str, num_chars: int = DOCUMENT_CHARS) -> list[str]:
    """Cut a text at blank lines, or at line ends where there are few of them, into documents.

    Args:
        text: The whole text.
        num_chars: Least length of a document, in characters. A shorter text is cut into shorter documents, about a
            hundred, so that some can be held out.

    Returns:
        The documents; only the last may be shorter than the least length.

    Example:
        ```python
        >>> documents("a b\\nc\\n\\nd")
        ['a b', 'c', 'd']

        ```
    """
    pieces, joint = re.split(r"\n\s*\n", text), "\n\n"
    if len(pieces) < MANY:
        pieces, joint = [line for line in text.split("\n") if line.strip()], "\n"
    num_chars = min(num_chars, len(text) // MANY)
    found: list[str] = []
    parts: list[str] = []
    length = 0
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if length >= num_chars:
            found.append(joint.join(parts))
            parts, length = [], 0
    return [*found, joint.join(parts)] if parts else found


def read_texts(path: Path) -> Dataset:
    """Read a text file, cut into documents, or every text file of a folder, one document each.

    Hidden files and files that are not UTF-8 text are skipped.

    Returns:
        `datasets.Dataset` with the columns "text" and "path", the latter relative to the folder.

    Raises:
        ValueError: There is no text.
    """
    from datasets import Dataset
    from tqdm.auto import tqdm

    if path.is_file():
        pieces = documents(read_text(path) or "")
        rows = [(piece, f"{path.name}#{number}") for number, piece in enumerate(pieces)]
    else:
        files = sorted(file for file in path.rglob("*") if file.is_file())
        relative = [(file, file.relative_to(path)) for file in files]
        visible = [(file, name) for file, name in relative if not any(part.startswith(".") for part in name.parts)]
        shown = tqdm(visible, desc=f"reading {path}", unit="file", disable=len(visible) < 1000)
        rows = [(text, name.as_posix()) for file, name in shown if (text := read_text(file)) is not None]
    if not any(text.strip() for text, _ in rows):
        raise ValueError(f"path={str(path)!r} holds no UTF-8 text; check the path and the encoding of the files")
    return Dataset.from_dict({"text": [text for text, _ in rows], "path": [name for _, name in rows]})
