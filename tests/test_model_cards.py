"""The finished cards, and what copies them out of a run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cards import FINISHED, check_finished_card
from PIL import Image

from hf_mixture.training.resolve import find_recipe


NAMES = sorted(path.parent.name for path in FINISHED.glob("*/README.md"))


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_card_is_whole(name: str) -> None:
    check_finished_card(FINISHED / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_card_names_a_recipe_that_exists(name: str) -> None:
    card = (FINISHED / name / "README.md").read_text(encoding="utf-8")
    command = re.search(r"hf-mixture ([^`\n]+)", card)
    assert command is not None
    find_recipe(Path(command[1].split()[-1]).stem)


def test_the_list_of_cards_is_complete() -> None:
    listed = re.findall(r"\]\((\w+)/README\.md\)", (FINISHED / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == NAMES


def collect(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FINISHED / "collect.py"), str(folder), name]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_card_with_a_path_of_the_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("Made by `hf-mixture train /home/me/mine.yaml`.\n", encoding="utf-8")
    done = collect(tmp_path, "never")
    assert done.returncode == 2
    assert "/home/me/mine.yaml" in done.stderr
    assert not (FINISHED / "never").exists()


def test_a_picture_that_stays_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("![Noise](noise.png)\n", encoding="utf-8")
    Image.effect_noise((600, 600), 100).save(tmp_path / "noise.png")
    done = collect(tmp_path, "never")
    assert done.returncode == 2
    assert "noise.png has" in done.stderr
    assert not (FINISHED / "never").exists()
