"""The files of a trace: parquet parts, each complete in itself.

A part is `part-STEP.parquet`, named after its first optimizer step. Its rows are one router at one step (of one rank
where ranks are kept apart), and its schema carries the format, its version and the routers under one metadata key.

Letters: E experts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import parse_json


FORMAT = "hf_mixture.router_trace"
VERSION = 1
PATTERN = "part-*.parquet"
_KEY = b"hf_mixture"


def schema_of(header: dict[str, Any]) -> Any:
    """Return the arrow schema of a part.

    Args:
        header: Facts of the whole trace: `routers`, `sample_every`, `num_ranks`, `per_rank`, `model_type`.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("step", pa.int64(), nullable=False),
            pa.field("rank", pa.int32()),
            pa.field("ordinal", pa.int32(), nullable=False),
            pa.field("layer", pa.int32()),
            pa.field("path", pa.string(), nullable=False),
            pa.field("tokens", pa.int64(), nullable=False),
            pa.field("unrouted", pa.int64(), nullable=False),
            pa.field("counts", pa.list_(pa.int64()), nullable=False),
        ],
        metadata={_KEY: json.dumps({"format": FORMAT, "version": VERSION, **header}).encode()},
    )


def write_part(folder: Path, header: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows, in rising order of their steps, as one part; a reader sees all of it or nothing."""
    import pyarrow as pa

    return _write(folder, pa.Table.from_pylist(list(rows), schema=schema_of(header)))


def read_part(path: Path) -> tuple[dict[str, Any], Any]:
    """Read a part.

    Args:
        path: The file.

    Returns:
        The header, and the arrow table.

    Raises:
        ValueError: If the file is damaged, or not a part of a trace that this version reads.
    """
    import pyarrow.parquet as pq

    with reading(path):
        table = pq.read_table(path)
    header = parse_json((table.schema.metadata or {}).get(_KEY, b"null"), f"the header of {path}")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a part of a router trace; a RouterTraceCallback or RouterTrace.save writes it"
        )
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {header.get('version')} of the format, and version {VERSION} is read here; use the "
            "release of hf_mixture that wrote it"
        )
    if not table.schema.equals(schema_of(header)):
        raise ValueError(f"{path} has other columns than a router trace; copy or download it again")
    return header, table


def parts_of(folder: Path) -> list[Path]:
    """List the parts of a trace in the order of their steps."""
    return sorted(folder.glob(PATTERN))


def cut_after(folder: Path, step: int) -> None:
    """Remove what a trace holds of later steps; killed at any moment, it leaves a trace without doubled steps.

    Args:
        folder: Folder of the trace.
        step: The last step that stays.
    """
    import pyarrow.compute as pc

    for path in reversed(parts_of(folder)):
        _, table = read_part(path)
        kept = table.filter(pc.less_equal(table["step"], step))
        if kept.num_rows == 0:
            path.unlink()
        elif kept.num_rows < table.num_rows:
            _write(folder, kept)


def _write(folder: Path, table: Any) -> Path:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path = folder / f"part-{table['step'][0].as_py():012d}.parquet"
    write_atomic(path, buffer.getvalue())
    return path
