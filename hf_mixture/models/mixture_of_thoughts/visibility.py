"""Who may see whom across tokenizers: causality by character offsets.

Every token of every expert ends at some character of the text that all experts read. A token may look at what a peer
says about a word only when it knows that word, and that it is complete.

Letters: B rows, T tokens of the primary, N tokens of a peer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


# End of a padding token: after every character, so that nobody sees it.
NEVER = torch.iinfo(torch.int64).max


def known_ends(spans: Sequence[tuple[int, int]]) -> list[int]:
    """The last character that each token of a text completes.

    Byte-level tokenizers split a character over several tokens and give each of them the span of the whole character.
    A token knows a character only if no later token begins before its end.

    Args:
        spans: Start and end character of each token, in the order of the text.

    Returns:
        For each token the number of characters that are complete after it.
    """
    ends: list[int] = []
    next_start = NEVER
    for start, end in reversed(spans):
        ends.append(min(end, next_start))
        next_start = min(next_start, start)
    return ends[::-1]


def committed_ends(text: str, prompt_end: int) -> list[int]:
    """Up to where a primary may hear its peers, for each number of characters that it knows: the last complete word.

    What comes after a character can change the tokens of the word it lies in, so that even the ends of a peer's tokens
    would tell of the future. Tokenizers split a text before a space that follows another character: what comes before
    it keeps its tokens whatever follows. A prompt is read as a whole once all of it is known.

    Args:
        text: The text.
        prompt_end: Number of characters of the prompt.

    Returns:
        For each number of known characters, from 0 to that of the text, the end of what peers may tell.
    """
    committed, ends = 0, []
    for known in range(len(text) + 1):
        if known >= 2 and text[known - 1].isspace() and not text[known - 2].isspace():
            committed = known - 1
        ends.append(max(committed, prompt_end) if known >= prompt_end else committed)
    return ends


def visible(query_ends: Tensor, key_ends: Tensor) -> Tensor:
    """Which tokens of a peer a token of the primary may see: those that end where it ends, or before.

    Args:
        query_ends: Up to which character each token of the primary may hear its peers [B, T].
        key_ends: End character of each token of the peer [B, N]; `NEVER` for padding.

    Returns:
        Mask [B, T, N], True where the key is visible.
    """
    return key_ends.unsqueeze(-2) <= query_ends.unsqueeze(-1)


def own_visible(attention_mask: Tensor, num_queries: int) -> Tensor:
    """Which of its own tokens a token of the primary may see: itself and earlier ones that are no padding.

    Order decides here, not characters: the parts of one character end at the same place.

    Args:
        attention_mask: 1 for tokens, 0 for padding, earlier tokens in the cache included [B, S].
        num_queries: T, the last T of the S tokens ask.

    Returns:
        Mask [B, T, S]; every token sees itself, padding too, so that no row is empty.
    """
    num_keys = attention_mask.shape[-1]
    keys = torch.arange(num_keys, device=attention_mask.device)
    queries = keys[num_keys - num_queries :].unsqueeze(-1)
    seen = (keys <= queries) & attention_mask.bool().unsqueeze(-2)
    return seen | (keys == queries)
