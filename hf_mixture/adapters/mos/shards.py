"""Mixture of Shards (arXiv 2410.00938) as pure functions: which shards a module picks, and how they form its factors.

Letters used here and in the other files of this folder:
    r  active rank of a module's A (r, in) and B (out, r)
    e  equivalent rank: the pools of a group hold as many parameters as rank-e LoRA on its modules
    p  private rank of each module, counted inside e
    l  shards per vector (`num_shards`)
    L  modules that share one pair of pools (`num_modules`)
    n  shards in one pool, e * L * l
    w  width of a shard, features / l

Rows [0, (e - p) * L * l) of a pool are public; after them module i owns the p * l rows that start at
(e - p) * L * l + i * p * l. The "mixture" is the index below: drawn once, never trained, the same for every input.
"""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import torch
from torch import Tensor

from hf_mixture.adapters.mos.gather import gather_rows


def num_shards_in_pool(equivalent_rank: int, num_modules: int, num_shards: int) -> int:
    """Number of shards n = e * L * l in one pool.

    Args:
        equivalent_rank: e, the rank of the LoRA with the same trainable budget.
        num_modules: L, the modules that share the pool.
        num_shards: l, shards per vector.

    Returns:
        The number of rows of the pool.

    Example:
        >>> num_shards_in_pool(equivalent_rank=2, num_modules=32, num_shards=4)
        256
    """
    return equivalent_rank * num_modules * num_shards


def init_pool_bound(in_features: int) -> float:
    """Half-width 1 / sqrt(in) of the uniform law from which the A pool is drawn.

    This is the Kaiming-uniform bound of LoRA's A. Its fan is the full input width of the module and not the width of
    a shard, so the scale of A does not depend on the number of shards.

    Args:
        in_features: Input width of the modules that share the pool.

    Returns:
        The bound b of U(-b, b).

    Example:
        >>> init_pool_bound(64)
        0.125
    """
    return 1.0 / math.sqrt(in_features)


def draw_indices(
    *,
    group: str,
    position: int,
    rank: int,
    equivalent_rank: int,
    private_rank: int,
    num_modules: int,
    num_shards: int,
    seed: int,
    subset_selection: bool = True,
    pair_dissociation: bool = True,
) -> tuple[Tensor, Tensor]:
    """Draw the shard indices of one module, for its A and for its B.

    The first (r - p) * l entries are public shards, drawn without replacement; the last p * l are the module's own
    private block in order, so that private vectors of A and B stay paired. A and B have separate public draws
    (pair dissociation). A draw depends on nothing but the arguments: neither on the global generators, nor on the
    versions of torch and numpy, nor on the order in which modules are visited.

    Args:
        group: Name of the pool group.
        position: Position i of the module inside its group, in [0, num_modules).
        rank: r, with p <= r and r - p <= (e - p) * L.
        equivalent_rank: e.
        private_rank: p, in [0, e].
        num_modules: L.
        num_shards: l.
        seed: Seed of the adapter; another seed gives other indices.
        subset_selection: False gives every module all public shards in pool order ("pure sharing"), which asks for
            r == (e - p) * L + p. Both matrices then have the same index whatever `pair_dissociation` says.
        pair_dissociation: False gives B the public draw of A.

    Returns:
        Indices of A and of B, each of shape (r * l,), int32, on the CPU. int16 would do for most pools, but neither
        gloo nor NCCL can broadcast it, as DDP does with every buffer.

    Raises:
        ValueError: The ranks ask for more public shards than the pool has.

    Example:
        >>> settings = dict(rank=3, equivalent_rank=2, private_rank=1, num_modules=4, num_shards=2, seed=0)
        >>> index_a, index_b = draw_indices(group="q_proj", position=1, **settings)
        >>> index_a[-2:].tolist(), index_b[-2:].tolist()  # the private block of module 1
        ([10, 11], [10, 11])
        >>> sorted(set(index_a[:4].tolist())) == sorted(index_a[:4].tolist())
        True
    """
    check_ranks(
        group=group,
        rank=rank,
        equivalent_rank=equivalent_rank,
        private_rank=private_rank,
        num_modules=num_modules,
        subset_selection=subset_selection,
    )
    num_total = num_shards_in_pool(equivalent_rank, num_modules, num_shards)
    num_public = num_total - num_shards_in_pool(private_rank, num_modules, num_shards)
    num_drawn = (rank - private_rank) * num_shards
    block = private_rank * num_shards
    private = num_public + np.arange(position * block, (position + 1) * block)

    def index_of(matrix: str) -> Tensor:
        order = (
            _drawn(json.dumps([seed, group, position, matrix]), num_public, num_drawn)
            if subset_selection
            else np.arange(num_drawn)
        )
        return torch.from_numpy(np.concatenate([order, private]).astype(np.int32))

    return index_of("A"), index_of("B" if pair_dissociation else "A")


