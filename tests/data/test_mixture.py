from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from hf_mixture.data import Mixture, Source
from hf_mixture.data.mixture_file import MAX_DEPTH, MAX_FILE_BYTES, check_schema


def random_mixture(rng: np.random.Generator) -> Mixture:
    num = int(rng.integers(1, 12))
    alphabet = "abcxyz-_.ÄЖ語😀 '\"\\{}"
    names: list[str] = []
    while len(names) < num:
        name = "".join(rng.choice(list(alphabet), int(rng.integers(1, 9)))).strip()
        if name and name not in names:
            names.append(name)
    weights = rng.dirichlet(np.full(num, 10.0 ** rng.uniform(-2, 1)))
    weights[rng.random(num) < 0.1] *= 1e-12
    if weights.sum() == 0:
        weights[0] = 1.0
    sources = {}
    for name in names:
        if rng.random() < 0.5:
            files: Any = [None, "data/*.jsonl", ["a.txt", "b/c.txt"], {"train": ["a"], "test": "b"}][rng.integers(4)]
            sources[name] = Source(
                path=str(rng.choice(["user/data", "/abs/folder", "json", "installed:python"])),
                config=str(rng.choice(["en", "de"])) if rng.random() < 0.5 else None,
                data_files=files,
                split=str(rng.choice(["train", "train[:10%]"])),
                revision="0" * 40 if rng.random() < 0.5 else None,
                license="CC0-1.0" if rng.random() < 0.5 else None,
                size={"examples": int(rng.integers(2**40)), "tokens": 0} if rng.random() < 0.5 else None,  # type: ignore[arg-type]
                fingerprint="abc" if rng.random() < 0.5 else None,
            )
    metadata: dict[str, Any] = {}
    if rng.random() < 0.5:
        metadata["provenance"] = {"method": "manual", "values": [float(rng.random()), None, True, {"T": 0.7}]}
    if rng.random() < 0.5:
        metadata["tokenizer"] = {"path": "user/tokenizer", "revision": "main"}
    if rng.random() < 0.5:
        metadata["x_note"] = ["é", 1e-300, -0.0, 2**60]
    return Mixture(
        dict(zip(names, weights.tolist(), strict=True)),
        unit=str(rng.choice(["examples", "tokens", "bytes"])),  # type: ignore[arg-type]
        seed=int(rng.integers(2**63)),
        sources=sources,
        name="näme" if rng.random() < 0.5 else None,
        description="two\nlines" if rng.random() < 0.5 else None,
        license="CC-BY-4.0" if rng.random() < 0.5 else None,
        metadata=metadata,
        normalise=True,
    )


