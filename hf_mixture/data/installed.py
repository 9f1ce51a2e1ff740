"""Real text without a download: the Python distributions of the running environment as a multi-domain data set.

Nothing of a distribution is imported or run: the list of files comes from its metadata, Python files are parsed for
their documentation strings, everything else is read as text.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mixture.data import prose, spdx
from hf_mixture.data.splits import SPLITS, split_of
from hf_mixture.data.textfiles import read_text


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

DOMAINS = ("python", "headers", "docs", "licences")
COLUMNS = ("text", "domain", "distribution", "version", "license", "path")
# Part of the cache key: raise it when the same environment gives other rows.
VERSION = 2

_MIN_CHARS = 200
_HEADERS = (".h", ".hh", ".hpp", ".hxx", ".cuh", ".inl")
_PROSE = (".md", ".rst", ".txt")
_LICENCE_NAME = re.compile(r"^(licen[cs]e|copying|notice)([-_.].*)?$|^.+[-_](licen[cs]e)$", re.IGNORECASE)
_NOT_PROSE = re.compile(
    r"^(requirements.*|cmakelists|top_level|entry_points|sources|dependency_links|record)\.txt$", re.I
)


@dataclass(frozen=True)
class _File:
    distribution: str
    version: str
    license: str
    path: str
    location: Path

    @property
    def digest(self) -> bytes:
        """Name of the file in the order and the roles below: the same on every machine, unlike its location."""
        return hashlib.sha256(f"{self.distribution}/{self.path}".encode()).digest()


def installed_packages(
    domains: Sequence[str] = DOMAINS,
    *,
    distributions: Sequence[str] | None = None,
    max_bytes: int = 5_000_000,
    max_file_bytes: int = 200_000,
    held_out: float = 0.1,
) -> DatasetDict:
    """Build a licence-labelled, multi-domain text data set from the installed Python distributions.

    Files are taken in the order of a hash of their path until a domain is full, so that a domain is a sample of the
    whole environment. A file is dropped when its text was seen before, or when more than half of its lines were. A
    Python file serves either "python" (its source) or "docs" (its documentation strings), never both.

    The result is kept in the cache of datasets, under the names and versions of the distributions and the arguments.

    Args:
        domains: Any of "python" (source code), "headers" (C and C++ headers), "docs" (project descriptions,
            documentation files, documentation strings) and "licences" (licence texts). Default: all.
        distributions: Names of the distributions to read. Default: all that are installed.
        max_bytes: UTF-8 bytes of text per domain, over all splits. Default: 5,000,000.
        max_file_bytes: Larger files are skipped. Default: 200,000.
        held_out: Share of the files for validation, and again for test, in (0, 0.5). A file's split depends on its
            distribution and path alone. Default: 0.1.

    Returns:
        `DatasetDict` of "train", "validation" and "test" with the string columns text, domain, distribution, version,
        license (SPDX expression; of the file when it carries a tag, else of the distribution; `NOASSERTION` when it
        cannot be told) and path (inside the distribution).

    Raises:
        ValueError: An argument is out of range, a distribution is not installed, or a domain comes out empty.

    Example:
        ```python
        >>> from hf_mixture import installed_packages
        >>> data = installed_packages(["licences"], distributions=["numpy", "torch"])
        >>> sorted(data), set(data["train"]["domain"])
        (['test', 'train', 'validation'], {'licences'})

        ```
    """
    _check(domains, max_bytes, max_file_bytes, held_out)
    found = _distributions(distributions)
    from datasets import DatasetDict, concatenate_datasets, config

    options = [VERSION, max_bytes, max_file_bytes, held_out]
    key = json.dumps([options, [(name, item.version) for name, item in found.items()]])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    cache = Path(config.HF_DATASETS_CACHE) / "hf_mixture" / "installed"
    folders = {domain: cache / f"{domain}-{digest}" for domain in domains}
    missing = [domain for domain, folder in folders.items() if not folder.is_dir()]
    if missing:
        files = _list_files(found, max_file_bytes)
        for domain in missing:
            _store(_collect(files[domain], domain, max_bytes, held_out), folders[domain])
    parts = [_load(folder) for folder in folders.values()]
    return DatasetDict({split: concatenate_datasets([part[split] for part in parts]) for split in SPLITS})


def _check(domains: Sequence[str], max_bytes: int, max_file_bytes: int, held_out: float) -> None:
    if isinstance(domains, str) or not domains or any(domain not in DOMAINS for domain in domains):
        raise ValueError(f"domains={domains!r}; it must be a list of some of {list(DOMAINS)}: correct the names")
    for name, value in (("max_bytes", max_bytes), ("max_file_bytes", max_file_bytes)):
        if value < 1:
            raise ValueError(f"{name}={value!r} must be an integer >= 1: raise it")
    if not 0 < held_out < 0.5:
        raise ValueError(f"held_out={held_out!r} must lie in (0, 0.5), to leave rows for training: the default is 0.1")


def _distributions(names: Sequence[str] | None) -> dict[str, importlib.metadata.Distribution]:
    """The wanted distributions by normalised name, sorted; the first on the path wins, as in an import."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for item in importlib.metadata.distributions():
        if name := _field(item.metadata, "Name"):
            found.setdefault(_normalise(name), item)
    wanted = sorted(found) if names is None else sorted({_normalise(name) for name in names})
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"distributions {missing} are not installed here; install them or leave them out")
    return {name: found[name] for name in wanted}


