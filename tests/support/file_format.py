"""One file format that the package reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileFormat:
    """A format.

    Args:
        name: Name for the test.
        write: Writes a sound artefact into an empty folder.
        read: Reads it; a result that can be compared, or None.
        files: The files that are damaged.
        modules: Modules of the package that read it.
        checked: Whether a change of any byte must be noticed, because the file carries a checksum.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    files: tuple[str, ...]
    modules: tuple[str, ...]
    checked: bool = False
