from __future__ import annotations

from pathlib import Path

import pytest

from hf_mixture.data.textfiles import documents, read_texts


def test_documents_keep_the_text_and_have_the_least_length() -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * (i % 40) for i in range(3000)]
    pieces = documents("\n\n".join(paragraphs))
    assert "\n\n".join(pieces) == "\n\n".join(paragraphs)
    assert all(2000 <= len(piece) < 2400 for piece in pieces[:-1])


def test_short_texts_are_cut_finer() -> None:
    pieces = documents("\n".join(f"line {i}" for i in range(150)))
    assert 50 <= len(pieces) <= 150
    assert documents("") == []
    assert documents("one line") == ["one line"]


def test_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "one.md").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (tmp_path / "a.txt").write_text("ä", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1"))
    (tmp_path / "binary.bin").write_bytes(b"a\0b")
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    rows = read_texts(tmp_path)
    assert rows.to_dict() == {"text": ["ä", "one\ntwo\n"], "path": ["a.txt", "b/one.md"]}


def test_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_texts(tmp_path)
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_texts(tmp_path / "blank.txt")
