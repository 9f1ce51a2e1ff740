"""Index laws, the pinned random stream, and materialisation against the formulas of the paper."""

from __future__ import annotations

import hashlib
import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mixture.adapters.mos.shards import (
    check_ranks,
    draw_indices,
    init_pool_bound,
    materialise,
    num_shards_in_pool,
)


@st.composite
def feasible(draw):
    """Settings with r - p <= (e - p) * L."""
    num_modules = draw(st.integers(1, 12))
    equivalent_rank = draw(st.integers(1, 6))
    private_rank = draw(st.integers(0, equivalent_rank))
    rank = draw(st.integers(max(private_rank, 1), (equivalent_rank - private_rank) * num_modules + private_rank))
    return {
        "rank": rank,
        "equivalent_rank": equivalent_rank,
        "private_rank": private_rank,
        "num_modules": num_modules,
        "num_shards": draw(st.integers(1, 8)),
        "seed": draw(st.integers(0, 2**40)),
        "group": draw(st.sampled_from(["q_proj", "model.layers.down_proj@512x64", "größe"])),
    }


def oracle(*, group, position, rank, equivalent_rank, private_rank, num_modules, num_shards, seed):
    """The pseudo code of the specification, with Python integers and Python's sort."""
    num_public = (equivalent_rank - private_rank) * num_modules * num_shards
    block = range(position * private_rank * num_shards, (position + 1) * private_rank * num_shards)
    result = []
    for matrix in "AB":
        label = json.dumps([seed, group, position, matrix]).encode()
        digest = hashlib.blake2b(label, digest_size=16, person=b"hf_mixture.mos").digest()
        words = [int(x) for x in np.random.Philox(key=int.from_bytes(digest, "big")).random_raw(num_public)]
        low = max(num_public - 1, 0).bit_length()
        permutation = sorted(range(num_public), key=lambda i, words=words, low=low: (words[i] >> low, i))
        result.append(permutation[: (rank - private_rank) * num_shards] + [num_public + i for i in block])
    return result


@settings(max_examples=60, deadline=None)
@given(feasible())
def test_draw_equals_the_specification(case):
    for position in {0, case["num_modules"] - 1}:
        drawn = draw_indices(position=position, **case)
        assert [index.tolist() for index in drawn] == oracle(position=position, **case)


@settings(max_examples=60, deadline=None)
@given(feasible())
def test_index_laws(case):
    total = num_shards_in_pool(case["equivalent_rank"], case["num_modules"], case["num_shards"])
    num_private = case["private_rank"] * case["num_shards"]
    num_public = total - num_private * case["num_modules"]
    private_rows = []
    for position in range(case["num_modules"]):
        index_a, index_b = draw_indices(position=position, **case)
        cut = len(index_a) - num_private
        assert len(index_a) == len(index_b) == case["rank"] * case["num_shards"]
        for index in (index_a, index_b):
            assert len(set(index.tolist())) == len(index)
            assert all(0 <= row < num_public for row in index[:cut].tolist())
        assert index_a[cut:].tolist() == index_b[cut:].tolist()
        private_rows += index_a[cut:].tolist()
    assert private_rows == list(range(num_public, total))


def test_public_draws_are_uniform_and_dissociated():
    case = {"rank": 3, "equivalent_rank": 2, "private_rank": 1, "num_modules": 8, "num_shards": 2, "seed": 3}
    draws = [draw_indices(group=f"g{i}", position=0, **case) for i in range(2000)]
    first = torch.stack([torch.stack(draw) for draw in draws])[:, :, :4].long()  # (draws, matrix, public slots)
    for matrix in (0, 1):
        for slot in range(4):
            counts = torch.bincount(first[:, matrix, slot], minlength=16)
            chi_square = ((counts - 125.0) ** 2 / 125.0).sum().item()
            assert chi_square < 45  # 15 degrees of freedom, p = 8e-5
    agreement = (first[:, 0] == first[:, 1]).float().mean().item()
    assert agreement == pytest.approx(1 / 16, abs=4 * math.sqrt(1 / 16 / 8000))


def test_the_stream_never_changes():
    """Saved adapters may hold a seed in place of indices, so this index has to stay what it is."""
    case = {"rank": 4, "equivalent_rank": 2, "private_rank": 1, "num_modules": 6, "num_shards": 3, "seed": 7}
    index_a, index_b = draw_indices(group="q_proj", position=2, **case)
    assert index_a.tolist() == [16, 10, 13, 1, 4, 12, 7, 6, 11, 24, 25, 26]
    assert index_b.tolist() == [2, 11, 0, 13, 16, 14, 15, 8, 3, 24, 25, 26]


def test_draw_depends_on_the_arguments_alone():
    case = {"rank": 8, "equivalent_rank": 2, "private_rank": 1, "num_modules": 16, "num_shards": 4}

    def draw(position, seed=0, group="q_proj"):
        return [index.tolist() for index in draw_indices(group=group, position=position, seed=seed, **case)]

    forward = [draw(i) for i in range(16)]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    torch.manual_seed(123)
    np.random.seed(123)
    assert [draw(i) for i in reversed(range(16))] == forward[::-1]
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(123).get_state())
    random.setstate(states[0])
    torch.set_rng_state(states[2])

    public = slice(0, 28)
    assert len({tuple(matrix[public]) for pair in forward for matrix in pair}) == 32
    assert all(draw(i, seed=1)[0][public] != forward[i][0][public] for i in range(16))
    assert all(draw(i, group="k_proj")[0][public] != forward[i][0][public] for i in range(16))


