"""`mixture.json`: reading, validating and writing the file of a `Mixture`.

What a stranger sends is checked in this order: size, encoding, JSON, depth, version, schema, meaning. Each step
makes the next one safe, and each failure is one ValueError that names the place, the value, the rule and the remedy.
"""

from __future__ import annotations

import dataclasses
import json
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.data.schedule import SourcePolicy
from hf_mixture.data.source import Source, check_text, shorten
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.reading import check_plain, parse_json


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

FILE_NAME = "mixture.json"
FORMAT = "hf_mixture"
VERSION = 1
MAX_FILE_BYTES = 16 * 2**20
MAX_DEPTH = 32


def dump(mixture: Mixture) -> str:
    """Return the text of `mixture.json`: fixed key order, shortest exact floats, one final newline."""
    sources, policies = mixture.sources, mixture.policies
    metadata = mixture.metadata
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": mixture.name,
        "description": mixture.description,
        "license": mixture.license,
        "unit": mixture.unit,
        "tokenizer": metadata.pop("tokenizer", None),
        "seed": mixture.seed,
        "sources": [
            {
                "name": name,
                "weight": weight,
                **_policy_to_dict(policies.get(name, SourcePolicy())),
                **(sources[name].to_dict() if name in sources else {}),
            }
            for name, weight in mixture.weights.items()
        ],
        "schedule": mixture.schedule
        and [
            {
                "start": segment.start,
                "unit": mixture.schedule_unit,
                "weights": dict(zip(mixture.names, segment.weights, strict=True)),
                "interpolation": segment.interpolation,
            }
            for segment in mixture.schedule
        ],
        "budget": mixture.budget and {"amount": mixture.budget[0], "unit": mixture.budget[1]},
        "provenance": metadata.pop("provenance", None),
        **metadata,
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _policy_to_dict(policy: SourcePolicy) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    return {
        field.name: getattr(policy, field.name)
        for field in dataclasses.fields(SourcePolicy)
        if getattr(policy, field.name) != field.default
    }


def parse(text: str | bytes, *, where: str, normalise: bool = False) -> Mixture:
    """Build a `Mixture` from the text of a `mixture.json`; see `Mixture.from_json`."""
    from hf_mixture.data.mixture import Mixture

    document = load_json(text, where)
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int | float) and version > VERSION:
        raise ValueError(
            f"{where}: version={version} is newer than {VERSION}, the newest that this hf_mixture reads: upgrade "
            "hf_mixture"
        )
    check_schema(document, where)
    try:
        return _build(Mixture, document, normalise)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _build(mixture_cls: type[Mixture], document: dict[str, Any], normalise: bool) -> Mixture:
    weights: dict[str, float] = {}
    sources, policies = {}, {}
    limits = [field.name for field in dataclasses.fields(SourcePolicy)]
    facts = [field for field in Source.__dataclass_fields__ if field != "path"]
    for entry in document["sources"]:
        name = entry["name"]
        if name in weights:
            raise ValueError(f"sources has {name!r} twice; names must be unique: rename one")
        weights[name] = entry["weight"]
        policies[name] = SourcePolicy(**{key: entry[key] for key in limits if entry.get(key) is not None})
        if "path" in entry:
            sources[name] = Source(entry["path"], **{key: entry[key] for key in facts if entry.get(key) is not None})
        elif recorded := [key for key in facts if entry.get(key) is not None]:
            raise ValueError(
                f"source {name!r} has {recorded} and no path; facts belong to a path: add it or remove them"
            )
    metadata = {
        key: value
        for key, value in document.items()
        if key.startswith("x_") or (key in ("provenance", "tokenizer") and value is not None)
    }
    budget = document.get("budget")
    return mixture_cls(
        weights,
        unit=document["unit"],
        seed=document.get("seed", 0),
        sources=sources,
        policies=policies,
        budget=(budget["amount"], budget["unit"]) if budget else None,
        **_read_schedule(document),
        name=document.get("name"),
        description=document.get("description"),
        license=document.get("license"),
        metadata=metadata,
        normalise=normalise,
    )


