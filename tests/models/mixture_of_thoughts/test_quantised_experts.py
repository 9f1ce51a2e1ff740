"""Mixtures with 4-bit experts, on the CPU."""

from __future__ import annotations

import hashlib

import pytest
import torch
from mot_training import losses, sentences, train
from tiny_experts import tiny_expert, tokenizer_of
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


pytest.importorskip("bitsandbytes")

QUANTISED = {
    "quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
}
SIZES = {
    "num_levels": 3,
    "latent_size": 16,
    "num_heads": 2,
    "num_active_experts": 2,
    "selection_noise": 0.0,
    "router_dropout": 0.0,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A Llama that is wide enough for the blocks of 4-bit weights, and a GPT-2."""
    place = tmp_path_factory.mktemp("experts")
    sizes = tiny_expert("llama").config
    torch.manual_seed(3)
    wide = LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=sizes.pad_token_id,
        bos_token_id=sizes.bos_token_id,
        eos_token_id=sizes.eos_token_id,
    )
    AutoModelForCausalLM.from_config(wide).save_pretrained(place / "llama")
    tiny_expert("gpt2").save_pretrained(place / "gpt2")
    return [str(place / "llama"), str(place / "gpt2")]


def mixture(experts, **kwargs):
    torch.manual_seed(0)
    model = MixtureOfThoughtsForCausalLM.from_experts(experts, **SIZES, **kwargs)
    for level in model.levels.parameters():
        torch.nn.init.normal_(level, std=0.1)
    return model


def quantised(folders):
    return mixture(folders, expert_kwargs=[QUANTISED, {}])


@pytest.fixture(scope="module")
def processor():
    return MixtureOfThoughtsProcessor([tokenizer_of("llama"), tokenizer_of("gpt2")])


def rows():
    return [row for pair in zip(sentences(0, 8, 0), sentences(1, 8, 1), strict=True) for row in pair]


def digest(expert):
    """A hash of the bytes of all weights and scales, which `state_dict` of bitsandbytes may change."""
    found = hashlib.sha256()
    for parameter in expert.parameters():
        tensors = [parameter.data]
        if (state := getattr(parameter, "quant_state", None)) is not None:
            tensors += [state.absmax, state.code]
        for tensor in tensors:
            found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_gradients_are_those_of_the_experts_dequantised(folders, processor):
    """Inference first: that is when bitsandbytes would repack the weights for a kernel without a gradient."""
    ours = quantised(folders)
    plain = AutoModelForCausalLM.from_pretrained(folders[0], **QUANTISED).dequantize().float()
    other = mixture([plain, folders[1]])
    batch = processor([row["prompt"] for row in rows()[:4]], answers=[row["answer"] for row in rows()[:4]])
    gradients = []
    for model in (ours, other):
        with torch.no_grad():
            model(**batch, primary=torch.zeros(4, dtype=torch.long))
        model(**batch, primary=torch.zeros(4, dtype=torch.long)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    assert len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3, msg=name)


def test_training_and_saving_leave_4bit_experts_as_they_are(folders, processor, tmp_path):
    model = quantised(folders)
    assert type(model.expert_0.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    before = [digest(expert) for expert in model.experts]
    trainer = train(model, processor, rows(), tmp_path / "run", max_steps=8)
    assert losses(trainer)[-1] < losses(trainer)[0]
    model.eval()
    batch = processor([row["prompt"] for row in rows()[:4]])
    primary = torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        expected = model(**batch, primary=primary).logits
        model.save_pretrained(tmp_path / "mixture")
        assert torch.equal(model(**batch, primary=primary).logits, expected)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "mixture").eval()
        assert torch.equal(again(**batch, primary=primary).logits, expected)
    assert [digest(expert) for expert in model.experts] == before == [digest(expert) for expert in again.experts]
