"""Texts to token ids, in this process or in several.

Letters: D documents.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import connection, parent_process
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


_CHUNK = 256
_tokenizer: Any = None


class Encoded(NamedTuple):
    """Tokenised documents, one after the other.

    Args:
        ids: int64 [sum of the lengths].
        lengths: int64 [D].
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts as they stand: nothing is added, and the name of a special token is ordinary text.

    Args:
        tokenizer: A fast tokenizer of transformers.
        texts: The texts.

    Returns:
        Token ids of each text.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def separator_id(tokenizer: Any) -> int:
    """Return the id of the token that stands before and after every document: end of text, or start of text.

    Raises:
        ValueError: If the tokenizer has neither.
    """
    for value in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if value is not None:
            return int(value)
    raise ValueError("the tokenizer has neither an eos nor a bos token to separate documents; set one of them")


def tokenizer_hash(tokenizer: Any) -> str:
    """Return what identifies a tokenizer: equal hashes mean equal token ids for every text.

    Raises:
        TypeError: It is not a fast tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"tokenizer is a {type(tokenizer).__name__}; it must be a fast tokenizer of transformers")
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def encode_stream(texts: Iterator[str], tokenizer: Any, separator: int | None, num_proc: int) -> Iterator[Encoded]:
    """Tokenise a stream of texts, in order.

    Args:
        texts: The texts.
        tokenizer: A fast tokenizer of transformers.
        separator: Token id that each document begins with, or None.
        num_proc: Processes; 1 is this one.

    Yields:
        Documents, some hundreds at a time.
    """
    chunks = iter(lambda: list(islice(texts, _CHUNK)), [])
    if num_proc == 1:
        for chunk in chunks:
            yield encode_documents(tokenizer, chunk, separator)
        return
    with ProcessPoolExecutor(num_proc, initializer=_start_worker, initargs=(tokenizer,)) as pool:
        # Few chunks ahead of the writer, so that a long stream does not pile up in memory.
        ahead: deque[Future[Encoded]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(_encode_in_worker, chunk, separator))
            if len(ahead) > 2 * num_proc:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def encode_documents(tokenizer: Any, texts: list[str], separator: int | None) -> Encoded:
    """Tokenise some texts; each document begins with the separator, if there is one."""
    before = [] if separator is None else [separator]
    documents = [before + ids for ids in encode(tokenizer, texts)]
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    return Encoded(np.fromiter(chain.from_iterable(documents), np.int64, int(lengths.sum())), lengths)


def _start_worker(tokenizer: Any) -> None:
    global _tokenizer  # noqa: PLW0603 - the state of a worker process
    _tokenizer = tokenizer
    threading.Thread(target=leave_with_parent, daemon=True).start()


def leave_with_parent() -> None:
    """Wait for the end of the parent, then leave: a pool whose parent was killed would wait for work for ever."""
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
    os._exit(1)


def _encode_in_worker(texts: list[str], separator: int | None) -> Encoded:
    return encode_documents(_tokenizer, texts, separator)
