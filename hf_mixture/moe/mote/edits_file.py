"""`expert_edits.json`: reading, validating, writing and uploading the file of `ExpertEdits`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import naming, shorten
from hf_mixture.hub.download import download
from hf_mixture.hub.reading import parse_json


if TYPE_CHECKING:
    from hf_mixture.moe.mote.edits import ExpertEdits

FILE_NAME = "expert_edits.json"
FORMAT = "hf_mixture.expert_edits"
VERSION = 1
MAX_FILE_BYTES = 64 * 2**20
# What may go to a repository beside the edits.
COMPANIONS = ("README.md", "ftri.safetensors", "*.png", "adapter_config.json", "adapter_model.safetensors")


def dump(edits: ExpertEdits) -> str:
    """The text of the file; see `ExpertEdits.to_json`."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "base_model_name_or_path": edits.base_model_name_or_path,
        "model_type": edits.model_type,
        "num_experts": None if edits.num_experts is None else dict(edits.num_experts),
        "top_k": None if edits.top_k is None else dict(edits.top_k),
        "fingerprint": edits.fingerprint,
        "mode": edits.mode,
        "force_weight": edits.force_weight,
        "edits": [{key: value for key, value in asdict(edit).items() if value is not None} for edit in edits.edits],
        "scores": dict(edits.scores),
        "provenance": dict(edits.provenance),
    }
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"scores or provenance is not plain JSON ({error}); use objects with string keys, lists, strings and "
            "finite numbers"
        ) from None
    return text + "\n"


def parse(text: str | bytes, *, where: str) -> ExpertEdits:
    """The edits of a text; see `ExpertEdits.from_json`."""
    from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits

    document = parse_json(text, where, max_bytes=MAX_FILE_BYTES)
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int | float) and version > VERSION:
        raise ValueError(
            f"{where}: version={version} is newer than {VERSION}, the newest that this hf_mixture reads: upgrade it"
        )
    _check_schema(document, where)
    ignored = {"format", "version", "edits"}
    fields = {key: value for key, value in document.items() if key not in ignored and not key.startswith("x_")}
    with naming(where):
        return ExpertEdits([ExpertEdit(**edit) for edit in document["edits"]], **fields)


@cache
def _schema() -> dict[str, Any]:
    text = resources.files("hf_mixture.moe.mote").joinpath("edits_schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _check_schema(document: Any, where: str) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(_schema()).iter_errors(document))
    if error is None:
        return
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path).lstrip(".")
    place = place or "top level"
    if error.validator == "additionalProperties" and isinstance(error.validator_value, bool):
        unknown = sorted(key for key in error.instance if key not in error.schema["properties"])
        raise ValueError(f"{where}: {place}: unknown key {shorten(repr(unknown[0]), 80)}; remove it")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        raise ValueError(f"{where}: {place}: {missing!r} is missing; add it")
    rule = error.schema.get("description", error.message)
    raise ValueError(f"{where}: {place}={shorten(repr(error.instance), 80)}: {rule}")


def write(edits: ExpertEdits, folder: str | os.PathLike[str]) -> str:
    """Write the file; see `ExpertEdits.save_pretrained`."""
    directory = Path(folder)
    if directory.is_file():
        raise ValueError(f"save_directory={os.fspath(folder)!r} is a file; it must be a folder: choose another path")
    text = dump(edits)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / FILE_NAME, text)
    return str(directory / FILE_NAME)


def read(path: str | os.PathLike[str]) -> ExpertEdits:
    """Read and validate a file."""
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {size} bytes; edits have at most {MAX_FILE_BYTES}: check that it is the right file")
    return parse(Path(path).read_bytes(), where=os.fspath(path))


def find(
    name_or_path: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> str:
    """Local path of the file of a folder, or of a model repository on the Hub."""
    if os.path.isfile(name_or_path):
        return name_or_path
    if os.path.isdir(name_or_path):
        path = os.path.join(name_or_path, FILE_NAME)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{name_or_path!r} has no {FILE_NAME}; write one with ExpertEdits.save_pretrained")
        return path
    return download(name_or_path, FILE_NAME, revision=revision, token=token, cache_dir=cache_dir)


def push(
    edits: ExpertEdits,
    repo_id: str,
    *,
    folder: str | os.PathLike[str] | None,
    revision: str | None,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
    create_pr: bool,
) -> str:
    """Upload the file; see `ExpertEdits.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(FILE_NAME, dump(edits).encode("utf-8"))]
    if folder is not None:
        found = sorted({path for pattern in COMPANIONS for path in Path(folder).glob(pattern)})
        operations += [CommitOperationAdd(path.name, str(path)) for path in found]
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.create_commit(
        repo_id, operations, commit_message=commit_message, revision=revision, create_pr=create_pr
    )
    return str(commit.commit_url)
