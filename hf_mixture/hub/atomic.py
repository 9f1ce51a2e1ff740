"""Writing a file so that a reader, or a run continued after a kill, never sees a part of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    The content is written beside its place, as `.NAME.PID.partial`, forced to the disk and renamed into place. A
    process that is killed in between leaves that file behind and the old content in place.

    Args:
        path: The file; its folder exists.
        data: The content; text is written as UTF-8, with its line ends as they stand.

    Example:
        ```python
        >>> import pathlib, tempfile
        >>> from hf_mixture.hub.atomic import write_atomic
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "state.json")
        ...     write_atomic(path, "{}")
        ...     path.read_text()
        '{}'

        ```
    """
    content = data.encode() if isinstance(data, str) else data
    beside = partial_of(path)
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Write a folder so that a reader, or a run continued after a kill, sees all of it or what was there before.

    Args:
        folder: The folder; what it holds is replaced when the block ends without an error.

    Yields:
        The empty folder to write to, beside its place.

    Example:
        ```python
        >>> import pathlib, tempfile
        >>> from hf_mixture.hub.atomic import replaced_folder
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with replaced_folder(pathlib.Path(place, "model")) as folder:
        ...         _ = (folder / "config.json").write_text("{}")
        ...     [path.name for path in pathlib.Path(place).rglob("*.json")]
        ['config.json']

        ```
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def partial_of(path: Path) -> Path:
    """Return where this process writes the content of `path` before it is whole; each process has its own place."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def is_partial_of(candidate: Path, path: Path) -> bool:
    """Return whether `candidate` is what some process, perhaps killed since, began to write for `path`."""
    return candidate.parent == path.parent and candidate.match(f".{path.name}.*.partial")