def test_a_thousand_random_mixtures_round_trip_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        mixture = random_mixture(rng)
        path = Path(mixture.save_pretrained(tmp_path))
        first = hashlib.sha256(path.read_bytes()).hexdigest()
        loaded = Mixture.from_pretrained(tmp_path)
        assert loaded == mixture
        assert hash(loaded) == hash(mixture)
        assert [w.hex() for w in loaded.shares] == [w.hex() for w in mixture.shares]
        assert loaded.sources == mixture.sources
        assert loaded.metadata == mixture.metadata
        loaded.save_pretrained(tmp_path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == first


def test_value_semantics() -> None:
    mixture = Mixture({"wiki": 0.7, "code": 0.3}, unit="tokens", seed=0)
    assert mixture == Mixture({"wiki": 0.7, "code": 0.3}, unit="tokens")
    assert len({mixture, Mixture({"wiki": 0.7, "code": 0.3}, unit="tokens")}) == 1
    assert mixture != Mixture({"wiki": 0.7, "code": 0.3}, unit="bytes")
    assert mixture != Mixture({"wiki": 0.7, "code": 0.3}, unit="tokens", seed=1)
    # The order of the names numbers the sources of the plan.
    assert mixture != Mixture({"code": 0.3, "wiki": 0.7}, unit="tokens")
    with pytest.raises(dataclasses.FrozenInstanceError):
        mixture.seed = 1  # type: ignore[misc]
    mixture.weights["wiki"] = 9.0
    assert mixture.weights == {"wiki": 0.7, "code": 0.3}
    assert copy.deepcopy(mixture) == mixture
    assert pickle.loads(pickle.dumps(mixture)) == mixture  # noqa: S301 - our own bytes


def test_sums_close_to_one(caplog: pytest.LogCaptureFixture) -> None:
    exact = {"a": 0.5, "b": 0.5 + 5e-10}
    with caplog.at_level(logging.WARNING):
        assert Mixture(exact, unit="examples").weights == exact
        assert not caplog.records
        rounded = Mixture({"a": 0.333, "b": 0.333, "c": 0.333}, unit="examples")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert math.fsum(rounded.shares) == pytest.approx(1, abs=1e-15)
    with pytest.raises(ValueError, match=r"sum to 0\.98.*normalise=True"):
        Mixture({"a": 0.49, "b": 0.49}, unit="examples")
    assert Mixture({"a": 3, "b": 1}, unit="examples", normalise=True).weights == {"a": 0.75, "b": 0.25}
    huge = Mixture({"a": 1e308, "b": 1e308}, unit="examples", normalise=True)
    assert huge.weights == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, ["empty", "at least one"]),
        ([0.5, 0.5], ["list", "map"]),
        ({"a": -0.5, "b": 1.5}, ["'a'", "-0.5", ">= 0"]),
        ({"a": math.nan, "b": 1.0}, ["'a'", "nan", "finite"]),
        ({"a": math.inf}, ["'a'", "inf", "finite"]),
        ({"a": 10**400}, ["'a'", "inf", "finite"]),
        ({"a": 0.0, "b": 0}, ["all 2 weights are 0", "above 0"]),
        ({"a": "1"}, ["'a'", "'1'", "number"]),
        ({"a": True}, ["'a'", "True", "number"]),
        ({"": 1.0}, ["domain name", "''", "non-empty"]),
        ({"  ": 1.0}, ["domain name", "'  '", "non-empty"]),
        ({1: 1.0}, ["domain name", "1", "string"]),
        ({"a\nb": 1.0}, ["domain name", "printed"]),
        ({"\ud800": 1.0}, ["domain name", "printed"]),
    ],
)
def test_wrong_weights_are_one_clear_error(weights: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Mixture(weights, unit="tokens")
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"unit": "rows"}, ["unit='rows'", "'examples'"]),
        ({"seed": -1}, ["seed=-1", "2**63"]),
        ({"seed": 1.0}, ["seed=1.0", "integer"]),
        ({"seed": True}, ["seed=True", "integer"]),
        ({"sources": {"b": Source("x")}}, ["'b'", "no weight", "['a']"]),
        ({"sources": {"a": "x"}}, ["'a'", "str", "Source"]),
        ({"name": ""}, ["name", "non-empty"]),
        ({"license": 3}, ["license=3", "string"]),
        ({"description": "\udfff"}, ["description", "Unicode"]),
        ({"metadata": {"note": 1}}, ["'note'", "x_*"]),
        ({"metadata": {"x_a": {1: 2}}}, ["metadata", "string keys"]),
        ({"metadata": {"x_a": math.nan}}, ["metadata", "JSON"]),
        ({"metadata": {"provenance": []}}, ["provenance", "dictionary"]),
        ({"metadata": {"tokenizer": {"name": "x"}}}, ["tokenizer", "path"]),
    ],
)
def test_wrong_arguments_are_one_clear_error(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Mixture({"a": 1.0}, **{"unit": "tokens", **arguments})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("path", ["../x", "a/../../x", "..\\x", "~/x", "~root/x"])
@pytest.mark.parametrize("field", ["path", "data_dir", "data_files"])
def test_paths_do_not_leave_their_folder(path: str, field: str) -> None:
    with pytest.raises(ValueError, match="leaves its folder"):
        Source(**{"path": "json", field: path})  # type: ignore[arg-type]
    assert Source(**{"path": "json", field: "/absolute/..name/x"}).to_dict()[field]  # type: ignore[arg-type]


VALID: dict[str, Any] = {
    "format": "hf_mixture",
    "version": 1,
    "unit": "tokens",
    "sources": [{"name": "a", "weight": 0.5, "path": "user/a"}, {"name": "b", "weight": 0.5}],
}

VIOLATIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no format": ({"format": None}, ["format", "hf_mixture"]),
    "another format": ({"format": "other"}, ["format", "'other'", "hf_mixture"]),
    "newer version": ({"version": 2}, ["version=2", "upgrade"]),
    "newer version as a float": ({"version": 2.0}, ["version=2.0", "upgrade"]),
    "version zero": ({"version": 0}, ["version=0", ">= 1"]),
    "no unit": ({"unit": ...}, ["'unit' is missing"]),
    "unknown unit": ({"unit": "rows"}, ["unit='rows'", "examples"]),
    "negative seed": ({"seed": -1}, ["seed=-1", "2**63"]),
    "seed of text": ({"seed": "0"}, ["seed='0'", "integer"]),
    "unknown key": ({"colour": 1}, ["'colour'", "x_"]),
    "no sources": ({"sources": []}, ["sources", "non-empty"]),
    "sources of another type": ({"sources": {"a": 1}}, ["sources", "list"]),
    "source of another type": ({"sources": ["a"]}, ["sources[0]", "object"]),
    "source without name": ({"sources": [{"weight": 1}]}, ["sources[0]", "'name' is missing"]),
    "source without weight": ({"sources": [{"name": "a"}]}, ["sources[0]", "'weight' is missing"]),
    "source with an unknown key": ({"sources": [{"name": "a", "weight": 1, "url": "x"}]}, ["sources[0]", "'url'"]),
    "empty name": ({"sources": [{"name": "", "weight": 1}]}, ["sources[0].name", "non-empty"]),
    "a name twice": ({"sources": [{"name": "a", "weight": 0.5}] * 2}, ["'a' twice", "unique"]),
    "negative weight": (
        {"sources": [{"name": "a", "weight": -0.5}, {"name": "b", "weight": 1.5}]},
        ["sources[0].weight=-0.5", ">= 0"],
    ),
    "all weights zero": ({"sources": [{"name": "a", "weight": 0}]}, ["all 1 weights are 0"]),
    "huge weight": ({"sources": [{"name": "a", "weight": 10**400}]}, ["'a'", "finite"]),
    "sum far from one": ({"sources": [{"name": "a", "weight": 0.5}]}, ["sum to 0.5", "normalise"]),
    "path that climbs": ({"sources": [{"name": "a", "weight": 1, "path": "../x"}]}, ["source.path", "leaves"]),
    "files that climb": (
        {"sources": [{"name": "a", "weight": 1, "path": "json", "data_files": {"train": ["../x"]}}]},
        ["data_files", "leaves"],
    ),
    "facts without a path": ({"sources": [{"name": "a", "weight": 1, "license": "MIT"}]}, ["'a'", "no path"]),
    "negative size": (
        {"sources": [{"name": "a", "weight": 1, "path": "x", "size": {"tokens": -1}}]},
        ["sources[0].size.tokens"],
    ),
    "schedule": ({"schedule": [{"start": 0}]}, ["schedule", "fixed weights", "remove"]),
    "budget": ({"budget": {"amount": 1, "unit": "tokens"}}, ["budget", "remove"]),
    "cap": ({"sources": [{"name": "a", "weight": 1, "max_epochs": 2}]}, ["max_epochs=2", "cap", "remove"]),
    "minimum": ({"sources": [{"name": "a", "weight": 1, "min_weight": 0.1}]}, ["min_weight=0.1", "remove"]),
    "no reshuffle": ({"sources": [{"name": "a", "weight": 1, "shuffle": False}]}, ["shuffle=False", "reshuffles"]),
    "length column": ({"sources": [{"name": "a", "weight": 1, "length_column": "n"}]}, ["length_column='n'"]),
    "provenance of text": ({"provenance": "me"}, ["provenance='me'", "object"]),
    "tokenizer without path": ({"tokenizer": {}}, ["tokenizer", "'path' is missing"]),
}