def _field(metadata: importlib.metadata.PackageMetadata, name: str) -> str | None:
    """One field of the metadata; indexing for an absent one is deprecated."""
    return next(iter(metadata.get_all(name) or []), None)


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _list_files(found: dict[str, importlib.metadata.Distribution], max_file_bytes: int) -> dict[str, list[_File]]:
    from tqdm.auto import tqdm

    files: dict[str, list[_File]] = {domain: [] for domain in DOMAINS}
    for name, item in tqdm(found.items(), desc="listing distributions", unit="dist"):
        for domain, file in _classify(name, item, max_file_bytes):
            files[domain].append(file)
    return files


def _collect(files: list[_File], domain: str, max_bytes: int, held_out: float) -> dict[str, list[dict[str, str]]]:
    """The rows of one domain, by split."""
    from tqdm.auto import tqdm

    rows: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    seen = prose.Seen()
    num_bytes = 0
    with tqdm(total=max_bytes, desc=f"reading {domain}", unit="B", unit_scale=True) as bar:
        for file in sorted(files, key=lambda file: file.digest):
            text = _read(file, domain)
            if text is None or len(text) < _MIN_CHARS or not seen.is_new(text):
                continue
            size = len(text.encode())
            if num_bytes + size > max_bytes:
                break
            num_bytes += size
            bar.update(size)
            rows[split_of(f"{file.distribution}/{file.path}", held_out)].append(
                {
                    "text": text,
                    "domain": domain,
                    "distribution": file.distribution,
                    "version": file.version,
                    "license": spdx.of_file(text) or file.license,
                    "path": file.path,
                }
            )
    if num_bytes == 0:
        raise ValueError(
            f"domain {domain!r} is empty: none of {len(files)} files is suitable; name more distributions, raise "
            "max_bytes or max_file_bytes, or leave the domain out"
        )
    return rows


def _classify(name: str, item: importlib.metadata.Distribution, max_file_bytes: int) -> Iterator[tuple[str, _File]]:
    """The files of one distribution, each with its domain."""
    licence_files: list[tuple[str, importlib.metadata.PackagePath]] = []
    others: list[tuple[str, importlib.metadata.PackagePath]] = []
    for entry in item.files or []:
        domain = _domain_of(entry.name, entry.suffix.lower(), entry.parts)
        if domain is None or ".." in entry.parts:
            continue
        size = entry.size if entry.size is not None else _size(Path(str(entry.locate())))
        if not _MIN_CHARS <= size <= max_file_bytes:
            continue
        (licence_files if domain == "licences" else others).append((domain, entry))
    texts = [read_text(Path(str(entry.locate()))) or "" for _, entry in licence_files if _is_own(entry.parts)]
    # Each access parses the metadata file anew.
    meta, version = item.metadata, item.version
    license = spdx.of_distribution(
        _field(meta, "License-Expression"), _field(meta, "License"), meta.get_all("Classifier") or [], texts
    )
    for domain, entry in licence_files + others:
        file = _File(name, version, license, entry.as_posix(), Path(str(entry.locate())))
        # One bit of the name decides which of the two a Python file serves: no text is in both domains.
        yield ("docs" if domain == "python" and file.digest[16] & 1 else domain), file


def _is_own(parts: Sequence[str]) -> bool:
    """Whether a licence file is the distribution's own, not that of something it bundles."""
    return len(parts) == 2 or (len(parts) == 3 and parts[1] == "licenses")


def _domain_of(name: str, suffix: str, parts: Sequence[str]) -> str | None:
    if suffix == ".py":
        return "python"
    if suffix in _HEADERS:
        return "headers"
    if _LICENCE_NAME.match(Path(name).stem if suffix in _PROSE else name):
        return "licences"
    in_metadata = parts[0].endswith(".dist-info")
    if (in_metadata and name == "METADATA") or (suffix in _PROSE and not in_metadata and not _NOT_PROSE.match(name)):
        return "docs"
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(file: _File, domain: str) -> str | None:
    text = read_text(file.location)
    if text is None or domain != "docs":
        return text
    if file.path.endswith(".py"):
        return prose.docstrings(text)
    if file.path.endswith("/METADATA"):
        return prose.description(text)
    return text if prose.is_prose(text) else None


def _store(rows: dict[str, list[dict[str, str]]], folder: Path) -> None:
    """Write the rows so that a reader, or a second writer, never sees half of them."""
    from datasets import Dataset, Features, Value

    # One table for all splits: datasets cannot read an empty one back.
    flat = [{**row, "split": split} for split, part in rows.items() for row in part]
    features = Features({column: Value("string") for column in (*COLUMNS, "split")})
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=folder.parent, prefix=".installed-")
    try:
        Dataset.from_list(flat, features=features).save_to_disk(temporary)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _load(folder: Path) -> dict[str, Dataset]:
    from datasets import load_from_disk

    table = load_from_disk(str(folder))
    parts, start = {}, 0
    for split in SPLITS:
        stop = start + table["split"][:].count(split)
        parts[split] = table.select(np.arange(start, stop)).remove_columns("split")
        start = stop
    return parts
