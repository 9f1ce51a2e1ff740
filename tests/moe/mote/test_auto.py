"""`AutoMoTE.from_pretrained`, and edits beside PEFT adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_double import running_hub
from moe_families import build_tiny_moe
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.mote.auto import AutoMoTE
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts, untune_experts


EDITS = ExpertEdits(
    [ExpertEdit(f"model.layers.{layer}.mlp.gate", expert, "off") for layer in range(4) for expert in (0, 3, 6)]
)
# Attention, the experts, and the routers themselves.
LORA: dict[str, Any] = {
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.gate.weight"],
    "r": 2,
}


def logits_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def with_adapter(model: Any) -> PeftModel:
    """A model with an adapter that does something."""
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(**LORA))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return adapted.eval()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A saved model, its inputs, and its logits without and with the edits."""
    tiny = build_tiny_moe("qwen3_moe")
    tiny.model.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    stock = logits_of(model, tiny.inputs)
    with tune_experts(model, EDITS):
        edited = logits_of(model, tiny.inputs)
    assert not torch.allclose(stock, edited, atol=1e-3)
    return tmp_path / "base", tiny.inputs, {"stock": stock, "edited": edited}


def test_edits_beside_the_model_alone_and_in_its_configuration(saved: Any, tmp_path: Path) -> None:
    base, inputs, logits = saved
    signed = EDITS.signed(AutoModelForCausalLM.from_pretrained(base))
    assert signed.base_model_name_or_path == str(base)
    signed.save_pretrained(tmp_path / "alone")
    for source, options in (
        (tmp_path / "alone", {}),
        (tmp_path / "alone", {"base_model": base}),
        (tmp_path / "alone", {"base_model": AutoModelForCausalLM.from_pretrained(base).eval()}),
        (tmp_path / "alone", {"auto_class": AutoModelForCausalLM, "dtype": torch.float32}),
    ):
        model = AutoMoTE.from_pretrained(source, **options)
        torch.testing.assert_close(logits_of(model, inputs), logits["edited"], rtol=0, atol=1e-6)
        untune_experts(model)
        torch.testing.assert_close(logits_of(model, inputs), logits["stock"], rtol=0, atol=1e-6)

    # The field of the configuration; the stock class loads the model without edits.
    model = AutoModelForCausalLM.from_pretrained(base)
    model.config.mote = signed.to_dict()
    model.save_pretrained(tmp_path / "configured")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "configured")
    torch.testing.assert_close(logits_of(stock, inputs), logits["stock"], rtol=0, atol=1e-6)
    tuned = AutoMoTE.from_pretrained(tmp_path / "configured")
    torch.testing.assert_close(logits_of(tuned, inputs), logits["edited"], rtol=0, atol=1e-6)
    # The file comes first.
    signed.save_pretrained(base)
    beside = AutoMoTE.from_pretrained(base)
    torch.testing.assert_close(logits_of(beside, inputs), logits["edited"], rtol=0, atol=1e-6)


def test_the_order_of_patch_and_adapter_makes_no_difference() -> None:
    first, second = build_tiny_moe("qwen3_moe"), build_tiny_moe("qwen3_moe")
    inputs = first.inputs
    stock = logits_of(first.model, inputs)
    tune_experts(first.model, EDITS)
    edited = logits_of(first.model, inputs)
    patched_first = with_adapter(first.model)
    adapted = with_adapter(second.model)
    plain = logits_of(adapted, inputs)
    tune_experts(adapted, EDITS)
    both = logits_of(adapted, inputs)
    assert torch.equal(logits_of(patched_first, inputs), both)
    for other in (stock, edited, plain):
        assert not torch.allclose(both, other, atol=1e-3)
    for model in (patched_first, adapted):
        with model.disable_adapter():
            assert torch.equal(logits_of(model, inputs), edited)
        untune_experts(model)
        assert torch.equal(logits_of(model, inputs), plain)
    assert all(router.module.weight.shape == (8, 32) for router in find_routers(adapted))


def test_paths_of_a_wrapped_model_are_those_of_the_base() -> None:
    tiny = build_tiny_moe("qwen3_moe")
    adapted = with_adapter(tiny.model)
    inside = ExpertEdits(
        [ExpertEdit(f"base_model.model.{edit.module}.base_layer", edit.expert, edit.op) for edit in EDITS.edits]
    )
    with tune_experts(adapted, EDITS):
        expected = logits_of(adapted, tiny.inputs)
    with tune_experts(adapted, inside):
        assert torch.equal(logits_of(adapted, tiny.inputs), expected)


