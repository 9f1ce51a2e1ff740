"""Mixtures of tiny experts whose interaction levels are far from zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny_experts import tiny_expert, tokenizer_of

from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


ALL = ("llama", "gpt2", "bloom", "gemma3", "qwen3")


def tiny_mixture(
    families: Sequence[str] = ALL, *, trained: bool = True, dtype: torch.dtype = torch.float32, **config: Any
) -> tuple[MixtureOfThoughtsForCausalLM, MixtureOfThoughtsProcessor]:
    """A mixture and its processor; `trained` fills the levels with large random weights."""
    settings = {"num_levels": 3, "latent_size": 16, "num_heads": 2, "num_active_experts": 3, **config}
    experts = [tiny_expert(family, seed).to(dtype) for seed, family in enumerate(families)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = MixtureOfThoughtsForCausalLM.from_experts(experts, **settings).to(dtype).eval()
        if trained:
            fill_levels(model)
    tokenizers = [tokenizer_of(family) for family in families]
    return model, MixtureOfThoughtsProcessor(tokenizers, peer_decode=model.config.peer_decode)


def fill_levels(model: MixtureOfThoughtsForCausalLM) -> None:
    """Give the interaction levels random weights of scale 0.3."""
    for parameter in model.levels.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
