"""Recognises files by the `format` that they carry, in JSON, in the header of safetensors or in that of parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.damage import reading
from hf_mixture.hub.formats import FORMATS, Format
from hf_mixture.hub.reading import parse_json, read_json


# A file that is larger holds something else than facts.
MAX_BYTES = 64 * 2**20
_BY_NAME = {item.file: item for item in FORMATS.values() if "*" not in item.file}


def find_format(path: Path) -> tuple[Format | None, Mapping[str, Any], str | None]:
    """Say what a file is.

    Args:
        path: A `.json`, `.jsonl`, `.safetensors` or `.parquet` file.

    Returns:
        Its format, None where it has none of this package; what it says of itself; and what is wrong with it.
    """
    named = _BY_NAME.get(path.name)
    if named is None and path.suffix == ".json" and not _may_have_format(path):
        return None, {}, None
    try:
        facts = _facts(path)
    except ValueError as error:
        return named, {}, str(error)
    form = facts.get("format")
    found = FORMATS.get(form) if isinstance(form, str) else None
    if found is None:
        return (
            named,
            facts,
            f"{path.name} has the format {form!r}, which this release does not know" if named else None,
        )
    version = facts.get("version")
    if found.version is not None and str(version) != str(found.version):
        problem = f"{path.name} has version {version!r} of its format, and version {found.version} is read here"
        return found, facts, problem
    return found, facts, None


def _may_have_format(path: Path) -> bool:
    """Whether `format` stands at the beginning; a tokenizer is long, and need not be parsed."""
    with path.open("rb") as file:
        return b'"format"' in file.read(512)


def _facts(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        content = read_json(path, max_bytes=MAX_BYTES, allow_nan=True)
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            content = parse_json(file.readline(MAX_BYTES), str(path))
    elif path.suffix == ".safetensors":
        content = _nested(_tensors_header(path), path)
    else:
        content = _nested(_parquet_header(path), path)
    return content if isinstance(content, dict) else {}


def _nested(header: Mapping[str, str], path: Path) -> Any:
    """Metadata are texts; a format with more to say keeps it as JSON under the name of the package."""
    return parse_json(header["hf_mixture"], str(path)) if "hf_mixture" in header else dict(header)


def _tensors_header(path: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with reading(path), safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def _parquet_header(path: Path) -> Mapping[str, str]:
    import pyarrow.parquet as pq

    with reading(path):
        found = pq.read_schema(path).metadata or {}
        return {
            key.decode(): value.decode()
            for key, value in found.items()
            if key in (b"hf_mixture", b"format", b"version")
        }


def describe_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts of a file for people: the short ones, by name."""
    shown = {}
    for name, value in facts.items():
        if name in ("format", "sha256", "fingerprint") or value is None:
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) <= 100 and text.isprintable():
            shown[name] = text
        elif isinstance(value, list | dict):
            shown[name] = f"{len(value)} entries"
    return shown
