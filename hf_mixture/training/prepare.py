"""The data of a run, made once: tokenizer, training blocks and held-out windows, kept in `prepared/`."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_mixture.data.encoding import encode, separator_id
from hf_mixture.hub.reading import read_object
from hf_mixture.training.blocks import Windows, cut_documents, pack, scoring_windows
from hf_mixture.training.journal import write_json
from hf_mixture.training.models import load_tokenizer, train_bpe
from hf_mixture.training.recipe import Recipe


# Documents tokenised at once: enough for the tokenizer's threads, few enough to stop soon after the last block.
_BATCH = 64


class Prepared:
    """What `prepare` wrote.

    Args:
        folder: The folder `prepared` of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tokenizer(self) -> Any:
        """Load the tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.folder / "tokenizer"))

    def blocks(self, domain: str) -> Any:
        """Load the training blocks of a domain, with the columns `input_ids` and `num_bytes`."""
        from datasets import load_from_disk

        return load_from_disk(str(self.folder / "blocks" / domain))

    def windows(self, split: str, window_size: int) -> dict[str, Windows]:
        """Load the held-out windows of a split, by domain."""
        stored = read_object(self.folder / "heldout.json")
        return {
            domain: scoring_windows(entry["documents"], entry["num_bytes"], window_size, stored["separator"])
            for domain, entry in stored[split].items()
        }


def prepare(
    recipe: Recipe, texts: Mapping[str, Any], blocks_needed: Mapping[str, int], folder: Path
) -> dict[str, Any]:
    """Write the tokenizer, the training blocks and the held-out text of a run.

    Args:
        recipe: The recipe.
        texts: For each domain its splits: datasets with a column `text`.
        blocks_needed: Most training blocks of each domain.
        folder: The folder to write; an unfinished one is replaced.

    Returns:
        Counts for the results: blocks, tokens and bytes of each domain, held-out bytes, and whether the tokenizer
        restores the held-out text.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    bpe = recipe.tokenizer.train_bpe
    if bpe is None:
        tokenizer = load_tokenizer(recipe)
    else:
        print(f"Training a tokenizer of {bpe.vocab_size} tokens", flush=True)
        tokenizer = train_bpe(_tokenizer_texts(recipe, texts, bpe.max_bytes), bpe.vocab_size)
    tokenizer.save_pretrained(str(partial / "tokenizer"))

    heldout, lossless = _heldout(recipe, texts, tokenizer)
    write_json(partial / "heldout.json", heldout)
    counts = {
        domain: _write_blocks(recipe, tokenizer, texts[domain]["train"], number, partial / "blocks" / domain)
        for domain, number in blocks_needed.items()
    }
    partial.rename(folder)
    return {
        "vocab_size": len(tokenizer),
        "training_data": counts,
        "test_bytes": {domain: entry["num_bytes"] for domain, entry in heldout["test"].items()},
        "tokenizer_is_lossless": lossless,
    }


def blocks_for(recipe: Recipe, num_examples: Mapping[str, int]) -> dict[str, int]:
    """Return how many blocks of each domain the stages can use.

    Args:
        recipe: The recipe.
        num_examples: Blocks that each stage reads.

    Returns:
        Most blocks of each drawn domain; when shares count bytes, a stage may need all its blocks from one domain.
    """
    needed: dict[str, int] = {}
    for stage, number in num_examples.items():
        mixture = recipe.mixture(stage)
        for domain, share in mixture.weights.items():
            if share > 0:
                wanted = number if mixture.unit == "bytes" else math.ceil(number * share)
                needed[domain] = max(needed.get(domain, 0), wanted)
    return needed


def training_rows(recipe: Recipe, prepared: Prepared, stage: str, num_examples: int) -> Any:
    """Return the training blocks of a stage, in the order in which the Trainer reads them.

    Args:
        recipe: The recipe.
        prepared: What `prepare` wrote.
        stage: Name of the stage, whose mixture decides the order.
        num_examples: Number of blocks.

    Returns:
        A data set with the column `input_ids`.
    """
    from hf_mixture.data import Mixture, interleave_datasets

    mixture = recipe.mixture(stage)
    weights = {domain: share for domain, share in mixture.weights.items() if share > 0}
    return interleave_datasets(
        {domain: prepared.blocks(domain) for domain in weights},
        mixture=Mixture(weights, unit=mixture.unit, seed=mixture.seed),
        num_examples=num_examples,
        length_column={"tokens": "input_ids", "bytes": "num_bytes"}.get(mixture.unit),
    )


