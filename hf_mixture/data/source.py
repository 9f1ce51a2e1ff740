"""`Source`: where the rows of one domain come from, as recorded in `mixture.json`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hf_mixture.hub import damage


UNITS = ("examples", "tokens", "bytes")

FilesOfSplit = str | tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where the rows of one domain come from: facts that are recorded next to its weight.

    Args:
        path: A Hub id (`"user/name"`), a builder of datasets (`"json"`, `"parquet"`, `"text"`), a local file or
            folder, a folder written by `save_to_disk`, or `"installed:<domain>"`. A relative path must not leave its
            folder.
        config: Configuration of the data set.
        data_dir: As in `datasets.load_dataset`.
        data_files: As in `datasets.load_dataset`: one pattern, a list of them, or a map from split to either.
        split: The split that training rows come from. Default: "train".
        revision: Commit, branch or tag of a Hub data set. Pin a commit hash to fix the meaning of the mixture.
        text_column: Column that holds the text. Default: "text".
        length_column: Column that holds the length of each row, in the unit of the mixture.
        license: SPDX expression of the data.
        size: Counts as measured when the mixture was made, by unit: `{"examples": ..., "tokens": ..., "bytes": ...}`.
        fingerprint: Fingerprint of the materialised `datasets.Dataset`.

    Raises:
        ValueError: A field has the wrong type, or a relative path leaves its folder.

    Example:
        ```python
        >>> from hf_mixture import Source
        >>> Source("json", data_files=["a.jsonl", "b.jsonl"]).data_files
        ('a.jsonl', 'b.jsonl')

        ```
    """

    path: str
    config: str | None = None
    data_dir: str | None = None
    data_files: FilesOfSplit | tuple[tuple[str, FilesOfSplit], ...] | None = None
    split: str = "train"
    revision: str | None = None
    text_column: str = "text"
    length_column: str | None = None
    license: str | None = None
    size: tuple[tuple[str, int], ...] | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        for name in ("path", "split", "text_column"):
            check_text(f"source.{name}", getattr(self, name))
        for name in ("config", "data_dir", "revision", "length_column", "license", "fingerprint"):
            if getattr(self, name) is not None:
                check_text(f"source.{name}", getattr(self, name))
        # Lists and maps become tuples: a source is hashable and cannot change after it was validated.
        object.__setattr__(self, "data_files", _freeze_files(self.data_files))
        object.__setattr__(self, "size", _freeze_size(self.size))
        check_inside("source.path", self.path)
        if self.data_dir is not None:
            check_inside("source.data_dir", self.data_dir)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Source:
        """Build a source from a mapping with the field names of this class.

        Args:
            values: Field names and values; `path` is required.

        Returns:
            The source.

        Raises:
            ValueError: A key is not a field, or `path` is missing.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"source has unknown keys {unknown}; a source may have {known}: remove or rename them")
        if "path" not in values:
            raise ValueError(f"source {dict(values)!r} has no 'path'; every source needs one: add it")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values, in the order of the class."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["data_files"] = _thaw_files(self.data_files)
        values["size"] = dict(self.size) if self.size is not None else None
        return {key: value for key, value in values.items() if value is not None}

    def load_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments for `datasets.load_dataset`, without `split`."""
        values = {
            "path": self.path,
            "name": self.config,
            "data_dir": self.data_dir,
            "data_files": _thaw_files(self.data_files),
            "revision": self.revision,
        }
        return {key: value for key, value in values.items() if value is not None}


def shorten(value: Any, limit: int = 80) -> str:
    """Return the repr of a value, cut to `limit` characters."""
    return damage.shorten(repr(value), limit)


def check_text(field: str, value: Any) -> None:
    """Raise ValueError unless `value` is a non-blank string of printable, valid Unicode on one line."""
    if not isinstance(value, str):
        raise ValueError(
            f"{field}={shorten(value)} is a {type(value).__name__}; it must be a string: write it in quotes"
        )
    if not value.strip():
        raise ValueError(f"{field}={shorten(value)} is blank; it must be a non-empty string: name it or leave it out")
    if not value.isprintable():
        raise ValueError(f"{field}={shorten(value)} has characters that cannot be printed; remove them")


def check_inside(field: str, path: str) -> None:
    """Raise ValueError when a relative path climbs out of its folder.

    An absolute path or a URL says openly where it leads and passes; `..` and `~` do not.
    """
    if _climbs(path):
        raise ValueError(
            f"{field}={shorten(path)} leaves its folder ('..' or '~'); a path in a mixture must stay inside its "
            "folder or be absolute: write it without them"
        )


def written_openly(path: str) -> str:
    """Return a path that climbs (`../notes.txt`, `~/notes`) as an absolute one, and any other as it is."""
    return os.path.abspath(os.path.expanduser(path)) if _climbs(path) else path


def _climbs(path: str) -> bool:
    return ".." in re.split(r"[/\\]", path) or path.startswith("~")


def _check_files(files: Any) -> FilesOfSplit:
    if isinstance(files, str):
        names = [files]
    elif isinstance(files, Sequence):
        names = list(files)
    else:
        raise ValueError(
            f"source.data_files={shorten(files)} is a {type(files).__name__}; it must be a string, a list of "
            "strings or a map "
            "from split to either"
        )
    if not names:
        raise ValueError("source.data_files is empty; list at least one file or leave it out")
    for name in names:
        check_text("source.data_files", name)
        check_inside("source.data_files", name)
    return files if isinstance(files, str) else tuple(names)


def _is_frozen_map(files: Any) -> bool:
    return isinstance(files, tuple) and bool(files) and all(isinstance(item, tuple) for item in files)


def _freeze_files(files: Any) -> FilesOfSplit | tuple[tuple[str, FilesOfSplit], ...] | None:
    if files is None:
        return None
    if not (isinstance(files, Mapping) or _is_frozen_map(files)):
        return _check_files(files)
    pairs = tuple((split, _check_files(names)) for split, names in dict(files).items())
    if not pairs:
        raise ValueError("source.data_files={} is empty; name at least one split or leave it out")
    for split, _ in pairs:
        check_text("source.data_files (split)", split)
    return pairs


def _thaw_files(files: Any) -> Any:
    if _is_frozen_map(files):
        return {split: names if isinstance(names, str) else list(names) for split, names in files}
    return list(files) if isinstance(files, tuple) else files


def _freeze_size(size: Any) -> tuple[tuple[str, int], ...] | None:
    if size is None:
        return None
    counts = dict(size)
    for unit, count in counts.items():
        if unit not in UNITS or isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(
                f"source.size={shorten(counts)}: {unit!r} must be one of {list(UNITS)} and its count an integer >= "
                "0: correct it"
            )
    return tuple((unit, counts[unit]) for unit in UNITS if unit in counts)
