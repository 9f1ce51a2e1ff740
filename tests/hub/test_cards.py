from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from documents import code_blocks, run_document
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from hf_mixture.hub.cards import markdown_table, write_model_card


FACTS = {
    "title": "A MoS adapter for C headers",
    "summary": "A small model, adapted to C headers.",
    "method": "MoS",
    "paper": "arXiv 2410.00938",
    "base_model": "owner/base",
    "mixture": {"c": 0.25, "docs|prose": 0.75},
    "mixture_unit": "bytes",
    "metrics": [
        {"domain": "c", "before": 3.14159265, "after": 2.5, "note": None},
        {"domain": "docs", "before": 2.0, "after": 2.25, "note": "worse"},
    ],
    "metrics_caption": "Bits per byte on held-out text.",
    "hyperparameters": {"learning_rate": 1e-3},
    "command": "hf-mixture train quickstart",
}


def test_every_code_block_of_a_card_runs(mos_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(mos_adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    card = write_model_card(folder, **FACTS, adapter_config=config)
    monkeypatch.chdir(folder)
    blocks = run_document(card)
    assert [block.language for block in blocks] == ["python", "bash", "python", "json"]
    assert blocks[0].code.startswith("import hf_mixture")
    assert json.loads(blocks[-1].code)["r"] == config["r"]

    exported = json.loads((folder / "exported-lora" / "adapter_config.json").read_text(encoding="utf-8"))
    assert exported["peft_type"] == "LORA"
    ids = torch.arange(12)[None]
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        lora = AutoModelForCausalLM.from_pretrained(folder / "exported-lora")(ids).logits
    torch.testing.assert_close(lora, ours, atol=1e-5, rtol=0)


def test_a_card_states_the_facts(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(b"")
    card = write_model_card(
        tmp_path,
        **FACTS,
        adapter_config={"peft_type": "MOS", "target_modules": {"b", "a"}},
        learning_curve="curve.png",
    )
    text = card.read_text(encoding="utf-8")
    data = ModelCard.load(card).data
    assert (data.library_name, data.base_model, data.license) == ("peft", "owner/base", "apache-2.0")
    assert set(data.tags) >= {"hf-mixture", "mos"}
    assert "| c | 3.142 | 2.5 |  |" in text
    assert "| docs | 2 | 2.25 | worse |" in text
    assert "| docs\\|prose | 0.75 |" in text
    assert "counted in bytes" in text
    assert "| learning_rate | 0.001 |" in text
    assert "![Learning curve](curve.png)" in text
    assert "`hf-mixture train quickstart`" in text
    assert "raises `KeyError: 'MOS'`" in text
    assert '"target_modules": [\n    "a",\n    "b"\n  ]' in text
    assert "\n\n\n" not in text


def test_names_with_the_marks_of_tables_stay_in_their_cells(tmp_path: Path) -> None:
    hostile = {"base_model": "owner|x`\n# Heading", "command": "hf-mixture train 'a|b' `c`"}
    card = write_model_card(tmp_path, **FACTS | hostile, adapter_config={"peft_type": "MOS"})
    lines = card.read_text(encoding="utf-8").splitlines()
    assert "| base model | `` owner\\|x` # Heading `` |" in lines
    assert "| made with | `` hf-mixture train 'a\\|b' `c` `` |" in lines
    assert not any(line.startswith("# Heading") for line in lines)
    write_model_card(tmp_path, **FACTS | {"base_model": "b" * 300}, adapter_config={"peft_type": "MOS"})


def test_a_stock_adapter_needs_no_import(tmp_path: Path) -> None:
    card = write_model_card(tmp_path, **FACTS | {"base_model": str(tmp_path)}, adapter_config={"peft_type": "LORA"})
    text = card.read_text(encoding="utf-8")
    assert "import hf_mixture" not in text
    assert "export-lora" not in text
    assert ModelCard.load(card).data.base_model is None
    assert "set\n`base_model_name_or_path` in `adapter_config.json` to its id." in card.read_text(encoding="utf-8")


def test_usage_with_a_tokenizer_generates_text(tmp_path: Path) -> None:
    card = write_model_card(
        tmp_path, **FACTS, adapter_config={"peft_type": "MOS"}, tokenizer="owner/base", prompt='"x"', location="me/it"
    )
    usage = code_blocks(card.read_text(encoding="utf-8"))[0].code
    compile(usage, "usage", "exec")
    assert 'AutoTokenizer.from_pretrained("owner/base")' in usage
    assert 'from_pretrained("me/it")' in usage


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter_config": {"r": 4}}, "no 'peft_type'"),
        ({"learning_curve": "curve.png"}, "learning_curve='curve.png' is not a file"),
        ({"metrics": [{"a": 1}, {"b": 1}]}, "row 1 of the table has the columns"),
    ],
)
def test_wrong_facts_write_nothing(changes: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        write_model_card(tmp_path, **FACTS | {"adapter_config": {"peft_type": "MOS"}} | changes)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="is not a directory"):
        write_model_card(tmp_path / "missing", **FACTS, adapter_config={"peft_type": "MOS"})


def test_a_table_keeps_its_lines(tmp_path: Path) -> None:
    assert markdown_table([{"a": "x\ny", "b": 12345.678}]) == "| a | b |\n|---|---|\n| x y | 1.235e+04 |"
