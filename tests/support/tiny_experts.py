"""Small language models of different families, with tokenizers of different kinds trained here on a few sentences."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)


TEXT = [
    "The mixture of thoughts lets several models read the same text, word by word.",
    "A peer may know the answer; the primary writes it down in its own tokens.",
    "Numbers such as 12 and 345, punctuation: commas, colons; and brackets (like these).",
    "Umlauts äöü, kanji 漢字, and an emoji 🙂 are characters of several bytes.",
]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


@cache
def byte_level(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level pairs, as in GPT-2: a rare character becomes several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT[:3], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = TEMPLATE
    return fast


@cache
def metaspace(vocab_size: int) -> PreTrainedTokenizerFast:
    """Pieces that begin with the space, with byte fallback and a leading BOS, as in Llama 2."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer.train_from_iterator(TEXT[:3], trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = "<s>" + TEMPLATE
    return fast


@cache
def lower_case(vocab_size: int) -> PreTrainedTokenizerFast:
    """Word pieces of the lower-cased text: the normaliser moves characters."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=["[UNK]", "[EOS]"])
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[EOS]", pad_token="[EOS]")
    fast.chat_template = TEMPLATE
    return fast


TOKENIZERS = {"gpt2": byte_level, "llama": metaspace, "qwen3": byte_level, "bloom": lower_case, "gemma3": metaspace}
SIZES = {"gpt2": 300, "llama": 340, "qwen3": 320, "bloom": 120, "gemma3": 330}


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family."""
    return TOKENIZERS[family](SIZES[family])


def tiny_expert(family: str, seed: int = 0, **overrides: int) -> PreTrainedModel:
    """A model of a family with random weights that are large enough to matter."""
    vocab = len(tokenizer_of(family))
    heads = {"num_attention_heads": 4, "intermediate_size": 48}
    config = {
        "gpt2": lambda: GPT2Config(vocab_size=vocab, n_embd=24, n_layer=3, n_head=2),
        "llama": lambda: LlamaConfig(vocab_size=vocab, hidden_size=32, num_hidden_layers=5, **heads),
        "qwen3": lambda: Qwen3Config(
            vocab_size=vocab, hidden_size=32, num_hidden_layers=4, num_key_value_heads=2, head_dim=8, **heads
        ),
        "bloom": lambda: BloomConfig(vocab_size=vocab, hidden_size=32, n_layer=4, n_head=4),
        "gemma3": lambda: Gemma3TextConfig(
            vocab_size=vocab,
            hidden_size=32,
            num_hidden_layers=3,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=8,
            **heads,
        ),
    }[family]()
    tokenizer = tokenizer_of(family)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.initializer_range = 0.2
    for name, value in overrides.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
    # No end of text: generations have the length that the tests ask for.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
