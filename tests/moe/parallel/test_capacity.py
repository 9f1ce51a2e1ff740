"""Which tokens experts of limited capacity take, against a loop in pure Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hf_mixture import CapacityOptions, dropped_share, set_capacity_options
from hf_mixture.moe.parallel.capacity import keep_capacity


def oracle(index: list[list[int]], weights: list[list[float]] | None, capacity: int) -> list[list[bool]]:
    """The slow, obvious way."""
    kept = [[False for _ in row] for row in index]
    for expert in {expert for row in index for expert in row}:
        pairs = [(t, k) for t, row in enumerate(index) for k, chosen in enumerate(row) if chosen == expert]
        if weights is not None:
            pairs = sorted(pairs, key=lambda pair: (-weights[pair[0]][pair[1]], pair))
        for t, k in pairs[:capacity]:
            kept[t][k] = True
    return kept


@pytest.mark.parametrize("seed", range(50))
def test_as_a_loop_says(seed):
    """Acceptance check 3, with ties, empty experts and every capacity."""
    generator = torch.Generator().manual_seed(seed)
    num_experts, top_k = 1 + seed % 7, 1 + seed % 3
    index = torch.randint(0, num_experts, (13, top_k), generator=generator)
    weights = torch.randint(0, 4, (13, top_k), generator=generator) / 4
    for capacity in (0, 1, 2, 5, 13 * top_k):
        for given in (weights, None):
            kept = keep_capacity(index, given, capacity, num_experts)
            wanted = oracle(index.tolist(), None if given is None else given.tolist(), capacity)
            assert kept.tolist() == wanted


def test_no_tokens():
    index = torch.zeros(0, 2, dtype=torch.long)
    assert keep_capacity(index, torch.zeros(0, 2), 3, 4).shape == (0, 2)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dropped_from_the_largest_share_on(seed):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, 8, (64, 2), generator=generator)
    largest = int(torch.bincount(index.flatten()).max())
    options = CapacityOptions(factor=8 * largest / 128)
    assert options.capacity(128, 8) >= largest
    assert keep_capacity(index, None, options.capacity(128, 8), 8).all()
    fewer = CapacityOptions(factor=8 * (largest - 1) / 128)
    assert not keep_capacity(index, None, fewer.capacity(128, 8), 8).all()


def test_the_capacity_is_rounded_up():
    for pairs, experts, factor in ((100, 8, 1.0), (64, 8, 1.25), (7, 8, 0.5)):
        assert CapacityOptions(factor=factor).capacity(pairs, experts) == math.ceil(pairs / experts * factor)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"factor": 0}, "factor=0 is not a positive number"),
        ({"factor": float("nan")}, "factor=nan is not a positive number"),
        ({"factor": "1"}, "factor='1' is not a positive number"),
        ({"policy": "best"}, "policy='best' is none of 'probs', 'position'"),
        ({"scope": "batch"}, "scope='batch' is none of 'sub_sequence', 'sequence'"),
    ],
)
def test_options_are_checked(values, said):
    with pytest.raises(ValueError, match=said):
        CapacityOptions(**values)


def test_other_models_have_no_capacity():
    with pytest.raises(ValueError, match="no layer with ep_implementation"):
        set_capacity_options(nn.Linear(1, 1), CapacityOptions())
    with pytest.raises(ValueError, match="no layer with ep_implementation"):
        dropped_share(nn.Linear(1, 1))
