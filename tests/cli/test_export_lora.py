from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_mixture import MosConfig
from hf_mixture.cli.main import main


def test_the_export_computes_the_same_and_reads_no_base_weights(
    mos_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skeleton = tmp_path / "skeleton"
    skeleton.mkdir()
    shutil.copy(mos_adapter.parent / "base" / "config.json", skeleton)
    output = tmp_path / "new" / "lora"
    assert main(["export-lora", str(mos_adapter), str(output), "--base-model", str(skeleton)]) == 0
    assert "a LoRA adapter of" in capsys.readouterr().out

    config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config["r"]) == ("LORA", 4)
    ids = torch.arange(12)[None]
    base = AutoModelForCausalLM.from_pretrained(mos_adapter.parent / "base")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(mos_adapter)(ids).logits
        unchanged = base(ids).logits
        exported = PeftModel.from_pretrained(base, output)(ids).logits
    assert not torch.equal(unchanged, expected)
    torch.testing.assert_close(exported, expected, atol=1e-5, rtol=0)


def test_modules_of_other_sizes_than_in_the_base_configuration_are_copied(mos_adapter: Path, tmp_path: Path) -> None:
    def base() -> Any:
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(mos_adapter.parent / "base", num_labels=5)

    model = base()
    model.resize_token_embeddings(model.config.vocab_size + 3)
    settings = json.loads((mos_adapter / "adapter_config.json").read_text(encoding="utf-8"))
    ranks = {name: settings[name] for name in ("r", "equivalent_rank", "num_shards", "target_modules")}
    config = MosConfig(task_type="SEQ_CLS", modules_to_save=["embed_tokens"], init_weights=False, **ranks)
    adapted = get_peft_model(model, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    assert main(["export-lora", str(tmp_path / "adapter"), str(tmp_path / "lora")]) == 0

    model = base()
    model.resize_token_embeddings(model.config.vocab_size + 3)
    exported = PeftModel.from_pretrained(model, tmp_path / "lora").eval()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(exported(ids).logits, adapted(ids).logits, atol=1e-5, rtol=0)


def test_indices_that_are_not_saved_are_drawn_again(mos_adapter: Path, tmp_path: Path) -> None:
    base = mos_adapter.parent / "base"
    config = MosConfig(
        r=4, num_shards=2, target_modules=["q_proj", "down_proj"], init_weights=False, save_indices=False, index_seed=3
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    assert main(["export-lora", str(tmp_path / "adapter"), str(tmp_path / "lora"), "--base-model", str(base)]) == 0
    exported = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora").eval()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(exported(ids).logits, adapted(ids).logits)


def test_the_revision_is_one_of_the_named_base_model_alone(
    mos_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Path(shutil.copytree(mos_adapter, tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    named = {**config, "base_model_name_or_path": "owner/named", "revision": "of-the-named"}
    (adapter / "adapter_config.json").write_text(json.dumps(named), encoding="utf-8")
    cached = tmp_path / "cache" / "models--owner--other"
    commit = "0" * 40
    shutil.copytree(mos_adapter.parent / "base", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert main(["export-lora", str(adapter), str(tmp_path / "lora"), "--base-model", "owner/other"]) == 0


def test_bad_input_writes_nothing(mos_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(adapter: Path, *more: str, said: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        assert main(["export-lora", str(adapter), str(tmp_path / "out"), *more]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before

    refuse(tmp_path, said="has no adapter_config.json")
    refuse(mos_adapter, "--base-model", str(tmp_path / "none"), said="cannot be read")

    custom = Path(shutil.copytree(mos_adapter.parent / "base", tmp_path / "custom"))
    config = json.loads((custom / "config.json").read_text(encoding="utf-8"))
    (custom / "config.json").write_text(json.dumps({**config, "architectures": ["OursForCausalLM"]}), encoding="utf-8")
    untyped = Path(shutil.copytree(mos_adapter, tmp_path / "untyped"))
    config = json.loads((untyped / "adapter_config.json").read_text(encoding="utf-8"))
    (untyped / "adapter_config.json").write_text(json.dumps({**config, "task_type": None}), encoding="utf-8")
    refuse(untyped, "--base-model", str(custom), said="OursForCausalLM of the base model")

    truncated = Path(shutil.copytree(mos_adapter, tmp_path / "truncated"))
    weights = truncated / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refuse(truncated, said="truncated")

    lora = Path(shutil.copytree(mos_adapter, tmp_path / "lora"))
    config = json.loads((lora / "adapter_config.json").read_text(encoding="utf-8"))
    (lora / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}), encoding="utf-8")
    refuse(lora, said="LORA")

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").touch()
    refuse(mos_adapter, said="is not empty")
