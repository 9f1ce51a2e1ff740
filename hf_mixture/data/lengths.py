"""Lengths of the rows of a dataset: what a mixture in tokens or bytes counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray


if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_COLUMNS = {"tokens": "input_ids", "bytes": "text"}
_BATCH = 10_000


def column_lengths(dataset: Dataset, column: str, *, unit: str, name: str) -> NDArray[np.int64]:
    """Return the length of each row, read from one column.

    An integer column holds the lengths; of a list column the items are counted, of a string column the UTF-8 bytes.

    Args:
        dataset: A map-style dataset with n rows.
        column: Name of the column.
        unit: "tokens" or "bytes".
        name: Name of the domain, for error messages.

    Returns:
        int64 [n].

    Raises:
        ValueError: The column does not exist, or does not hold what `unit` counts.
    """
    from tqdm.auto import tqdm

    if column not in dataset.column_names:
        raise ValueError(
            f"domain {name!r} has no column {column!r} (it has {dataset.column_names}); unit={unit!r} needs the "
            "length of "
            "each row: pass lengths={name: array}, or length_column= with a column of integers, token lists or text"
        )
    table = dataset.select_columns([column]).with_format("arrow")
    batches = table.iter(batch_size=_BATCH)
    if len(dataset) > 100 * _BATCH:
        batches = tqdm(batches, total=-(-len(dataset) // _BATCH), desc=f"lengths of {name}")
    parts = [_lengths(batch.column(column), unit, column, name) for batch in batches]
    return check_lengths(np.concatenate(parts) if parts else np.zeros(0, np.int64), len(dataset), name)


def _lengths(values: Any, unit: str, column: str, name: str) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_integer(kind):
        counted = values
    elif (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and unit == "tokens":
        counted = pc.list_value_length(values)
    elif (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and unit == "bytes":
        counted = pc.binary_length(values)
    else:
        remedy = "a column of integers or token lists" if unit == "tokens" else "a column of integers or text"
        raise ValueError(
            f"column {column!r} of domain {name!r} is of type {kind}; unit={unit!r} cannot be counted there: "
            f"name {remedy} by length_column="
        )
    if counted.null_count:
        raise ValueError(
            f"column {column!r} of domain {name!r} has {counted.null_count} nulls; fill or filter them first"
        )
    return np.asarray(counted.to_numpy(), dtype=np.int64)


def row_length(row: Mapping[str, Any], column: str, *, unit: str, name: str) -> int:
    """Return the length of one row, by the rules of `column_lengths`.

    Raises:
        ValueError: The row has no such column, or the column does not hold what `unit` counts.
    """
    if column not in row:
        raise ValueError(
            f"a row of domain {name!r} has no column {column!r} (it has {list(row)}); unit={unit!r} needs the length "
            "of each row: pass length_column="
        )
    value = row[column]
    if unit == "bytes" and isinstance(value, str):
        return len(value.encode())
    if unit == "tokens" and hasattr(value, "__len__") and not isinstance(value, str) and np.ndim(value) == 1:
        return len(value)
    if np.ndim(value) == 0 and not isinstance(value, str | bool | float) and value is not None and value >= 0:
        return int(value)
    remedy = "integers or token lists" if unit == "tokens" else "integers or text"
    raise ValueError(
        f"column {column!r} of domain {name!r} holds a {type(value).__name__}; unit={unit!r} cannot be counted there: "
        f"name a column of {remedy} by length_column="
    )


def check_lengths(lengths: Any, num_rows: int, name: str) -> NDArray[np.int64]:
    """Return the lengths of one domain as int64 [n].

    Raises:
        ValueError: They are not n integers >= 0 with a positive sum.
    """
    array = np.asarray(lengths)
    if array.shape != (num_rows,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"lengths of domain {name!r} have shape {array.shape} and type {array.dtype}; they must be {num_rows} "
            "integers, "
            "one for each row"
        )
    if num_rows and (array.min() < 0 or array.sum(dtype=np.int64) <= 0):
        raise ValueError(
            f"lengths of domain {name!r} run from {array.min()} to {array.max()}; they must be >= 0 and not all 0: "
            "filter the empty rows or correct the lengths"
        )
    return array.astype(np.int64)
