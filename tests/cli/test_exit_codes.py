"""Every command: what is missing or damaged is one line with a remedy and exit code 2, and `--json` is JSON alone."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_mixture.cli.main import build_parser, main
from hf_mixture.training.commands import packaged_recipes


MISSING = "no/such/place"
# Arguments that name something which is not there.
WITHOUT_INPUT = {
    "completion": ["fish"],
    "describe": ["no such method"],
    "doctor": [MISSING],
    "export-lora": [MISSING, "{out}"],
    "inspect": [MISSING],
    "list": ["--no-such-option"],
    "mix export": [MISSING, "--to", "trl"],
    "mix plan": [MISSING],
    "mix show": [MISSING],
    "mix validate": [MISSING],
    "mote apply": [MISSING, "--target", "yes", "--output", "{out}"],
    "mote bake": [MISSING, MISSING, "--output", "{out}"],
    "mote edit": [MISSING, "--off", "0:0", "--output", "{out}"],
    "mote eval": [
        *(MISSING, MISSING, "--prompts", "none.jsonl", "--behaviour", "thinking", "--target", "yes"),
        *("--output", "{out}"),
    ],
    "mote rank": [MISSING, "--target", "yes"],
    "mote scan": [MISSING, "--prompts", "none.jsonl", "--behaviour", "thinking", "--output", "{out}"],
    "mwq quantise": [MISSING, "{out}"],
    "plan": ["--recipe", MISSING],
    "simulate-ep": ["--ranks", "8", "--trace", MISSING],
    "trace report": [MISSING],
}
# Where what is damaged is an argument: a folder with such files, or the file itself.
DAMAGED = {
    "doctor": ("{folder}",),
    "export-lora": ("{folder}", "{out}"),
    "inspect": ("{folder}",),
    "mix export": ("{folder}", "--to", "trl"),
    "mix plan": ("{folder}",),
    "mix show": ("{folder}",),
    "mix validate": ("{folder}",),
    "mote apply": ("{folder}", "--target", "yes", "--output", "{out}"),
    "mote rank": ("{folder}", "--target", "yes"),
    "mote bake": ("{folder}", "{folder}", "--output", "{out}"),
    "mote edit": ("{folder}", "--off", "0:0", "--output", "{out}"),
    "mwq quantise": ("{folder}", "{out}"),
    "plan": ("--model", "{folder}", "--gpus", "8"),
    "simulate-ep": ("--ranks", "8", "--trace", "{folder}"),
    "trace report": ("{folder}",),
}
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "expert_edits.json",
    "ftri.safetensors",
    "mixture.json",
    "part-000000000001.parquet",
    "prompts.safetensors",
    "recipe.yaml",
)


def leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands, with their actions, by what is typed."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from leaves(child, (*words, name))
            return
    yield " ".join(words), parser


COMMANDS = dict(leaves(build_parser()))
RECIPES = sorted(
    name
    for name, parser in COMMANDS.items()
    if any(a.dest == "recipe" and not a.option_strings for a in parser._actions)
)


def one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused, and return what it says."""
    assert main(argv) == 2, argv
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said.err
    assert said.err.endswith(lines[0] + "\n")
    assert "Traceback" not in said.err
    assert not said.out
    assert len(lines[0]) < 1500
    return lines[0]


def test_every_command_is_in_this_matrix() -> None:
    assert set(COMMANDS) == set(WITHOUT_INPUT) | set(RECIPES)
    assert set(packaged_recipes().values()) - {"plan --recipe"} == set(RECIPES)


@pytest.mark.parametrize("command", sorted(WITHOUT_INPUT))
def test_what_is_not_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.replace("{out}", str(tmp_path / "out")) for word in WITHOUT_INPUT[command]]
    said = one_line([*command.split(), *words], capsys)
    # The remedy stands after the problem.
    assert any(mark in said for mark in ("; ", ": ", "Remedy", "see hf-mixture", "(choose from")), said
    assert MISSING not in words or any(word in said for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", RECIPES)
def test_a_recipe_that_is_not_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give a path" in one_line([*command.split(), MISSING], capsys)


@pytest.mark.parametrize("command", RECIPES)
@pytest.mark.parametrize("text", ["name: [", "- a list", "a: &a\n  b: *a\n", "\0", "!!python/name:os.system x"])
def test_a_damaged_recipe_is_named(
    command: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert str(recipe) in one_line([*command.split(), str(recipe), "--dry-run"], capsys)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe" + bytes(range(256))], ids=["empty", "cut", "list", "bytes"]
)
@pytest.mark.parametrize("command", sorted(set(DAMAGED) - {"doctor"}))
def test_damaged_files(command: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(content)
    words = [
        word.replace("{folder}", str(folder)).replace("{out}", str(tmp_path / "out")) for word in DAMAGED[command]
    ]
    assert str(folder) in one_line([*command.split(), *words], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe" + bytes(range(256))], ids=["empty", "cut", "bytes"])
def test_doctor_of_damaged_files(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*FILES, "journal.json"):
        (tmp_path / name).write_bytes(content)
    assert main(["doctor", str(tmp_path), "--json"]) == 1
    artefacts = json.loads(capsys.readouterr().out)["artefacts"]
    assert {artefact["kind"] for artefact in artefacts} >= {
        "training run",
        "PEFT adapter",
        "model",
        "mixture",
        "expert edits (MoTE)",
        "maps of classes (MoTE)",
        "maps of prompts (MoTE)",
    }
    assert all(artefact["problems"] for artefact in artefacts)
    assert all(problem["fix"] for artefact in artefacts for problem in artefact["problems"])


@pytest.mark.parametrize("words", ["list", "list --routers", "describe MoS", "doctor"])
def test_json_alone(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*words.split(), "--json"])
    assert isinstance(json.loads(capsys.readouterr().out), dict)


@pytest.mark.parametrize("recipe", ["upcycle", "matsim_materials", "regmix"])
def test_json_of_a_dry_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*packaged_recipes()[recipe].split(), recipe, "--smoke", "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dry_run"] is True
    assert report["results"] is None
    assert report["recipe"]["output_dir"]


@pytest.mark.slow
def test_what_processes_print_goes_to_stderr() -> None:
    code = (
        "import subprocess, sys\n"
        "from hf_mixture.cli.main import only_json_on_stdout\n"
        "with only_json_on_stdout():\n"
        "    print('a table')\n"
        "    subprocess.run([sys.executable, '-c', 'print(7)'], check=True)\n"
        "print('{}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n"
    assert done.stderr.endswith("a table\n7\n")


def test_a_mistake_of_ours_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_mixture.cli.list._routers", lambda **_: {}["gone"])
    assert main(["list", "--routers"]) == 1
    assert capsys.readouterr().err.startswith("error: KeyError: 'gone'; hf-mixture --traceback")
    with pytest.raises(KeyError):
        main(["--traceback", "list", "--routers"])
