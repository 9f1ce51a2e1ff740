"""Prints the fingerprint and the rows of a materialised mixture; pushes it and pulls it again when given a name.

Usage: python push_mixed.py [REPO_ID]
"""

from __future__ import annotations

import sys

from datasets import Dataset, load_dataset

from hf_mixture.data import Mixture, interleave_datasets
from hf_mixture.data.schedule import SourcePolicy


def build() -> Dataset:
    rows = {name: Dataset.from_dict({"id": [f"{name}/{i}" for i in range(50)]}) for name in ("a", "b")}
    half = {"a": 0.5, "b": 0.5}
    mixture = Mixture(
        half,
        unit="examples",
        schedule=[(0, half), (40, {"a": 0.2, "b": 0.8})],
        schedule_unit="examples",
        policies={"b": SourcePolicy(max_epochs=2, overflow="stop")},
    )
    mixed: Dataset = interleave_datasets(rows, mixture=mixture, num_examples=90, provenance_column="domain")
    return mixed


def describe(mixed: Dataset) -> str:
    return " ".join([mixed._fingerprint, *mixed["id"]])


if __name__ == "__main__":
    mixed = build()
    print(describe(mixed))
    if len(sys.argv) > 1:
        mixed.push_to_hub(sys.argv[1])
        pulled = load_dataset(sys.argv[1], split="train")
        assert pulled.to_dict() == mixed.to_dict()
