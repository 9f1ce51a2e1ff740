"""A tiny sparse model with a tokenizer of whole words, whose answers are what random weights say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from hf_mixture.moe.anatomy import find_routers


WORDS = [f"w{number}" for number in range(28)]


def word_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=16,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=2,
        initializer_range=0.4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = Qwen3MoeForCausalLM(config).eval()
    for router in find_routers(model):
        torch.nn.init.normal_(router.weight, std=0.5)
    return model


def save(folder: Path) -> Path:
    """Write model and tokenizer."""
    tiny_model().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def prompts(num: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 6, (num,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(28, (n,), generator=generator).tolist()) for n in lengths]


def by_first_word(prompt: str, response: str) -> str:
    """Two classes that random models show both: what the response begins with."""
    words = response.split()
    return "low" if words and words[0] in WORDS[:14] else "high"
