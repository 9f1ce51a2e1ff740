"""Reading the data files of the rules: YAML, checked against a schema before anything is built from it."""

from __future__ import annotations

import json
import os
from functools import cache
from importlib import resources
from typing import Any, cast

from hf_mixture.hub.damage import shorten_middle
from hf_mixture.hub.reading import parse_yaml, read_yaml


def read_rules(kind: str, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Read a data file of rules and check it against the schema of its kind.

    Args:
        kind: Which rules, for example `"tier_policy"`; the schema is `<kind>.schema.json` beside this module.
        path: A file of the user. Default: the one that ships, `<kind>.yaml`.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is not YAML, or breaks the schema; the message names the place, the value and the rule.
    """
    where = f"{kind}.yaml" if path is None else os.fspath(path)
    document = parse_yaml(_bundled(f"{kind}.yaml"), where) if path is None else read_yaml(path)
    check_document(kind, document, where)
    return cast(dict[str, Any], document)


def _bundled(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(_bundled(f"{kind}.schema.json")))


def check_document(kind: str, document: Any, where: str) -> None:
    """Check a document against the schema of its kind; the ValueError names the place, the value and the rule."""
    errors = sorted(_validator(kind).iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        error = errors[0]
        place = "".join(f"[{key!r}]" for key in error.absolute_path) or "the document"
        rule = error.schema.get("description") if isinstance(error.schema, dict) else None
        raise ValueError(f"{where}: {place}: {shorten_middle(error.message, 300)}" + (f"; {rule}" if rule else ""))
