"""Where documents and benchmarks come from: the paths of a recipe, opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.data.curation.decontaminate import BenchmarkSource, DecontaminationIndex, DecontaminationOptions
from hf_mixture.data.domains import INSTALLED, is_folder_of_texts, read_source
from hf_mixture.data.installed import installed_packages
from hf_mixture.data.source import Source
from hf_mixture.data.textfiles import stream_files


if TYPE_CHECKING:
    from hf_mixture.data.curation.recipe import CuratedSource


def open_source(name: str, spec: CuratedSource) -> Any:
    """Open the data set of a source.

    Args:
        name: Name of the source.
        spec: The source, with a path.

    Returns:
        A `Dataset`, or an `IterableDataset` under `streaming` and of a folder of files that are documents.

    Raises:
        ValueError: The data set cannot be opened, or has no such split or column.
    """
    assert spec.path is not None  # noqa: S101 - `curate` has asked for a data set otherwise
    source = Source(
        spec.path,
        config=spec.config,
        data_dir=spec.data_dir,
        data_files=spec.data_files,
        split=spec.split,
        revision=spec.revision,
    )
    if spec.streaming:
        from datasets import load_dataset

        dataset: Any = load_dataset(**source.load_kwargs(), split=spec.split, streaming=True)
    elif is_folder_of_texts(source):
        dataset = stream_files(Path(source.path))
    else:
        dataset = _split(source)
    check_columns(name, dataset, spec)
    return dataset


def check_columns(name: str, dataset: Any, spec: CuratedSource) -> None:
    """Refuse a data set that lacks a column that its source names.

    Args:
        name: Name of the source.
        dataset: The data set; of a stream the columns may not be known.
        spec: The source.

    Raises:
        ValueError: A column is missing.
    """
    for fact, column in spec.columns.items():
        if dataset.column_names is not None and column not in dataset.column_names:
            raise ValueError(
                f"sources.{name}.columns.{fact}={column!r} is no column of the data set, which has "
                f"{dataset.column_names}; correct the name"
            )


def benchmark_index(options: DecontaminationOptions) -> DecontaminationIndex:
    """Read the benchmarks of a recipe and index their n-grams.

    Args:
        options: The benchmarks.

    Returns:
        The index.

    Raises:
        ValueError: A benchmark cannot be read.
    """
    texts = {
        name: (_items(name, spec, spec.test), () if spec.train is None else _items(name, spec, spec.train))
        for name, spec in options.benchmarks.items()
    }
    return DecontaminationIndex.build(texts, mode=options.mode)


def _items(name: str, spec: BenchmarkSource, place: Any) -> Iterator[str]:
    source = Source(place) if isinstance(place, str) else Source.from_dict(place)
    dataset = _split(source)
    if missing := [column for column in spec.columns if column not in dataset.column_names]:
        raise ValueError(
            f"benchmark {name!r} has no column {missing[0]!r}, only {dataset.column_names}; correct "
            f"stages.decontamination.benchmarks.{name}.columns"
        )
    for row in dataset.select_columns(spec.columns):
        yield "\n".join(_text(row[column]) for column in spec.columns)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    return "" if value is None else str(value)


def _split(source: Source) -> Any:
    """One split of a data set in memory-mapped files, with all its columns."""
    from datasets import Dataset

    if source.path.startswith(INSTALLED):
        found: Any = installed_packages([source.path.removeprefix(INSTALLED)])
    else:
        found = read_source(source)
    if isinstance(found, Dataset):
        return found
    if source.split not in found:
        raise ValueError(
            f"{source.path!r} has no split {source.split!r}, only {list(found)}; set split to one of these"
        )
    return found[source.split]
