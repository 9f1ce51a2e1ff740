"""Writing a pack so that it can be interrupted at any moment and continued with the same result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.pack_files import DTYPES, OFFSETS, TOKENS
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_object


PROGRESS = "progress.json"
_SECONDS_BETWEEN_COMMITS = 1.0


class PackWriter:
    """The two files of a pack in the making, and how much of them is valid.

    Args:
        folder: The folder.
        dtype: Name of the type of the tokens.
        facts: Which tokenizer and source the pack is of.

    Raises:
        ValueError: The folder holds something else, or what other facts began.
    """

    def __init__(self, folder: Path, dtype: str, facts: dict[str, Any]) -> None:
        self.folder, self.dtype, self.facts = folder, dtype, facts
        self.num_documents = self.num_tokens = 0
        progress = folder / PROGRESS
        if progress.is_file():
            with reading(progress, "start again in an empty folder"):
                before = read_object(progress)
                check_same(progress, before, facts)
                counts = before["num_documents"], before["num_tokens"]
                if any(type(count) is not int or count < 0 for count in counts):
                    raise ValueError(f"{counts} are not numbers of documents and tokens")
                self.num_documents, self.num_tokens = counts
        elif folder.exists() and (not folder.is_dir() or any(_foreign(folder))):
            raise ValueError(
                f"folder={str(folder)!r} exists and is not a pack in the making; choose another, or empty it"
            )
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> PackWriter:
        if not (self.folder / PROGRESS).exists():
            self._write_progress()
        is_new = self.num_documents == 0
        num_bytes = self.num_tokens * np.dtype(DTYPES[self.dtype]).itemsize
        self._tokens = _open_at(self.folder / TOKENS, num_bytes, is_new=is_new)
        # The first of the D + 1 offsets is 0, before any document.
        self._offsets = _open_at(self.folder / OFFSETS, 8 * (self.num_documents + 1), is_new=is_new)
        self._committed_at = time.monotonic()
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            self.commit()
        self._tokens.close()
        self._offsets.close()

    def append(self, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Append documents: their ids one after the other, and the length of each."""
        self._tokens.write(ids.astype(DTYPES[self.dtype]).tobytes())
        self._offsets.write((self.num_tokens + np.cumsum(lengths)).astype("<i8").tobytes())
        self.num_documents += len(lengths)
        self.num_tokens += len(ids)
        if time.monotonic() - self._committed_at > _SECONDS_BETWEEN_COMMITS:
            self.commit()

    def commit(self) -> None:
        """Force what was appended to the disk, and then record that it is there."""
        for file in (self._tokens, self._offsets):
            file.flush()
            os.fsync(file.fileno())
        self._write_progress()
        self._committed_at = time.monotonic()

    def last_document(self) -> NDArray[np.int64]:
        """Return the tokens of the last document that was recorded; ValueError where the offsets are damaged."""
        start, end = np.fromfile(self.folder / OFFSETS, "<i8", 2, offset=8 * (self.num_documents - 1)).tolist()
        if not 0 <= start <= end == self.num_tokens:
            raise ValueError(
                f"{self.folder / OFFSETS} says that the last document goes from {start} to {end}, and {PROGRESS} that "
                f"there are {self.num_tokens} tokens; start again in an empty folder"
            )
        itemsize = np.dtype(DTYPES[self.dtype]).itemsize
        tokens = np.fromfile(self.folder / TOKENS, DTYPES[self.dtype], end - start, offset=start * itemsize)
        return tokens.astype(np.int64)

    def _write_progress(self) -> None:
        progress = {"num_documents": self.num_documents, "num_tokens": self.num_tokens, **self.facts}
        write_atomic(self.folder / PROGRESS, json.dumps(progress, indent=2) + "\n")


def _foreign(folder: Path) -> Iterator[Path]:
    """Files that no run of `pack_tokens` leaves behind before its first record."""
    return (path for path in folder.iterdir() if not path.match(f".{PROGRESS}.*.partial"))


def _open_at(path: Path, size: int, *, is_new: bool) -> Any:
    """Open a file for appending after its first `size` bytes; a new one is filled with zeros up to there."""
    if not is_new and (not path.is_file() or path.stat().st_size < size):
        raise ValueError(
            f"{path} is shorter than the {size} bytes that {PROGRESS} says it has; the file was truncated or removed: "
            "start again in an empty folder"
        )
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def check_same(path: Path, before: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise ValueError when `before`, read from `path`, tells of another source or tokenizer than `facts`."""
    changed = [
        f"{group}.{key} ({before.get(group, {}).get(key)!r} there, {value!r} now)"
        for group, values in facts.items()
        for key, value in values.items()
        if before.get(group, {}).get(key) != value and key != "name"
    ]
    if changed:
        raise ValueError(f"{path} is of another pack: {'; '.join(changed)} differ; choose another folder, or empty it")
