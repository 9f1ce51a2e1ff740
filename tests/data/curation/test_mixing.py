"""Mixing by tokens and packing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from curation_data import draws
from datasets import Dataset

from hf_mixture.data.curation.mixing import mix
from hf_mixture.data.curation.packing import PackingOptions, pack
from hf_mixture.data.curation.recipe import MixingOptions


TIERS = ("1", "2a", "2b", "3")


def test_check_5_the_realised_token_mixture_is_that_of_the_weights_on_50000_documents() -> None:
    rng = np.random.default_rng(0)
    means = {"short": 30, "middle": 300, "long": 3000}
    weights = {"short": 0.5, "middle": 0.2, "long": 0.3}
    source = rng.choice(list(means), 50_000, p=[0.6, 0.3, 0.1])
    lengths = np.maximum(1, rng.lognormal(np.log([means[name] for name in source]), 1.0)).astype(int)
    data = Dataset.from_dict({"source": source, "num_tokens": lengths, "text": ["x"] * 50_000})
    mixed, facts = mix(data, MixingOptions(weights=weights))
    tokens = Counter[str]()
    for name, number in zip(mixed["source"], mixed["num_tokens"], strict=True):
        tokens[name] += number
    for name, weight in weights.items():
        share = tokens[name] / tokens.total()
        assert abs(share - weight) < 0.01
        assert facts[name]["realised"] == pytest.approx(share)
        assert facts[name]["asked"] == weight
        # By documents the shares are others: the long ones are a hundred times as long.
        assert facts[name]["documents"] == Counter(source.tolist())[name]
    by_documents = Counter(mixed["source"])
    assert abs(by_documents["long"] / len(mixed) - weights["long"]) > 0.2


def test_sources_without_documents_leave_their_share_to_the_others() -> None:
    data = Dataset.from_dict({"source": ["a", "b"] * 50, "num_tokens": [10] * 100, "text": ["x"] * 100})
    _, facts = mix(data, MixingOptions(weights={"a": 0.2, "b": 0.2, "absent": 0.6}, unit="bytes"))
    assert {name: share["asked"] for name, share in facts.items()} == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match="no source with a weight"):
        mix(data, MixingOptions(weights={"absent": 1.0}))


def documents(number: int) -> list[dict[str, Any]]:
    rng = draws(0)
    return [
        {
            "text": f"text {index}",
            "tier": rng.choice(TIERS),
            "domain": rng.choice(["a.org", "b.org", "c.org"]),
            "source": rng.choice("st"),
            "id": str(index),
            "license_spdx": "MIT",
            "num_tokens": rng.randint(1, 60),
        }
        for index in range(number)
    ]


def test_samples_stay_inside_a_tier_and_a_domain_and_lose_nothing() -> None:
    rows = {row["id"]: row for row in documents(2000)}
    samples = list(pack(rows.values(), PackingOptions(max_tokens=100)))
    assert sorted(name for sample in samples for name in sample["ids"]) == sorted(rows)
    for sample in samples:
        parts = [rows[name] for name in sample["ids"]]
        assert {part["tier"] for part in parts} == {sample["tier"]}
        assert len(set(sample["domains"])) == 1
        assert sample["num_tokens"] == sum(part["num_tokens"] for part in parts) <= 100
        assert sample["text"] == "<|endoftext|>".join(part["text"] for part in parts)
        assert sample["sources"] == [part["source"] for part in parts]
    assert len(samples) < 0.8 * len(rows)


def test_a_sample_has_the_maximum_tier_of_its_parts_where_tiers_may_meet() -> None:
    rows = {row["id"]: row for row in documents(500)}
    samples = list(pack(rows.values(), PackingOptions(max_tokens=100, within=["domain"])))
    mixed = 0
    for sample in samples:
        tiers = [rows[name]["tier"] for name in sample["ids"]]
        assert sample["tier"] == max(tiers, key=TIERS.index)
        mixed += len(set(tiers)) > 1
    assert mixed > 50


def test_long_documents_are_samples_of_their_own_and_open_samples_are_bounded() -> None:
    rows = documents(50)
    rows[10]["num_tokens"] = 1000
    samples = list(pack(rows, PackingOptions(max_tokens=100, within=[])))
    assert [sample["ids"] for sample in samples if sample["num_tokens"] > 100] == [["10"]]
    few = list(pack(documents(200), PackingOptions(max_tokens=10_000), max_open=2))
    assert sorted(name for sample in few for name in sample["ids"]) == sorted(row["id"] for row in documents(200))
    assert len(few) > 12
