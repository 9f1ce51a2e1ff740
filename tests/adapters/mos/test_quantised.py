from __future__ import annotations

import copy
import logging

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_mixture.adapters.mos.bank import find_bank
from hf_mixture.adapters.mos.layer import MosLayer


pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*", "ignore:.*Merging into 4-bit.*")

SCHEMES = {
    "8bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "4bit": lambda: BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
}


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, logger="bitsandbytes")


@pytest.fixture
def quantised(llama):
    def load(scheme: str):
        # Training mode keeps bitsandbytes from repacking 4-bit weights for its CPU kernel, which computes in bfloat16.
        return llama(quantization_config=SCHEMES[scheme]()).train()

    return load


@pytest.mark.parametrize("scheme", SCHEMES)
def test_trains_and_leaves_the_quantised_weights_alone(scheme, quantised, mos_config, tokens):
    base = prepare_model_for_kbit_training(quantised(scheme))
    model = get_peft_model(base, mos_config(init_weights=True)).train()
    packed = [layer.get_base_layer().weight.data.clone() for layer in model.modules() if isinstance(layer, MosLayer)]
    assert {pool.dtype for pool in find_bank(model)[1].parameters()} == {torch.float32}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    after = [layer.get_base_layer().weight.data for layer in model.modules() if isinstance(layer, MosLayer)]
    assert all(torch.equal(old, new) for old, new in zip(packed, after, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_saves_and_loads(scheme, quantised, mos_config, tokens, tmp_path):
    model = get_peft_model(quantised(scheme), mos_config())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(quantised(scheme), tmp_path).train()
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.get_layer_status()[0].quantization_backend == f"bnb {scheme}"


@torch.no_grad()
def test_merging_into_8_bits(quantised, mos_config, tokens):
    model = get_peft_model(quantised("8bit"), mos_config())
    expected = model(tokens).logits
    with model.disable_adapter():
        delta = (model(tokens).logits - expected).abs().max()
    model.merge_adapter(safe_merge=True)
    assert (model(tokens).logits - expected).abs().max() < 0.15 * delta
    model.unmerge_adapter()
    assert torch.equal(model(tokens).logits, expected)
    assert (model.merge_and_unload()(tokens).logits - expected).abs().max() < 0.15 * delta


@torch.no_grad()
def test_unmerging_restores_the_4_bit_weights(quantised, mos_config, tokens):
    model = get_peft_model(quantised("4bit"), mos_config())
    expected = model(tokens).logits
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    packed = layer.get_base_layer().weight.data.clone()
    with pytest.warns(UserWarning, match=r"4-bit.*dequantize_merge_and_unload"):
        model.merge_adapter()
    assert not torch.equal(layer.get_base_layer().weight.data, packed)
    model.unmerge_adapter()
    assert torch.equal(layer.get_base_layer().weight.data, packed)
    assert torch.equal(model(tokens).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
def test_dequantising_before_merging_keeps_the_update(scheme, quantised, mos_config):
    model = get_peft_model(quantised(scheme), mos_config())
    layers = {name: layer for name, layer in model.get_base_model().named_modules() if isinstance(layer, MosLayer)}
    exact = {
        name: layer.get_base_weight().float() + layer.get_delta_weight("default") for name, layer in layers.items()
    }
    deltas = {name: layer.get_delta_weight("default").abs().max() for name, layer in layers.items()}
    for dtype in (torch.float32, torch.bfloat16):
        merged = copy.deepcopy(model).dequantize_merge_and_unload(dtype)
        assert {parameter.dtype for parameter in merged.parameters()} == {dtype}
        for name, weight in exact.items():
            result = merged.get_submodule(name).weight
            assert torch.equal(result, weight.to(dtype))
            # bfloat16 keeps 8 bits of W + D, which is coarse where W is large against D.
            if dtype == torch.float32:
                assert (result - weight).abs().max() < 1e-2 * deltas[name]


@torch.no_grad()
def test_the_dequantised_model_computes_the_same_and_is_an_ordinary_one(quantised, mos_config, tokens, tmp_path):
    model = get_peft_model(quantised("4bit"), mos_config())
    expected = model(tokens).logits
    with model.disable_adapter():
        delta = (model(tokens).logits - expected).abs().max()
    merged = model.dequantize_merge_and_unload(torch.float32)
    assert (merged(tokens).logits - expected).abs().max() < 1e-2 * delta
    merged.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not getattr(reloaded, "is_quantized", False)
    assert torch.equal(reloaded(tokens).logits, merged.eval()(tokens).logits)


@torch.no_grad()
def test_weights_repacked_for_cpu_inference_are_dequantised_rightly(quantised, mos_config, tokens):
    model = get_peft_model(quantised("4bit"), mos_config())
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    expected = layer.get_base_weight().clone()
    model.eval()(tokens)
    torch.testing.assert_close(layer.get_base_weight(), expected, rtol=2e-2, atol=1e-4)
