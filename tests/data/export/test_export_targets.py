"""The files of LLaMA-Factory, axolotl, streaming, torchtitan, Fast-LLM and the plain lists."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_mixture.data import Mixture, Source
from hf_mixture.data.export import export_mixture


WEIGHTS = {"wiki": 0.1 + 0.2, "code": 1 / 3, "books": 1 - 0.3 - 1 / 3}
SOURCES = {
    "wiki": Source("user/wiki", config="en", text_column="body", size=(("examples", 900),)),
    "code": Source("json", data_files="code.jsonl", size=(("examples", 400),)),
    "books": Source("./books", split="train", size=(("examples", 100),)),
}
MIXTURE = Mixture(WEIGHTS, unit="examples", sources=SOURCES)


@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_over"])
def test_llamafactory(strategy: str) -> None:
    result = export_mixture(MIXTURE, "llamafactory", mix_strategy=strategy)
    config = yaml.safe_load(result.files["llamafactory.yaml"])
    info = json.loads(result.files["dataset_info.json"])
    names = config["dataset"].split(",")
    probabilities = [float(text) for text in config["interleave_probs"].split(",")]
    assert names == list(WEIGHTS) == list(info)
    assert probabilities == list(WEIGHTS.values())
    assert abs(math.fsum(probabilities) - 1) < 1e-9
    assert config["mix_strategy"] == strategy
    assert info == {
        "wiki": {"hf_hub_url": "user/wiki", "subset": "en", "split": "train", "columns": {"prompt": "body"}},
        "code": {"file_name": "code.jsonl", "split": "train", "columns": {"prompt": "text"}},
        "books": {"file_name": "./books", "split": "train", "columns": {"prompt": "text"}},
    }


def test_llamafactory_names_what_it_has_no_place_for() -> None:
    sources = {
        "a": Source("user/a", revision="v1", data_files="x/*.parquet"),
        "b": Source("json", data_files="b.jsonl", config="c", data_dir="d"),
    }
    mixture = Mixture({"a": 0.5, "b": 0.5}, unit="examples", sources=sources)
    losses = export_mixture(mixture, "llamafactory", accept_losses=True).losses
    assert [word in " ".join(losses) for word in ("revision 'v1'", "data_files of a Hub id", "subset", "folder")] == [
        True
    ] * 4
    drift = export_mixture(MIXTURE, "llamafactory", mix_strategy="interleave_once", accept_losses=True).losses
    assert drift == ("weights: without replacement, the shares drift to those of the sizes",)
    with pytest.raises(ValueError, match="'a,b' has a comma"):
        export_mixture(Mixture({"a,b": 1.0}, unit="examples", sources={"a,b": Source("u/a")}), "llamafactory")
    several = {"a": Source("json", data_files=["a", "b"])}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one file or one folder"):
        export_mixture(Mixture({"a": 1.0}, unit="examples", sources=several), "llamafactory")


def rows_of_epoch(entries: list[dict[str, Any]], sizes: dict[str, int]) -> dict[str, float]:
    rows = dict.fromkeys(sizes, 0.0)
    for entry in entries:
        rows[entry["path"]] += sizes[entry["path"]] / entry.get("shards", 1)
        assert 0 <= entry.get("shards_idx", 0) < entry.get("shards", 1)
    return rows


def test_axolotl_writes_shares_as_repeats_and_shards() -> None:
    sizes = {"user/wiki": 900, "code.jsonl": 400, "./books": 100}
    result = export_mixture(MIXTURE, "axolotl", num_examples=1234, accept_losses=True)
    config = yaml.safe_load(result.files["axolotl_datasets.yaml"])
    assert config["dataset_exact_deduplication"] is False
    rows = rows_of_epoch(config["datasets"], sizes)
    got = {path: count / sum(rows.values()) for path, count in rows.items()}
    errors = [abs(a - b) for a, b in zip(got.values(), WEIGHTS.values(), strict=True)]
    [loss] = result.losses
    assert loss == f"exact weights: repeats and shards meet the shares to within {max(errors):.3g}"
    assert max(errors) < 0.01
    assert config["datasets"][0] == {
        "path": "user/wiki",
        "name": "en",
        "split": "train",
        "type": "completion",
        "field": "body",
        "shards": 17,
        "shards_idx": 0,
    }
    assert next(entry for entry in config["datasets"] if entry["path"] == "code.jsonl")["ds_type"] == "json"
    # Each shard of a partial pass is another one.
    parts = [(entry["path"], entry["shards_idx"]) for entry in config["datasets"] if "shards" in entry]
    assert len(parts) == len(set(parts))
    # No YAML references: every entry is written out.
    assert "&" not in result.files["axolotl_datasets.yaml"]


def test_axolotl_is_exact_where_the_passes_are() -> None:
    sources = {
        "a": Source("u/a", size=(("examples", 100),), revision="v1"),
        "b": Source("u/b", size=(("examples", 300),)),
    }
    mixture = Mixture({"a": 0.5, "b": 0.5}, unit="examples", sources=sources, budget=(600, "examples"))
    result = export_mixture(mixture, "axolotl")
    entries = yaml.safe_load(result.files["axolotl_datasets.yaml"])["datasets"]
    assert [entry["path"] for entry in entries] == ["u/a"] * 3 + ["u/b"]
    assert entries[0]["revision"] == "v1"
    # Without a length, no source is read twice.
    shorter = Mixture({"a": 0.5, "b": 0.5}, unit="examples", sources=sources)
    entries = yaml.safe_load(export_mixture(shorter, "axolotl").files["axolotl_datasets.yaml"])["datasets"]
    assert rows_of_epoch(entries, {"u/a": 100, "u/b": 300}) == pytest.approx({"u/a": 100, "u/b": 100})
    with pytest.raises(ValueError, match=r"\['a'\] do not say how many examples"):
        export_mixture(Mixture({"a": 1.0}, unit="examples", sources={"a": Source("u/a")}), "axolotl")
    with pytest.raises(ValueError, match="10000 entries"):
        export_mixture(shorter, "axolotl", num_examples=10**8)


def test_axolotl_names_what_it_has_no_place_for() -> None:
    source = Source(
        "json",
        data_files={"train": "a"},  # type: ignore[arg-type]
        data_dir="d",
        revision="v1",
        text_column="body",
        size=(("examples", 1),),
    )
    mixture = Mixture({"a": 1.0}, unit="examples", sources={"a": source})
    losses = " ".join(export_mixture(mixture, "axolotl", type="alpaca", accept_losses=True).losses)
    assert all(
        word in losses for word in ("data_dir 'd'", "data_files by split", "revision 'v1'", "text_column 'body'")
    )
    files = Source("json", data_files=["x/a.jsonl", "x/b.jsonl"], size=(("examples", 1),))  # type: ignore[arg-type]
    result = export_mixture(Mixture({"a": 1.0}, unit="examples", sources={"a": files}), "axolotl")
    [entry] = yaml.safe_load(result.files["axolotl_datasets.yaml"])["datasets"]
    assert (entry["path"], entry["ds_type"], entry["data_files"]) == ("x", "json", ["x/a.jsonl", "x/b.jsonl"])


def test_streaming() -> None:
    mixture = Mixture(WEIGHTS, unit="examples", seed=7, budget=(5000, "examples"))
    paths = {"wiki": "s3://mds/wiki", "code": "s3://mds/code", "books": "s3://mds/books"}
    result = export_mixture(mixture, "streaming", paths=paths, local="/cache", split="train")
    config = json.loads(result.files["streaming.json"])
    assert config["streams"][1] == {
        "remote": "s3://mds/code",
        "local": "/cache/code",
        "split": "train",
        "proportion": 1 / 3,
    }
    assert [stream["proportion"] for stream in config["streams"]] == list(WEIGHTS.values())
    assert (config["epoch_size"], config["shuffle_seed"], config["batching_method"]) == (5000, 7, "random")
    tokens = Mixture(WEIGHTS, unit="tokens", budget=(5000, "tokens"))
    result = export_mixture(tokens, "streaming", paths=paths)
    assert "epoch_size" not in json.loads(result.files["streaming.json"])
    assert any("5000 tokens" in note for note in result.notes)


@pytest.mark.parametrize(("unit", "packed_first"), [("tokens", True), ("examples", False)])
def test_torchtitan_packs_before_or_after_the_mix(
    unit: Any, packed_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = export_mixture(Mixture(WEIGHTS, unit=unit), "torchtitan")
    [weights, snippet] = result.save(tmp_path)
    # torchtitan itself wants a GPU build of torch; its three classes are keyword-only records.
    stand_in = types.ModuleType("torchtitan.components.data")
    for name in ("ConcatThenSplitPackingConfig", "DatasetMixConfig", "WeightedDataset"):
        setattr(stand_in, name, lambda name=name, **fields: (name, fields))
    for module in ("torchtitan", "torchtitan.components"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setitem(sys.modules, "torchtitan.components.data", stand_in)
    scope: dict[str, Any] = {}
    exec(compile(Path(snippet).read_text(encoding="utf-8"), snippet, "exec"), scope)  # noqa: S102 - our own text
    kind, fields = scope["build_mixture"]({name: name for name in WEIGHTS}, weights)
    if not packed_first:
        assert kind == "ConcatThenSplitPackingConfig"
        kind, fields = fields["dataset"]
    assert kind == "DatasetMixConfig"
    children = [child for _, child in fields["datasets"]]
    assert [child["weight"] for child in children] == list(WEIGHTS.values())
    expected = [("ConcatThenSplitPackingConfig", {"dataset": name}) if packed_first else name for name in WEIGHTS]
    assert [child["dataset"] for child in children] == expected
    assert ("packed before the mix" in result.unit_note) == packed_first


def test_fast_llm() -> None:
    result = export_mixture(Mixture(WEIGHTS, unit="tokens", name="blend"), "fast-llm", paths="data/{name}.yaml")
    training = yaml.safe_load(result.files["fast_llm_data.yaml"])["data"]["datasets"]["training"]
    assert training["type"] == "blended"
    assert training["weights"] == list(WEIGHTS.values())
    assert training["datasets"][0] == {"type": "file", "path": "data/wiki.yaml"}
    # A blend has at least two data sets.
    one = export_mixture(Mixture({"a": 1.0}, unit="tokens"), "fast-llm", paths="{name}")
    training = yaml.safe_load(one.files["fast_llm_data.yaml"])["data"]["datasets"]["training"]
    assert training == {"type": "file", "path": "a"}


def test_probabilities_are_those_of_interleave_datasets() -> None:
    lengths = {"tokens": {"a": 100, "b": 300}}
    mixture = Mixture({"a": 0.5, "b": 0.5}, unit="tokens")
    result = export_mixture(mixture, "probabilities", mean_lengths=lengths)
    assert json.loads(result.files["probabilities.json"]) == [0.75, 0.25]
    assert "in the order a, b" in result.unit_note
    csv = export_mixture(mixture, "csv", unit="examples", mean_lengths=lengths)
    assert csv.files["mixture.csv"] == "name,weight\na,0.75\nb,0.25\n"
    zero = export_mixture(Mixture({"a": 1, "b": 0}, unit="examples"), "probabilities")
    assert any("probability of 0" in note for note in zero.notes)
