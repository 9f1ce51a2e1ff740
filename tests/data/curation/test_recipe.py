"""The recipe: unknown keys, wrong values and what does not fit together are refused with one clear error."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hf_mixture import CurationRecipe
from hf_mixture.data.curation.recipe import schema


PLAIN: dict[str, Any] = {
    "format": "hf_mixture_curation",
    "version": 1,
    "name": "notes",
    "sources": {"a": {"facts": {"license": "MIT"}}, "b": {}},
}


def test_defaults_are_written_out_and_read_back() -> None:
    recipe = CurationRecipe.from_dict(PLAIN)
    assert CurationRecipe.from_yaml(recipe.to_yaml()) == recipe
    written = recipe.to_dict()
    assert written["stages"]["quality"]["min_chars"] == 100
    assert set(written["stages"]) == {field.name for field in dataclasses.fields(recipe.stages)}


def test_the_schema_is_a_valid_json_schema_and_closed() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema())
    open_objects = [path for path, part in objects(schema()) if part.get("additionalProperties", True) is True]
    assert open_objects == []


def objects(part: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    if isinstance(part, list):
        return [found for entry in part for found in objects(entry, path)]
    if not isinstance(part, dict):
        return []
    mine = [(path, part)] if part.get("type") == "object" else []
    return mine + [found for key, entry in part.items() for found in objects(entry, f"{path}.{key}")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "reads format: hf_mixture_curation, version: 1"),
        ({"format": "other"}, "format 'other'"),
        ({"nam": "x"}, "did you mean 'name'"),
        ({"stages": {"qualty": {}}}, "stages: .*did you mean 'quality'"),
        ({"stages": {"quality": {"min_char": 3}}}, r"stages\.quality: .*did you mean 'min_chars'"),
        ({"stages": {"quality": {"min_chars": -1}}}, r"stages\.quality\.min_chars: -1 is less than"),
        ({"stages": {"quality": {"max_special_ratio": 2}}}, r"max_special_ratio: 2 is greater than"),
        ({"stages": {"quality": {"min_chars": "many"}}}, r"min_chars: 'many' is not of type 'integer'"),
        ({"stages": {"pii": {"action": "hide"}}}, r"stages\.pii\.action: 'hide' is not one of"),
        ({"stages": {"decontamination": {}}}, r"decontamination\.benchmarks is empty"),
        ({"stages": {"safety": {"encyclopedic": ["wiki"]}}}, r"encyclopedic has 'wiki', which is no source"),
        ({"sources": {}}, "sources is empty"),
        ({"sources": {"a/b": {}}}, r"'a/b' does not match"),
        ({"sources": {"a": {"columns": {"body": "x", "text": "t"}}}}, r"sources\.a\.columns has 'body'"),
        ({"sources": {"a": {"columns": {"id": "x"}}}}, r"columns has no 'text'"),
        ({"sources": {"a": {"facts": {"licence": "MIT"}}}}, r"sources\.a\.facts has 'licence'"),
        ({"sources": {"a": {"facts": {"source_revision": 0.2}}}}, r"source_revision=0\.2 is not of type str"),
        ({"sources": {"a": {"facts": {"government": "yes"}}}}, r"government='yes' is not of type bool"),
        ({"sources": {"a": {"skip": ["tier"]}}}, r"sources\.a\.skip has 'tier'"),
        ({"mixture": {"weights": {"a": 1}}}, r"differ in \['b'\]"),
        ({"mixture": {"weights": {"a": 0, "b": 0}}}, "weights"),
        ({"mixture": {"weights": {"a": 1, "b": 1}, "unit": "words"}}, r"mixture\.unit|'words' is not one of"),
        ({"output_dir": 5}, "^output_dir: 5 is not of type 'string'$"),
        ({"mixture": 5}, "^mixture: 5 is not of type 'object'$"),
        ({"shard_rows": 0}, "shard_rows: 0 is less than"),
        ({"packing": {"within": ["licence"]}}, "'licence' is not one of"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurationRecipe.from_dict(PLAIN | change)


def test_text_that_is_no_recipe() -> None:
    with pytest.raises(ValueError, match="not valid YAML"):
        CurationRecipe.from_yaml("a: [")
    with pytest.raises(ValueError, match="must map keys"):
        CurationRecipe.from_yaml("- a")


def test_stages_can_be_left_out() -> None:
    recipe = CurationRecipe.from_dict(PLAIN | {"stages": {"language": None, "dedup": None}})
    assert recipe.stages.language is None
    assert recipe.stages.quality is not None
