"""`RunTable`: what finished training runs measured, one row a run.

Letters: n runs, K domains.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture.data.search.ranks import FloatArray


SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False, init=False)
class RunTable:
    """Mixtures and what they scored, joined by run id and validated.

    Args:
        run_ids: Unique id of each run.
        domains: Names of the K domains, in the order of the columns of `weights`.
        weights: Mixtures of shape (n, K), each >= 0 with a sum within 1e-2 of 1 (published tables are rounded).
        metrics: Values of shape (n,) by metric name; finite.
        fidelity: Fidelity of each run in (0, 1], 1 being the target size, of shape (n,). Default: 1 for all.
        cost: Cost of each run > 0, in units of one target run, of shape (n,). Default: the fidelity.

    Attributes:
        raw_weights (`ndarray`): The mixtures as given.
        weights (`ndarray`): The mixtures divided by their sums.
        sha256 (`str`): Hash of the content, independent of the order of rows.

    Raises:
        ValueError: Ids repeat, shapes differ, a value is not finite, or a mixture is off the simplex.

    Example:
        ```python
        >>> from hf_mixture.data.search import RunTable
        >>> table = RunTable(["a", "b"], ["wiki", "code"], [[0.7, 0.3], [0.2, 0.8]], {"loss": [3.1, 3.4]})
        >>> len(table), table.metrics["loss"].min()
        (2, np.float64(3.1))

        ```
    """

    run_ids: tuple[str, ...]
    domains: tuple[str, ...]
    raw_weights: FloatArray
    weights: FloatArray
    metrics: dict[str, FloatArray]
    fidelity: FloatArray
    cost: FloatArray
    sha256: str = field(repr=False)

    def __init__(
        self,
        run_ids: Iterable[Any],
        domains: Iterable[str],
        weights: npt.ArrayLike,
        metrics: Mapping[str, npt.ArrayLike],
        *,
        fidelity: npt.ArrayLike | None = None,
        cost: npt.ArrayLike | None = None,
    ) -> None:
        ids = tuple(str(run_id) for run_id in run_ids)
        names = tuple(domains)
        _check_unique("run_ids", ids)
        _check_unique("domains", names)
        raw = np.array(weights, dtype=np.float64).reshape(len(ids), -1) if ids else np.zeros((0, len(names)))
        if raw.shape[1] != len(names):
            raise ValueError(
                f"weights has {raw.shape[1]} columns for {len(names)} domains; they must match: name every column"
            )
        if not metrics:
            raise ValueError("metrics is empty; a table needs at least one metric: add one")
        columns = {name: _column(f"metric {name!r}", values, ids) for name, values in metrics.items()}
        level = _column("fidelity", np.ones(len(ids)) if fidelity is None else fidelity, ids)
        price = _column("cost", level if cost is None else cost, ids)
        _check_rows("fidelity", (level > 0) & (level <= 1), level, ids, "be in (0, 1]: divide by the target size")
        _check_rows("cost", price > 0, price, ids, "be above 0: correct it")
        sums = raw.sum(axis=1)
        on_simplex = (raw >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE)
        _check_rows(
            "sum of weights", on_simplex, sums, ids, f"be 1 within {SUM_TOLERANCE}, of weights >= 0: correct the row"
        )
        values = {
            "run_ids": ids,
            "domains": names,
            "raw_weights": raw,
            "weights": raw / sums[:, None],
            "metrics": columns,
            "fidelity": level,
            "cost": price,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "sha256", self._hash())

    def __len__(self) -> int:
        return len(self.run_ids)

    @classmethod
    def join(
        cls,
        mixtures: Mapping[str, Sequence[Any]],
        metrics: Mapping[str, Sequence[Any]],
        *,
        key: str,
        prefix: str = "",
        fidelity: float = 1.0,
        cost: float | None = None,
    ) -> RunTable:
        """Join a table of mixtures and a table of metrics by a key column, never by row.

        Args:
            mixtures: Columns of the mixtures: the key, and one column a domain.
            metrics: Columns of the metrics: the key, and one column a metric.
            key: Name of the column that holds the run id in both.
            prefix: What domain columns start with; it is cut off the names. Other columns are ignored. Default: "".
            fidelity: Fidelity of all these runs, in (0, 1]. Default: 1.
            cost: Cost of each of these runs. Default: the fidelity.

        Returns:
            The joined table, in the order of `mixtures`.

        Raises:
            ValueError: An id repeats, or stands in only one of the two.

        Example:
            ```python
            >>> from hf_mixture.data.search import RunTable
            >>> mixtures = {"id": [1, 2], "train_wiki": [0.7, 0.2], "train_code": [0.3, 0.8]}
            >>> table = RunTable.join(mixtures, {"id": [2, 1], "loss": [3.4, 3.1]}, key="id", prefix="train_")
            >>> table.metrics["loss"].tolist(), table.domains
            ([3.1, 3.4], ('wiki', 'code'))

            ```
        """
        ids = _key_column("mixtures", mixtures, key)
        other = _key_column("metrics", metrics, key)
        missing, extra = sorted(set(ids) - set(other)), sorted(set(other) - set(ids))
        if missing or extra:
            raise ValueError(
                f"the run ids of mixtures and metrics differ: {len(missing)} only in mixtures {missing[:5]}, "
                f"{len(extra)} only in metrics {extra[:5]}; every run needs both: align the two tables"
            )
        order = {run_id: row for row, run_id in enumerate(other)}
        rows = [order[run_id] for run_id in ids]
        columns = [name for name in mixtures if name != key and name.startswith(prefix)]
        joined = {name: [_number(values[row]) for row in rows] for name, values in metrics.items() if name != key}
        return cls(
            ids,
            [name.removeprefix(prefix) for name in columns],
            np.column_stack([[_number(value) for value in mixtures[name]] for name in columns]),
            joined,
            fidelity=np.full(len(ids), fidelity),
            cost=None if cost is None else np.full(len(ids), cost),
        )

    @classmethod
    def read_csv(
        cls,
        mixtures: str | os.PathLike[str],
        metrics: str | os.PathLike[str] | None = None,
        *,
        key: str,
        prefix: str,
        metric_names: Sequence[str] | None = None,
        fidelity: float = 1.0,
        cost: float | None = None,
    ) -> RunTable:
        """Read one file with mixtures and metrics, or two files that are joined by the key.

        Args:
            mixtures: CSV file with a header.
            metrics: CSV file with the metrics. Default: the same file.
            key: Name of the column that holds the run id.
            prefix: What domain columns start with; it is cut off the names.
            metric_names: Columns to keep as metrics. Default: all but the key and the domains.
            fidelity: Fidelity of all these runs, in (0, 1]. Default: 1.
            cost: Cost of each of these runs. Default: the fidelity.

        Returns:
            The table.

        Raises:
            ValueError: As for the class and `join`.
        """
        left = read_columns(mixtures)
        right = left if metrics is None else read_columns(metrics)
        names = metric_names or [name for name in right if name != key and not name.startswith(prefix)]
        _check_present("metric_names", [key, *names], right)
        kept = {name: right[name] for name in (key, *names)}
        return cls.join(left, kept, key=key, prefix=prefix, fidelity=fidelity, cost=cost)

    def select(self, rows: npt.ArrayLike | slice) -> RunTable:
        """Return the table of some rows.

        Args:
            rows: Indices, a mask of shape (n,), or a slice.
        """
        index = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]
        return RunTable(
            [self.run_ids[row] for row in index],
            self.domains,
            self.raw_weights[index],
            {name: values[index] for name, values in self.metrics.items()},
            fidelity=self.fidelity[index],
            cost=self.cost[index],
        )

    def concat(self, other: RunTable) -> RunTable:
        """Return both tables as one, with the metrics that they share.

        Args:
            other: A table of the same domains.

        Raises:
            ValueError: The domains differ, no metric is shared, or a run id stands in both.
        """
        if self.domains != other.domains:
            raise ValueError(
                f"domains differ: {self.domains} and {other.domains}; tables must agree: rename or reorder"
            )
        shared = [name for name in self.metrics if name in other.metrics]
        return RunTable(
            self.run_ids + other.run_ids,
            self.domains,
            np.concatenate([self.raw_weights, other.raw_weights]),
            {name: np.concatenate([self.metrics[name], other.metrics[name]]) for name in shared},
            fidelity=np.concatenate([self.fidelity, other.fidelity]),
            cost=np.concatenate([self.cost, other.cost]),
        )

    def inconsistent_means(self, name: str, of: Sequence[str], *, tolerance: float = 1e-9) -> list[str]:
        """Run ids whose stored mean differs from the mean of its parts: errors in a published table.

        Args:
            name: Metric that claims to be a mean.
            of: Metrics that it is the mean of.
            tolerance: Largest difference that passes. Default: 1e-9.

        Returns:
            The run ids, in the order of the rows.
        """
        _check_present("metric", [name, *of], self.metrics)
        true = np.mean([self.metrics[part] for part in of], axis=0)
        return [self.run_ids[row] for row in np.flatnonzero(np.abs(true - self.metrics[name]) > tolerance)]

    def _hash(self) -> str:
        order = sorted(range(len(self)), key=lambda row: self.run_ids[row])
        digest = hashlib.sha256()
        header = [list(self.domains), sorted(self.metrics), [self.run_ids[row] for row in order]]
        digest.update(json.dumps(header, ensure_ascii=False).encode())
        for values in (
            self.raw_weights,
            *(self.metrics[name] for name in sorted(self.metrics)),
            self.fidelity,
            self.cost,
        ):
            digest.update(np.ascontiguousarray(values[order], dtype="<f8").tobytes())
        return digest.hexdigest()


def read_columns(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read a CSV file with a header as lists of strings by column name.

    Raises:
        ValueError: The file has no header, a repeated column, or a row of another length.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows:
        raise ValueError(f"{os.fspath(path)!r} is empty; a table needs a header line: check the file")
    header = rows[0]
    _check_unique(f"columns of {os.fspath(path)!r}", tuple(header))
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise ValueError(
                f"line {line} of {os.fspath(path)!r} has {len(row)} fields, the header {len(header)}: repair the line"
            )
    return {name: [row[column] for row in rows[1:]] for column, name in enumerate(header)}


def _number(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _key_column(what: str, columns: Mapping[str, Sequence[Any]], key: str) -> tuple[str, ...]:
    _check_present("key", [key], columns)
    ids = tuple(str(value) for value in columns[key])
    _check_unique(f"{key!r} of {what}", ids)
    return ids


def _check_present(argument: str, names: Sequence[str], columns: Mapping[str, Any]) -> None:
    for name in names:
        if name not in columns:
            raise ValueError(f"{argument}: there is no column {name!r}; the columns are {list(columns)}: choose one")


def _check_unique(what: str, values: tuple[str, ...]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{what} repeats {repeated[:5]}; each must be unique: remove or rename the duplicates")


def _column(what: str, values: npt.ArrayLike, ids: tuple[str, ...]) -> FloatArray:
    column = np.array(values, dtype=np.float64)
    if column.shape != (len(ids),):
        raise ValueError(f"{what} has shape {column.shape} for {len(ids)} runs; it needs one value a run: align it")
    _check_rows(what, np.isfinite(column), column, ids, "be a finite number: drop or repeat the run")
    return column


def _check_rows(what: str, valid: npt.NDArray[np.bool_], values: FloatArray, ids: tuple[str, ...], rule: str) -> None:
    bad = np.flatnonzero(~valid)
    if len(bad):
        raise ValueError(f"{what} of run {ids[bad[0]]!r} is {values[bad[0]]!r} ({len(bad)} such rows); it must {rule}")
