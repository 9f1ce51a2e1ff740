"""Hash router: the token id alone decides, and nothing is learned.

Letters: T tokens, E experts, K chosen.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape
from hf_mixture.moe.routers.checks import check_integer
from hf_mixture.moe.routers.registry import register_router


# Raw logit of an expert that is not chosen; finite, so that losses of the logits stay finite.
_UNCHOSEN = -1e4


def hash_experts(token_ids: Tensor, num_experts: int, top_k: int, *, kind: str = "random", seed: int = 0) -> Tensor:
    """Assign K different experts to each token id (https://arxiv.org/abs/2106.04426, section 3.2).

    `"random"` takes the K experts with the smallest hash of (seed, id, expert), which spreads ids independently of
    each other; `"modulo"` takes the experts K id, ..., K id + K - 1 modulo E, which spreads neighbouring ids evenly.

    Args:
        token_ids: Ids [T], of any integer type.
        num_experts: E.
        top_k: K.
        kind: `"random"` or `"modulo"`.
        seed: Seed of the random hash.

    Returns:
        Indices [T, K].
    """
    ids = token_ids.to(torch.int64).unsqueeze(-1)
    if kind == "modulo":
        return (ids * top_k + torch.arange(top_k, device=ids.device)) % num_experts
    experts = torch.arange(num_experts, device=ids.device)
    keys = _mix(_mix(_mix(torch.full_like(ids, seed)) + ids) + experts)
    return torch.topk(keys, top_k, dim=-1, largest=False).indices


def route_hash(
    token_ids: Tensor, num_experts: int, top_k: int, *, kind: str = "random", seed: int = 0, dtype: torch.dtype
) -> RouterOutput:
    """Send each token to the experts of its id, with equal weights.

    Args:
        token_ids: Ids [T].
        num_experts: E.
        top_k: K.
        kind: See `hash_experts`.
        seed: See `hash_experts`.
        dtype: Type of logits and weights.

    Returns:
        Logits [T, E] whose softmax is the assignment, weights 1/K [T, K] and indices [T, K].
    """
    indices = hash_experts(token_ids, num_experts, top_k, kind=kind, seed=seed)
    logits = torch.full((len(indices), num_experts), _UNCHOSEN, dtype=dtype, device=indices.device)
    logits = logits.scatter(-1, indices, -math.log(top_k))
    weights = torch.full(indices.shape, 1 / top_k, dtype=dtype, device=indices.device)
    return RouterOutput(logits, weights, indices)


def _mix(numbers: Tensor) -> Tensor:
    """The finaliser of splitmix64, after its increment: a bijection of 64-bit integers that scatters neighbours."""
    numbers = numbers - 7046029254386353131
    numbers = (numbers ^ _shift(numbers, 30)) * -4658895280553007687
    numbers = (numbers ^ _shift(numbers, 27)) * -7723592293110705685
    return numbers ^ _shift(numbers, 31)


def _shift(numbers: Tensor, places: int) -> Tensor:
    # The shift of a signed integer fills with its sign.
    return (numbers >> places) & ((1 << (64 - places)) - 1)


@register_router(
    "hash",
    causal=True,
    context=("input_ids",),
    paper="https://arxiv.org/abs/2106.04426",
    summary="Experts fixed by the token id, with equal weights; nothing to learn, so nothing collapses.",
)
class HashRouter(RegistryRouter):
    """Hash router: no parameters; every layer has its own random hash.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        kind: `"random"` or `"modulo"`, the same in every layer.
        seed: Seed of the random hash, at least 0.
    """

    def __init__(self, shape: RouterShape, *, kind: Literal["random", "modulo"] = "random", seed: int = 0) -> None:
        super().__init__(shape)
        if kind not in ("random", "modulo"):
            raise ValueError(f"kind={kind!r} must be 'random' or 'modulo'; give one of them")
        self.kind = kind
        self.seed = check_integer("seed", seed, at_least=0, at_most=2**31 - 1)
        self.layer_seed = self.seed * 2**20 + shape.layer

    def route(self, hidden: Tensor) -> RouterOutput:
        """Look up the experts of the token ids."""
        assert self.context is not None  # noqa: S101 - given to every router that asks for one
        ids = self.context.per_token("input_ids", len(hidden))
        return route_hash(ids, self.num_experts, self.top_k, kind=self.kind, seed=self.layer_seed, dtype=hidden.dtype)
