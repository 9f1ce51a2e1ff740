"""The cache of a generation: that of the primary, its latents of every level, and what its peers have said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.peers import PeerLatents
    from hf_mixture.models.mixture_of_thoughts.streaming import PeerReaders


class LatentLayer(DynamicLayer):
    """Keys and values of the latents of one level, with room for tokens to come.

    Where no gradients flow, a new token is written into the room, which doubles when it is full; all others stay where
    they are.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: tuple[Tensor, Tensor] | None = None
        self._written: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the latents of new tokens [B, H, T, R/H] and return those of all [B, H, S, R/H]."""
        start = self.get_seq_length()
        if torch.is_grad_enabled() or start == 0:
            keys, values = super().update(key_states, value_states, *args, **kwargs)
            return keys, values
        stop = start + key_states.shape[-2]
        # Beam search and cropping put tensors of their own in the place of what was written here.
        if self._rooms is None or self.keys is not self._written or self._rooms[0].shape[-2] < stop:
            self._rooms = _with_room(self.keys, 2 * stop), _with_room(self.values, 2 * stop)
        keys, values = self._rooms
        keys[:, :, start:stop] = key_states
        values[:, :, start:stop] = value_states
        self.keys, self.values = keys[:, :, :stop], values[:, :, :stop]
        self._written = self.keys
        return self.keys, self.values


def _with_room(states: Tensor, num_tokens: int) -> Tensor:
    room = states.new_empty(*states.shape[:2], num_tokens, states.shape[-1])
    room[:, :, : states.shape[-2]] = states
    return room


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
        self.layers += [LatentLayer() for _ in range(num_interactions)]
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
