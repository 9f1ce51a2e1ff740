"""Domains: named sources of text, each as train, validation and test.

One entry point for Hub data sets, local files and folders, data sets in memory, and the packages of the running
environment (`installed:<domain>`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_mixture.data.installed import DOMAINS, installed_packages
from hf_mixture.data.source import Source, shorten
from hf_mixture.data.spdx import UNKNOWN
from hf_mixture.data.splits import SPLITS, split_of
from hf_mixture.data.textfiles import read_texts, visible_files


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

__all__ = ["domains_from_clusters", "installed_packages", "load_domain", "load_domains", "split_by_domain"]

INSTALLED = "installed:"
HELD_OUT = 0.1
_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
# What `save_to_disk` leaves.
_SAVED = ("dataset_dict.json", "state.json")
# A path that ends so is a file that is missing here, not the name of a data set on the Hub.
_FILES = (*_BUILDERS, ".md", ".rst", ".tex", ".text", ".txt")
_VALIDATION = ("validation", "valid", "val", "dev")
_BATCH = 1000


def load_domains(sources: Mapping[str, Any], *, held_out: float = HELD_OUT) -> dict[str, DatasetDict]:
    """Load several domains; see `load_domain`.

    Args:
        sources: A source for each name: what `load_domain` takes. `mixture.sources` is such a mapping.
        held_out: As in `load_domain`.

    Returns:
        A `DatasetDict` for each name, in the order given.

    Raises:
        ValueError: A source is wrong; the message names the domain.
        FileNotFoundError: A source does not exist.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> from hf_mixture import load_domains
        >>> notes = Dataset.from_dict({"text": [f"note {i}" for i in range(100)]})
        >>> domains = load_domains({"notes": notes})
        >>> {split: len(rows) for split, rows in domains["notes"].items()}
        {'train': 79, 'validation': 10, 'test': 11}

        ```
    """
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError(f"domains={shorten(sources)} must map at least one name to a source: add one")
    parsed = {name: _parse(source, name) for name, source in sources.items()}
    wanted = {source.path.removeprefix(INSTALLED) for source in parsed.values() if _is_installed(source)}
    if wanted:
        # One pass over the environment for all of them; `load_domain` then finds each in the cache.
        installed_packages([domain for domain in DOMAINS if domain in wanted], held_out=held_out)
    loaded = {}
    for name, source in parsed.items():
        try:
            loaded[name] = load_domain(source, held_out=held_out)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"domain {name!r}: {error}") from error
        except ValueError as error:
            raise ValueError(f"domain {name!r}: {error}") from error
    return loaded


def load_domain(source: Any, *, held_out: float = HELD_OUT) -> DatasetDict:
    """Load one domain: text with its licence, as train, validation and test.

    Splits that the source lacks are taken from its training rows by a hash: of the path for text files, of the text
    otherwise, so that equal texts are never on both sides. Rows without text are left out.

    Args:
        source: One of

            - a path or `Source`: a text file (cut into documents at blank lines), a folder of text files (one document
              each, or cut likewise where they are too few to hold some out), a json, jsonl, parquet, csv or arrow
              file, a folder of these, a folder written by `save_to_disk`, the id of a Hub data set, or
              `"installed:<domain>"` (see `installed_packages`);
            - a mapping with the fields of `Source`;
            - a `Dataset` or `DatasetDict` with a string column "text".
        held_out: Share of validation, and of test, where they are cut from the training rows, in (0, 0.5).
            Default: 0.1.

    Returns:
        `DatasetDict` of "train", "validation" and "test", with string columns "text" and "license" (of a curated data
        set, its `license_spdx`), and "path" where the rows are files. `"installed:<domain>"` has the columns of
        `installed_packages`.

    Raises:
        ValueError: The source is malformed, has no such column or split, or too few rows to hold some out.
        FileNotFoundError: There is no such file, folder or Hub data set.
        TypeError: `source` is none of these.

    Example:
        ```python
        >>> import tempfile
        >>> from pathlib import Path
        >>> from hf_mixture import load_domain
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(100):
        ...         _ = Path(folder, f"{i}.txt").write_text(f"file number {i}")
        ...     notes = load_domain(folder)
        >>> notes["train"].column_names
        ['text', 'path', 'license']

        ```
    """
    from datasets import Dataset, DatasetDict

    if not 0 < held_out < 0.5:
        raise ValueError(f"held_out={held_out!r} must lie in (0, 0.5), to leave rows for training: the default is 0.1")
    parsed = _parse(source, "source")
    if isinstance(parsed, Dataset | DatasetDict):
        raw: Any = parsed
        facts = Source("memory")
    elif _is_installed(parsed):
        domain = parsed.path.removeprefix(INSTALLED)
        if domain not in DOMAINS:
            raise ValueError(f"path={parsed.path!r}: {domain!r} is not one of {list(DOMAINS)}; choose one")
        return _complete(installed_packages([domain], held_out=held_out), parsed)
    else:
        raw, facts = read_source(parsed), parsed
    dataset = _in_splits(raw, facts, held_out)
    if raw is not parsed and is_folder_of_texts(facts) and not all(map(len, dataset.values())):
        logger.warning(
            "%s: %d files are too few to hold some out, so they are cut at blank lines", facts.path, len(raw)
        )
        dataset = _in_splits(read_texts(Path(facts.path), cut=True), facts, held_out)
    return _complete(dataset, facts)


def _in_splits(raw: Any, source: Source, held_out: float) -> DatasetDict:
    """The three splits with the columns of a domain."""
    from datasets import DatasetDict

    parts = {name: _columns(part, source) for name, part in _splits(raw, source).items()}
    return DatasetDict(_held_out(parts, source, held_out))


def split_by_domain(dataset: DatasetDict) -> dict[str, DatasetDict]:
    """Take a multi-domain data set apart.

    Args:
        dataset: Splits with a string column "domain", as `installed_packages` gives.

    Returns:
        For each domain, in the order of its first row, a `DatasetDict` with the same splits.

    Raises:
        ValueError: A split has no column "domain".

    Example:
        ```python
        >>> from datasets import Dataset, DatasetDict
        >>> from hf_mixture import split_by_domain
        >>> rows = Dataset.from_dict({"text": ["x", "y"], "domain": ["wiki", "code"]})
        >>> split_by_domain(DatasetDict({"train": rows}))["code"]["train"]["text"][:]
        ['y']

        ```
    """
    from datasets import DatasetDict

    rows: dict[str, dict[str, list[int]]] = {}
    for split, part in dataset.items():
        if "domain" not in part.column_names:
            raise ValueError(f"split {split!r} has no column 'domain', only {part.column_names}; add one")
        for index, domain in enumerate(part["domain"]):
            rows.setdefault(domain, {name: [] for name in dataset})[split].append(index)
    return {
        domain: DatasetDict(
            {split: dataset[split].select(np.asarray(found, np.int64)) for split, found in parts.items()}
        )
        for domain, parts in rows.items()
    }


def domains_from_clusters(
    dataset: Dataset, column: str = "cluster_id", *, min_rows: int = 100, held_out: float = HELD_OUT
) -> dict[str, DatasetDict]:
    """Make each cluster of a data set a domain, as CLIMB (arXiv 2504.13161) mixes data.

    Args:
        dataset: Rows with a string column "text" and the number of their cluster.
        column: Where that number is; rows with a negative one are left out. `cluster_dataset` writes "cluster_id".
            Default: `"cluster_id"`.
        min_rows: Clusters with fewer rows become one domain, "cluster_rest". Default: 100.
        held_out: As in `load_domain`. Default: 0.1.

    Returns:
        "cluster_0", "cluster_1", ... in the order of their numbers, each as `load_domain` gives it.

    Raises:
        ValueError: There is no such column, it does not hold whole numbers, no row has a cluster, or a domain has too
            few rows to hold some out.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> from hf_mixture import domains_from_clusters
        >>> rows = {"text": [f"text {i}" for i in range(400)], "cluster_id": [0] * 220 + [1] * 160 + [2] * 20}
        >>> {name: len(part["train"]) for name, part in domains_from_clusters(Dataset.from_dict(rows)).items()}
        {'cluster_0': 175, 'cluster_1': 135, 'cluster_rest': 18}

        ```
    """
    if column not in dataset.column_names:
        raise ValueError(f"column={column!r} is not one of {dataset.column_names}; name the one with the clusters")
    numbers = np.asarray(dataset.with_format("numpy")[column][:])
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"column {column!r} holds {dataset.features[column]}, not whole numbers; name another")
    counts = np.bincount(numbers[numbers >= 0])
    if not counts.any():
        raise ValueError(f"no row has a cluster in column {column!r}; all {len(numbers)} are negative")
    rows = {f"cluster_{number}": numbers == number for number in np.flatnonzero(counts >= max(1, min_rows))}
    rest = (numbers >= 0) & (counts[numbers] < min_rows)
    if rest.any():
        rows["cluster_rest"] = rest
    domains = {}
    for name, chosen in rows.items():
        try:
            domains[name] = load_domain(dataset.select(np.flatnonzero(chosen)), held_out=held_out)
        except ValueError as error:
            raise ValueError(f"domain {name!r}: {error}") from error
    return domains


def _parse(source: Any, name: str) -> Any:
    from datasets import Dataset, DatasetDict

    if isinstance(source, Source | Dataset | DatasetDict):
        return source
    if isinstance(source, str | os.PathLike):
        return Source(os.fspath(source))
    if isinstance(source, Mapping):
        return Source.from_dict(source)
    raise TypeError(
        f"{name!r} is a {type(source).__name__}; a domain is a path, a Source, a mapping of its fields, a Dataset "
        "or a "
        "DatasetDict"
    )


def _is_installed(source: Any) -> bool:
    return isinstance(source, Source) and source.path.startswith(INSTALLED)


def _is_plain(source: Source) -> bool:
    return source.data_files is None and source.data_dir is None and source.config is None


def is_folder_of_texts(source: Source) -> bool:
    """Whether a source is a folder whose files are documents, not tables or a saved data set."""
    path = Path(source.path)
    if not _is_plain(source) or not path.is_dir():
        return False
    children = list(path.iterdir())
    if any(child.name in _SAVED for child in children):
        return False
    if not any(child.suffix.lower() in _BUILDERS for child in children):
        return True
    # A package.json among the source files of a program is one of its documents, a README beside tables is not.
    is_table = [Path(name).suffix.lower() in _BUILDERS for name in visible_files(path)]
    return sum(is_table) < len(is_table) / 2


def read_source(source: Source) -> Any:
    """The raw data set at a path."""
    from datasets import load_dataset, load_from_disk
    from huggingface_hub.errors import HFValidationError

    path = Path(source.path)
    if path.is_dir() and any((path / name).is_file() for name in _SAVED):
        return load_from_disk(str(path))
    kwargs = source.load_kwargs()
    plain = _is_plain(source)
    if plain and path.is_file():
        if path.suffix.lower() not in _BUILDERS:
            return read_texts(path)
        kwargs = {"path": _BUILDERS[path.suffix.lower()], "data_files": str(path)}
    elif is_folder_of_texts(source):
        return read_texts(path)
    elif plain and not path.exists() and (path.is_absolute() or path.suffix.lower() in _FILES):
        raise FileNotFoundError(f"path={source.path!r}: there is no such file or folder here; check the path")
    # A slice such as "train[:10%]" is not the name of a split: datasets has to cut it.
    split = source.split if not source.split.isidentifier() else None
    try:
        return load_dataset(**kwargs, split=split)
    except HFValidationError:
        raise FileNotFoundError(
            f"path={source.path!r} is no file or folder here, and no name of a data set on the Hub; check the path"
        ) from None
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"path={source.path!r} is no file or folder here, and could not be loaded from the Hub "
            f"({str(error).splitlines()[0]}); check the name, the revision and the access"
        ) from error


def _splits(raw: Any, source: Source) -> dict[str, Dataset]:
    """The splits that the source has, under our names."""
    from datasets import Dataset

    if isinstance(raw, Dataset):
        return {"train": raw}
    if source.split not in raw:
        raise ValueError(f"{source.path!r} has no split {source.split!r}, only {list(raw)}; set split to one of these")
    found = {"train": raw[source.split]}
    for name, aliases in (("validation", _VALIDATION), ("test", ("test",))):
        other = next((alias for alias in aliases if alias in raw and alias != source.split), None)
        if other is not None:
            found[name] = raw[other]
    return found


def _columns(part: Dataset, source: Source) -> Dataset:
    """The rows as text, license and, for files, path."""
    from datasets import Value

    if source.text_column not in part.column_names:
        raise ValueError(
            f"{source.path!r} has no column {source.text_column!r}, only {part.column_names}; set text_column to "
            "the one with "
            "the text"
        )
    kind = part.features[source.text_column]
    if kind not in (Value("string"), Value("large_string")):
        raise ValueError(f"column {source.text_column!r} of {source.path!r} is {kind}, not text; set text_column")
    if source.text_column != "text":
        if "text" in part.column_names:
            part = part.remove_columns("text")
        part = part.rename_column(source.text_column, "text")
    string = Value("string")
    if "license" not in part.column_names and "license_spdx" in part.column_names:
        # What a curation found.
        part = part.rename_column("license_spdx", "license")
    kept = [name for name in ("text", "license", "path") if part.features.get(name) in (string, Value("large_string"))]
    part = part.select_columns(kept)
    if kind != string:
        part = part.cast_column("text", string)
    if "license" not in kept or source.license is not None:
        label = source.license or (part.info.license if part.info else None) or UNKNOWN
        part = part.remove_columns([name for name in kept if name == "license"])
        part = part.add_column("license", [label] * len(part), feature=string)
    return part


def _held_out(found: dict[str, Dataset], source: Source, held_out: float) -> dict[str, Dataset]:
    """Take the missing splits from the training rows, and leave out rows without text."""
    from tqdm.auto import tqdm

    missing = [split for split in SPLITS if split not in found]
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for split, part in found.items():
        key = "path" if "path" in part.column_names else "text"
        batches = part.select_columns(sorted({"text", key})).iter(batch_size=_BATCH)
        if len(part) > 100 * _BATCH:
            batches = tqdm(batches, total=-(-len(part) // _BATCH), desc=f"splitting {source.path}")
        index = 0
        for batch in batches:
            for text, name in zip(batch["text"], batch[key], strict=True):
                if text and not text.isspace():
                    drawn = split_of(name or text, held_out) if split == "train" and missing else split
                    rows[drawn if drawn in missing else split].append(index)
                index += 1
    return {
        split: found["train" if split in missing else split].select(np.asarray(rows[split], np.int64))
        for split in SPLITS
    }


def _complete(dataset: DatasetDict, source: Source) -> DatasetDict:
    """Return the data set, or raise ValueError when one of its splits has no rows."""
    if empty := [split for split, rows in dataset.items() if not len(rows)]:
        raise ValueError(
            f"{source.path!r} has no rows for {empty}, of {sum(map(len, dataset.values()))} rows with text; "
            "add rows, raise held_out, or give it these splits"
        )
    return dataset
