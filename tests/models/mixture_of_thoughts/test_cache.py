"""The latents of the primary in the cache of a generation."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from hf_mixture.models.mixture_of_thoughts.cache import LatentLayer


def test_latents_with_room_are_those_that_are_copied():
    generator = torch.Generator().manual_seed(0)
    ours, stock = LatentLayer(), DynamicLayer()

    def grow(num_tokens):
        states = [
            torch.randn(ours.keys.shape[0] if ours.is_initialized else 2, 2, num_tokens, 4, generator=generator)
            for _ in range(2)
        ]
        with torch.no_grad():
            found, expected = ours.update(*states), stock.update(*states)
        assert all(map(torch.equal, found, expected))
        return found

    def both(name, *args):
        for layer in (ours, stock):
            getattr(layer, name)(*args)

    grow(3)
    early = grow(1)[0]
    kept = early.clone()
    for _ in range(20):
        grow(1)
    both("reorder_cache", torch.tensor([1, 1]))
    grow(2)
    both("crop", -3)
    grow(1)
    both("batch_repeat_interleave", 2)
    grow(1)
    both("batch_select_indices", torch.tensor([3, 0]))
    grow(40)
    both("reset")
    grow(2)
    assert torch.equal(early, kept)


def test_latents_carry_gradients_through_the_cache():
    layer, part = LatentLayer(), torch.ones(1, 1, 1, 2, requires_grad=True)
    layer.update(part, part)
    keys, _ = layer.update(2 * part, part)
    keys.sum().backward()
    assert part.grad.eq(3).all()