def check_ranks(
    *,
    group: str,
    rank: int,
    equivalent_rank: int,
    private_rank: int,
    num_modules: int,
    subset_selection: bool = True,
) -> None:
    """Check that a group has enough shards for the ranks asked of it.

    Args:
        group: Name of the pool group, for the message.
        rank: r.
        equivalent_rank: e.
        private_rank: p.
        num_modules: L.
        subset_selection: Whether modules draw a subset of the public shards.

    Raises:
        ValueError: The setting is infeasible; the message names the smallest change that makes it feasible.

    Example:
        >>> check_ranks(group="q_proj", rank=16, equivalent_rank=2, private_rank=1, num_modules=32)
    """
    if not 0 <= private_rank <= min(rank, equivalent_rank):
        raise ValueError(
            f"private_rank={private_rank} of group {group!r} must lie in [0, min(r, equivalent_rank)] = "
            f"[0, {min(rank, equivalent_rank)}]; lower private_rank."
        )
    num_public = (equivalent_rank - private_rank) * num_modules  # vectors
    largest = num_public + private_rank
    if subset_selection and rank > largest:
        remedies = [f"lower r to at most {largest}"]
        if rank <= equivalent_rank * num_modules and private_rank:
            feasible = next(p for p in range(private_rank, -1, -1) if rank - p <= (equivalent_rank - p) * num_modules)
            remedies.append(f"lower private_rank to {feasible}")
        remedies.append(f"raise equivalent_rank to at least {private_rank + -(-(rank - private_rank) // num_modules)}")
        raise ValueError(
            f"r={rank} of group {group!r} is too large: its {num_modules} module(s) share {num_public} public "
            "vector(s), and r - private_rank <= (equivalent_rank - private_rank) * num_modules must hold, here "
            f"{rank} - {private_rank} <= ({equivalent_rank} - {private_rank}) * {num_modules}. "
            f"Remedy: {', or '.join(remedies)}."
        )
    if not subset_selection and rank != largest:
        raise ValueError(
            f"r={rank} of group {group!r} does not fit subset_selection=False: every module then uses all public "
            f"vectors, so r must be (equivalent_rank - private_rank) * num_modules + private_rank = {largest}. "
            f"Remedy: set r={largest} (rank_pattern sets it for one group), or subset_selection=True."
        )


def materialise(pool: Tensor, index: Tensor, num_shards: int) -> Tensor:
    """Build factor matrices from a pool: row j is the concatenation of shards index[j * l], ..., index[j * l + l - 1].

    The gather runs on the pool's device, and only the gathered rows move to the device of the index.

    Args:
        pool: Shards of shape (n, w).
        index: Integer shard indices of shape (..., r * l).
        num_shards: l.

    Returns:
        Tensor of shape (..., r, l * w): A as it stands, or B transposed.

    Example:
        >>> materialise(torch.arange(8.0).reshape(4, 2), torch.tensor([3, 0], dtype=torch.int16), num_shards=2)
        tensor([[6., 7., 0., 1.]])
    """
    flat = index.reshape(-1).to(device=pool.device, dtype=torch.int32)
    factor = gather_rows(pool, flat).reshape(*index.shape[:-1], -1, num_shards * pool.shape[1])
    return factor.to(index.device)


def _drawn(label: str, size: int, count: int) -> np.ndarray:
    """The first `count` entries of a uniformly random permutation of range(size) that is a function of the label.

    Sorts random words that carry their own position in the low bits: the words are distinct, so every sorting
    algorithm gives the same permutation. Raw Philox words are the only stream numpy guarantees never to change.
    """
    key = int.from_bytes(hashlib.blake2b(label.encode(), digest_size=16, person=b"hf_mixture.mos").digest(), "big")
    bits = np.uint64(max(size - 1, 0).bit_length())
    words = np.random.Philox(key=key).random_raw(size) >> bits << bits
    words |= np.arange(size, dtype=np.uint64)
    if count < size:
        # Pools of many experts are large and a draw is small: sorting all of it would take most of the set-up time.
        words.partition(count)
    words = np.sort(words[:count])
    return (words & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
