"""The bank: one module at the root of the base model that holds the pools of all MoS adapters.

`<base model>.mos_bank[<adapter>]` is a ParameterDict with the pools `A_<group>` and `B_<group>`. Layers hold the bank
without registering it and look their pools up by name in every forward, because loading with `assign=True`, dtype
casts, device moves and FSDP2 replace the Parameter objects: sharing the container keeps the pools shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_mixture.adapters.mos.layout import Slot
from hf_mixture.adapters.mos.shards import init_pool_bound, num_shards_in_pool


# PEFT turns checkpoint keys into model keys by putting the adapter name after the component that starts with the
# prefix "mos_", so the adapter name comes directly after this one and no inner name may start with the prefix.
BANK_NAME = "mos_bank"


class MosBank(nn.ModuleDict):
    """Pools of all adapters, by adapter name."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> nn.ParameterDict: ...

    def forward(self, x: Any) -> Any:
        """Return the input: a base model that is an `nn.Sequential` runs through all of its children."""
        return x


def pool_keys(group: str) -> tuple[str, str]:
    """Names of the A pool and the B pool of a group inside the bank entry of an adapter."""
    return f"A_{group}", f"B_{group}"


def find_bank(model: nn.Module) -> tuple[str, MosBank] | None:
    """Find the bank of a model.

    Args:
        model: A base model, or a wrapper around one (PeftModel, FSDP, ...).

    Returns:
        The bank with its path inside the model, or None when the model has no MoS adapter.
    """
    return next(((name, module) for name, module in model.named_modules() if isinstance(module, MosBank)), None)


def bank_prefixes(model: nn.Module) -> list[str]:
    """Key prefixes of the pools in the state dict of a base model."""
    return [name for name, module in model.named_modules() if isinstance(module, MosBank)]


def check_base(model: nn.Module) -> None:
    """Refuse a base model that cannot hold the bank.

    Raises:
        ValueError: The base model is compiled, or has another attribute of the name of the bank.
    """
    if "_orig_mod" in model._modules:
        raise ValueError(
            f"the base model is compiled ({type(model).__name__}), and the pools must be part of the model inside. "
            "Remedy: get_peft_model(model, MosConfig(...)) first, then torch.compile."
        )
    if hasattr(model, BANK_NAME) and not isinstance(getattr(model, BANK_NAME), MosBank):
        raise ValueError(
            f"the base model {type(model).__name__} already has an attribute {BANK_NAME!r} of type "
            f"{type(getattr(model, BANK_NAME)).__name__}; the pools are kept under that name. Remedy: rename it."
        )


def attach_bank(model: nn.Module) -> MosBank:
    """Return the bank of a base model, adding an empty one if there is none."""
    if not hasattr(model, BANK_NAME):
        model.add_module(BANK_NAME, MosBank())
    return getattr(model, BANK_NAME)


def pool_shapes(slot: Slot, *, equivalent_rank: int, num_shards: int) -> dict[str, tuple[int, int]]:
    """Shapes (n, w) of the two pools of a slot's group.

    Args:
        slot: Any slot of the group.
        equivalent_rank: e.
        num_shards: l.

    Returns:
        The shapes by the names of `pool_keys`.
    """
    rows = num_shards_in_pool(equivalent_rank, slot.num_modules, num_shards)
    key_a, key_b = pool_keys(slot.group)
    return {
        key_a: (rows, slot.target.in_features // num_shards),
        key_b: (rows, slot.target.out_features // num_shards),
    }


def add_pools(
    bank: MosBank,
    adapter_name: str,
    slot: Slot,
    *,
    equivalent_rank: int,
    num_shards: int,
    zero_b: bool,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> None:
    """Create the pools of a slot's group, unless another module of the group already did.

    A is drawn from U(-1/sqrt(in), 1/sqrt(in)); B is zero, or drawn from U(-1/sqrt(r), 1/sqrt(r)).

    Args:
        bank: The bank of the base model.
        adapter_name: Name of the adapter.
        slot: Any slot of the group.
        equivalent_rank: e.
        num_shards: l.
        zero_b: Whether B starts at zero.
        device: Device of the pools.
        dtype: Floating-point type of the pools.
    """
    if adapter_name not in bank:
        bank[adapter_name] = nn.ParameterDict()
    pools = bank[adapter_name]
    key_a, key_b = pool_keys(slot.group)
    if key_a in pools:
        return
    for key, shape in pool_shapes(slot, equivalent_rank=equivalent_rank, num_shards=num_shards).items():
        pools[key] = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
    _fill_uniform(pools[key_a], init_pool_bound(slot.target.in_features))
    _fill_uniform(pools[key_b], 0.0 if zero_b else init_pool_bound(slot.rank))


def _fill_uniform(pool: Tensor, bound: float) -> None:
    if pool.is_meta:
        return
    with torch.no_grad():
        if bound:
            pool.uniform_(-bound, bound)
        else:
            pool.zero_()
