"""No reader is left out: a module of the package that reads a file is in the registry of formats, or says why not."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
from pathlib import Path

import file_formats
import pytest

import hf_mixture
from hf_mixture.hub import formats


ROOT = Path(hf_mixture.__file__).parent
READING = {
    "parse_json",
    "parse_yaml",
    "read_arrays",
    "read_document",
    "read_json",
    "read_log",
    "read_object",
    "read_tensors",
    "read_yaml",
}
# Names of functions of libraries, with the names of their modules.
LIBRARIES = {
    "json": {"load", "loads"},
    "np": {"fromfile", "load", "loadtxt", "memmap", "open_memmap"},
    "pq": {"ParquetFile", "read_table"},
    "torch": {"load"},
    "yaml": {"full_load", "load", "safe_load", "unsafe_load"},
    "pickle": {"load", "loads"},
}
BARE = {"load_file", "load_from_disk", "safe_open"}
WRITERS = {"write_bytes", "write_text"}
# Where a whole folder is renamed into its place, or which end up in a temporary one.
WRITES_IN_A_FOLDER_OF_ITS_OWN = {
    "hf_mixture.hub.atomic": "the writers themselves",
    "hf_mixture.moe.parallel.sharded_checkpoint": "a folder that is renamed when it is whole",
    "hf_mixture.training.mote.stock": "a temporary folder",
    "hf_mixture.training.reload": "the reference of a check, which a run makes again",
}


@functools.cache
def modules() -> dict[str, ast.Module]:
    names = {
        f"hf_mixture.{path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}": path
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__init__.py"
    }
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in names.items()}


@functools.cache
def calls(tree: ast.Module) -> set[str]:
    """What a module calls: `name`, or `module.name`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                found.add(function.id)
            elif isinstance(function, ast.Attribute):
                found.add(f"{function.value.id if isinstance(function.value, ast.Name) else '?'}.{function.attr}")
    return found


def reads(called: set[str]) -> set[str]:
    libraries = {f"{module}.{name}" for module, names in LIBRARIES.items() for name in names}
    return called & (READING | BARE | libraries)


def test_every_reader_is_in_the_registry() -> None:
    known = {module for form in file_formats.FORMATS for module in form.modules} | set(file_formats.INDIRECT)
    readers = {name: reads(calls(tree)) for name, tree in modules().items()}
    missing = {name: sorted(found) for name, found in readers.items() if found and name not in known}
    assert not missing, f"add to tests/support/formats_ROOM.py: {missing}"
    gone = sorted(name for name in file_formats.INDIRECT if not readers.get(name))
    assert not gone, f"they read nothing any more: {gone}"


def test_nothing_is_unpickled() -> None:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                where = ast.unparse(node.func.value)
                assert where not in ("pickle", "joblib", "dill"), name
                assert where != "torch" or options.get("weights_only") == "True", name
                assert where != "np" or options.get("allow_pickle", "False") == "False", name


def test_every_file_is_written_beside_its_place_and_renamed() -> None:
    wrong = {}
    for name, tree in modules().items():
        called = calls(tree)
        found = {call for call in called if call.rpartition(".")[2] in WRITERS} | (called & {"save_file", "json.dump"})
        if found and name not in WRITES_IN_A_FOLDER_OF_ITS_OWN and not name.startswith("hf_mixture.cli"):
            wrong[name] = sorted(found)
    assert not wrong, f"write by hf_mixture.hub.atomic: {wrong}"


def test_every_format_is_known_to_doctor() -> None:
    declared = {}
    for module in pkgutil.walk_packages([str(ROOT)], "hf_mixture."):
        source = (ROOT.parent / module.name.replace(".", "/")).with_suffix(".py")
        if source.is_file() and "\nFORMAT = " in source.read_text(encoding="utf-8"):
            declared[module.name] = importlib.import_module(module.name).FORMAT
    unknown = {name: form for name, form in declared.items() if form not in formats.FORMATS}
    assert not unknown, f"add to hf_mixture/hub/formats.py: {unknown}"


@pytest.mark.parametrize("name", sorted(file_formats.INDIRECT))
def test_reasons_are_given(name: str) -> None:
    assert len(file_formats.INDIRECT[name].split()) > 2
