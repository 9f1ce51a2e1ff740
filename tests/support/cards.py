"""Cards beside artefacts: what they say of themselves, and their code blocks run as a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import chdir
from pathlib import Path

import yaml
from documents import code_blocks, run_line


FINISHED = Path(__file__).parents[2] / "model_cards"

# What a reader replaces or has: a run of a test lies below the folder for temporary files.
_OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|work)/\S*")


def run_card(folder: Path) -> str:
    """Run the Python blocks of the card in a folder, and its export, in that folder, which stays as it was.

    Returns:
        The Python blocks, as one text.
    """
    card = (folder / "README.md").read_text(encoding="utf-8")
    blocks = code_blocks(card)
    code = [block.code for block in blocks if block.language == "python"]
    assert code, f"the card in {folder} has no code to begin with"
    before = set(folder.iterdir())
    with chdir(folder):
        for block in blocks:
            if block.language == "python":
                exec(compile(block.code, str(folder / "README.md"), "exec"), {})  # noqa: S102 - as a reader does
            elif block.language == "bash" and block.code.startswith("hf-mixture export-lora"):
                run_line(block.code)
    for made in set(folder.iterdir()) - before:
        shutil.rmtree(made)
    return "\n".join(code)


def check_finished_card(folder: Path) -> None:
    """Check a card that is in the repository: metadata, code, pictures, no path of the machine that made it."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, metadata, text = card.split("---\n", 2)
    # What is made of interactions that are not ours to license names no licence.
    facts = yaml.safe_load(metadata)
    assert facts["tags"]
    assert "license" in facts or "recommendation" in facts["tags"]
    assert _OF_A_MACHINE.findall(card) == []
    for block in code_blocks(text):
        assert block.language in ("bash", "json", "python", "toml", "yaml")
        if block.language == "python":
            compile(block.code, str(folder), "exec")
    pictures = {path.name: path for path in folder.glob("*.png")}
    assert set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)) == set(pictures)
    assert all(os.path.getsize(path) <= 100_000 for path in pictures.values())


def finished_code(name: str) -> str:
    """The Python blocks of a finished card."""
    card = (FINISHED / name / "README.md").read_text(encoding="utf-8")
    return "\n".join(block.code for block in code_blocks(card) if block.language == "python")
