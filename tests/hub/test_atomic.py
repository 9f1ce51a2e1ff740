from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from hf_mixture.hub.atomic import is_partial_of, write_atomic


def test_text_and_bytes_are_written_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, "ä\r\n\n")
    assert path.read_bytes() == b"\xc3\xa4\r\n\n"
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_content_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", lambda handle: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if child == 0:
        write_atomic(path, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    monkeypatch.undo()
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert path.read_text() == "old"
    (leftover,) = [item for item in tmp_path.iterdir() if item != path]
    assert is_partial_of(leftover, path)
    write_atomic(path, "new")
    assert path.read_text() == "new"
