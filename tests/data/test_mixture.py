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
from hf_mixture.data.schedule import Segment, SourcePolicy


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
                length_column="length" if rng.random() < 0.5 else None,
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
    start = dict(zip(names, weights.tolist(), strict=True))
    more: dict[str, Any] = {}
    if rng.random() < 0.5:
        more = {"schedule_unit": str(rng.choice(["examples", "tokens", "bytes", "fraction"]))}
        fraction = more["schedule_unit"] == "fraction"
        starts = np.sort(rng.random(3)).tolist() if fraction else np.cumsum(rng.integers(1, 2**40, 3)).tolist()
        segments: list[Any] = [(0, start, str(rng.choice(["constant", "linear"])))]
        segments += [(begin, rng.dirichlet(np.ones(num)).tolist()) for begin in starts]
        more["schedule"] = segments
    policies = {}
    for name in names:
        if rng.random() < 0.3:
            policies[name] = SourcePolicy(
                max_epochs=float(rng.choice([0.25, 4, 1e9])) if rng.random() < 0.5 else None,
                overflow=str(rng.choice(["renormalise", "stop", "error"])),  # type: ignore[arg-type]
                min_weight=1e-12 * start[name] if not more else 0.0,
                shuffle=bool(rng.random() < 0.5),
            )
    if rng.random() < 0.5:
        more["budget"] = (int(rng.integers(1, 2**50)), "bytes")
        policies = {name: SourcePolicy(shuffle=policy.shuffle) for name, policy in policies.items()}
    return Mixture(
        start,
        **more,
        policies=policies,
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
    for number in range(1000):
        mixture = random_mixture(rng)
        first = mixture.to_json().encode("utf-8")
        loaded = Mixture.from_json(first)
        if number < 100:
            # A file is forced to the disk, which takes longer than all the rest.
            path = Path(mixture.save_pretrained(tmp_path))
            assert path.read_bytes() == first
            loaded = Mixture.from_pretrained(tmp_path)
        assert loaded == mixture
        assert hash(loaded) == hash(mixture)
        assert [w.hex() for w in loaded.shares] == [w.hex() for w in mixture.shares]
        assert loaded.sources == mixture.sources
        assert loaded.metadata == mixture.metadata
        assert loaded.schedule == mixture.schedule
        assert loaded.policies == mixture.policies
        assert loaded.budget == mixture.budget
        assert hashlib.sha256(loaded.to_json().encode("utf-8")).digest() == hashlib.sha256(first).digest()


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
        ({"schedule_unit": "tokens"}, ["schedule_unit", "without a schedule"]),
        ({"schedule": [(0, {"a": 1.0})]}, ["schedule_unit=None", "'fraction'"]),
        ({"schedule": [], "schedule_unit": "tokens"}, ["schedule=[]", "non-empty"]),
        ({"schedule": ["x"], "schedule_unit": "tokens"}, ["schedule[0]", "Segment"]),
        ({"schedule": [(0, [0.5, 0.5])], "schedule_unit": "tokens"}, ["schedule[0].weights", "['a']"]),
        ({"schedule": [(0, {"a": 1, "b": 0})], "schedule_unit": "tokens"}, ["schedule[0].weights", "['b']"]),
        ({"schedule": [(0, [1]), (0.5, [1])], "schedule_unit": "tokens"}, ["schedule[1].start=0.5", "whole"]),
        ({"policies": {"b": SourcePolicy()}}, ["policies", "'b'", "no weight"]),
        ({"policies": {"a": 4}}, ["policies['a']", "int", "SourcePolicy"]),
        ({"policies": [4]}, ["policies", "list"]),
        ({"budget": 10}, ["budget=10", "tokens"]),
        ({"budget": (0, "tokens")}, ["budget=(0, 'tokens')", "[1, 2**63)"]),
        ({"budget": (5, "rows")}, ["budget=(5, 'rows')", "examples"]),
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


def segment(start: float, a: float, **fields: Any) -> dict[str, Any]:
    return {"start": start, "unit": "tokens", "weights": {"a": a, "b": 1 - a}, **fields}


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
    "segment without weights": (
        {"schedule": [{"start": 0, "unit": "tokens"}]},
        ["schedule[0]", "'weights' is missing"],
    ),
    "segment with an unknown key": (
        {"schedule": [segment(0, 0.5, at=1)]},
        ["schedule[0]", "'at'"],
    ),
    "segment with a source missing": (
        {"schedule": [segment(0, 0.5), {"start": 5, "unit": "tokens", "weights": {"a": 1}}]},
        ["schedule[1].weights", "['b']", "every source"],
    ),
    "segment with a source too many": (
        {"schedule": [{"start": 0, "unit": "tokens", "weights": {"a": 0.5, "b": 0.5, "c": 0}}]},
        ["schedule[0].weights", "['c']"],
    ),
    "segment with a negative weight": (
        {"schedule": [segment(0, 0.5), segment(5, -0.5)]},
        ["schedule[1].weights.a=-0.5", ">= 0"],
    ),
    "segment that sums to 0.9": (
        {"schedule": [segment(0, 0.5), {"start": 5, "unit": "tokens", "weights": {"a": 0.5, "b": 0.4}}]},
        ["schedule[1]", "sum to 0.9"],
    ),
    "first segment later than 0": ({"schedule": [segment(1, 0.5)]}, ["schedule[0].start=1", "must be 0"]),
    "first segment with other weights": ({"schedule": [segment(0, 0.4)]}, ["schedule[0].weights", "differ"]),
    "starts that do not increase": (
        {"schedule": [segment(0, 0.5), segment(9, 0.4), segment(9, 0.3)]},
        ["schedule[2].start=9", "increase"],
    ),
    "start of half a token": ({"schedule": [segment(0, 0.5), segment(2.5, 0.4)]}, ["schedule[1].start=2.5", "whole"]),
    "start beyond the run": (
        {"schedule": [segment(0, 0.5, unit="fraction"), segment(1, 0.4, unit="fraction")]},
        ["schedule[1].start=1", "[0, 1)"],
    ),
    "two units of start": (
        {"schedule": [segment(0, 0.5), segment(5, 0.4, unit="examples")]},
        ["schedule[1].unit='examples'", "one unit"],
    ),
    "unknown unit of start": ({"schedule": [segment(0, 0.5, unit="samples")]}, ["schedule[0].unit='samples'"]),
    "unknown interpolation": (
        {"schedule": [segment(0, 0.5, interpolation="cosine")]},
        ["schedule[0].interpolation='cosine'", "linear"],
    ),
    "line without an end": (
        {"schedule": [segment(0, 0.5, interpolation="linear")]},
        ["schedule[0].interpolation", "no next segment"],
    ),
    "budget without a unit": ({"budget": {"amount": 1}}, ["budget", "'unit' is missing"]),
    "budget of nothing": ({"budget": {"amount": 0, "unit": "tokens"}}, ["budget.amount=0", ">= 1"]),
    "budget in rows": ({"budget": {"amount": 1, "unit": "rows"}}, ["budget.unit='rows'", "examples"]),
    "cap of nothing": ({"sources": [{"name": "a", "weight": 1, "max_epochs": 0}]}, ["max_epochs=0", "> 0"]),
    "unknown overflow": ({"sources": [{"name": "a", "weight": 1, "overflow": "wrap"}]}, ["overflow='wrap'", "stop"]),
    "minimum above the weight": (
        {"sources": [{"name": "a", "weight": 0.5, "min_weight": 0.6}, {"name": "b", "weight": 0.5}]},
        ["min_weight=0.6", "'a'", "0.5"],
    ),
    "minimum above a later weight": (
        {
            "sources": [{"name": "a", "weight": 0.5, "min_weight": 0.4}, {"name": "b", "weight": 0.5}],
            "schedule": [segment(0, 0.5), segment(9, 0.3)],
        },
        ["min_weight=0.4", "'a'", "0.3", "from 9 on"],
    ),
    "minimum above 1": ({"sources": [{"name": "a", "weight": 1, "min_weight": 2}]}, ["min_weight=2", "[0, 1]"]),
    "shuffle as text": ({"sources": [{"name": "a", "weight": 1, "shuffle": "no"}]}, ["shuffle='no'", "true"]),
    "length column as a number": (
        {"sources": [{"name": "a", "weight": 1, "path": "x", "length_column": 1}]},
        ["length_column=1", "string"],
    ),
    "cap below the budget": (
        {
            "sources": [
                {"name": "a", "weight": 0.5, "path": "x", "size": {"tokens": 100}, "max_epochs": 2},
                {"name": "b", "weight": 0.5},
            ],
            "budget": {"amount": 1000, "unit": "tokens"},
        },
        ["budget of 1000 tokens", "'a'", "5 epochs", "max_epochs=2"],
    ),
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


def test_schedule_policies_and_budget_are_read(tmp_path: Path) -> None:
    sources = [
        {"name": "a", "weight": 0.5, "max_epochs": 2, "overflow": "stop", "path": "user/a", "length_column": "n"},
        {"name": "b", "weight": 0.5, "min_weight": 0.25, "shuffle": False},
    ]
    schedule = [segment(0, 0.5, interpolation="linear"), segment(10**9, 0.75)]
    changes = {"sources": sources, "schedule": schedule, "budget": {"amount": 10**12, "unit": "tokens"}}
    mixture = Mixture.from_pretrained(write(tmp_path, changes))
    assert mixture.schedule == (Segment(0, (0.5, 0.5), "linear"), Segment(10**9, (0.75, 0.25)))
    assert mixture.schedule_unit == "tokens"
    assert mixture.policies == {
        "a": SourcePolicy(max_epochs=2, overflow="stop"),
        "b": SourcePolicy(min_weight=0.25, shuffle=False),
    }
    assert mixture.budget == (10**12, "tokens")
    assert mixture.sources["a"].length_column == "n"
    assert json.loads(mixture.to_json())["schedule"] == [
        segment(0, 0.5, interpolation="linear"),
        segment(10**9, 0.75, interpolation="constant"),
    ]


def test_a_file_of_the_first_release_loads(tmp_path: Path) -> None:
    text = """{"format": "hf_mixture", "version": 1, "name": null, "description": null, "license": null,
    "unit": "tokens", "tokenizer": null, "seed": 3, "sources": [{"name": "a", "weight": 0.25, "path": "user/a",
    "split": "train", "text_column": "text"}, {"name": "b", "weight": 0.75}], "schedule": null, "budget": null,
    "provenance": null}"""
    (tmp_path / "mixture.json").write_text(text)
    expected = Mixture({"a": 0.25, "b": 0.75}, unit="tokens", seed=3, sources={"a": Source("user/a")})
    assert Mixture.from_pretrained(tmp_path) == expected
    assert json.loads(expected.to_json()) == json.loads(text)


def test_the_value_includes_schedule_policies_and_budget() -> None:
    half = {"a": 0.5, "b": 0.5}
    schedule = [(0, half, "linear"), (0.5, {"b": 0.75, "a": 0.25})]

    def build(**changes: Any) -> Mixture:
        fields = {"schedule": schedule, "schedule_unit": "fraction", "budget": (9, "examples"), **changes}
        return Mixture(half, unit="tokens", policies={"a": SourcePolicy(max_epochs=2)}, **fields)

    mixture = build()
    same = Mixture(
        half,
        unit="tokens",
        schedule=[Segment(0, (0.5, 0.5), "linear"), Segment(0.5, (0.25, 0.75))],
        schedule_unit="fraction",
        policies={"a": SourcePolicy(max_epochs=2.0), "b": SourcePolicy()},
        budget=(9, "examples"),
    )
    assert mixture == same
    assert hash(mixture) == hash(same)
    assert mixture.to_json() == same.to_json()
    assert mixture != build(budget=None)
    assert mixture != build(schedule=[(0, half), (0.5, {"a": 0.25, "b": 0.75})])
    assert mixture != build(schedule=None, schedule_unit=None)
    assert "linear" in repr(mixture)
    mixture.policies.clear()
    assert mixture.policies == {"a": SourcePolicy(max_epochs=2)}
    assert Mixture(half, unit="tokens", schedule=[(0, (2, 2))], schedule_unit="tokens", normalise=True).schedule == (
        Segment(0, (0.5, 0.5)),
    )


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
        (pickle.dumps({"format": "hf_mixture"}), ["not valid JSON"]),
        (b"import os", ["not valid JSON"]),
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
    root = Mixture.natural(sizes, unit="bytes", temperature=0.5)
    assert root.weights["a"] / root.weights["b"] == pytest.approx(2)
    assert root.metadata["provenance"] == {
        "method": "temperature",
        "parameters": {"temperature": 0.5},
        "prior": {"weights": {"a": 0.8, "b": 0.2, "c": 0.0}},
    }
    assert Mixture.natural(sizes, unit="bytes").metadata == {}
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
