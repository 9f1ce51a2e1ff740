"""Arrow tables on disk that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import partial_of


def write_arrow(path: Path, rows: Sequence[Any], schema: Any) -> None:
    """Write rows as an uncompressed Arrow file, which is read without being copied.

    Args:
        path: The file.
        rows: Mappings from column to value; columns that a row lacks are null.
        schema: The `pyarrow.Schema`.
    """
    import pyarrow as pa

    table = pa.Table.from_pylist(list(rows), schema=schema)
    partial = partial_of(path)
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    _into_place(partial, path)


def read_arrow(path: Path) -> Any:
    """Return the table of a file that `write_arrow` wrote; its memory is the file."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_parquet(path: Path, table: Any) -> None:
    """Write a table as parquet.

    Args:
        path: The file.
        table: A `pyarrow.Table`.
    """
    import pyarrow.parquet as pq

    partial = partial_of(path)
    pq.write_table(table, partial, compression="zstd", row_group_size=2000)
    _into_place(partial, path)


def _into_place(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
