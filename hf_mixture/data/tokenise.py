"""Tokenise once: texts to a `TokenPack`, in parallel, and continued where it was interrupted.

The documents are written in their order by one process, while others tokenise. `progress.json` says up to where the
files are valid; a run that continues cuts them there and goes on. The pack therefore has the same bytes whatever
happened on the way and however many processes worked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.data import pack_files
from hf_mixture.data.encoding import encode_documents, encode_stream, separator_id, tokenizer_hash
from hf_mixture.data.pack import TokenPack
from hf_mixture.data.pack_files import HEADER
from hf_mixture.data.pack_writer import PROGRESS, PackWriter, check_same


_BATCH = 256


def pack_tokens(
    dataset: Any,
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    column: str = "text",
    separator: int | str | None = "auto",
    num_proc: int = 1,
) -> TokenPack:
    """Tokenise the texts of a dataset into a pack, or continue what an interrupted call left in the folder.

    Text is tokenised as it stands: the name of a special token in it is ordinary text. Each document begins with the
    separator, so that the stream is `separator document separator document ...`. The bytes of the pack depend on the
    texts, the tokenizer and the separator only: not on `num_proc`, and not on interruptions, at whatever moment.

    Args:
        dataset: A `datasets.Dataset` or `datasets.IterableDataset`, whose rows come in the same order every time, or
            any sequence of rows. When a stream is continued, its first part is read again and not tokenised again.
        tokenizer: A fast tokenizer of transformers.
        folder: Where the pack is to be, created when absent.
        column: Column with the text.
        separator: Token id that each document begins with. `"auto"`: the tokenizer's end of text, else its start of
            text. None: no separator. Default: `"auto"`.
        num_proc: Processes that tokenise. Default: 1.

    Returns:
        The pack; that of an earlier call, when it is finished.

    Raises:
        ValueError: The folder holds something else, or what another dataset, tokenizer, column or separator began;
            the column is missing or holds no text.

    Example:
        ```python
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from hf_mixture.data.tokenise import pack_tokens
        >>> words = Tokenizer(models.WordLevel({"<end>": 0, "one": 1, "two": 2, "?": 3}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="?")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pack = pack_tokens(Dataset.from_dict({"text": ["one two", "two"]}), tokenizer, folder)
        ...     pack.tokens.tolist(), pack.offsets.tolist()
        ([0, 1, 2, 0, 2], [0, 3, 5])

        ```
    """
    from tqdm.auto import tqdm

    if isinstance(num_proc, bool) or not isinstance(num_proc, int) or num_proc < 1:
        raise ValueError(f"num_proc={num_proc!r} is not an integer >= 1; give the number of processes")
    columns = getattr(dataset, "column_names", None)
    if columns is not None and column not in columns:
        raise ValueError(f"the dataset has no column {column!r}; it has {columns}: name the text by column=")
    vocab_size = max(tokenizer.get_vocab().values()) + 1
    first = separator_id(tokenizer) if separator == "auto" else separator
    if first is not None and (isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < vocab_size):
        raise ValueError(
            f"separator={separator!r} is not 'auto', None or a token id in [0, {vocab_size}); choose one of them"
        )
    facts = {
        "tokenizer": {"name": tokenizer.name_or_path, "sha256": tokenizer_hash(tokenizer)},
        "source": {"fingerprint": _fingerprint(dataset), "column": column, "separator": first},
    }
    place = Path(folder)
    if (place / HEADER).exists():
        pack = TokenPack(place)
        check_same(place / HEADER, pack.header, facts)
        (place / PROGRESS).unlink(missing_ok=True)
        return pack
    writer = PackWriter(place, pack_files.dtype_for(vocab_size), facts)
    with writer:
        texts = _texts(dataset, column, skip=max(writer.num_documents - 1, 0))
        if writer.num_documents:
            _check_last(writer, texts, tokenizer, first)
        total = len(dataset) if hasattr(dataset, "__len__") else None
        with tqdm(total=total, initial=writer.num_documents, unit="doc", desc="tokenising", delay=2.0) as bar:
            for ids, lengths in encode_stream(texts, tokenizer, first, num_proc):
                writer.append(ids, lengths)
                bar.update(len(lengths))
    pack_files.write_header(place, dtype=writer.dtype, vocab_size=vocab_size, **facts)
    (place / PROGRESS).unlink(missing_ok=True)
    return TokenPack(place)


def _texts(dataset: Any, column: str, *, skip: int) -> Iterator[str]:
    """The texts from row `skip` on."""
    from datasets import Dataset, IterableDataset

    batches: Iterable[Sequence[Any]]
    if isinstance(dataset, Dataset):
        chosen = dataset.select_columns([column]).select(range(skip, len(dataset)))
        batches = (batch[column] for batch in chosen.iter(batch_size=_BATCH))
    elif isinstance(dataset, IterableDataset):
        batches = (batch[column] for batch in dataset.skip(skip).iter(batch_size=_BATCH))
    else:
        batches = ([row[column]] for row in islice(iter(dataset), skip, None))
    for number, text in enumerate(chain.from_iterable(batches), start=skip):
        if not isinstance(text, str):
            raise ValueError(
                f"row {number} has {column}={text!r}, a {type(text).__name__}; it must be text: choose another "
                "column, or filter such rows"
            )
        yield text


def _check_last(writer: PackWriter, texts: Iterator[str], tokenizer: Any, separator: int | None) -> None:
    text = next(texts, None)
    if text is None or not np.array_equal(encode_documents(tokenizer, [text], separator).ids, writer.last_document()):
        raise ValueError(
            f"row {writer.num_documents - 1} of the dataset is not what {str(writer.folder)!r} was written from; the "
            "data has changed: start again in an empty folder"
        )


def _fingerprint(dataset: Any) -> str | None:
    from datasets import Dataset

    from hf_mixture._compat.datasets import fingerprint_of

    return fingerprint_of(dataset) if isinstance(dataset, Dataset) else None
