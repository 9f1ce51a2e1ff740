"""The corpora: how text is cut and kept; and, where they were made, that they are what the manifest says."""

from __future__ import annotations

import gzip
import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def corpora() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "corpora.py"))


def test_pieces_lose_nothing(corpora: dict[str, Any]) -> None:
    text = "\n\n".join(f"paragraph {number} " * 40 for number in range(100))
    found = dict(corpora["pieces"]("book", text))
    assert "\n\n".join(found.values()) == text
    assert list(found) == [f"book#{number:05d}" for number in range(len(found))]
    assert len(found) > 2
    assert all(len(piece) >= corpora["PIECE_CHARS"] for piece in list(found.values())[:-1])


def test_manual_pages_are_read_without_comments_and_links(corpora: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/man/man1"
    folder.mkdir(parents=True)
    (folder / "ls.1.gz").write_bytes(gzip.compress(b'.\\" Licence\n.TH LS 1\n.SH NAME\nls\n'))
    (folder / "dir.1.gz").symlink_to("ls.1.gz")
    assert list(corpora["manual_pages"](tmp_path)) == [("man1/ls.1", ".TH LS 1\n.SH NAME\nls\n")]


def test_copies_are_dropped_and_the_size_is_limited(corpora: dict[str, Any], tmp_path: Path) -> None:
    texts = {
        f"file {number}": "".join(f"line {line} of {number}, which is long\n" for line in range(20))
        for number in range(9)
    }
    documents = [*texts.items(), ("copy", texts["file 3"]), ("short", "too short")]
    corpus = corpora["Corpus"](None, "CC0-1.0", lambda root: iter(documents))
    limit = sum(len(text) for text in texts.values()) - 1
    facts = corpora["_write"](tmp_path / "out.jsonl", corpus, tmp_path, "out", limit)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == facts["documents"] == 8
    assert facts["bytes"] == sum(len(row["text"].encode()) for row in rows) <= limit
    assert len({row["text"] for row in rows}) == 8
    digests = [hashlib.sha256(row["path"].encode()).digest() for row in rows]
    assert digests == sorted(digests)


def test_absent_corpora_name_the_command(corpora: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python benchmarks/corpora\.py"):
        corpora["corpora"](tmp_path)


def test_made_corpora_are_what_the_manifest_says(corpora: dict[str, Any]) -> None:
    folder = corpora["corpora_folder"]()
    try:
        paths = corpora["corpora"](folder)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    manifest = json.loads((folder / "corpora.json").read_text(encoding="utf-8"))
    assert list(paths) == list(corpora["CORPORA"])
    for name, path in paths.items():
        content = Path(path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == manifest["domains"][name]["sha256"]
        rows = [json.loads(line) for line in content.decode().splitlines()]
        assert len({row["path"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
        assert {row["license"] for row in rows} == {manifest["domains"][name]["license"]}
        assert 1e6 < sum(len(row["text"].encode()) for row in rows) <= manifest["max_bytes"]
