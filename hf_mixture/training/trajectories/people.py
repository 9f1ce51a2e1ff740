"""Trajectories from a CSV file with one row for each person."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path
from typing import Any

from hf_mixture.hub.damage import reading, shorten
from hf_mixture.training.trajectories.recipe import PeopleSpec


# Simulated by the authors of the method, MIT licence: see the licence file beside it.
EXAMPLES = {"bls_dat2": "BLS_dat2.csv"}


def read_people(spec: PeopleSpec) -> Any:
    """Read a file as a `datasets.Dataset` with `values`, `times` and every column of numbers.

    Args:
        spec: The file and its columns.

    Returns:
        The data set.

    Raises:
        ValueError: If there is no such file, or a column is missing.

    Example:
        >>> from hf_mixture.training.trajectories.people import read_people
        >>> from hf_mixture.training.trajectories.recipe import PeopleSpec
        >>> read_people(PeopleSpec(file="bls_dat2", values=["Y1", "Y2"], times=["T1", "T2"])).num_rows
        500
    """
    from datasets import Dataset

    path: Any = Path(spec.file)
    if spec.file in EXAMPLES:
        path = files("hf_mixture.training.trajectories").joinpath("examples", EXAMPLES[spec.file])
    if not path.is_file():
        raise ValueError(f"people.file is {spec.file!r}, which is neither a file nor one of {', '.join(EXAMPLES)}")
    with reading(path, "give a CSV file"):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    if not rows:
        raise ValueError(f"people.file {spec.file!r} has no rows")
    missing = [name for name in (*spec.values, *spec.times) if name not in rows[0]]
    if missing:
        present = ", ".join(map(str, rows[0]))
        raise ValueError(f"people.file {spec.file!r} has no column {missing[0]!r}; it has {shorten(present, 300)}")
    nameless = [name for name in rows[0] if not (name and name.isprintable())]
    if nameless:
        raise ValueError(
            f"people.file {spec.file!r} has a column of the name {shorten(repr(nameless[0]), 100)}; give every column "
            "a name that can be printed"
        )
    wide = {*spec.values, *spec.times}
    with reading(path, "give a CSV file of numbers"):
        columns = {
            "values": [[_number(row[name]) for name in spec.values] for row in rows],
            "times": [[_number(row[name]) for name in spec.times] for row in rows],
            **{name: [_number(row[name]) for row in rows] for name in rows[0] if name not in wide},
        }
        return Dataset.from_dict(columns)


def _number(text: str) -> float | None:
    """A number, or None where the cell is empty or says NA."""
    return None if text.strip() in ("", "NA", "nan", "NaN") else float(text)
