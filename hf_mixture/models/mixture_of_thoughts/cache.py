"""The cache of a generation: that of the primary, its latents of every level, and what its peers have said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.peers import PeerLatents
    from hf_mixture.models.mixture_of_thoughts.streaming import PeerReaders


class MotCache(DynamicCache):
    """Keys and values of the primary, followed by those of its latents, one more layer for each interaction level.

    Beam search, cropping and batch selection act on all of them alike; the latents of the peers follow the rows, and
    keep their tokens when the primary takes tokens back.

    Args:
        config: Configuration of the primary.
        num_interactions: Number of interaction levels.
        peers: What the primary sees of its peers.
    """

    def __init__(self, config: PreTrainedConfig, num_interactions: int, peers: PeerLatents) -> None:
        super().__init__(config=config)
        self.first_latent_layer = len(self.layers)
        self.layers += [DynamicLayer() for _ in range(num_interactions)]
        self.peers = peers
        self.readers: PeerReaders | None = None

    @property
    def is_compileable(self) -> bool:
        """Never: the latents grow."""
        return False

    def update_latents(self, keys: Tensor, values: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Add the latents of new tokens [B, H, T, R/H] and return those of all [B, H, S, R/H]."""
        return self.update(keys, values, self.first_latent_layer + level)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        rows = self.peers.open_mask.shape[0]
        self._select(torch.arange(rows).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep rows, in this order."""
        super().batch_select_indices(indices)
        self._select(indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens of the primary back."""
        if self.readers is not None:
            raise ValueError("a cache of peer_decode='stream' cannot be cropped: its peers have read those tokens")
        super().crop(tokens_to_remove)

    def _select(self, rows: Tensor) -> None:
        self.peers.select(rows)
        if self.readers is not None:
            self.readers.select(rows)
