"""The finished cards, and what copies them out of a run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cards import FINISHED, check_finished_card
from PIL import Image

from hf_mixture.cli.main import build_parser
from hf_mixture.training.resolve import find_recipe


MADE_BY = dict(
    re.findall(
        r"^\| \[(\w+)\]\(\w+/README\.md\)[^|]*\| `(hf-mixture [^`]+)` \|$",
        (FINISHED / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)
NAMES = sorted(path.parent.name for path in FINISHED.glob("*/README.md"))


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_card_is_whole(name: str) -> None:
    check_finished_card(FINISHED / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_card_is_made_by_a_command_that_exists(name: str) -> None:
    words = shlex.split(MADE_BY[name])
    args, _ = build_parser().parse_known_args(words[1:])
    recipe = getattr(args, "recipe", None)
    if recipe is not None:
        find_recipe(recipe)
    card = (FINISHED / name / "README.md").read_text(encoding="utf-8")
    assert f"hf-mixture {words[1]}" in card
    # A data set is made again from the recipe beside its card, everything else by the name of its recipe.
    assert recipe is None or recipe in card or "hf-mixture curate recipe.yaml" in card


def test_the_list_of_cards_is_complete() -> None:
    assert sorted(MADE_BY) == NAMES


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
