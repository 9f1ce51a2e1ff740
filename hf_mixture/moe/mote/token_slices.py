"""Which tokens of a forward pass count: slices of prompt and response.

Letters: B rows of a batch, S positions of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """The tokens of one forward pass.

    Args:
        input_ids: Token ids [B, S]; None where the model was given embeddings.
        valid: Positions that hold a token of the row, neither padding nor behind the end of its response, bool [B, S].
        is_decode: Whether the pass continues a cache, so that its tokens belong to the response.
        num_past: Positions that the cache held before.
    """

    input_ids: Tensor | None
    valid: Tensor
    is_decode: bool
    num_past: int


TokenSlice: TypeAlias = Literal["prompt", "response", "all"] | int | Callable[[TokenBatch], Tensor]


def check_slice(tokens: TokenSlice) -> None:
    """Refuse what is no token slice.

    Args:
        tokens: The slice.

    Raises:
        ValueError: If it is an unknown word or not a positive number.
    """
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0
    if not (callable(tokens) or is_count or tokens in ("prompt", "response", "all")):
        raise ValueError(
            f"tokens={tokens!r} must be 'prompt', 'response', 'all', a number n > 0 for the last n tokens of the "
            "prompt, or a function of a TokenBatch"
        )


def slice_name(tokens: TokenSlice) -> str:
    """Name a slice in files and reports."""
    if isinstance(tokens, str):
        return tokens
    return f"last {tokens} of the prompt" if isinstance(tokens, int) else getattr(tokens, "__name__", "callable")


def chosen_tokens(tokens: TokenSlice, batch: TokenBatch) -> Tensor:
    """Mark the tokens that count.

    Args:
        tokens: The slice.
        batch: The tokens of a forward pass.

    Returns:
        bool [B, S]; never a position that is not valid.

    Raises:
        ValueError: If a function returns another shape or type.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.mote.token_slices import TokenBatch, chosen_tokens
        >>> valid = torch.tensor([[False, True, True], [True, True, False]])
        >>> chosen_tokens(1, TokenBatch(input_ids=None, valid=valid, is_decode=False, num_past=0)).int().tolist()
        [[0, 0, 1], [0, 1, 0]]
    """
    if callable(tokens):
        marked = tokens(batch)
        if not isinstance(marked, Tensor) or marked.dtype != torch.bool or marked.shape != batch.valid.shape:
            form = f"{marked.dtype} {list(marked.shape)}" if isinstance(marked, Tensor) else type(marked).__name__
            raise ValueError(
                f"tokens={slice_name(tokens)} returned {form}; it must return torch.bool {list(batch.valid.shape)}, "
                "one mark for each position"
            )
        return marked.to(batch.valid.device) & batch.valid
    if tokens == "all":
        return batch.valid
    if tokens == "response":
        return batch.valid if batch.is_decode else torch.zeros_like(batch.valid)
    if batch.is_decode:
        return torch.zeros_like(batch.valid)
    if isinstance(tokens, int):
        # Position counted from the end of the row, padding left out on either side.
        return batch.valid & (batch.valid.flip(-1).cumsum(-1).flip(-1) <= tokens)
    return batch.valid
