"""The journal of a curation: what a kill has torn, and files of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_mixture.data.curation.journal import Journal


RECIPE = {"name": "notes"}


def begun(folder: Path) -> Path:
    journal = Journal(folder, RECIPE, resume=False)
    journal.begin()
    journal.finish("raw/a/0", {"rows": 3})
    return journal.path


@pytest.mark.parametrize("recipe", [RECIPE, {"name": "other"}])
def test_a_run_that_is_refused_changes_nothing(recipe: dict[str, str], tmp_path: Path) -> None:
    path = begun(tmp_path / "out")
    # What another process is writing at this moment.
    torn = path.read_bytes() + b'{"part": "raw/a/1", "fa'
    path.write_bytes(torn)
    with pytest.raises(ValueError, match="holds a curation by"):
        Journal(path.parent, recipe, resume=False)
    assert path.read_bytes() == torn


@pytest.mark.parametrize("others", [["journal.jsonl"], ["journal.jsonl", "notes.txt"], ["notes.txt"]])
def test_files_of_others_are_left_as_they_are(others: list[str], tmp_path: Path) -> None:
    for name in others:
        (tmp_path / name).write_text("Dear diary", encoding="utf-8")
    with pytest.raises(ValueError, match="exists and is not the folder of a curation"):
        Journal(tmp_path, RECIPE, resume=True)
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == dict.fromkeys(others, "Dear diary")


@pytest.mark.parametrize("num_bytes", [0, 1, 40, -30, -1])
def test_a_torn_line_is_written_again(num_bytes: int, tmp_path: Path) -> None:
    path = begun(tmp_path / "out")
    whole = path.read_bytes()
    path.write_bytes(whole[:num_bytes])
    journal = Journal(path.parent, RECIPE, resume=True)
    journal.begin()
    assert journal.done == {}
    journal.finish("raw/a/0", {"rows": 3})
    assert path.read_bytes() == whole
