"""What the primary can see of its peers: keys and values of each level, and who sees which token.

Letters: B rows, b of them, T tokens of the primary in its first pass, N tokens of peers, H heads, R latent size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PeerStates:
    """What one peer thinks about the rows it has read.

    Args:
        rows: Rows of the batch that it has read [b], rising.
        ends: End character of each of its tokens [b, N]; `NEVER` for padding.
        latents: For each level [b, N, R].
    """

    rows: Tensor
    ends: Tensor
    latents: list[Tensor]


@dataclass
class PeerLatents:
    """Keys and values of all peers of a batch.

    Args:
        keys: For each level [B, H, N, R/H].
        values: For each level [B, H, N, R/H].
        first_mask: Which tokens each token of the primary's first pass sees [B, T, N].
        open_mask: Which tokens every later token sees [B, N].
    """

    keys: list[Tensor]
    values: list[Tensor]
    first_mask: Tensor
    open_mask: Tensor

    def fit_rows(self, rows: int) -> None:
        """Repeat each row for its beams or samples, as generation repeats the prompts before its first pass."""
        if rows != self.open_mask.shape[0]:
            self.repeat_interleave(rows // self.open_mask.shape[0])

    def repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self.select(torch.arange(self.open_mask.shape[0], device=self.open_mask.device).repeat_interleave(repeats))

    def select(self, rows: Tensor) -> None:
        """Keep rows, in this order."""
        self.keys = [keys[rows.to(keys.device)] for keys in self.keys]
        self.values = [values[rows.to(values.device)] for values in self.values]
        self.first_mask = self.first_mask[rows.to(self.first_mask.device)]
        self.open_mask = self.open_mask[rows.to(self.open_mask.device)]

    def append(self, keys: list[Tensor], values: list[Tensor], mask: Tensor) -> None:
        """Add tokens that peers have read since; the tokens of the first pass do not see them.

        Args:
            keys: For each level [B, H, n, R/H].
            values: For each level [B, H, n, R/H].
            mask: Which of them are no padding [B, n].
        """
        self.keys = [torch.cat(pair, dim=-2) for pair in zip(self.keys, keys, strict=True)]
        self.values = [torch.cat(pair, dim=-2) for pair in zip(self.values, values, strict=True)]
        self.open_mask = torch.cat([self.open_mask, mask.to(self.open_mask)], dim=-1)
        unseen = self.first_mask.new_zeros(*self.first_mask.shape[:2], mask.shape[-1])
        self.first_mask = torch.cat([self.first_mask, unseen], dim=-1)

    def mask(self, start: int, stop: int) -> Tensor:
        """Which tokens of the peers the tokens from `start` to `stop` of the primary see [B, stop - start, N]."""
        first = self.first_mask[:, start:stop]
        num_later = stop - start - first.shape[1]
        return torch.cat([first, self.open_mask.unsqueeze(1).expand(-1, num_later, -1)], dim=1)
