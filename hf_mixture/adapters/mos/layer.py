"""What all MoS layers share: where their pools and indices are, and how they merge.

Letters as in `shards.py`: A is (r, in), B is (out, r); `factors` returns B transposed, the form the pool holds.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_mixture._compat.bitsandbytes import restore_4bit_layout
from hf_mixture._compat.peft import (
    BufferDict,
    TunerModule,
    check_adapters_to_merge,
    resolve_quantization_backend,
)
from hf_mixture.adapters.mos.bank import MosBank, add_pools, pool_keys
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.layout import Slot, draw_slot
from hf_mixture.adapters.mos.merging import Correction, add_update, remove_update
from hf_mixture.adapters.mos.pool_view import PoolView
from hf_mixture.adapters.mos.shards import materialise


class IndexDict(BufferDict):
    """Integer buffers by adapter name; each adapter chooses whether its indices belong to the state dict."""

    def __setitem__(self, key: str, buffer: Tensor) -> None:
        """Replace a buffer, keeping the choice made for this adapter."""
        self.register_buffer(key, buffer, persistent=key not in self._non_persistent_buffers_set)


class CachedFactors(NamedTuple):
    """Factors, and the addresses and versions of the tensors they were made from."""

    state: tuple[tuple[int, int], ...]
    aliases: tuple[Tensor, ...]
    factors: tuple[Tensor, Tensor]


class MosLayer(TunerModule):
    """Base class of MoS layers: pools in the bank, indices of their own, and PEFT's bookkeeping.

    Args:
        base_layer: The layer to adapt.
        bank: The bank of the base model.
    """

    adapter_layer_names = ("mos_pools", "mos_dropout")
    other_param_names = ("mos_index", "slots", "r", "num_shards", "scaling")

    def __init__(self, base_layer: nn.Module, bank: MosBank, **quantization_kwargs: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        # Inside a tuple the bank is not a child: layers must not register, save or shard the pools once more.
        self._bank_reference = (bank,)
        self.mos_dropout = nn.ModuleDict()
        self.mos_index = IndexDict(persistent=True)
        self.slots: dict[str, Slot] = {}
        self.r: dict[str, int] = {}
        self.num_shards: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        # Factors by adapter, or None while caching is off.
        self.factor_cache: dict[str, CachedFactors] | None = None
        # Read and set by peft.helpers.disable_input_dtype_casting.
        self.cast_input_dtype_enabled = True
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._corrections: list[Correction] = []
        self._unmerged_base_layer: tuple[nn.Module, ...] = ()
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **quantization_kwargs)

    @property
    def bank(self) -> MosBank:
        """The bank of the base model."""
        return self._bank_reference[0]

    @property
    def mos_pools(self) -> PoolView:
        """The pools this layer reads, by adapter; not a child of the layer."""
        return PoolView(self.bank, self.slots)

    def update_layer(self, adapter_name: str, slot: Slot, config: MosConfig) -> None:
        """Add an adapter to this layer.

        Args:
            adapter_name: Name of the adapter.
            slot: The layer's place in its pool group.
            config: Configuration of the adapter.
        """
        self.r[adapter_name] = slot.rank
        self.num_shards[adapter_name] = config.num_shards
        self.scaling[adapter_name] = config.mos_alpha / slot.rank
        self.slots[adapter_name] = slot
        self.mos_dropout[adapter_name] = nn.Dropout(config.mos_dropout) if config.mos_dropout else nn.Identity()
        self.mos_index.register_buffer(adapter_name, draw_slot(config, slot), persistent=config.save_indices)
        device, dtype = self._adapted_device_and_dtype()
        add_pools(
            self.bank,
            adapter_name,
            slot,
            equivalent_rank=config.equivalent_rank,
            num_shards=config.num_shards,
            zero_b=config.init_weights,
            device=device,
            dtype=dtype,
        )
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Materialise the factors of an adapter.

        Args:
            adapter_name: Name of the adapter.

        Returns:
            A of shape (..., r, in) and B transposed, (..., r, out), on the device of the layer's indices.
        """
        pools = self.bank[adapter_name]
        pool_a, pool_b = (pools[key] for key in pool_keys(self.slots[adapter_name].group))
        index = self.mos_index[adapter_name]
        num_shards = self.num_shards[adapter_name]
        sources = (pool_a, pool_b, index)
        if (
            self.factor_cache is None
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            # Those of a model that was loaded in inference mode have no versions, which tell whether they changed.
            or any(tensor.is_inference() for tensor in sources)
        ):
            if self.factor_cache:
                # Training follows, and FSDP2 refills the storage of a pool without raising its version.
                self.factor_cache.pop(adapter_name, None)
            return materialise(pool_a, index[0], num_shards), materialise(pool_b, index[1], num_shards)
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in sources)
        cached = self.factor_cache.get(adapter_name)
        if cached is None or cached.state != state:
            factors = materialise(pool_a, index[0], num_shards), materialise(pool_b, index[1], num_shards)
            # The aliases keep the storages, so no other tensor gets an address that `state` names.
            aliases = tuple(tensor.detach() for tensor in sources)
            cached = self.factor_cache[adapter_name] = CachedFactors(state, aliases, factors)
        return cached.factors

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter from this layer, and its pools from the bank if another layer has not done so."""
        super().delete_adapter(adapter_name)
        if self.factor_cache is not None:
            self.factor_cache.pop(adapter_name, None)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Set the flag on this layer and on the pools it reads, which are not its children."""
        for pools in self.mos_pools.values():
            pools.requires_grad_(requires_grad)
        return super().requires_grad_(requires_grad)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """MoS is additive, so PEFT can convert it; `to_lora` does so exactly."""
        return True

    def _adapted_device_and_dtype(self) -> tuple[torch.device | None, torch.dtype | None]:
        """Device of the adapted weight, and its type if an adapter can have it."""
        device, dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())
        return device, dtype if dtype is not None and dtype.is_floating_point else None

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move the indices to the layer's device; the first layer of a group also moves the pools to its own."""
        device = device or self._adapted_device_and_dtype()[0]
        if device is None or device.type == "meta":
            return
        self.mos_index[adapter_name] = self.mos_index[adapter_name].to(device)
        if self.slots[adapter_name].position == 0:
            pools = self.bank[adapter_name]
            for key in pool_keys(self.slots[adapter_name].group):
                if pools[key].device != device and not pools[key].is_meta:
                    pools[key] = nn.Parameter(pools[key].to(device), requires_grad=pools[key].requires_grad)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of adapters to the base weight; `unmerge` restores it bit for bit.

        Args:
            safe_merge: Check the merged weight for NaN and infinity before it replaces the weight.
            adapter_names: Adapters to merge. Defaults to the active ones.

        Raises:
            ValueError: `safe_merge` found a value that is not finite; the weight is unchanged.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.mos_dropout:
                continue
            original = self.base_layer
            if self.quantization_backend is not None and not self.merged:
                # Quantising again loses more than a correction could hold, so the packed original is set aside.
                self.base_layer = copy.deepcopy(original)
            merged, correction = add_update(self.get_base_weight(), self.get_delta_weight(adapter))
            if safe_merge and not torch.isfinite(merged).all():
                self.base_layer = original
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken; "
                    "safe_merge leaves the base weight as it is. Remedy: load an intact copy of the adapter."
                )
            self._unmerged_base_layer = self._unmerged_base_layer or (original,)
            self.set_base_weight(merged)
            self.merged_adapters.append(adapter)
            self._corrections.append(correction)

    def unmerge(self) -> None:
        """Take all merged updates out of the base weight."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            adapter, correction = self.merged_adapters.pop(), self._corrections.pop()
            if self.quantization_backend is None:
                update = self.get_delta_weight(adapter)
                self.set_base_weight(remove_update(self.get_base_weight(), update, correction))
        if self._unmerged_base_layer:
            (self.base_layer,) = self._unmerged_base_layer
            self._unmerged_base_layer = ()

    def get_base_weight(self) -> Tensor:
        """The base weight, dequantised."""
        restore_4bit_layout(self.get_base_layer())
        return super().get_base_weight()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The dense update of an adapter in the shape of the base weight."""
        raise NotImplementedError
