"""Clusters of the rows of a data set, from a column of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hf_mixture.data.clustering.rows import FloatArray


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset

    from hf_mixture.data.clustering.ppp import ProbabilisticPartition

    Data = TypeVar("Data", Dataset, DatasetDict, IterableDataset)

_BATCH = 1000


def cluster_dataset(
    dataset: Data,
    column: str = "embedding",
    *,
    partition: ProbabilisticPartition | None = None,
    split: str = "train",
    batch_size: int = _BATCH,
) -> Data:
    """Add the cluster of each row, and how sure it is, by `Dataset.map`.

    Args:
        dataset: A `Dataset`, a `DatasetDict`, or, with a fitted partition, a streaming data set.
        column: A column of vectors of equal length. Default: `"embedding"`.
        partition: A fitted partition is used as it is; one that is not fitted is fitted to the column. Default: a new
            `ProbabilisticPartition()`.
        split: The split of a `DatasetDict` that the partition is fitted to. Default: `"train"`.
        batch_size: Number of rows that are labelled at once. Default: 1000.

    Returns:
        The data set with `cluster_id` (int64) and `cluster_prob` (float64): what `predict` says, and the posterior
        probability of that cluster.

    Raises:
        ValueError: There is no such column or split, its values are not vectors of one length, a result column exists
            already, or a streaming data set has no fitted partition.

    Example:
        ```python
        >>> import numpy as np
        >>> from datasets import Dataset
        >>> from hf_mixture import cluster_dataset
        >>> rng = np.random.default_rng(0)
        >>> rows = np.concatenate([rng.normal(place, 1, (60, 2)) for place in (0, 9)])
        >>> found = cluster_dataset(Dataset.from_dict({"embedding": rows}))
        >>> sorted(set(found["cluster_id"]))
        [0, 1]

        ```
    """
    from datasets import DatasetDict, IterableDataset
    from sklearn.utils.validation import check_is_fitted

    from hf_mixture.data.clustering.ppp import ProbabilisticPartition

    parts = dict(dataset) if isinstance(dataset, DatasetDict) else {split: dataset}
    if split not in parts:
        raise ValueError(f"split={split!r} is not one of {list(parts)}: choose one")
    for part in parts.values():
        _check_columns(part.column_names, column)
    partition = ProbabilisticPartition() if partition is None else partition
    if not hasattr(partition, "tree_"):
        if isinstance(parts[split], IterableDataset):
            raise ValueError("a streaming data set is read once: pass partition, fitted to a sample of its rows")
        vectors = parts[split].select_columns([column]).with_format("numpy")[:][column]
        partition.fit(_vectors(vectors, column))
    check_is_fitted(partition, "tree_")

    # The results do not depend on what a partition knows of the rows of fit: without it the fingerprint of the map,
    # which finds a cached result, stays small and is that of a loaded partition too.
    fitted = _without_rows(partition)
    return dataset.map(_label, batched=True, batch_size=batch_size, fn_kwargs={"column": column, "partition": fitted})


def _label(batch: dict[str, Any], *, column: str, partition: ProbabilisticPartition) -> dict[str, Any]:
    points = _vectors(batch[column], column)
    labels = partition.predict(points)
    return {
        "cluster_id": labels,
        "cluster_prob": partition.predict_proba(points)[np.arange(len(labels)), labels],
    }


def _without_rows(partition: ProbabilisticPartition) -> ProbabilisticPartition:
    from copy import copy

    fitted = copy(partition)
    for name in ("labels_", "confidence_", "cluster_sizes_"):
        if hasattr(fitted, name):
            delattr(fitted, name)
    return fitted


def _vectors(values: Any, column: str) -> FloatArray:
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2:
        raise ValueError(
            f"column {column!r} does not hold a vector of one length in every row; name the column with the "
            "embeddings, or filter the rows without one"
        )
    if num_bad := int((~np.isfinite(points)).any(axis=1).sum()):
        raise ValueError(
            f"column {column!r} has {num_bad} vectors with NaN or infinity; filter these rows, or embed them again"
        )
    return points


def _check_columns(names: list[str] | None, column: str) -> None:
    if names is None:
        # A stream that was not read yet does not know its columns.
        return
    if column not in names:
        raise ValueError(f"column={column!r} is not one of {names}: name the column with the vectors")
    if taken := sorted({"cluster_id", "cluster_prob"} & set(names)):
        raise ValueError(f"the data set has {taken} already; remove or rename them first")
