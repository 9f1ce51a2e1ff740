"""TRL: the real `DatasetMixtureConfig` reads what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from hf_mixture.data import Mixture, Source
from hf_mixture.data.export import export_mixture
from hf_mixture.data.importers import import_mixture
from hf_mixture.data.plan import MixturePlan


def export(mixture: Mixture, folder: Path, **options: Any) -> Path:
    [path] = export_mixture(mixture, "trl", **options).save(folder)
    return Path(path)


def config_of(path: Path) -> Any:
    utils = pytest.importorskip("trl.scripts.utils", reason="needs TRL: pip install --no-deps trl==1.16.0")
    return utils.DatasetMixtureConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))


def mixture() -> Mixture:
    sources = {
        "wiki": Source("user/wiki", config="en", split="train[:90%]"),
        "code": Source("json", data_files=["a.jsonl", "b.jsonl"]),  # type: ignore[arg-type]
        "books": Source("parquet", data_files={"train": "c.parquet"}, data_dir="books"),  # type: ignore[arg-type]
    }
    weights = {"wiki": 0.1 + 0.2, "code": 1 / 3, "books": 1 - 0.3 - 1 / 3}
    extra = {"columns": {"wiki": ["text", "id"]}, "test_split_size": 0.1}
    return Mixture(weights, unit="examples", sources=sources, metadata={"x_trl": extra})


def test_export_and_import_agree_and_with_the_real_class(tmp_path: Path) -> None:
    before = mixture()
    path = export(before, tmp_path)
    after = import_mixture(path, "trl", names=before.names)
    assert after.sources == before.sources
    assert after.unit == "examples"
    assert list(after.shares) == pytest.approx(list(before.shares), abs=1e-12)
    assert after.metadata["x_trl"] == before.metadata["x_trl"]
    assert export_mixture(after, "trl").files == export_mixture(before, "trl").files

    config = config_of(path)
    assert config.test_split_size == 0.1
    for dataset, (name, source) in zip(config.datasets, before.sources.items(), strict=True):
        assert (dataset.path, dataset.name, dataset.split) == (source.path, source.config, source.split)
        assert dataset.data_dir == source.data_dir
        assert dataset.data_files == source.load_kwargs().get("data_files")
        assert dataset.columns == (["text", "id"] if name == "wiki" else None)
        assert dataset.fraction == pytest.approx(before.weights[name], abs=1e-12)


def test_names_come_from_path_and_configuration(tmp_path: Path) -> None:
    assert import_mixture(export(mixture(), tmp_path), "trl").names == ("user/wiki en", "json", "parquet")


def test_a_pinned_revision_is_a_loss() -> None:
    pinned = Mixture({"a": 1.0}, unit="examples", sources={"a": Source("user/a", revision="0" * 40)})
    with pytest.raises(ValueError, match=r"no field for revision '0{40}'"):
        export_mixture(pinned, "trl")
    result = export_mixture(pinned, "trl", accept_losses=True)
    assert len(result.losses) == 1
    assert "revision" not in result.files["trl_mixture.yaml"]


def test_fields_without_a_place_are_losses() -> None:
    source = Source("user/a", text_column="body", license="MIT", length_column="n", size=(("examples", 5),))
    budget = Mixture({"a": 1.0}, unit="examples", sources={"a": source}, budget=(10, "examples"))
    losses = export_mixture(budget, "trl", accept_losses=True).losses
    assert [loss.split(":")[0] for loss in losses] == ["budget of 10 examples", "source 'a'"]
    assert "text_column 'body'" in losses[1]


def test_trl_takes_the_rows_that_the_plan_counts(tmp_path: Path) -> None:
    utils = pytest.importorskip("trl.scripts.utils", reason="needs TRL: pip install --no-deps trl==1.16.0")
    sizes, weights = {"a": 1000, "b": 500, "c": 100}, {"a": 0.5, "b": 0.3, "c": 0.2}
    sources = {}
    for name, size in sizes.items():
        file = tmp_path / f"{name}.jsonl"
        Dataset.from_dict({"text": [f"{name} {i}" for i in range(size)]}).to_json(file)
        sources[name] = Source("json", data_files=str(file))
    path = export(Mixture(weights, unit="examples", sources=sources), tmp_path)
    rows = utils.get_dataset(config_of(path))["train"]["text"]
    counts = {name: sum(text.startswith(name) for text in rows) for name in sizes}
    plan = MixturePlan.build(list(weights.values()), list(sizes.values()))
    assert counts == dict(zip(sizes, plan.counts.tolist(), strict=True))
    assert counts == {"a": 250, "b": 150, "c": 100}
    # The first rows, not a sample of them.
    assert [text for text in rows if text.startswith("b")] == [f"b {i}" for i in range(150)]
