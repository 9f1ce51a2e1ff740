from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

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