def test_ablations():
    case = {"equivalent_rank": 2, "private_rank": 1, "num_modules": 6, "num_shards": 3, "seed": 7, "group": "q_proj"}
    index_a, index_b = draw_indices(position=2, rank=4, **case)
    tied_a, tied_b = draw_indices(position=2, rank=4, pair_dissociation=False, **case)
    assert tied_a.tolist() == tied_b.tolist() == index_a.tolist() != index_b.tolist()
    pure = draw_indices(position=2, rank=7, subset_selection=False, **case)
    assert pure[0].tolist() == pure[1].tolist() == [*range(18), 24, 25, 26]


@pytest.mark.parametrize(
    ("ranks", "parts"),
    [
        (
            (16, 2, 1, 12),
            ["r=16", "16 - 1 <= (2 - 1) * 12", "r to at most 13", "private_rank to 0", "rank to at least 3"],
        ),
        ((5, 2, 1, 1), ["r=5", "'q_proj'", "r to at most 2", "equivalent_rank to at least 5"]),
        ((2, 4, 3, 8), ["private_rank=3", "[0, 2]"]),
        ((2, 4, -1, 8), ["private_rank=-1"]),
        ((4, 2, 2, 8), ["r to at most 2", "private_rank to 1"]),
    ],
)
def test_infeasible_ranks_name_value_rule_and_remedy(ranks, parts):
    names = ("rank", "equivalent_rank", "private_rank", "num_modules")
    with pytest.raises(ValueError) as error:
        draw_indices(group="q_proj", position=0, num_shards=2, seed=0, **dict(zip(names, ranks, strict=True)))
    for part in parts:
        assert part in str(error.value)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 6), st.integers(1, 12))
def test_named_remedies_are_the_smallest_that_work(rank, equivalent_rank, private_rank, num_modules):
    def works(rank, equivalent_rank, private_rank):
        return 0 <= private_rank <= min(rank, equivalent_rank) and (
            rank - private_rank <= (equivalent_rank - private_rank) * num_modules
        )

    case = {"group": "g", "num_modules": num_modules}
    try:
        check_ranks(rank=rank, equivalent_rank=equivalent_rank, private_rank=private_rank, **case)
    except ValueError as error:
        message = str(error)
        assert not works(rank, equivalent_rank, private_rank)
    else:
        assert works(rank, equivalent_rank, private_rank)
        return
    if "too large" not in message:
        return
    ranks = [r for r in range(1, rank) if works(r, equivalent_rank, private_rank)]
    assert f"lower r to at most {ranks[-1]}" in message
    privates = [p for p in range(private_rank) if works(rank, equivalent_rank, p)]
    assert (f"lower private_rank to {privates[-1]}" in message) if privates else ("private_rank to" not in message)
    equivalent = next(e for e in range(equivalent_rank, 100) if works(rank, e, private_rank))
    assert f"raise equivalent_rank to at least {equivalent}" in message


def test_pure_sharing_names_the_rank_it_needs():
    with pytest.raises(ValueError, match=r"r=16 .*set r=13 "):
        check_ranks(group="q_proj", rank=16, equivalent_rank=2, private_rank=1, num_modules=12, subset_selection=False)


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_materialise_concatenates_shards(num_shards):
    """Row j of A is the concatenation of its l shards, which is what slicing with stride l and concatenating gives."""
    case = {"rank": 5, "equivalent_rank": 2, "private_rank": 1, "num_modules": 6, "seed": 0, "group": "q_proj"}
    pool = torch.randn(num_shards_in_pool(2, 6, num_shards), 24 // num_shards)
    index, _ = draw_indices(position=3, num_shards=num_shards, **case)
    factor = materialise(pool, index, num_shards)
    gathered = pool[index.long()]
    strided = torch.cat([gathered[start::num_shards] for start in range(num_shards)], dim=1)
    assert torch.equal(factor, strided)
    assert torch.equal(factor, gathered.reshape(5, 24))
    stacked = materialise(pool, torch.stack([index, index.flip(0)]), num_shards)
    assert torch.equal(stacked[0], factor)
    assert stacked.shape == (2, 5, 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gather_runs_where_the_pool_is():
    pool = torch.nn.Parameter(torch.randn(8, 4))
    index = torch.tensor([5, 0, 7, 2], dtype=torch.int32)
    factor = materialise(pool, index.cuda(), num_shards=2)
    assert factor.is_cuda
    assert torch.equal(factor.cpu(), materialise(pool, index, num_shards=2))
    factor.sum().backward()
    assert pool.grad.sum() == 16


def test_pool_bound_is_the_fan_of_the_module():
    reference = torch.empty(4096, 64)
    torch.nn.init.kaiming_uniform_(reference, a=math.sqrt(5))
    assert init_pool_bound(64) == pytest.approx(reference.abs().max().item(), rel=1e-3)
