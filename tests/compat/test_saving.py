"""A save_pretrained of a single model."""

from __future__ import annotations

import copy

from transformers import LlamaConfig, LlamaForCausalLM

from hf_mixture._compat.saving import replace_save_pretrained, restore_save_pretrained


def tiny():
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


def test_a_model_saves_as_it_is_told_and_others_do_not(tmp_path):
    model, other = tiny(), tiny()
    calls = []

    def save(model, stock, folder, **kwargs):
        calls.append((model, folder, kwargs))
        stock(folder / "inner", **kwargs)

    replace_save_pretrained(model, save)
    model.save_pretrained(tmp_path, max_shard_size="1GB")
    assert calls == [(model, tmp_path, {"max_shard_size": "1GB"})]
    assert (tmp_path / "inner" / "model.safetensors").exists()
    twin = copy.deepcopy(model)
    twin.save_pretrained(tmp_path)
    assert calls[1][0] is twin
    other.save_pretrained(tmp_path / "other")
    restore_save_pretrained(model)
    model.save_pretrained(tmp_path / "stock")
    assert len(calls) == 2
    assert (tmp_path / "stock" / "model.safetensors").exists()
    restore_save_pretrained(other)


def test_pushing_and_saving_go_through_the_instance():
    """transformers calls `self.save_pretrained` when it pushes; if this fails, the replacement is passed by."""
    import inspect

    assert "self.save_pretrained(" in inspect.getsource(LlamaForCausalLM.push_to_hub)