def write(folder: Path, changes: dict[str, Any]) -> Path:
    document = {key: value for key, value in {**VALID, **changes}.items() if value is not ...}
    path = folder / "mixture.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_the_valid_file_is_valid(tmp_path: Path) -> None:
    mixture = Mixture.from_pretrained(write(tmp_path, {"x_extra": {"any": ["thing"]}}))
    assert mixture.weights == {"a": 0.5, "b": 0.5}
    assert mixture.sources == {"a": Source("user/a")}
    assert mixture.metadata == {"x_extra": {"any": ["thing"]}}


@pytest.mark.parametrize("rule", VIOLATIONS)
def test_each_rule_has_a_file_that_breaks_only_it(rule: str, tmp_path: Path) -> None:
    changes, words = VIOLATIONS[rule]
    path = write(tmp_path, changes)
    with pytest.raises(ValueError) as caught:
        Mixture.from_pretrained(tmp_path)
    assert str(path) in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", ["not valid JSON"]),
        (b"{", ["not valid JSON"]),
        (b"\xff\xfe{}", ["not valid JSON"]),
        (b"[]", ["top level", "object"]),
        (b"null", ["top level", "object"]),
        (b'{"format": "hf_mixture", "format": "hf_mixture"}', ["'format'", "twice"]),
        (b'{"seed": NaN}', ["NaN"]),
        (b'{"seed": 1e999}', ["1e999", "64-bit"]),
        (b'{"seed": ' + b"9" * 5000 + b"}", ["not valid JSON"]),
        (b'{"x_a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", ["deeper"]),
        (b"[" * 10**6, ["deeper"]),
        (b'{"x_a": "' + b"a" * MAX_FILE_BYTES + b'"}', ["at most", "right file"]),
    ],
)
def test_hostile_text_is_one_clear_error(text: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mixture.json").write_bytes(text)
    with pytest.raises(ValueError) as caught:
        Mixture.from_pretrained(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value)) < 1000
    assert caught.value.__cause__ is None


