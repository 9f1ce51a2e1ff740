"""What holds for every target: losses, rounding, options, units."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_mixture.data import Mixture, Source
from hf_mixture.data.export import export_mixture, list_export_targets, target_options
from hf_mixture.data.export.draft import round_shares
from hf_mixture.data.schedule import SourcePolicy


WEIGHTS = {"wiki": 0.75, "code": 0.25}
SIZES = {"wiki": (("examples", 1000), ("tokens", 300_000)), "code": (("examples", 500), ("tokens", 400_000))}
LOCAL = {name: Source("json", data_files=f"{name}.jsonl", size=SIZES[name]) for name in WEIGHTS}


def options(target: str) -> dict[str, Any]:
    values = {"paths": "data/{name}", "train_iterations": 100}
    return {key: value for key, value in values.items() if key in target_options(target)}


@pytest.mark.parametrize("target", list_export_targets())
@pytest.mark.parametrize(
    ("meaning", "changes", "exact"),
    [
        (
            "schedule",
            {"schedule": [(0, WEIGHTS), (0.5, {"wiki": 0.5, "code": 0.5})], "schedule_unit": "fraction"},
            {"megatron", "nanotron"},
        ),
        (
            "linear",
            {"schedule": [(0, WEIGHTS, "linear"), (0.5, {"wiki": 0.5, "code": 0.5})], "schedule_unit": "fraction"},
            set(),
        ),
        ("at most 4 epochs", {"policies": {"code": SourcePolicy(max_epochs=4)}}, set()),
        ("at least 0.1", {"policies": {"code": SourcePolicy(min_weight=0.1)}}, set()),
        ("in the order of its rows", {"policies": {"code": SourcePolicy(shuffle=False)}}, set()),
        ("'code'", {"weights": {"wiki": 1.0, "code": 0.0}}, {"trl", "csv", "json", "probabilities"}),
    ],
)
def test_no_target_loses_a_meaning_silently(
    target: str, meaning: str, changes: dict[str, Any], exact: set[str]
) -> None:
    fields = {"weights": WEIGHTS, "unit": "tokens", "sources": LOCAL, **changes}
    if target in ("csv", "json", "probabilities", "torchtitan"):
        # Their loss of the sources would stand beside the one that is looked for.
        fields |= {"sources": {}, "unit": "examples"}
    mixture = Mixture(fields.pop("weights"), **fields)
    result = export_mixture(mixture, target, accept_losses=True, **options(target))
    losses = [loss for loss in result.losses if not loss.startswith("exact weights")]
    if target in exact:
        assert not losses
        return
    assert len(losses) == 1
    assert meaning in losses[0] or meaning == "linear"
    with pytest.raises(ValueError, match="cannot express") as caught:
        export_mixture(mixture, target, **options(target))
    assert losses[0] in str(caught.value)
    assert "accept_losses=True" in str(caught.value)


@pytest.mark.parametrize("target", list_export_targets())
def test_each_target_names_what_its_numbers_are(target: str) -> None:
    mixture = Mixture(WEIGHTS, unit="tokens", sources=LOCAL)
    result = export_mixture(mixture, target, accept_losses=True, **options(target))
    kind = {"trl": "fraction", "axolotl": "repeat", "llamafactory": "probability", "streaming": "proportion"}
    kind["probabilities"] = "probability"
    assert result.unit_note.startswith(kind.get(target, "weight") + ":")
    assert result.files
    converted = any("converted" in note for note in result.notes)
    assert converted == (target in ("trl", "axolotl", "llamafactory", "probabilities"))


@pytest.mark.parametrize("target", list_export_targets())
def test_without_sizes_a_target_that_counts_another_unit_refuses(target: str) -> None:
    other = "examples" if target in ("megatron", "nanotron", "fast-llm") else "tokens"
    bare = {name: Source("json", data_files=f"{name}.jsonl") for name in WEIGHTS}
    mixture = Mixture(WEIGHTS, unit=other, sources=bare)  # type: ignore[arg-type]
    if target in ("streaming", "torchtitan", "csv", "json"):
        choice = {"unit": "examples"} if target in ("csv", "json") else {"samples": "examples"}
        with pytest.raises(ValueError, match="mean number of tokens"):
            export_mixture(mixture, target, accept_losses=True, **choice, **options(target))
        return
    with pytest.raises(ValueError, match="mean number of tokens"):
        export_mixture(mixture, target, accept_losses=True, **options(target))


def test_bytes_need_a_choice_where_samples_are_open() -> None:
    mixture = Mixture(WEIGHTS, unit="bytes")
    for target in ("streaming", "torchtitan"):
        with pytest.raises(ValueError, match="samples=None"):
            export_mixture(mixture, target, **options(target))
    lengths = {"bytes": {"wiki": 1000, "code": 3000}}
    result = export_mixture(mixture, "torchtitan", samples="examples", mean_lengths=lengths)
    weights = {item["name"]: item["weight"] for item in json.loads(result.files["mixture_weights.json"])}
    assert weights == pytest.approx({"wiki": 0.9, "code": 0.1})


def test_rounding_by_largest_remainder_keeps_the_sum_and_reports_its_error() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        shares = rng.dirichlet(np.full(int(rng.integers(1, 30)), 0.3)).tolist()
        digits = int(rng.integers(1, 16))
        rounded = round_shares(shares, digits)
        assert math.fsum(rounded) == pytest.approx(1, abs=1e-12)
        assert all(abs(a - b) < 10.0**-digits * (1 + 1e-3) for a, b in zip(rounded, shares, strict=True))
    mixture = Mixture({"a": 1 / 3, "b": 2 / 3 - 0.001, "c": 0.001}, unit="tokens")
    result = export_mixture(mixture, "csv", digits=2, accept_losses=True)
    assert result.files["mixture.csv"] == "name,weight\na,0.33\nb,0.67\nc,0.0\n"
    assert result.losses == ("source 'c': its weight 0.001 rounds to 0",)
    assert any("largest error is 0.00433" in note for note in result.notes)
    exact = export_mixture(mixture, "csv").files["mixture.csv"]
    assert [float(line.split(",")[1]) for line in exact.splitlines()[1:]] == list(mixture.shares)


@pytest.mark.parametrize(
    ("target", "changes", "words"),
    [
        ("jax", {}, ["target='jax'", "trl"]),
        ("trl", {"paths": "x"}, ["'trl'", "['paths']", "columns"]),
        ("csv", {"digits": 0}, ["digits=0", "[1, 15]"]),
        ("megatron", {}, ["paths", "['wiki', 'code']"]),
        ("megatron", {"paths": {"wiki": "x"}}, ["['code']"]),
        ("megatron", {"paths": {"wiki": "x", "code": "y", "cod": "z"}}, ["['cod']"]),
        ("megatron", {"paths": "data"}, ["{name}"]),
        ("megatron", {"paths": "my data/{name}"}, ["'my data/wiki'", "white space"]),
        ("nanotron", {"paths": "{name}", "sequence_length": 0}, ["sequence_length=0"]),
        ("streaming", {"paths": "{name}", "samples": "rows"}, ["samples='rows'", "blocks"]),
        ("streaming", {"paths": "{name}", "batching_method": "x"}, ["batching_method='x'", "stratified"]),
        ("llamafactory", {"mix_strategy": "concat"}, ["concat", "interleave_under"]),
        ("llamafactory", {"mix_strategy": "x"}, ["mix_strategy='x'", "interleave_over"]),
        ("trl", {"streaming": True}, ["streaming=True"]),
        ("axolotl", {"num_examples": 0}, ["num_examples=0"]),
        ("torchtitan", {"samples": "x"}, ["samples='x'"]),
    ],
)
def test_wrong_arguments_are_one_clear_error(target: str, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        export_mixture(Mixture(WEIGHTS, unit="tokens", sources=LOCAL), target, accept_losses=True, **changes)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("target", ["trl", "axolotl", "llamafactory"])
def test_sources_that_others_cannot_read_are_refused(target: str) -> None:
    for sources, word in (({}, "has no path"), ({"a": Source("installed:python")}, "only hf_mixture can read")):
        with pytest.raises(ValueError, match=word):
            export_mixture(Mixture({"a": 1.0}, unit="examples", sources=sources), target, accept_losses=True)


def test_files_are_saved(tmp_path: Path) -> None:
    result = export_mixture(Mixture({"ä": 1.0}, unit="tokens"), "json")
    [path] = result.save(tmp_path / "new" / "folder")
    assert json.loads(Path(path).read_text(encoding="utf-8")) == [{"name": "ä", "weight": 1.0}]
