"""What is published: a data set with one configuration for each set of tiers, its card and its metadata."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from curation_data import RECIPE, sources
from datasets import Dataset, load_dataset
from hub_double import running_hub

from hf_mixture import CuratedDataset, CurationRecipe, curate


HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> CuratedDataset:
    given = {name: Dataset.from_list(rows) for name, rows in sources().items()}
    recipe = RECIPE | {"mixture": {"weights": {"open": 0.6, "made": 0.4}}, "packing": {"max_tokens": 300}}
    return curate(given, recipe, output_dir=tmp_path_factory.mktemp("published") / "out")


def test_configurations_are_cumulative_and_load_with_stock_datasets(curated: CuratedDataset) -> None:
    assert curated.configurations == ("tier1", "tier1_2b", "tier1_training", "tier1_2b_training")
    place = str(curated.folder / "dataset")
    for name in curated.configurations:
        assert load_dataset(place, name, split="train")[:] == curated.load(name)[:]
    strict, wide = curated.load("tier1"), curated.load("tier1_2b")
    assert set(strict["tier"]) == {"1"}
    assert set(wide["tier"]) == {"1", "2b"}
    assert set(strict["id"]) < set(wide["id"])
    assert set(curated.load("tier1_training")["tier"]) == {"1"}
    with pytest.raises(ValueError, match="'tier9' is not one of"):
        curated.load("tier9")


def test_training_configurations_have_the_shares_that_were_asked_for(curated: CuratedDataset) -> None:
    shares = curated.report["mixtures"]["tier1_2b"]["sources"]
    assert shares["open"]["asked"] == pytest.approx(0.6)
    assert shares["open"]["realised"] == pytest.approx(0.6, abs=0.01)
    tokens = dict.fromkeys(shares, 0)
    documents = {row["id"]: row for row in curated.load("tier1_2b")}
    for sample in curated.load("tier1_2b_training"):
        for name in sample["ids"]:
            tokens[documents[name]["source"]] += documents[name]["num_tokens"]
    assert tokens["open"] / sum(tokens.values()) == pytest.approx(shares["open"]["realised"])


def test_texts_of_rejected_documents_are_not_published(curated: CuratedDataset) -> None:
    rejected = load_dataset(str(curated.folder / "dataset"), "rejected", split="train")
    assert "text" not in rejected.column_names
    assert len(rejected) == sum(sum(f["rejected"].values()) for f in curated.report["sources"].values())
    assert sorted(rejected["reason"]) == sorted(curated.rejected()["reason"])
    published = b"".join(path.read_bytes() for path in (curated.folder / "dataset" / "data" / "rejected").iterdir())
    assert b"Buy now! Click here!" not in published


def test_the_card_says_tiers_licences_conditions_rejects_shares_and_how_to_rebuild(curated: CuratedDataset) -> None:
    card = (curated.folder / "dataset" / "README.md").read_text(encoding="utf-8")
    assert "license: other" in card
    assert "**Share-alike and other conditions:** CC-BY-SA-4.0." in card
    assert "| tier/restricted |" in card or "| tier/refused_licence |" in card
    assert "hf-mixture curate recipe.yaml" in card
    assert curated.report["digest"] in card
    assert "| tier1_2b | open | 60.00% |" in card
    rebuilt = CurationRecipe.from_file(curated.folder / "dataset" / "recipe.yaml")
    assert rebuilt.mixture is not None
    assert rebuilt.mixture.weights == {"open": 0.6, "made": 0.4}


def test_files_and_manifest_agree(curated: CuratedDataset) -> None:
    manifest = json.loads((curated.folder / "manifest.json").read_text(encoding="utf-8"))
    for name, digest in manifest.items():
        assert hashlib.sha256((curated.folder / name).read_bytes()).hexdigest() == digest
    assert {name for name in manifest if name.startswith("rejected/")}


def test_croissant_metadata_is_valid_and_reads_records(curated: CuratedDataset) -> None:
    mlc = pytest.importorskip("mlcroissant")
    data = mlc.Dataset(jsonld=str(curated.folder / "dataset" / "croissant.json"))
    assert not data.metadata.ctx.issues.errors
    assert [record.name for record in data.metadata.record_sets] == ["tier1", "tier1_2b"]
    fields = {field.name for field in data.metadata.record_sets[0].fields}
    assert {"text", "license_spdx", "tier", "source"} <= fields


def test_another_process_makes_the_same_pushes_it_to_the_hub_and_loads_it(tmp_path: Path) -> None:
    script = HERE / "push_curated.py"
    make = runpy.run_path(str(script))["make"]
    with running_hub() as hub:
        environment: dict[str, Any] = hub.environment(tmp_path / "home")
        # Another seed of hashes than that of this process.
        environment["PYTHONHASHSEED"] = "4242"
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1] / "support")])
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + "\n".join(hub.requests[-20:])
        files = hub.store.files("dataset", "tester/curated")
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["configurations"] == ["tier1", "tier1_2b", "tier1_training", "tier1_2b_training", "rejected"]
    assert report["tiers"]["tier1"] == ["1"]
    assert report["equal"]
    assert report["streamed"] == report["rows"]["tier1"]
    assert "text" not in report["rejected_columns"]
    assert report["license"] == "other"
    assert report["mixture"] == {"open": 0.5, "made": 0.5}
    assert CuratedDataset(tmp_path / "out").report == make(tmp_path / "again").report
    local = tmp_path / "out" / "dataset"
    saved = {str(path.relative_to(local)): path for path in local.rglob("*") if path.is_file()}
    assert set(saved) == set(files) - {".gitattributes"}
    for name, path in saved.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == files[name]
