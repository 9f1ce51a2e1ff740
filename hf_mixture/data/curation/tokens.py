"""How tokens are counted: by a tokenizer, or as words and punctuation marks."""

from __future__ import annotations

import re
from collections.abc import Callable


_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


def count_words(text: str) -> int:
    """Return the number of words and punctuation marks.

    Example:
        ```python
        >>> count_words("It is, she said.")
        6

        ```
    """
    return len(_WORD_OR_MARK.findall(text))


def token_counter(tokenizer: str | None) -> Callable[[str], int]:
    """Return the function that counts the tokens of a text.

    Args:
        tokenizer: Hub id or folder of a fast tokenizer, or None for words and marks.

    Returns:
        The function.

    Raises:
        ValueError: There is no such tokenizer.
    """
    if tokenizer is None:
        return count_words
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except OSError as error:
        raise ValueError(f"tokenizer={tokenizer!r} cannot be read: {str(error).splitlines()[0]}") from None
    backend = loaded.backend_tokenizer
    return lambda text: len(backend.encode(text, add_special_tokens=False))
