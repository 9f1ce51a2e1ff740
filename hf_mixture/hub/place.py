"""The files of a folder, or of a repository on the Hub of which only the small ones are fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path


# What says what an artefact is; weights of adapters and maps are small too. Stars of the Hub match slashes, so JSON is
# fetched from every folder; so are those weights, but not the tables, which a data set keeps in folders.
_SMALL_WEIGHTS = (
    "adapter_model.safetensors",
    "ftri.safetensors",
    "partition.safetensors",
    "prompts.safetensors",
)
HUB_PATTERNS = (
    "*.json",
    "*.yaml",
    "part-*.parquet",
    *_SMALL_WEIGHTS,
    *(f"*/{name}" for name in _SMALL_WEIGHTS),
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Place:
    """Where artefacts are.

    Args:
        root: The folder, or what has been fetched of a repository.
        names: All files of the repository, by path; None for a folder.
    """

    root: Path
    names: frozenset[str] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether only a part of the files is here."""
        return self.names is not None

    def has(self, path: Path) -> bool:
        """Whether there is a file, here or in the repository."""
        return path.is_file() or (self.names is not None and self._name(path) in self.names)

    def glob(self, folder: Path, pattern: str) -> list[Path]:
        """The files of a folder, here or in the repository, whose names fit a pattern."""
        found = set(folder.glob(pattern))
        for name in self.names or ():
            path = self.root / name
            if path.parent == folder and path.match(pattern):
                found.add(path)
        return sorted(found)

    def folders(self) -> list[Path]:
        """The root and the folders up to two levels below it, without hidden ones, such as what a kill left behind."""
        below = (path for depth in ("*/", "*/*/") for path in self.root.glob(depth))
        return [self.root, *sorted(path for path in below if not _is_hidden(path.relative_to(self.root)))]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def find_place(location: str | PathLike[str]) -> Place:
    """Find a folder, or fetch the small files of a model or data set repository.

    Args:
        location: A folder, or a Hub id.

    Returns:
        The place.

    Raises:
        ValueError: If there is neither.
    """
    path = Path(location)
    if path.is_dir():
        return Place(path)
    if path.exists():
        raise ValueError(f"{location} is a file; name the folder that holds it")
    name = str(location)
    if _HUB_ID.fullmatch(name) is None:
        raise ValueError(f"{name} is neither a folder nor a Hub id of the form owner/name; check the path")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    reason: Exception | None = None
    for kind in ("model", "dataset"):
        try:
            fetched = snapshot_download(name, repo_type=kind, allow_patterns=list(HUB_PATTERNS))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            # A repository of the other kind is the likelier reason than the network.
            reason = error if reason is None or not isinstance(error, RepositoryNotFoundError) else reason
            continue
        try:
            return Place(Path(fetched), frozenset(HfApi().list_repo_files(name, repo_type=kind)))
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
            # Without a network, what was fetched before is all that is known.
            return Place(Path(fetched), frozenset())
    first_line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    raise ValueError(
        f"{name} is not a folder here, and the Hub did not answer for it ({first_line}); check the spelling, the "
        "network, or download the repository first"
    ) from reason
