"""The data of a search, made once: tokenizer, training packs and held-out packs, kept in `prepared/`."""

from __future__ import annotations

import collections
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.training.blocks import cut_documents
from hf_mixture.training.models import train_bpe
from hf_mixture.training.search.recipe import SearchRecipe


if TYPE_CHECKING:
    from hf_mixture.data.pack import TokenBlocks, TokenPack

HELD_OUT = ("validation", "test")
_NAMED_LICENCES = 3


class SearchData:
    """What `prepare` wrote.

    Args:
        folder: The folder `prepared` of a search.
        block_size: Tokens of a block.
    """

    def __init__(self, folder: Path, block_size: int) -> None:
        self.folder = folder
        self.block_size = block_size

    def tokenizer(self) -> Any:
        """Load the tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.folder / "tokenizer"))

    @property
    def separator(self) -> int:
        """Id of the token between documents."""
        from hf_mixture.data.encoding import separator_id

        return separator_id(self.tokenizer())

    def blocks(self, split: str, names: tuple[str, ...]) -> dict[str, TokenBlocks]:
        """Open the blocks of domains or targets.

        Args:
            split: `"train"`, `"validation"` or `"test"`.
            names: The domains or targets.
        """
        from hf_mixture.data.pack import TokenPack

        return {name: TokenPack(self.folder / split / name).blocks(self.block_size) for name in names}


def prepare(
    recipe: SearchRecipe, domains: Mapping[str, Any], targets: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Write the tokenizer and the packs, or continue what an interrupted call left.

    Args:
        recipe: The recipe.
        domains: For each domain its splits: datasets with a column `text`.
        targets: The same for each target.
        folder: The folder to write.

    Returns:
        For each of the `domains`, documents, bytes, licences and tokens of the training text; for these and for the
        `targets`, tokens of the held-out text; and the size of the vocabulary.

    Raises:
        ValueError: If a domain has less text than one block in one of its splits.
    """
    from hf_mixture.data.tokenise import pack_tokens

    folder.mkdir(exist_ok=True)
    tokenizer = _tokenizer(recipe, domains, folder / "tokenizer")
    facts: dict[str, Any] = {"vocab_size": len(tokenizer), "domains": {}, "targets": {}}
    for role, texts in (("domains", domains), ("targets", targets)):
        for name, splits in texts.items():
            packs = {}
            if role == "domains":
                packs["train"] = pack_tokens(TrainingText(recipe, splits["train"]), tokenizer, folder / "train" / name)
            for split in HELD_OUT:
                limits = recipe.evaluation
                budget = limits.validation_bytes if split == "validation" else limits.test_bytes
                pieces = cut_documents(_shuffled(recipe, splits[split]), limits.document_bytes, budget)
                rows_held_out = [{"text": piece} for piece in pieces]
                packs[split] = pack_tokens(rows_held_out, tokenizer, folder / split / name)
            for split, pack in packs.items():
                _check_pack(recipe, name, split, pack)
            facts[role][name] = {f"{split}_tokens": len(pack.tokens) for split, pack in packs.items()}
            if role == "domains":
                facts[role][name] |= _facts(TrainingText(recipe, splits["train"]))
    return facts


class TrainingText:
    """The training text of one domain: pieces with their licences, in the order of the seed, up to the limit.

    Args:
        recipe: The recipe.
        train: A dataset with the columns `text` and `license`.
    """

    def __init__(self, recipe: SearchRecipe, train: Any) -> None:
        self.recipe = recipe
        self.train = train

    def __iter__(self) -> Iterator[dict[str, str]]:
        left = math.inf if self.recipe.train_bytes is None else self.recipe.train_bytes
        for row in self.train.shuffle(seed=self.recipe.seed):
            size = len(row["text"].encode("utf-8"))
            for piece in cut_documents([row["text"]], self.recipe.document_bytes or size, int(min(size, left))):
                yield {"text": piece, "license": row["license"]}
                left -= len(piece.encode("utf-8"))
            if left <= 0:
                return


def _tokenizer(recipe: SearchRecipe, domains: Mapping[str, Any], folder: Path) -> Any:
    from transformers import AutoTokenizer

    if folder.is_dir():
        return AutoTokenizer.from_pretrained(str(folder))
    bpe = recipe.tokenizer.train_bpe
    if bpe is None:
        tokenizer = AutoTokenizer.from_pretrained(str(recipe.tokenizer.from_pretrained))
    else:
        print(f"Training a tokenizer of {bpe.vocab_size} tokens", flush=True)
        # Equal shares: the tokenizer favours none of the mixtures that are compared.
        budget = bpe.max_bytes // len(domains)
        texts = (
            piece
            for splits in domains.values()
            for piece in cut_documents(_shuffled(recipe, splits["train"]), recipe.document_bytes or budget, budget)
        )
        tokenizer = train_bpe(texts, bpe.vocab_size)
    partial = folder.with_name(".tokenizer.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save_pretrained(str(partial))
    partial.rename(folder)
    return tokenizer


def _facts(text: TrainingText) -> dict[str, Any]:
    counts: collections.Counter[str] = collections.Counter()
    num_bytes = 0
    for row in text:
        counts[row["license"]] += 1
        num_bytes += len(row["text"].encode("utf-8"))
    named = [name for name, _ in counts.most_common(_NAMED_LICENCES)]
    more = len(counts) - len(named)
    return {
        "documents": counts.total(),
        "bytes": num_bytes,
        "licences": [*named, *([f"and {more} more"] if more else [])],
    }


def _check_pack(recipe: SearchRecipe, name: str, split: str, pack: TokenPack) -> None:
    if len(pack.tokens) < recipe.block_size:
        raise ValueError(
            f"{name!r} has {len(pack.tokens)} tokens of {split} text, less than one block of {recipe.block_size}; "
            "lower block_size, raise evaluation, or give it more text"
        )


def _shuffled(recipe: SearchRecipe, dataset: Any) -> Iterator[str]:
    for row in dataset.shuffle(seed=recipe.seed):
        yield row["text"]
