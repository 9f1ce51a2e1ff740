"""Writing a file so that a reader, or a run continued after a kill, never sees a part of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


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


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file of PyTorch tensors as `write_atomic` does, without a copy of it in memory.

    Args:
        path: The file; its folder exists.
        tensors: Contiguous tensors on the CPU, which share no memory.
        metadata: Texts for the header. Default: none.

    Example:
        ```python
        >>> import pathlib, tempfile, torch
        >>> from hf_mixture.hub.atomic import write_tensors
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(pathlib.Path(folder, "a.safetensors"), {"a": torch.ones(2)})
        ...     [path.name for path in pathlib.Path(folder).iterdir()]
        ['a.safetensors']

        ```
    """
    from safetensors.torch import save_file

    beside = partial_of(path)
    try:
        save_file(dict(tensors), beside, metadata=None if metadata is None else dict(metadata))
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Write a folder so that a reader, or a run continued after a kill, sees all of it or what was there before.

    The old folder is put aside before the new one takes its place, and removed last. A kill between the two leaves
    the old one aside: `restore_folder` puts it back, and so does the next call of this function.

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
    restore_folder(folder)
    partial, aside = folder.with_name(f".{folder.name}.partial"), _aside_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if folder.exists():
        folder.rename(aside)
    partial.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Put a folder back that `replaced_folder` had put aside when its process was killed.

    Args:
        folder: The folder. Nothing happens where it is there, apart from an old one aside being removed.
    """
    aside = _aside_of(folder)
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _aside_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def partial_of(path: Path) -> Path:
    """Return where this process writes the content of `path` before it is whole; each process has its own place."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def is_partial_of(candidate: Path, path: Path) -> bool:
    """Return whether `candidate` is what some process, perhaps killed since, began to write for `path`."""
    return candidate.parent == path.parent and candidate.match(f".{path.name}.*.partial")