def test_errors_quote_long_values_briefly(tmp_path: Path) -> None:
    write(tmp_path, {"unit": "x" * 10**6})
    with pytest.raises(ValueError) as caught:
        Mixture.from_pretrained(tmp_path)
    assert len(str(caught.value)) < 1000


def test_saved_files_follow_the_schema() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        check_schema(json.loads(random_mixture(rng).to_json()), "here")


def test_saving_replaces_the_whole_file_or_nothing(tmp_path: Path) -> None:
    mixture = Mixture({"a": 1.0}, unit="bytes")
    folder = tmp_path / "new" / "folder"
    assert Path(mixture.save_pretrained(folder)) == folder / "mixture.json"
    assert [path.name for path in folder.iterdir()] == ["mixture.json"]
    with pytest.raises(ValueError, match="is a file"):
        mixture.save_pretrained(folder / "mixture.json")


def test_a_place_without_a_mixture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"has no mixture\.json"):
        Mixture.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither a folder"):
        Mixture.from_pretrained(tmp_path / "nothing" / "here")
    with pytest.raises(FileNotFoundError, match="check the name, the revision and the access"):
        Mixture.from_pretrained("nobody/nothing", revision="v1", cache_dir=tmp_path)


def test_natural_and_uniform() -> None:
    sizes = {"a": 800, "b": 200, "c": 0}
    assert Mixture.natural(sizes, unit="bytes").weights == {"a": 0.8, "b": 0.2, "c": 0.0}
    flat = Mixture.natural(sizes, unit="bytes", temperature=0).weights
    assert flat == {"a": 0.5, "b": 0.5, "c": 0.0}
    root = Mixture.natural(sizes, unit="bytes", temperature=0.5).weights
    assert root["a"] / root["b"] == pytest.approx(2)
    assert Mixture.uniform("abcd", unit="bytes").shares == (0.25,) * 4
    with pytest.raises(ValueError, match="temperature=-1"):
        Mixture.natural(sizes, unit="bytes", temperature=-1)


def test_source_refuses_what_it_cannot_record() -> None:
    with pytest.raises(ValueError, match=r"unknown keys \['url'\]"):
        Source.from_dict({"path": "x", "url": "y"})
    with pytest.raises(ValueError, match="no 'path'"):
        Source.from_dict({"config": "en"})
    with pytest.raises(ValueError, match="data_files is empty"):
        Source("json", data_files=[])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'rows' must be one of"):
        Source("json", size={"rows": 3})  # type: ignore[arg-type]
    source = Source("json", config="en", data_files={"train": ["a", "b"], "test": "c"})  # type: ignore[arg-type]
    assert source == Source("json", config="en", data_files={"train": ("a", "b"), "test": "c"})  # type: ignore[arg-type]
    assert source.load_kwargs() == {"path": "json", "name": "en", "data_files": {"train": ["a", "b"], "test": "c"}}
    assert Source.from_dict(source.to_dict()) == source
