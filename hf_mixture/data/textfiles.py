"""Plain text files as a data set."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

DOCUMENT_CHARS = 2000
MANY = 100
NUM_BYTES_SHOWN = 1000


def read_text(path: Path) -> str | None:
    """Return the text of a file, or None when it is gone, is not a plain file, or is not UTF-8 text."""
    try:
        if not path.is_file():
            return None
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else _plain(text)


def documents(text: str, num_chars: int | None = None) -> list[str]:
    """Cut a text at blank lines, or at line ends where there are few of them, into documents.

    Args:
        text: The whole text.
        num_chars: Least length of a document, in characters. Default: 2000, or a hundredth of a shorter text, so that
            some can be held out.

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
    num_chars = _least_length(len(text)) if num_chars is None else num_chars
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


def _least_length(num_chars: int) -> int:
    return min(DOCUMENT_CHARS, num_chars // MANY)


def visible_files(folder: Path) -> list[str]:
    """The files of a folder and of those inside, without hidden ones: relative paths, sorted."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))


def stream_files(folder: Path) -> IterableDataset:
    """Read every visible file of a folder, one row each, whether it is text or not.

    Args:
        folder: The folder.

    Returns:
        `datasets.IterableDataset` with the columns "text", the bytes of the file with `\\n` as line ends and without a
        byte order mark, and "path", relative to the folder. Of a file that is not UTF-8 the text is its first bytes.

    Raises:
        ValueError: The folder has no visible file.
    """
    from datasets import Features, IterableDataset, Value

    files = visible_files(folder)
    if not files:
        raise ValueError(f"path={str(folder)!r} holds no file that is not hidden; check the path")
    features = Features({"text": Value("binary"), "path": Value("string")})
    return IterableDataset.from_generator(
        _file_rows, features=features, gen_kwargs={"folder": str(folder), "files": files}
    )


def _file_rows(folder: str, files: list[str]) -> Iterator[dict[str, Any]]:
    for name in files:
        content = Path(folder, name).read_bytes()
        try:
            content = _plain(content.decode("utf-8")).encode()
        except UnicodeDecodeError:
            content = content[:NUM_BYTES_SHOWN]
        yield {"text": content, "path": name}


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").removeprefix("\ufeff")


def read_texts(path: Path, *, cut: bool = False) -> Dataset:
    """Read a text file, cut into documents, or every text file of a folder, one document each.

    Hidden files are skipped, and files that are not UTF-8 text, with a warning that counts them.

    Args:
        path: The file or folder.
        cut: Whether the files of a folder are cut into documents too. Default: False.

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
        files = visible_files(path)
        shown = tqdm(files, desc=f"reading {path}", unit="file", disable=len(files) < 1000)
        rows = [(text, name) for name in shown if (text := read_text(path / name)) is not None]
        if skipped := sorted(set(files) - {name for _, name in rows}):
            logger.warning(
                "%s: %d of %d files are not UTF-8 text and are left out, %s the first",
                path,
                len(skipped),
                len(files),
                skipped[0],
            )
        if cut:
            least = _least_length(sum(len(text) for text, _ in rows))
            rows = [
                (piece, f"{name}#{number}")
                for text, name in rows
                for number, piece in enumerate(documents(text, least))
            ]
    if not any(text.strip() for text, _ in rows):
        raise ValueError(f"path={str(path)!r} holds no UTF-8 text; check the path and the encoding of the files")
    return Dataset.from_dict({"text": [text for text, _ in rows], "path": [name for _, name in rows]})
