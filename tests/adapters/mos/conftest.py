from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import hf_mixture


LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(autouse=True, scope="session")
def _no_progress_bars():
    logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory) -> Path:
    """A saved Llama with 3 layers, grouped-query attention and random weights."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(llama_folder) -> Callable[..., Any]:
    """Loads a fresh copy of the base model in evaluation mode."""

    def load(**kwargs: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(llama_folder, **kwargs).eval()

    return load


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory) -> Path:
    """A saved GPT-2, whose linear layers are `Conv1D`."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_positions=32, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mos_config() -> Callable[..., Any]:
    """A feasible configuration for three layers whose adapter is not the identity."""

    def build(**changes: Any) -> Any:
        settings = {
            "task_type": "CAUSAL_LM",
            "r": 4,
            "equivalent_rank": 2,
            "private_rank": 1,
            "num_shards": 4,
            "target_modules": list(LINEAR_NAMES),
            "init_weights": False,
        }
        return hf_mixture.MosConfig(**{**settings, **changes})

    return build