def _tokenizer_texts(recipe: Recipe, texts: Mapping[str, Any], max_bytes: int) -> Iterator[str]:
    first_stage = next(iter(recipe.stages))
    for domain, share in recipe.mixture(first_stage).weights.items():
        budget = int(max_bytes * share)
        yield from cut_documents(_shuffled(recipe, texts[domain]["train"]), recipe.document_bytes or budget, budget)


def _heldout(recipe: Recipe, texts: Mapping[str, Any], tokenizer: Any) -> tuple[dict[str, Any], bool]:
    limits = recipe.evaluation
    drawn = {domain for stage in recipe.stages for domain, share in recipe.mixture(stage).weights.items() if share > 0}
    stored: dict[str, Any] = {"separator": separator_id(tokenizer)}
    lossless = True
    for split, budget in (("validation", limits.validation_bytes), ("test", limits.test_bytes)):
        stored[split] = {}
        for domain in recipe.domains:
            if split == "validation" and domain not in drawn:
                continue
            pieces = cut_documents(_shuffled(recipe, texts[domain][split]), limits.document_bytes, budget)
            if not pieces:
                raise ValueError(
                    f"domain {domain!r} has no {split} text; give it more documents, or leave it out of the recipe"
                )
            documents = encode(tokenizer, pieces)
            decoded = tokenizer.batch_decode(documents, clean_up_tokenization_spaces=False)
            lossless = lossless and decoded == pieces
            num_bytes = sum(len(piece.encode("utf-8")) for piece in pieces)
            stored[split][domain] = {"documents": documents, "num_bytes": num_bytes}
    return stored, lossless


def _write_blocks(recipe: Recipe, tokenizer: Any, train: Any, number: int, folder: Path) -> dict[str, int]:
    from datasets import Dataset, Features, List, Value
    from tqdm.auto import tqdm

    def tokenised() -> Iterator[tuple[list[int], int]]:
        batch: list[str] = []
        for text in _shuffled(recipe, train):
            batch += cut_documents([text], recipe.document_bytes or len(text) * 4, len(text) * 4)
            if len(batch) >= _BATCH:
                yield from zip(encode(tokenizer, batch), (len(text.encode("utf-8")) for text in batch), strict=True)
                batch = []
        yield from zip(encode(tokenizer, batch), (len(text.encode("utf-8")) for text in batch), strict=True)

    counts = {"blocks": 0, "bytes": 0}

    def rows() -> Iterator[dict[str, Any]]:
        with tqdm(total=number, desc=f"tokenising {folder.name}", unit="block") as bar:
            for ids, num_bytes in pack(tokenised(), recipe.block_size, separator_id(tokenizer)):
                yield {"input_ids": ids, "num_bytes": num_bytes}
                counts["blocks"] += 1
                counts["bytes"] += num_bytes
                bar.update()
                if counts["blocks"] == number:
                    break

    features = Features({"input_ids": List(Value("int32")), "num_bytes": Value("int64")})
    fingerprint = hashlib.sha256(f"{folder.name}\n{recipe.to_yaml()}".encode()).hexdigest()[:16]
    cache = folder.with_name(f".{folder.name}.cache")
    with _quiet_datasets():
        # Through a file rather than a list: the text of a domain need not fit into memory.
        dataset = Dataset.from_generator(rows, features, cache_dir=str(cache), fingerprint=fingerprint)
        if not len(dataset):
            raise ValueError(
                f"domain {folder.name!r} has less training text than one block of {recipe.block_size} tokens; lower "
                "block_size or choose a larger domain"
            )
        dataset.save_to_disk(str(folder))
    shutil.rmtree(cache)
    return counts | {"tokens": counts["blocks"] * recipe.block_size}


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Leave the progress bars to this module, whose bars know how many blocks are wanted."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _shuffled(recipe: Recipe, dataset: Any) -> Iterator[str]:
    for row in dataset.shuffle(seed=recipe.seed):
        yield row["text"]
