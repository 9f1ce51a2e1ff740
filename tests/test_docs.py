"""The documentation: every public name has the house's sections, every example runs, every link leads somewhere."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from documents import code_blocks
from hub_double import running_hub
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import hf_mixture


ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
# Their examples take longer than all others together.
SLOW_DOCUMENTS = ("docs/d2moe.md", "docs/quickstart.md")
PUBLIC = [name for name in hf_mixture.__all__ if not name.startswith("__")]
MODULES = ["hf_mixture", *(m.name for m in pkgutil.walk_packages(hf_mixture.__path__, "hf_mixture.") if not m.ispkg)]


def sections(text: str) -> dict[str, str]:
    """Split a docstring into its Google sections; the text before them is under ""."""
    parts = re.split(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def parameters_of(thing: Any) -> list[str]:
    """Names that "Args" must explain: for a dataclass its own public fields, otherwise those of the signature."""
    if inspect.isclass(thing) and "__dataclass_params__" in vars(thing) and thing.__dataclass_params__.init:
        return [name for name in vars(thing)["__annotations__"] if not name.startswith("_")]
    if inspect.isclass(thing) and "__init__" not in vars(thing):
        return []
    names = inspect.signature(thing).parameters.values()
    return [p.name for p in names if p.name not in ("self", "cls") and not p.name.startswith("_")]


def raises(thing: Any) -> bool:
    source = inspect.getsource(thing.__init__ if inspect.isclass(thing) else thing)
    return re.search(r"^\s+raise \w", source, re.MULTILINE) is not None


def faults(label: str, thing: Any, *, example: bool) -> Iterator[str]:
    """Name what the docstring of a public class or function lacks."""
    doc = inspect.cleandoc(vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__ or "")
    if not doc:
        yield f"{label} has no docstring"
        return
    found = sections(doc)
    if not re.match(r"^[^\n]+[.:]\s*(\n|$)", doc):
        yield f"{label}: the first line is not one sentence on one line"
    for name in parameters_of(thing):
        if not re.search(rf"^\s+\*{{0,2}}{name}\b[^\n]*:", found.get("Args", ""), re.MULTILINE):
            yield f"{label}: Args does not explain {name}"
    if inspect.isfunction(thing):
        returned = inspect.signature(thing).return_annotation
        said = doc.startswith("Return ") or {"Returns", "Yields"} & set(found)
        if returned not in ("None", None, inspect.Signature.empty) and not said:
            yield f"{label}: no Returns section"
        if raises(thing) and "Raises" not in found:
            yield f"{label}: it raises, and has no Raises section"
    if example and ">>>" not in doc:
        yield f"{label}: no example"


def public_methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        # What a class of the stack declares is documented there.
        inherited = any(name in vars(base) for base in cls.__mro__[1:] if not base.__module__.startswith("hf_mixture"))
        if inspect.isfunction(function) and not name.startswith("_") and not inherited:
            yield name, function


@pytest.mark.parametrize("name", PUBLIC)
def test_coverage_of_public_names(name: str) -> None:
    thing = getattr(hf_mixture, name)
    found = list(faults(name, thing, example=True))
    if inspect.isclass(thing):
        for method_name, method in public_methods(thing):
            found += faults(f"{name}.{method_name}", method, example=False)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An example that trains writes to a folder beside it.
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([name for name in DOCUMENTS if name not in SLOW_DOCUMENTS], id="most"),
        pytest.param(SLOW_DOCUMENTS, id="long", marks=pytest.mark.slow),
    ],
)
def test_documents_run(names: Sequence[str], tmp_path: Path) -> None:
    """Run every block of the documents in one fresh process, against a Hub that has a tiny model of the name used."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in names}
    with running_hub() as hub:
        for repo_id in {found for text in texts.values() for found in re.findall(r"HuggingFaceTB/[\w.-]*\w", text)}:
            hub.push("model", repo_id, tiny_model(tmp_path / "model"))
        for name in ("notes.txt", "code.txt"):
            paragraphs = (f"{name}, paragraph {index}: what a user has written." for index in range(2000))
            (tmp_path / name).write_text("\n\n".join(paragraphs), encoding="utf-8")
        support = Path(__file__).parent / "support"
        done = subprocess.run(
            [sys.executable, support / "documents.py", *(ROOT / name for name in names)],
            cwd=tmp_path,
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, text in texts.items():
        assert f"{name}: {len(code_blocks(text))} blocks" in done.stdout


def tiny_model(folder: Path) -> Path:
    """A model with random weights, and a tokenizer of bytes."""
    bytes_only = Tokenizer(
        BPE(vocab={char: index for index, char in enumerate(sorted(ByteLevel.alphabet()))}, merges=[])
    )
    bytes_only.pre_tokenizer, bytes_only.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<|end|>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=16,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_documents_say_what_was_measured() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "scoreboard.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_commands_of_the_documents_are_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in DOCUMENTS:
        used = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / name).read_text(encoding="utf-8")))
        assert used <= targets, f"{name} names {sorted(used - targets)}"


def test_the_picture_of_the_readme_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "picture.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
