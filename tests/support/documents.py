"""Runs the code blocks of a Markdown document in order, in one namespace: `python documents.py FILE...`."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from hf_mixture.cli.main import main


# These are resolved and not run: the recipes have tests of their own.
RECIPE_COMMANDS = (
    ["curate"],
    ["everything"],
    ["mix", "search"],
    ["matsim"],
    ["mixer"],
    ["mote", "run"],
    ["mwq", "run"],
    ["retrieve"],
    ["spread", "run"],
    ["supernets"],
    ["taskexpert"],
    ["thoughts"],
    ["train"],
    ["trajectories"],
    ["unlearn"],
    ["upcycle"],
)

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    code: str
    line: int


def code_blocks(text: str) -> list[Block]:
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in _FENCE.finditer(text)]


def run_document(path: Path) -> list[Block]:
    """Run every block of a document.

    YAML blocks become files of the name in their first line. Of the shell lines those of `hf-mixture` run, those that
    set things up are for people, and others are an error.

    Returns:
        The blocks that ran.
    """
    blocks = code_blocks(path.read_text(encoding="utf-8"))
    # A module of its own: dataclasses look the module of a class up by its name.
    module = sys.modules["document"] = ModuleType("document")
    seen = set()
    for block in blocks:
        match block.language:
            case "python":
                code = compile("\n" * block.line + block.code, str(path), "exec")
                exec(code, vars(module))  # noqa: S102 - the documents are those of this repository
            case "json":
                json.loads(block.code)
            case "bash":
                for line in block.code.splitlines():
                    command = line.removesuffix(" --dry-run")
                    if command not in seen:
                        run_line(command)
                    seen.add(command)
            case "yaml":
                name, _, recipe = block.code.partition("\n")
                Path(name.removeprefix("# ")).write_text(recipe, encoding="utf-8")
            case language:
                raise AssertionError(f"{path.name}:{block.line}: a block in {language!r} is not checked by anything")
    return blocks


def run_line(line: str) -> None:
    words = shlex.split(line, comments=True)
    match words:
        case [] | ["make" | "git" | "cd", *_] | ["pip", "install", *_]:
            return
        case ["hf-mixture", *arguments]:
            is_recipe = any(arguments[: len(command)] == command for command in RECIPE_COMMANDS)
            code = main([*arguments, *(["--dry-run"] if is_recipe else [])])
            assert code == 0, f"{line!r} ended with exit code {code}"
        case _:
            raise AssertionError(f"{line!r} is not a command that the check knows")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {len(run_document(Path(name)))} blocks")
