"""The cache of a generation: that of the primary, its latents of every level, and what its peers have said.

Letters: B rows, T new tokens of the primary, S all of them, N tokens of all peers, H heads, R latent size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.peers import PeerLatents
    from hf_mixture.models.mixture_of_thoughts.streaming import PeerReaders


class LatentLayer(DynamicLayer):
    """Keys and values of the latents of one level, behind those of the peers, with room for tokens to come.

    Where no gradients flow, a new token is written into the room, which doubles when it is full; all others stay where
    they are, and a step attends to one tensor that nobody has to put together.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: tuple[Tensor, Tensor] | None = None
        self._written: Tensor | None = None
        self._peer_keys: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, peer_keys: Tensor, peer_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the latents of new tokens [B, H, T, R/H] and return those of peers and all tokens [B, H, N + S, R/H]."""
        if torch.is_grad_enabled():
            keys, values = super().update(key_states, value_states)
            return torch.cat([peer_keys, keys], dim=-2), torch.cat([peer_values, values], dim=-2)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        num_peer, start = peer_keys.shape[-2], self.get_seq_length()
        first, stop = num_peer + start, num_peer + start + key_states.shape[-2]
        # Beam search and cropping put tensors of their own in the place of what was written here; peers that read
        # along do so with theirs.
        is_ours = self.keys is self._written and peer_keys is self._peer_keys
        if self._rooms is None or not is_ours or self._rooms[0].shape[-2] < stop:
            own = (self.keys, self.values) if start else (key_states[:, :, :0], value_states[:, :, :0])
            size = 2 * stop - num_peer
            self._rooms = _with_room(peer_keys, own[0], size), _with_room(peer_values, own[1], size)
        keys, values = self._rooms
        keys[:, :, first:stop] = key_states
        values[:, :, first:stop] = value_states
        self.keys, self.values = keys[:, :, num_peer:stop], values[:, :, num_peer:stop]
        self._written, self._peer_keys = self.keys, peer_keys
        return keys[:, :, :stop], values[:, :, :stop]


def _with_room(of_peers: Tensor, own: Tensor, num_tokens: int) -> Tensor:
    room = own.new_empty(*own.shape[:2], num_tokens, own.shape[-1])
    num_peer = of_peers.shape[-2]
    room[:, :, :num_peer] = of_peers
    room[:, :, num_peer : num_peer + own.shape[-2]] = own
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
        """Add the latents of new tokens [B, H, T, R/H] and return those of peers and all tokens [B, H, N + S, R/H]."""
        return self.update(
            keys, values, self.first_latent_layer + level, self.peers.keys[level], self.peers.values[level]
        )

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
