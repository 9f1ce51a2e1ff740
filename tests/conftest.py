from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mos_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a saved MoS adapter with random weights; its base model is a folder beside it. Do not change it."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    import hf_mixture

    folder = tmp_path_factory.mktemp("artefacts")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    mos = hf_mixture.MosConfig(
        task_type="CAUSAL_LM", r=4, num_shards=2, init_weights=False, target_modules=["q_proj", "v_proj"]
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    get_peft_model(model, mos).save_pretrained(folder / "adapter")
    return folder / "adapter"
