"""The pools of one layer, shown as the dictionary of trainable parts that PEFT expects on a layer.

PEFT switches gradients, deletes adapters and reports their state by walking such dictionaries. The pools are in the
bank, so this one is a view: nothing is registered, and PEFT's context for parameters on the meta device, which
replaces every parameter that is registered, does not touch them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from hf_mixture.adapters.mos.bank import MosBank, pool_keys
from hf_mixture.adapters.mos.layout import Slot


class PoolPair(nn.Module):
    """The two pools of a group.

    Args:
        pools: The Parameters, which stay unregistered.
    """

    def __init__(self, *pools: nn.Parameter) -> None:
        super().__init__()
        self._pools = list(pools)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The pools."""
        return iter(self._pools)


class PoolView(nn.ModuleDict):
    """The pools that one layer reads, by adapter: a live view of the bank for PEFT's loops over trainable parts.

    Args:
        bank: The bank of the base model.
        slots: The layer's place in its pool group, by adapter.
    """

    def __init__(self, bank: MosBank, slots: dict[str, Slot]) -> None:
        super().__init__()
        self._source = (bank, slots)

    def __getitem__(self, adapter_name: str) -> PoolPair:
        """The A pool and the B pool that the layer reads."""
        bank, slots = self._source
        return PoolPair(*(bank[adapter_name][key] for key in pool_keys(slots[adapter_name].group)))

    def __delitem__(self, adapter_name: str) -> None:
        """Drop all pools of the adapter, on behalf of all layers."""
        del self._source[0][adapter_name]

    def __iter__(self) -> Iterator[str]:
        """Adapters of the layer whose pools exist."""
        bank, slots = self._source
        return (adapter_name for adapter_name in slots if adapter_name in bank)

    def __contains__(self, adapter_name: str) -> bool:
        """Whether the layer reads pools of the adapter."""
        return adapter_name in iter(self)

    def __len__(self) -> int:
        """Number of adapters."""
        return sum(1 for _ in self)

    def keys(self) -> Any:
        """Names of the adapters."""
        return list(self)

    def items(self) -> Any:
        """Names and pools."""
        return [(adapter_name, self[adapter_name]) for adapter_name in self]

    def values(self) -> Any:
        """Pools of all adapters."""
        return [self[adapter_name] for adapter_name in self]
