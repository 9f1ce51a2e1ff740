"""Packs of real text with a tokenizer trained on it: three domains of sources of the standard library."""

from __future__ import annotations

import email
import json
import logging
from pathlib import Path
from typing import Any

from datasets import Dataset


PACKAGES = {"email": email, "json": json, "logging": logging}


def domain_texts() -> dict[str, list[str]]:
    """Sources of each package, cut to pieces of at most 2000 characters."""
    texts = {}
    for name, package in PACKAGES.items():
        sources = [path.read_text(encoding="utf-8") for path in sorted(Path(package.__file__).parent.glob("*.py"))]
        texts[name] = [text[start : start + 2000] for text in sources for start in range(0, len(text), 2000)]
    return texts


def train_tokenizer(texts: list[str], vocab_size: int = 400) -> Any:
    """A small byte-level BPE with `<|end|>` as end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")


def write_packs(folder: Path) -> dict[str, Any]:
    """One `TokenPack` for each domain, and the tokenizer in `folder / "tokenizer"`."""
    from hf_mixture.data.tokenise import pack_tokens

    texts = domain_texts()
    tokenizer = train_tokenizer([text for rows in texts.values() for text in rows[:20]])
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    return {
        name: pack_tokens(Dataset.from_dict({"text": rows}), tokenizer, folder / name) for name, rows in texts.items()
    }
