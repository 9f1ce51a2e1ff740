"""The sources of a `MixtureDataset`: what is checked of them, and what is read off them.

Letters: K sources, n rows of one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture._compat.datasets import fingerprint_of
from hf_mixture.data import lengths as row_lengths
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.mixture_plan import drawn
from hf_mixture.data.pack import TokenBlocks, TokenPack
from hf_mixture.data.stream_checks import (
    check_column_is_free,
    check_provenance_column,
    check_types,
    match_names,
    row_columns,
)


if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Int64 = NDArray[np.int64]


def match_sources(sources: Mapping[str, Any], mixture: Mixture, provenance_column: str | None) -> dict[str, Any]:
    """Return the sources by name, in the order of the mixture.

    Raises:
        ValueError: A domain has no source, a source no weight, a drawn one no rows, or their columns do not agree.
        TypeError: A source is of another type.
    """
    from datasets import Dataset as Table

    check_provenance_column(provenance_column)
    by_name, used = match_names(sources, mixture), set(drawn(mixture))
    for name, source in by_name.items():
        if not isinstance(source, Table | TokenPack | TokenBlocks):
            raise TypeError(
                f"domain {name!r} is a {type(source).__name__}; it must be a datasets.Dataset, a TokenPack or blocks "
                "of one: convert it, or use MixtureIterableDataset for a stream"
            )
        if len(source) == 0 and name in used:
            raise ValueError(f"domain {name!r} has no rows and is drawn; add rows or set its weight to 0")
        check_column_is_free(provenance_column, source.column_names, name)
    columns = {
        name: sorted((isinstance(source, Table) and row_columns(source)) or source.column_names)
        for name, source in by_name.items()
    }
    if len(set(map(tuple, columns.values()))) > 1:
        raise ValueError(f"the sources have different columns, {columns}; select or rename columns until they agree")
    check_types({name: source for name, source in by_name.items() if isinstance(source, Table)})
    return by_name


def source_fingerprint(source: Any) -> str:
    """Return a text that is equal for equal content."""
    return source.fingerprint if isinstance(source, TokenPack | TokenBlocks) else fingerprint_of(source)


def source_lengths(
    sources: Mapping[str, Any],
    mixture: Mixture,
    lengths: Mapping[str, ArrayLike] | None,
    length_column: str | None,
    *,
    names: Container[str] | None = None,
) -> list[Int64 | None] | None:
    """Return the lengths [n] of the rows of each source; None when the mixture counts examples.

    Args:
        sources: By name, in the order of the mixture.
        mixture: The mixture.
        lengths: Lengths by name, where they are given.
        length_column: Column to take the others from.
        names: Sources whose lengths are needed. Default: all.

    Raises:
        ValueError: They are not known or not valid.
    """
    if mixture.unit == "examples":
        if lengths is not None or length_column is not None:
            raise ValueError(
                "lengths and length_column belong to unit 'tokens' or 'bytes', and the mixture counts 'examples': "
                "leave them out or change the unit"
            )
        return None
    arrays: list[Int64 | None] = []
    for name, source in sources.items():
        if names is not None and name not in names:
            arrays.append(None)
        elif lengths is not None and name in lengths:
            arrays.append(row_lengths.check_lengths(lengths[name], len(source), name))
        elif isinstance(source, TokenPack | TokenBlocks):
            if mixture.unit != "tokens":
                raise ValueError(
                    f"domain {name!r} is a pack, which knows the tokens of its rows and not their bytes; pass "
                    f"lengths={{{name!r}: array}}, or count tokens"
                )
            arrays.append(source.lengths)
        else:
            column = length_column or row_lengths.DEFAULT_COLUMNS[mixture.unit]
            arrays.append(row_lengths.column_lengths(source, column, unit=mixture.unit, name=name))
    return arrays
