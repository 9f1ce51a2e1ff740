"""Finished runs as a `RunTable`, and such a table as a file: CSV or parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.data.search.protocol import Run, Trial
from hf_mixture.data.search.table import RunTable, read_columns
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading, shorten


FORMAT = "hf_mixture_run_table"
VERSION = 1

_KEY, _FIDELITY, _COST, _WEIGHT = "run_id", "fidelity", "cost", "weight/"


def runs_to_table(trials: Sequence[Trial], runs: Sequence[Run]) -> RunTable:
    """Join trials and their runs by id.

    Args:
        trials: The trials, all with the same domains, in any order of these.
        runs: A run for each trial, in any order.

    Returns:
        One row a trial, in the order of `trials`, with the metrics that all runs have.

    Raises:
        ValueError: There is no trial, a trial has no run or a run no trial, an id repeats, or domains differ.

    Example:
        ```python
        >>> from hf_mixture.data.proxy import runs_to_table
        >>> from hf_mixture.data.search import Run, Trial
        >>> trials = [Trial("a", ("wiki", "code"), (0.5, 0.5)), Trial("b", ("code", "wiki"), (0.9, 0.1))]
        >>> table = runs_to_table(trials, [Run("b", {"loss/mean": 3.0}), Run("a", {"loss/mean": 2.5})])
        >>> table.weights[1].tolist(), table.metrics["loss/mean"].tolist()
        ([0.1, 0.9], [2.5, 3.0])

        ```
    """
    if not trials:
        raise ValueError("trials is empty; pass the trials of the runs")
    by_id = {run.trial_id: run for run in runs}
    ids = [trial.trial_id for trial in trials]
    if len(by_id) < len(runs) or set(by_id) != set(ids):
        raise ValueError(
            f"trials and runs do not match: {len(ids)} trials, {len(runs)} runs, without a run "
            f"{sorted(set(ids) - set(by_id))[:5]}, without a trial {sorted(set(by_id) - set(ids))[:5]}; pass one "
            "run for each trial"
        )
    domains = trials[0].domains
    for trial in trials:
        if sorted(trial.domains) != sorted(domains):
            raise ValueError(
                f"trial {trial.trial_id!r} has domains {trial.domains} and trial {ids[0]!r} has {domains}; a table "
                "needs the same in all trials"
            )
    ordered = [by_id[name] for name in ids]
    names = [name for name in ordered[0].metrics if all(name in run.metrics for run in ordered)]
    weights = [dict(zip(trial.domains, trial.weights, strict=True)) for trial in trials]
    return RunTable(
        ids,
        domains,
        [[row[name] for name in domains] for row in weights],
        {name: [run.metrics[name] for run in ordered] for name in names},
        fidelity=[trial.fidelity for trial in trials],
        cost=[trial.fidelity if run.cost is None else run.cost for trial, run in zip(trials, ordered, strict=True)],
    )


def save_table(table: RunTable, path: str | os.PathLike[str]) -> None:
    """Write a table; `load_table` gives it back bit by bit.

    Columns: `run_id`, `fidelity`, `cost`, `weight/<domain>` for each domain, and the metrics under their names.

    Args:
        table: The table.
        path: A file ending in `.csv` or `.parquet`; its folder exists.

    Raises:
        ValueError: The ending is another one, or a metric is named like one of the other columns.
    """
    kind = _kind(path)
    taken = [name for name in table.metrics if name in (_KEY, _FIDELITY, _COST) or name.startswith(_WEIGHT)]
    if taken:
        raise ValueError(f"metrics {taken} are named like other columns of the file; rename them")
    columns: dict[str, Any] = {
        _KEY: list(table.run_ids),
        _FIDELITY: table.fidelity,
        _COST: table.cost,
        **{f"{_WEIGHT}{name}": table.raw_weights[:, number] for number, name in enumerate(table.domains)},
        **table.metrics,
    }
    write_atomic(Path(path), _to_csv(columns) if kind == ".csv" else _to_parquet(columns))


def load_table(path: str | os.PathLike[str]) -> RunTable:
    """Read a table that `save_table` wrote.

    Raises:
        ValueError: The ending is unknown, a column is missing, or a value is not valid.
    """
    read = read_columns if _kind(path) == ".csv" else _read_parquet
    with reading(path, "read tables of others with RunTable.read_csv"):
        return _table_of(read(path), path)


def _table_of(columns: Mapping[str, Sequence[Any]], path: str | os.PathLike[str]) -> RunTable:
    if missing := [name for name in (_KEY, _FIDELITY, _COST) if name not in columns]:
        raise ValueError(
            f"{os.fspath(path)!r} has no columns {missing}; it has {shorten(str(list(columns)), 200)}: read tables of "
            "others with RunTable.read_csv"
        )
    numbers = {name: np.array(values, dtype=np.float64) for name, values in columns.items() if name != _KEY}
    weights = {name.removeprefix(_WEIGHT): values for name, values in numbers.items() if name.startswith(_WEIGHT)}
    metrics = {
        name: values
        for name, values in numbers.items()
        if name not in (_FIDELITY, _COST) and not name.startswith(_WEIGHT)
    }
    if not weights:
        raise ValueError(
            f"{os.fspath(path)!r} has no columns {_WEIGHT}<domain>; it has {shorten(str(list(columns)), 200)}"
        )
    return RunTable(
        columns[_KEY],
        list(weights),
        np.column_stack(list(weights.values())),
        metrics,
        fidelity=numbers[_FIDELITY],
        cost=numbers[_COST],
    )


def _kind(path: str | os.PathLike[str]) -> str:
    kind = Path(path).suffix
    if kind not in (".csv", ".parquet"):
        raise ValueError(f"{os.fspath(path)!r} ends in {kind!r}; a table is written as '.csv' or '.parquet'")
    return kind


def _to_csv(columns: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    # The shortest text of a float that reads back as the same float.
    values = [[v if isinstance(v, str) else repr(float(v)) for v in column] for column in columns.values()]
    writer.writerows(zip(*values, strict=True))
    return text.getvalue()


def _to_parquet(columns: Mapping[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns)).replace_schema_metadata({"format": FORMAT, "version": str(VERSION)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _read_parquet(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    with reading(path):
        table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    if (metadata.get(b"format"), metadata.get(b"version")) != (FORMAT.encode(), str(VERSION).encode()):
        raise ValueError(
            f"{os.fspath(path)!r} is no table of format {FORMAT!r} version {VERSION}; write it with save_table, or "
            "read its columns and build a RunTable"
        )
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns
