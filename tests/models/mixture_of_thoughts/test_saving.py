"""A mixture saved and loaded: the trained part with references, or everything."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_experts import tiny_expert, tokenizer_of
from tiny_mixture import fill_levels
from transformers import AutoModelForCausalLM, BertConfig, BertModel
from two_processes import run_alone

import hf_mixture  # noqa: F401 - registers the model type
from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


FAMILIES = ("gpt2", "gemma3", "qwen3")  # the first two tie their output to their input embeddings
PROMPTS = ["The mixture of", "Numbers such as 12"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    for family in FAMILIES:
        tiny_expert(family).save_pretrained(root / family)
    return [root / family for family in FAMILIES]


def make(folders, **config):
    torch.manual_seed(0)
    settings = {"num_levels": 3, "latent_size": 16, "num_heads": 2, "num_active_experts": 2, **config}
    model = MixtureOfThoughtsForCausalLM.from_experts(folders, **settings).eval()
    fill_levels(model)
    return model, MixtureOfThoughtsProcessor([tokenizer_of(family) for family in FAMILIES])


def logits_of(model, processor):
    with torch.no_grad():
        return [model(**processor(PROMPTS), primary=torch.tensor([p, p])).logits for p in range(len(FAMILIES))]


def test_the_trained_part_reloads_bit_exactly_in_a_new_process(folders, tmp_path):
    model, processor = make(folders)
    model.save_pretrained(tmp_path / "mixture")
    processor.save_pretrained(tmp_path / "mixture")
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    size = sum(path.stat().st_size for path in (tmp_path / "mixture").glob("*.safetensors"))
    assert size < 1.1 * trained
    script = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
import hf_mixture
from hf_mixture import MixtureOfThoughtsProcessor
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
processor = MixtureOfThoughtsProcessor.from_pretrained(sys.argv[1])
with torch.no_grad():
    logits = [model(**processor(sys.argv[3:]), primary=torch.tensor([p, p])).logits for p in range(3)]
save_file({str(p): value for p, value in enumerate(logits)}, sys.argv[2])
"""
    out = tmp_path / "logits.safetensors"
    (tmp_path / "reload.py").write_text(script)
    run_alone(tmp_path / "reload.py", tmp_path / "mixture", out, *PROMPTS)
    again = load_file(out)
    for primary, expected in enumerate(logits_of(model, processor)):
        assert torch.equal(again[str(primary)], expected)


def test_a_self_contained_folder_needs_no_other(folders, tmp_path):
    experts = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    for expert in experts:
        expert.config._name_or_path = ""
    encoder = BertModel(BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    model, processor = make(experts, prompt_encoder=encoder)
    with pytest.raises(ValueError, match="expert 0 was not loaded by name"):
        model.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    model.save_pretrained(tmp_path / "whole", save_experts=True)
    (tmp_path / "whole").rename(tmp_path / "moved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
    for first, second in zip(logits_of(model, processor), logits_of(again, processor), strict=True):
        assert torch.equal(first, second)


def test_a_missing_expert_is_named(folders, tmp_path):
    model, _ = make(folders)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["references"][1]["name"] = str(tmp_path / "gone")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"gone, part of the mixture .* cannot be loaded"):
        MixtureOfThoughtsForCausalLM.from_pretrained(tmp_path)
    config["references"].pop()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names 2 references for 3 experts"):
        MixtureOfThoughtsForCausalLM.from_pretrained(tmp_path)


def test_a_changed_expert_is_named(folders, tmp_path):
    changed = tmp_path / "changed"
    tiny_expert("gpt2").save_pretrained(changed)
    model, _ = make([changed, *folders[1:]])
    model.save_pretrained(tmp_path / "mixture")
    tiny_expert("gpt2", seed=5).save_pretrained(changed)
    with pytest.raises(ValueError, match=r"changed has changed since the mixture .* was trained"):
        MixtureOfThoughtsForCausalLM.from_pretrained(tmp_path / "mixture")
    again = MixtureOfThoughtsForCausalLM.from_pretrained(tmp_path / "mixture", verify_experts=False)
    assert again.num_experts == 3


def test_experts_come_back_in_the_type_that_they_had_and_can_be_loaded_in_another(folders, tmp_path):
    model, processor = make(folders, expert_kwargs={"dtype": torch.bfloat16})
    model.save_pretrained(tmp_path / "half")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert {expert.dtype for expert in again.experts} == {torch.bfloat16}
    for first, second in zip(logits_of(model, processor), logits_of(again, processor), strict=True):
        assert torch.equal(first, second)
    make(folders)[0].save_pretrained(tmp_path / "single")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "single", dtype=torch.bfloat16)
    assert {expert.dtype for expert in again.experts} == {torch.bfloat16}


def test_the_attention_of_the_experts_can_be_chosen(folders, tmp_path):
    make(folders)[0].save_pretrained(tmp_path)
    for auto in (AutoModelForCausalLM, MixtureOfThoughtsForCausalLM):
        again = auto.from_pretrained(tmp_path, attn_implementation="eager")
        assert {expert.config._attn_implementation for expert in again.experts} == {"eager"}


def test_a_changed_expert_is_named_whatever_its_type(folders, tmp_path):
    changed = tmp_path / "changed"
    tiny_expert("gpt2").save_pretrained(changed)
    make([changed, *folders[1:]])[0].save_pretrained(tmp_path / "mixture")
    tiny_expert("gpt2", seed=5).save_pretrained(changed)
    with pytest.raises(ValueError, match=r"changed has changed since the mixture .* was trained"):
        MixtureOfThoughtsForCausalLM.from_pretrained(tmp_path / "mixture", dtype=torch.bfloat16)


def test_a_repository_is_looked_for_in_the_given_cache(folders, tmp_path):
    model, processor = make(folders)
    snapshot = tmp_path / "models--someone--mixture" / "snapshots" / ("a" * 40)
    model.save_pretrained(snapshot, save_experts=True)
    processor.save_pretrained(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    assert AutoModelForCausalLM.from_pretrained("someone/mixture", **options).num_experts == 3
    assert len(MixtureOfThoughtsProcessor.from_pretrained("someone/mixture", **options).tokenizers) == 3


def test_a_pickled_mixture_computes_the_same(folders):
    model, processor = make(folders)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - made here
    for first, second in zip(logits_of(model, processor), logits_of(again, processor), strict=True):
        assert torch.equal(first, second)


def test_weights_that_do_not_fit_are_named(folders, tmp_path):
    model, _ = make(folders)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("levels.0.query.weight")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit its configuration: 1 tensors .* levels\.0\.query\.weight"):
        MixtureOfThoughtsForCausalLM.from_pretrained(tmp_path)


def test_decoder_layers_are_not_split_over_devices(folders):
    model, _ = make(folders)
    assert {"GPT2Block", "Gemma3DecoderLayer", "Qwen3DecoderLayer"} <= set(model._no_split_modules)
