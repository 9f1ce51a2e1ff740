"""The latents of the primary in the cache of a generation."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from hf_mixture.models.mixture_of_thoughts.cache import LatentLayer


def test_latents_with_room_are_those_that_are_copied():
    generator = torch.Generator().manual_seed(0)
    ours, stock = LatentLayer(), DynamicLayer()
    peers = [torch.randn(2, 2, 3, 4, generator=generator) for _ in range(2)]

    def grow(num_tokens):
        states = [torch.randn(len(peers[0]), 2, num_tokens, 4, generator=generator) for _ in range(2)]
        with torch.no_grad():
            found, own = ours.update(*states, *peers), stock.update(*states)
        expected = [torch.cat(parts, dim=-2) for parts in zip(peers, own, strict=True)]
        assert all(map(torch.equal, found, expected))
        assert torch.equal(ours.keys, own[0])
        return found

    def both(name, *args):
        for layer in (ours, stock):
            getattr(layer, name)(*args)

    def select(rows):
        peers[:] = [part[rows] for part in peers]

    grow(3)
    early = grow(1)[0]
    kept = early.clone()
    for _ in range(20):
        grow(1)
    both("reorder_cache", torch.tensor([1, 1]))
    select([1, 1])
    grow(2)
    both("crop", -3)
    grow(1)
    peers[:] = [torch.cat([part, part + 1], dim=-2) for part in peers]
    grow(1)
    both("batch_repeat_interleave", 2)
    select([0, 0, 1, 1])
    grow(1)
    both("batch_select_indices", torch.tensor([3, 0]))
    select([3, 0])
    grow(40)
    both("reset")
    grow(2)
    assert torch.equal(early, kept)


def test_a_new_token_is_written_where_there_is_room():
    layer, state, peer = LatentLayer(), torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 4, 2)
    with torch.no_grad():
        places = [layer.update(state, state, peer, peer)[0].data_ptr() for _ in range(64)]
    assert len(set(places)) <= 8


def test_latents_carry_gradients_through_the_cache():
    layer, part, peer = LatentLayer(), torch.ones(1, 1, 1, 2, requires_grad=True), torch.ones(1, 1, 3, 2)
    layer.update(part, part, peer, peer)
    keys, _ = layer.update(2 * part, part, peer, peer)
    assert keys.shape[-2] == 5
    keys.sum().backward()
    assert part.grad.eq(3).all()
