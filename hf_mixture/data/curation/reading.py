"""From whatever a source holds to raw documents: nothing is dropped, and nothing makes the run stop.

A document that cannot be processed (no text, other types, bytes that are not UTF-8, null bytes, lines without end)
gets a fault, which becomes the reason of its rejection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_mixture.data.curation.hashing import hash_128
from hf_mixture.data.curation.record import FACTS, FLAGS, SIGNALS
from hf_mixture.data.curation.schema import Count


BATCH_ROWS = 64
CANONICAL = ("text", "id", *FACTS, *FLAGS, *SIGNALS)


class RawRow(NamedTuple):
    """One document as it was read.

    Args:
        id: What names it inside its source.
        text: Its text; what cannot be text is written with backslashes.
        facts: JSON of what it says about its origin.
        meta: JSON of its other columns.
        fault: Why it cannot be processed; None when it can.
    """

    id: str
    text: str
    facts: str
    meta: str
    fault: str | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is still a document.

    Args:
        max_chars: Longest document, in characters. Default: 5,000,000.
        max_line_chars: Longest line, in characters. Default: 1,000,000.
    """

    max_chars: Count = 5_000_000
    max_line_chars: Count = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the rows of one source.

    Args:
        columns: For each name of a fact, and for `text` and `id`, the column of the source that holds it.
        limits: What is still a document.
    """

    columns: Mapping[str, str]
    limits: Limits = field(default_factory=Limits)

    def __call__(self, row: Mapping[str, Any]) -> RawRow:
        """Read one row.

        Args:
            row: Column to value.

        Returns:
            The raw document.
        """
        text, fault = self._text(row.get(self.columns["text"]))
        facts: dict[str, Any] = {}
        used = set(self.columns.values())
        for name, column in self.columns.items():
            value = row.get(column)
            if name in ("text", "id") or value is None or value == "":
                continue
            wanted = bool if name in FLAGS else str
            if isinstance(value, wanted) and not (isinstance(value, str) and not _is_unicode(value)):
                facts[name] = value
            else:
                fault = fault or f"malformed/{name}_of_wrong_type"
        meta = {name: value for name, value in row.items() if name not in used}
        written = _json(meta)
        given = row.get(self.columns["id"]) if "id" in self.columns else None
        if given is None:
            # Equal rows get equal ids: they are the same document, and which of them is kept does not matter.
            given = f"{hash_128(chr(0).join((text, _json(facts), written))):032x}"
        return RawRow(_clean(str(given)), text, _json(facts), written, fault)

    def _text(self, value: Any) -> tuple[str, str | None]:
        fault = None
        if isinstance(value, bytes | bytearray):
            try:
                value = bytes(value).decode("utf-8")
            except UnicodeDecodeError:
                value, fault = bytes(value).decode("utf-8", "backslashreplace"), "malformed/not_utf8"
        if value is None:
            return "", "malformed/no_text"
        if not isinstance(value, str):
            return _json(value), "malformed/text_of_wrong_type"
        if not _is_unicode(value):
            return _clean(value), "malformed/not_unicode"
        if fault is None:
            if "\0" in value:
                fault = "malformed/null_bytes"
            elif not value or value.isspace():
                fault = "malformed/no_text"
            elif len(value) > self.limits.max_chars:
                fault = "malformed/too_long"
            elif len(value) > self.limits.max_line_chars and (
                max(map(len, value.split("\n"))) > self.limits.max_line_chars
            ):
                fault = "malformed/line_too_long"
        return value, fault


def rows_of(dataset: Any, *, skip: int = 0) -> Iterator[dict[str, Any]]:
    """Iterate over a data set without failing on bytes that are not UTF-8.

    Args:
        dataset: `Dataset` or `IterableDataset`.
        skip: Rows to leave out at the beginning.

    Yields:
        Rows; a text that is not UTF-8 comes as bytes.
    """
    from datasets import Dataset

    from hf_mixture._compat.datasets import streams_tables

    if isinstance(dataset, Dataset):
        tables = dataset.select(range(skip, len(dataset))).with_format("arrow").iter(batch_size=BATCH_ROWS)
    else:
        rest = dataset.skip(skip) if skip else dataset
        if not streams_tables(dataset):
            yield from map(dict, rest)
            return
        tables = rest.with_format("arrow").iter(batch_size=BATCH_ROWS)
    for table in tables:
        columns = {name: _values(table.column(name)) for name in table.column_names}
        for index in range(table.num_rows):
            yield {name: values[index] for name, values in columns.items()}


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            kind = pa.binary() if pa.types.is_string(column.type) else pa.large_binary()
            return [_decoded(value) for value in column.cast(kind).to_pylist()]
    return list(column.to_pylist())


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json(value: Any) -> str:
    try:
        written = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    except TypeError:
        # The rows of a generator may hold mappings whose keys JSON does not have, or that have no order.
        written = json.dumps(_with_text_keys(value), sort_keys=True, ensure_ascii=False, default=str)
    return _clean(written)


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(entry) for key, entry in value.items()}
    return [_with_text_keys(entry) for entry in value] if isinstance(value, list | tuple) else value