def test_a_merged_adapter_keeps_the_patch() -> None:
    tiny = build_tiny_moe("qwen3_moe")
    adapted = with_adapter(tiny.model)
    with tune_experts(adapted, EDITS):
        expected = logits_of(adapted, tiny.inputs)
    merged = adapted.merge_and_unload()
    with tune_experts(merged, EDITS):
        torch.testing.assert_close(logits_of(merged, tiny.inputs), expected, rtol=0, atol=1e-4)


def test_adapter_and_edits_in_one_folder(saved: Any, tmp_path: Path) -> None:
    base, inputs, logits = saved
    adapted = with_adapter(AutoModelForCausalLM.from_pretrained(base))
    # The routers that the adapter changes are those of the base model to the fingerprint.
    edits = EDITS.signed(adapted)
    assert edits.fingerprint == EDITS.signed(AutoModelForCausalLM.from_pretrained(base)).fingerprint
    with tune_experts(adapted, edits):
        expected = logits_of(adapted, inputs)
        adapted.save_pretrained(tmp_path / "both")
    edits.save_pretrained(tmp_path / "both")
    model = AutoMoTE.from_pretrained(tmp_path / "both")
    assert isinstance(model, PeftModel)
    torch.testing.assert_close(logits_of(model, inputs), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(expected, logits["edited"], atol=1e-3)
    untuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "both").eval()
    untune_experts(model)
    torch.testing.assert_close(logits_of(model, inputs), logits_of(untuned, inputs), rtol=0, atol=1e-6)


def test_what_cannot_be_loaded(saved: Any, tmp_path: Path) -> None:
    base, _, _ = saved
    with pytest.raises(TypeError, match=r"use AutoMoTE\.from_pretrained"):
        AutoMoTE()
    with pytest.raises(ValueError, match=r"has no expert_edits\.json, and the configuration .* has no field 'mote'"):
        AutoMoTE.from_pretrained(base)
    EDITS.save_pretrained(tmp_path / "nameless")
    with pytest.raises(ValueError, match="names no base model: pass base_model"):
        AutoMoTE.from_pretrained(tmp_path / "nameless")
    other = build_tiny_moe("qwen3_moe", seed=1).model
    EDITS.signed(other).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="are for other router weights"):
        AutoMoTE.from_pretrained(tmp_path / "other", base_model=base)
    AutoMoTE.from_pretrained(tmp_path / "other", base_model=base, check_fingerprint=False)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"mote": {"format": "x"}}))
    with pytest.raises(ValueError, match=r"config\.mote: "):
        AutoMoTE.from_pretrained(base)


SCRIPT = """
import sys, torch
from safetensors.torch import load_file
from hf_mixture import AutoMoTE
inputs, logits = (load_file(name) for name in sys.argv[1:])
for name in ("tester/beside", "tester/adapted"):
    model = AutoMoTE.from_pretrained(name)
    with torch.no_grad():
        found = model(**inputs).logits
    assert (found - logits[name]).abs().max() <= 1e-6, name
try:
    AutoMoTE.from_pretrained("tester/nothing")
except ValueError as error:
    assert "check the name" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.slow
def test_from_the_hub(saved: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base, inputs, logits = saved
    EDITS.signed(AutoModelForCausalLM.from_pretrained(base)).save_pretrained(base)
    with running_hub() as hub:
        hub.push("model", "tester/beside", base)
        adapted = with_adapter(AutoModelForCausalLM.from_pretrained(base))
        with tune_experts(adapted, EDITS):
            expected = {"tester/beside": logits["edited"], "tester/adapted": logits_of(adapted, inputs)}
        adapted.save_pretrained(tmp_path / "adapted")
        EDITS.save_pretrained(tmp_path / "adapted")
        config = json.loads((tmp_path / "adapted/adapter_config.json").read_text())
        config["base_model_name_or_path"] = "tester/beside"
        (tmp_path / "adapted/adapter_config.json").write_text(json.dumps(config))
        hub.push("model", "tester/adapted", tmp_path / "adapted")
        save_file(inputs, tmp_path / "inputs.safetensors")
        save_file(expected, tmp_path / "logits.safetensors")
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / "inputs.safetensors", tmp_path / "logits.safetensors"],
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
