from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_mixture.training.journal import check_folder, open_journal


RECIPE = "name: a\nseed: 0\noutput_dir: runs/a\nadapt:\n  steps: 3\n"


def test_a_new_folder_is_accepted_and_nothing_is_written(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", RECIPE, resume=False, num_processes=1)
    check_folder(tmp_path, RECIPE, resume=True, num_processes=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_only_a_begun_recipe_is_accepted(tmp_path: Path) -> None:
    (tmp_path / ".recipe.yaml.17.partial").write_text("name", encoding="utf-8")
    check_folder(tmp_path, RECIPE, resume=False, num_processes=1)
    (tmp_path / ".other.17.partial").write_text("name", encoding="utf-8")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        check_folder(tmp_path, RECIPE, resume=True, num_processes=1)


def test_the_journal_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    open_journal(folder, RECIPE, num_processes=1).finish("prepare", {"blocks": 3})
    check_folder(folder, RECIPE, resume=True, num_processes=1)
    assert open_journal(folder, RECIPE, num_processes=1).finished == {"prepare": {"blocks": 3}}
    assert sorted(path.name for path in folder.iterdir()) == ["journal.json", "recipe.yaml"]


def test_a_run_is_continued_only_on_request(tmp_path: Path) -> None:
    open_journal(tmp_path, RECIPE, num_processes=1)
    with pytest.raises(ValueError, match=r"add --resume to continue it, or choose another folder with --output_dir"):
        check_folder(tmp_path, RECIPE, resume=False, num_processes=1)


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    open_journal(tmp_path, RECIPE, num_processes=1)
    other = RECIPE.replace("steps: 3", "steps: 4\n  rate: 1")
    with pytest.raises(ValueError, match=r"adapt\.steps \(3 there, 4 now\); adapt\.rate \(None there, 1 now\)"):
        check_folder(tmp_path, other, resume=True, num_processes=1)


def test_a_moved_run_is_the_same_run(tmp_path: Path) -> None:
    open_journal(tmp_path, RECIPE, num_processes=1)
    check_folder(tmp_path, RECIPE.replace("runs/a", "elsewhere"), resume=True, num_processes=1)


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    open_journal(tmp_path, RECIPE, num_processes=2).finish("prepare", {})
    with pytest.raises(ValueError, match="started with 2 processes, this one has 1"):
        check_folder(tmp_path, RECIPE, resume=True, num_processes=1)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important", encoding="utf-8")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        check_folder(tmp_path, RECIPE, resume=True, num_processes=1)


def test_a_journal_of_another_format_is_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, RECIPE, num_processes=1)
    journal.finish("prepare", {})
    content = json.loads((tmp_path / "journal.json").read_text(encoding="utf-8"))
    (tmp_path / "journal.json").write_text(json.dumps(content | {"version": 2}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"journal\.json has version 2 of its format, and version 1 is read"):
        check_folder(tmp_path, RECIPE, resume=True, num_processes=1)
