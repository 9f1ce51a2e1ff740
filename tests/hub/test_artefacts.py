from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from hf_mixture import Mixture
from hf_mixture.hub.artefacts import Artefact, inspect_artefacts, safetensors_error
from hf_mixture.hub.place import HUB_PATTERNS


def only(folder: Path) -> Artefact:
    [artefact] = inspect_artefacts(folder)
    return artefact


@pytest.fixture
def adapter(mos_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mos_adapter, tmp_path / "adapter"))


def test_a_sound_adapter(adapter: Path, mos_adapter: Path) -> None:
    artefact = only(adapter)
    assert artefact.kind == "MOS adapter"
    assert artefact.problems == []
    assert artefact.facts["equivalent_rank"] == "2"
    assert "import hf_mixture" in artefact.needs[0]
    assert "hf-mixture export-lora" in artefact.needs[0]
    assert artefact.needs[1] == f"the base model {mos_adapter.parent / 'base'}"


@pytest.mark.parametrize("keep", [4, 100, 0.5, -1])
def test_truncated_weights(adapter: Path, keep: float) -> None:
    weights = adapter / "adapter_model.safetensors"
    content = weights.read_bytes()
    assert safetensors_error(weights) is None
    weights.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    [problem] = only(adapter).problems
    assert "adapter_model.safetensors" in problem.what
    assert "truncated or damaged" in problem.what


def test_weights_with_bytes_added(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert "truncated or damaged" in only(adapter).problems[0].what


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_config.json", "{", "is not valid JSON"),
        ("adapter_config.json", "[]", "is not a JSON object"),
        ("adapter_config.json", "{}", "has no 'peft_type'"),
        (
            "adapter_config.json",
            '{"peft_type": "LORA", "base_model_name_or_path": "./no/such"}',
            "is not at that path",
        ),
        (
            "adapter_config.json",
            '{"peft_type": "LORA", "base_model_name_or_path": "~nobody-here/base"}',
            "is not at that path",
        ),
        ("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": ["a"]}', "is 'a', not a name"),
    ],
)
def test_damaged_configuration(adapter: Path, name: str, content: str, said: str) -> None:
    (adapter / name).write_text(content, encoding="utf-8")
    [problem] = only(adapter).problems
    assert said in problem.what
    assert problem.fix


def test_missing_and_pickled_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "pickle" in only(adapter).problems[0].what
    (adapter / "adapter_model.bin").unlink()
    assert "is missing" in only(adapter).problems[0].what


def test_a_model_folder(mos_adapter: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(mos_adapter.parent / "base", tmp_path / "model"))
    assert only(model).kind == "model"
    assert only(model).problems == []
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert [problem.what for problem in only(model).problems] == [
        "model-00001-of-00002.safetensors of the weight index is missing"
    ]
    (model / "model.safetensors.index.json").unlink()
    (model / "model.safetensors").unlink()
    assert only(model).problems[0].what == "no safetensors weights"


def test_a_run_folder_reports_what_is_below_it(mos_adapter: Path, tmp_path: Path) -> None:
    for name in ("recipe.yaml", "journal.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    adapter = Path(shutil.copytree(mos_adapter, tmp_path / "adapters" / "mos"))
    (adapter / "recipe.yaml").write_text("{}", encoding="utf-8")
    Mixture({"a": 1.0}, unit="bytes").save_pretrained(adapter)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"PAR1 cut off")
    found = inspect_artefacts(tmp_path)
    assert [(artefact.kind, artefact.path) for artefact in found] == [
        ("training run", tmp_path),
        ("MOS adapter", adapter),
        ("mixture", adapter),
        ("data set", tmp_path / "data"),
    ]
    assert "--resume" in found[0].needs[0]
    assert found[2].facts["weights"] == "a 1.0"
    assert "not parquet" in found[3].problems[0].what
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    assert inspect_artefacts(tmp_path)[0].needs == []


def test_what_a_killed_run_left_behind_is_no_artefact(adapter: Path) -> None:
    shutil.copytree(adapter, adapter.parent / ".adapter.partial")
    assert [artefact.path for artefact in inspect_artefacts(adapter.parent)] == [adapter]


def test_a_deeper_check_runs_on_sound_folders_only(adapter: Path) -> None:
    seen = []

    def check(folder: Path) -> None:
        seen.append(folder)
        raise ValueError("r=0 must be positive")

    [artefact] = inspect_artefacts(adapter, {"MOS adapter": check})
    assert artefact.problems[0].what == "r=0 must be positive"
    (adapter / "adapter_model.safetensors").unlink()
    inspect_artefacts(adapter, {"MOS adapter": check})
    assert seen == [adapter]


def test_unknown_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds nothing that is known"):
        inspect_artefacts(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a Hub id"):
        inspect_artefacts(tmp_path / "missing")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="is a file; name the folder"):
        inspect_artefacts(file)


def test_weights_of_adapters_are_fetched_from_every_folder_of_a_repository() -> None:
    adapters = ["adapter_model.safetensors", "second/adapter_model.safetensors", "checkpoint-2/adapter_config.json"]
    others = ["model.safetensors", "second/my_adapter_model.safetensors", "data/part-0.parquet"]
    assert list(filter_repo_objects(adapters + others, allow_patterns=list(HUB_PATTERNS))) == adapters