def _read_schedule(document: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Mixture` for the schedule of a file."""
    entries = document.get("schedule")
    if entries is None:
        return {}
    units = [entry["unit"] for entry in entries]
    for i, unit in enumerate(units):
        if unit != units[0]:
            raise ValueError(f"schedule[{i}].unit={unit!r} is not that of schedule[0], {units[0]!r}; use one unit")
    segments = [(entry["start"], entry["weights"], entry.get("interpolation", "constant")) for entry in entries]
    return {"schedule": segments, "schedule_unit": units[0]}


def load_json(text: str | bytes, where: str) -> Any:
    """Parse JSON strictly: UTF-8, bounded size and depth, no repeated key, no NaN or infinity.

    Raises:
        ValueError: The text breaks one of these rules.
    """
    return parse_json(text, where, max_bytes=MAX_FILE_BYTES, max_depth=MAX_DEPTH, remedy="correct the file")


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    schema = resources.files("hf_mixture.data").joinpath("schemas/mixture.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))


def check_schema(document: Any, where: str) -> None:
    """Raise ValueError for the first field that breaks the JSON schema of the format."""
    error = next(_validator().iter_errors(document), None)
    if error is None:
        return
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path).lstrip(".")
    rule = error.schema.get("description", "see the schema of the format")
    if error.validator == "additionalProperties":
        allowed = error.schema["properties"]
        unknown = sorted(key for key in error.instance if key not in allowed and not key.startswith("x_"))
        extensions = "" if place else ', or start the name with "x_"'
        raise ValueError(f"{where}: {place or 'top level'}: unknown key {shorten(unknown[0])}; remove it{extensions}")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        raise ValueError(f"{where}: {place or 'top level'}: {missing!r} is missing; add it")
    raise ValueError(f"{where}: {place or 'top level'}={shorten(error.instance)}: {rule}")


def check_description(text: Any) -> None:
    """Raise ValueError unless `text` is a string that can be written as UTF-8."""
    if not isinstance(text, str):
        raise ValueError(f"description={shorten(text)} is a {type(text).__name__}; it must be a string: write text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"description={shorten(text)} is not valid Unicode; remove the broken characters") from None


def freeze_metadata(metadata: dict[str, Any]) -> str:
    """Return the metadata as canonical JSON text, which is hashable and cannot change.

    Raises:
        ValueError: A key is neither `provenance`, `tokenizer` nor `x_*`, or a value is not plain JSON.
    """
    for key in metadata:
        if key not in ("provenance", "tokenizer") and not str(key).startswith("x_"):
            raise ValueError(
                f"metadata has the key {key!r}; allowed are 'provenance', 'tokenizer' and 'x_*': rename it"
            )
    try:
        text = json.dumps(metadata, sort_keys=True, allow_nan=False)
        unchanged = json.loads(text) == metadata
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"metadata is not plain JSON ({error}); use only objects, lists, strings and finite numbers"
        ) from None
    if not unchanged:
        raise ValueError("metadata does not survive JSON unchanged; use string keys and lists instead of tuples")
    check_plain(metadata, "metadata", max_depth=MAX_DEPTH)
    provenance, tokenizer = metadata.get("provenance", {}), metadata.get("tokenizer")
    if not isinstance(provenance, dict):
        raise ValueError(f"metadata['provenance']={shorten(provenance)} must be a dictionary: correct it")
    if tokenizer is not None:
        if not isinstance(tokenizer, dict) or not {"path"} <= set(tokenizer) <= {"path", "revision"}:
            raise ValueError(
                f"metadata['tokenizer']={shorten(tokenizer)} must be a dictionary of path and revision: correct it"
            )
        for key in tokenizer:
            check_text(f"metadata['tokenizer'][{key!r}]", tokenizer[key])
    return text


def write(mixture: Mixture, folder: str | os.PathLike[str]) -> str:
    """Write `mixture.json` into `folder` so that a reader never sees half a file; see `Mixture.save_pretrained`."""
    directory = Path(folder)
    if directory.is_file():
        raise ValueError(f"save_directory={os.fspath(folder)!r} is a file; it must be a folder: choose another path")
    text = mixture.to_json()
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / FILE_NAME, text)
    return str(directory / FILE_NAME)


def read(path: str, *, normalise: bool = False) -> Mixture:
    """Read and validate a `mixture.json`."""
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path}: {size} bytes; a mixture has at most {MAX_FILE_BYTES}: check that it is the right file"
        )
    return parse(Path(path).read_bytes(), where=path, normalise=normalise)


def find(
    name_or_path: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> str:
    """Return the local path of the `mixture.json` of a folder, a file, or a dataset repository."""
    if os.path.isfile(name_or_path):
        return name_or_path
    if os.path.isdir(name_or_path):
        path = os.path.join(name_or_path, FILE_NAME)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{name_or_path!r} has no {FILE_NAME}; write one with Mixture.save_pretrained")
        return path
    from hf_mixture.hub.download import download

    return download(name_or_path, FILE_NAME, repo_type="dataset", revision=revision, token=token, cache_dir=cache_dir)
