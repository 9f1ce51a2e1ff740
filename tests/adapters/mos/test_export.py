from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from adapters_of_transformers import needs_adapter_methods
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_mixture.adapters.mos.export import export_lora


def test_the_exported_lora_computes_the_same(llama, mos_config, tokens, tmp_path):
    model = get_peft_model(
        llama(), mos_config(rank_pattern={"v_proj": 2}, mos_alpha=12, modules_to_save=["lm_head"])
    ).eval()
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.mul_(1.5)
    logits = model(tokens).logits
    config, tensors = model.to_lora(save_directory=tmp_path)
    assert config.peft_type.value == "LORA"
    assert (config.r, config.lora_alpha, config.rank_pattern) == (4, 12, {"v_proj": 2})
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == tensors.keys()
    loaded = PeftModel.from_pretrained(llama(), tmp_path).eval()
    torch.testing.assert_close(loaded(tokens).logits, logits, rtol=0, atol=1e-6)


@needs_adapter_methods()
def test_exports_from_a_model_without_a_peft_wrapper(llama, mos_config, tokens, tmp_path):
    model = llama()
    model.add_adapter(mos_config(), adapter_name="mine")
    export_lora(model, "mine", tmp_path)
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits, model(tokens).logits, rtol=0, atol=1e-6
    )


def test_conv1d_is_exported_in_the_layout_of_peft(gpt2_folder, mos_config, tokens, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(gpt2_folder),
        mos_config(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
    ).eval()
    logits = model(tokens).logits
    model.to_lora(save_directory=tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(tokens).logits, logits, rtol=0, atol=1e-6)


def test_loads_in_a_process_without_this_package(llama, mos_config, tokens, tmp_path):
    model = get_peft_model(llama(), mos_config()).eval()
    model.to_lora(save_directory=tmp_path)
    program = f"""
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).eval()
assert not any(name.startswith("hf_mixture") for name in sys.modules)
with torch.no_grad():
    print(json.dumps(model(torch.tensor({tokens.tolist()})).logits.tolist()))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    logits = torch.tensor(json.loads(run.stdout.strip().splitlines()[-1]))
    torch.testing.assert_close(logits, model(tokens).logits, rtol=0, atol=1e-6)


def test_the_folder_is_stock_lora(llama, mos_config, tmp_path):
    get_peft_model(llama(), mos_config(target_modules=["q_proj"])).to_lora(save_directory=tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert config.target_modules == {"q_proj"}
    assert config.inference_mode
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{matrix}.weight" for i in range(3) for matrix in "AB"
    }


def test_an_unknown_adapter_is_named(llama, mos_config):
    model = get_peft_model(llama(), mos_config())
    with pytest.raises(ValueError, match=r"adapter_name='nope' is not a MoS adapter.*\['default'\]"):
        model.to_lora("nope")
