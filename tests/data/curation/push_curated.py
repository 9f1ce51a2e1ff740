"""Curates, pushes to a Hub and loads every configuration with stock datasets; run by test_publish.

Usage: python push_curated.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from curation_data import RECIPE, sources
from datasets import Dataset, get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard

from hf_mixture import CuratedDataset, Mixture, curate


REPO = "tester/curated"


def make(folder: Path) -> CuratedDataset:
    recipe = RECIPE | {
        "mixture": {"weights": {"open": 0.5, "made": 0.5}},
        "packing": {"max_tokens": 200},
        "publish": {"title": "Curated text", "languages": ["en"]},
    }
    given = {name: Dataset.from_list(rows) for name, rows in sources().items()}
    return curate(given, recipe, output_dir=folder)


def main(folder: Path) -> None:
    curated = make(folder / "out")
    curated.push_to_hub(REPO)
    # A second push replaces what is there.
    curated.push_to_hub(REPO)
    names = get_dataset_config_names(REPO)
    loaded = {name: load_dataset(REPO, name, split="train") for name in names}
    card = DatasetCard.load(REPO)
    report = {
        "configurations": names,
        "rows": {name: len(rows) for name, rows in loaded.items()},
        "tiers": {name: sorted(set(loaded[name]["tier"])) for name in curated.configurations},
        "equal": all(loaded[name][:] == curated.load(name)[:] for name in curated.configurations),
        "rejected_columns": loaded["rejected"].column_names,
        "license": card.data.to_dict()["license"],
        "mixture": Mixture.from_pretrained(REPO).weights,
        "streamed": len(list(load_dataset(REPO, names[0], split="train", streaming=True))),
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
