"""Documents that are none become rejected rows with a reason; the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curation_data import draws, text
from datasets import Dataset, IterableDataset, load_dataset

from hf_mixture import curate
from hf_mixture.data.curation.reading import Limits, Reader


GOOD = text(draws(0), 12)
OTHER = text(draws(1), 12)
FACTS = {"license": "MIT", "file_level_provenance": True}
COLUMNS = {"text": "text", "id": "id", "url": "url", "government": "government"}


def recipe(**more: Any) -> dict[str, Any]:
    source = {"columns": COLUMNS, "facts": FACTS}
    return {"format": "hf_mixture_curation", "version": 1, "name": "m", "sources": {"s": source}} | more


def row(value: Any, **more: Any) -> dict[str, Any]:
    return {"text": value, "id": "x", "url": "https://a.org/x", "government": None, **more}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (row(None), "no_text"),
        (row(""), "no_text"),
        (row(" \n\t"), "no_text"),
        (row(7), "text_of_wrong_type"),
        (row(["a", "b"]), "text_of_wrong_type"),
        (row({"a": 1}), "text_of_wrong_type"),
        (row(b"caf\xe9"), "not_utf8"),
        (row("half \ud800 pair"), "not_unicode"),
        (row("null\0byte"), "null_bytes"),
        (row("x" * 200), "line_too_long"),
        (row("y\n" * 300), "too_long"),
        (row("fine", url=3), "url_of_wrong_type"),
        (row("fine", url="\udfff"), "url_of_wrong_type"),
        (row("fine", government="yes"), "government_of_wrong_type"),
        ({}, "no_text"),
        ({"other": object()}, "no_text"),
    ],
)
def test_faults(given: dict[str, Any], fault: str) -> None:
    raw = Reader(columns=COLUMNS, limits=Limits(max_chars=500, max_line_chars=100))(given)
    assert raw.fault == f"malformed/{fault}"
    # What was read can be written: it is UTF-8 without exception.
    assert "".join([raw.id, raw.text, raw.facts, raw.meta]).encode("utf-8") is not None
    json.loads(raw.meta)


def test_what_is_fine_has_no_fault() -> None:
    for value in ("plain", "café \U0001f426", "caf\u00e9".encode()):
        assert Reader(columns=COLUMNS)(row(value)).fault is None


def test_other_columns_are_written_whatever_their_keys_are() -> None:
    odd = {"text": "fine", "a": {1: 2, "b": 3}, "c": [{(1, 2): {None: 4, "d": 5}}]}
    meta = Reader(columns={"text": "text"})(odd).meta
    assert json.loads(meta) == {"a": {"1": 2, "b": 3}, "c": [{"(1, 2)": {"None": 4, "d": 5}}]}


def test_rows_without_an_id_are_named_by_their_content() -> None:
    read = Reader(columns={"text": "text"})
    assert read({"text": "a", "n": 1}).id == read({"n": 1, "text": "a"}).id
    assert read({"text": "a", "n": 1}).id != read({"text": "a", "n": 2}).id


def test_a_stream_of_anything_is_curated(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        row(GOOD, id="good"),
        row("z" * 10_000_000, id="line"),
        row("null\0byte " * 30, id="null"),
        {"id": "none"},
        row(17, id="number"),
        row(b"\xff\xfe" + GOOD.encode(), id="bytes"),
        row("\ud800" + GOOD, id="surrogate"),
        row(GOOD, id="flag", government="yes"),
    ]
    curated = curate(IterableDataset.from_generator(lambda: iter(rows)), recipe(), output_dir=tmp_path / "out")
    assert curated.report["sources"]["s"]["read"] == len(rows)
    assert curated.load("tier1")["id"] == ["good"]
    reasons = dict(zip(curated.rejected()["id"], curated.rejected()["reason"], strict=True))
    assert reasons == {
        "line": "malformed/too_long",
        "null": "malformed/null_bytes",
        "none": "malformed/no_text",
        "number": "malformed/text_of_wrong_type",
        "bytes": "malformed/not_utf8",
        "surrogate": "malformed/not_unicode",
        "flag": "malformed/government_of_wrong_type",
    }
    kept = {name: len(body) for name, body in zip(curated.rejected()["id"], curated.rejected()["text"], strict=True)}
    assert kept["line"] == 10_000_000


@pytest.mark.parametrize("streaming", [False, True])
def test_files_with_bytes_that_are_not_utf8(streaming: bool, tmp_path: Path) -> None:
    broken = pa.array([GOOD.encode(), b"\xff broken \xfe " * 20], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": broken, "id": ["good", "broken"]}), tmp_path / "rows.parquet")
    data = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", streaming=streaming)
    plain = recipe(sources={"s": {"columns": {"text": "text", "id": "id"}, "facts": {"license": "MIT"}}})
    curated = curate(data, plain, output_dir=tmp_path / "out")
    assert curated.report["sources"]["s"] == {"read": 2, "kept": 1, "rejected": {"malformed/not_utf8": 1}}
    (text,) = curated.rejected()["text"]
    assert text.startswith("\\xff broken \\xfe")


def test_every_file_of_a_folder_is_kept_or_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "inner").mkdir(parents=True)
    (folder / "good.txt").write_text(GOOD, encoding="utf-8")
    (folder / "inner" / "windows.md").write_bytes(b"\xef\xbb\xbf" + OTHER.replace(". ", ".\r\n").encode())
    (folder / "null.txt").write_text(GOOD + "\0", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n" + bytes(range(256)) * 10_000)
    (folder / "empty.txt").touch()
    (folder / ".hidden").write_text(GOOD, encoding="utf-8")
    plain = recipe(sources={"s": {"path": str(folder), "columns": {"text": "text", "id": "path"}, "facts": FACTS}})
    curated = curate(None, plain, output_dir=tmp_path / "out")
    assert curated.report["sources"]["s"]["read"] == 5
    reasons = dict(zip(curated.rejected()["id"], curated.rejected()["reason"], strict=True))
    assert reasons == {
        "empty.txt": "malformed/no_text",
        "null.txt": "malformed/null_bytes",
        "picture.png": "malformed/not_utf8",
    }
    assert max(map(len, curated.rejected()["text"])) < 10_000
    kept = dict(zip(curated.load("tier1")["id"], curated.load("tier1")["text"], strict=True))
    assert kept == {"good.txt": GOOD, "inner/windows.md": OTHER.replace(". ", ".\n")}


def test_a_folder_without_files(tmp_path: Path) -> None:
    plain = recipe(sources={"s": {"path": str(tmp_path)}})
    with pytest.raises(ValueError, match="holds no file that is not hidden"):
        curate(None, plain, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_kept_and_nothing_read(tmp_path: Path) -> None:
    columns = {"text": "text"}
    plain = recipe(sources={"s": {"columns": columns, "facts": {"license": "MIT"}}}, mixture={"weights": {"s": 1}})
    curated = curate(Dataset.from_dict({"text": ["no", "no"]}), plain, output_dir=tmp_path / "rejected")
    assert curated.configurations == ()
    assert curated.report["sources"]["s"] == {"read": 2, "kept": 0, "rejected": {"quality/too_short": 2}}
    assert "No document was kept" in (curated.folder / "dataset" / "README.md").read_text(encoding="utf-8")
    empty = curate(Dataset.from_dict({"text": []}), plain, output_dir=tmp_path / "empty")
    assert empty.report["sources"]["s"] == {"read": 0, "kept": 0, "rejected": {}}
    assert len(empty.rejected()) == 0


def test_a_column_that_no_row_has_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sources\.s\.columns\.text='body' is no column"):
        curate(
            Dataset.from_dict({"text": ["a"]}),
            recipe(sources={"s": {"columns": {"text": "body"}}}),
            output_dir=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()
