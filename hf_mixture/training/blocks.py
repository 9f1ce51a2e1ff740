"""Text to token ids to blocks of fixed length, and the windows in which held-out text is scored.

Shapes: N windows, T tokens in one window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


def pack(
    documents: Iterable[tuple[Sequence[int], int]], block_size: int, separator: int
) -> Iterator[tuple[list[int], int]]:
    """Cut the stream `separator document separator document ...` into blocks; an incomplete last block is dropped.

    Args:
        documents: Token ids and UTF-8 bytes of each document.
        block_size: Tokens in one block, at least 1.
        separator: Id of the token between documents.

    Yields:
        `block_size` token ids and the bytes that they stand for; the bytes of a document are shared out evenly over
        its tokens, and a separator has none.

    Example:
        >>> from hf_mixture.training.blocks import pack
        >>> list(pack([([5, 6], 8), ([7, 8, 9], 3)], block_size=3, separator=0))
        [([0, 5, 6], 8), ([0, 7, 8], 2)]
    """
    ids: list[int] = []
    sizes: list[float] = []
    for document, num_bytes in documents:
        ids += [separator, *document]
        sizes += [0.0, *[num_bytes / max(1, len(document))] * len(document)]
        full = len(ids) - len(ids) % block_size
        for start in range(0, full, block_size):
            yield ids[start : start + block_size], round(sum(sizes[start : start + block_size]))
        del ids[:full], sizes[:full]


@dataclass(frozen=True)
class Windows:
    """Held-out text, cut so that every token is predicted exactly once.

    Args:
        input_ids (`torch.Tensor` of shape `(N, T)`): The stream, each window starting with the last token of the
            window before.
        scored (`torch.Tensor` of shape `(N, T - 1)`): Whether the token after each position counts.
        num_bytes: UTF-8 bytes of the text.
    """

    input_ids: torch.Tensor
    scored: torch.Tensor
    num_bytes: int


def scoring_windows(documents: Sequence[Sequence[int]], num_bytes: int, window_size: int, separator: int) -> Windows:
    """Cut documents into overlapping windows for `hf_mixture.training.scoring.total_nats`.

    The stream is that of `pack`. A separator is given, never scored: it is no part of the text. The first token of a
    document is therefore predicted from the separator alone (and what stands before it), and every token of every
    document is predicted once, from at most `window_size - 1` tokens.

    Args:
        documents: Token ids of each document.
        num_bytes: UTF-8 bytes of the documents' text.
        window_size: Tokens in one window, at least 2.
        separator: Id of the token between documents.

    Returns:
        The windows; the last one is padded with separators that do not count.

    Raises:
        ValueError: If there is no token to score.

    Example:
        >>> from hf_mixture.training.blocks import scoring_windows
        >>> windows = scoring_windows([[5, 6], [7]], num_bytes=3, window_size=3, separator=0)
        >>> windows.input_ids.tolist(), windows.scored.tolist()
        ([[0, 5, 6], [6, 0, 7]], [[True, True], [False, True]])
    """
    import torch

    stream: list[int] = []
    counts: list[bool] = []
    for document in documents:
        stream += [separator, *document]
        counts += [False, *[True] * len(document)]
    if not any(counts):
        raise ValueError("the held-out text is empty; raise evaluation.test_bytes or choose a larger domain")
    step = window_size - 1
    # The first separator is context alone, so len(stream) - 1 tokens are to be predicted, step of them in a window.
    num_windows = -(-(len(stream) - 1) // step)
    padding = num_windows * step + 1 - len(stream)
    ids = torch.tensor(stream + [separator] * padding)
    keep = torch.tensor(counts[1:] + [False] * padding)
    return Windows(ids.unfold(0, window_size, step), keep.view(num_windows, step), num_bytes)


def cut_documents(texts: Iterable[str], document_bytes: int, total_bytes: int) -> list[str]:
    """Take the beginning of each text until a budget is spent; cuts fall between characters.

    Args:
        texts: Texts in the order to take them.
        document_bytes: Most UTF-8 bytes taken from one text.
        total_bytes: Most UTF-8 bytes taken together.

    Returns:
        The pieces, none of them empty.

    Example:
        >>> from hf_mixture.training.blocks import cut_documents
        >>> cut_documents(["abcdef", "é!", "xyz"], document_bytes=4, total_bytes=8)
        ['abcd', 'é!', 'x']
    """
    pieces = []
    left = total_bytes
    for text in texts:
        piece = text.encode("utf-8")[: min(document_bytes, left)].decode("utf-8", errors="ignore")
        if piece:
            pieces.append(piece)
            left -= len(piece.encode("utf-8"))
        if left <= 0:
            break
    return pieces
