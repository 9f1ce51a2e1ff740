"""A run of `pack_tokens` for a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_mixture.data import pack_writer
from hf_mixture.data.tokenise import pack_tokens


def tokenise(folder: str, num_proc: int, kind: str) -> None:
    """Pack `data` with `tokenizer`, both in a folder, to `pack` there, and hold `pipe` open if there is one."""
    pack_writer._SECONDS_BETWEEN_COMMITS = 0.0
    place = Path(folder)
    if (place / "pipe").exists():
        os.open(place / "pipe", os.O_WRONLY)
    dataset = Dataset.load_from_disk(str(place / "data"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(place / "tokenizer"))
    rows = dataset.to_iterable_dataset() if kind == "stream" else dataset
    pack_tokens(rows, tokenizer, place / "pack", num_proc=num_proc)
