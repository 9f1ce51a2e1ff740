"""The first commands of the README, as they stand there, on files such as a newcomer has."""

from __future__ import annotations

import re
import shlex
import shutil
import sysconfig
from pathlib import Path

import pytest
from tiny_facts import save
from transformers import MixtralConfig

from hf_mixture.cli.main import main
from hf_mixture.moe.anatomy import find_routers


README = Path(__file__).parents[2] / "README.md"
STDLIB = Path(sysconfig.get_paths()["stdlib"])
MADE = {
    "train": [
        "runs/my_text-smoke/adapters/mos/adapter_model.safetensors",
        "runs/my_text-smoke/adapters/mos/README.md",
    ],
    "mix": ["runs/my_domains-smoke/mixture.json", "runs/my_domains-smoke/README.md"],
    "mote": ["edits/expert_edits.json", "edits/README.md"],
    "plan": ["plan/plan.json", "plan/README.md"],
    "curate": ["runs/my_documents/dataset/README.md", "runs/my_documents/dataset/report.json"],
}


def first_commands() -> dict[str, list[str]]:
    """The commands of the table, without the quickstart, which has tests of its own."""
    section = README.read_text(encoding="utf-8").split("## Six first things")[1].split("\n## ")[0]
    commands = [shlex.split(found) for found in re.findall(r"\| `(hf-mixture [^`]+)` \|", section)]
    return {words[1]: words[1:] for words in commands}


def test_there_is_one_for_each_thing() -> None:
    assert set(first_commands()) == set(MADE)


@pytest.mark.slow
@pytest.mark.parametrize("command", MADE)
def test_a_first_command_ends_with_a_file_and_a_card(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    for name, module in {"mail": "email", "code": "json", "notes": "asyncio", "my_folder": "http"}.items():
        shutil.copytree(STDLIB / module, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    documents = sorted((STDLIB / "email").glob("*.py"))
    (tmp_path / "notes.txt").write_text("\n\n".join(file.read_text() for file in documents), encoding="utf-8")
    words = first_commands()[command]
    if command in ("train", "mix"):
        words.append("--smoke")
    if command == "plan":
        MixtralConfig().save_pretrained("mixtral")
        words[words.index("--model") + 1] = "mixtral"
    if command == "mote":
        model = save(tmp_path / "MODEL")
        layers = [router.layer for router in find_routers(AutoModelForCausalLM.from_pretrained(model))]
        place = words.index("--off") + 1
        words[place : place + 2] = [f"{layers[0]}:1", f"{layers[-1]}:2"]
    assert main(words) == 0
    assert all((tmp_path / path).is_file() for path in MADE[command]), sorted(tmp_path.rglob("*"))
