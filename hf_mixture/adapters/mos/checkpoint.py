"""Checks of saved adapters, made before a model is touched.

A saved adapter holds each pool once, `mos_bank.A_<group>` and `mos_bank.B_<group>`, and the indices of each module,
`<module>.mos_index`, all below `base_model.model.`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig
from safetensors import safe_open
from torch import Tensor, nn

from hf_mixture.adapters.mos.bank import BANK_NAME, MosBank, check_base, pool_keys, pool_shapes
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.adapters.mos.layout import Slot, plan_layout
from hf_mixture.adapters.mos.shards import num_shards_in_pool
from hf_mixture.adapters.mos.targets import find_targets
from hf_mixture.hub.damage import naming, reading, shorten
from hf_mixture.hub.reading import read_object


CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FILE_PREFIX = "base_model.model."

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Expectation:
    """What the file of an adapter must hold to fit a model.

    Args:
        shapes: Shape of every tensor, by key without the prefix.
        pool_sizes: For each index tensor, the number of shards in the pools that it points into.
    """

    shapes: dict[str, tuple[int, ...]]
    pool_sizes: dict[str, int]


def expect_from_layout(config: MosConfig, layout: Mapping[str, Slot]) -> Expectation:
    """What an adapter with this layout saves.

    Args:
        config: The adapter's configuration.
        layout: Slots by target name, from `plan_layout`.

    Returns:
        The expectation. Expert parameters, whose wrappers are nested, are represented by their pools alone.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    pool_sizes: dict[str, int] = {}
    for name, slot in layout.items():
        for key, shape in pool_shapes(
            slot, equivalent_rank=config.equivalent_rank, num_shards=config.num_shards
        ).items():
            shapes[f"{BANK_NAME}.{key}"] = shape
        if config.save_indices and slot.target.num_experts is None:
            key = f"{name}.mos_index"
            shapes[key] = (2, slot.rank * config.num_shards)
            pool_sizes[key] = num_shards_in_pool(config.equivalent_rank, slot.num_modules, config.num_shards)
    return Expectation(shapes, pool_sizes)


def expect_from_model(model: nn.Module, adapter_name: str) -> Expectation:
    """What the layers of a model that has the adapter can load.

    Args:
        model: The model, or a wrapper around it.
        adapter_name: Name of the adapter.

    Returns:
        The expectation.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    pool_sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, MosLayer) and adapter_name in module.mos_dropout:
            key = f"{key_in_file(name)}.mos_index"
            shapes[key] = tuple(module.mos_index[adapter_name].shape)
            pool_sizes[key] = module.bank[adapter_name][pool_keys(module.slots[adapter_name].group)[0]].shape[0]
        elif isinstance(module, MosBank) and adapter_name in module:
            shapes |= {f"{BANK_NAME}.{key}": tuple(pool.shape) for key, pool in module[adapter_name].items()}
    return Expectation(shapes, pool_sizes)


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]], indices: Mapping[str, Tensor], expectation: Expectation, *, source: str
) -> None:
    """Check shapes and indices of the tensors that an expectation knows.

    Args:
        shapes: Shapes of the found tensors, by key without the prefix.
        indices: The found index tensors.
        expectation: What the model needs.
        source: Where the tensors come from, for the message.

    Raises:
        ValueError: A shape differs, or an index lies outside of its pool.
    """
    for key, shape in shapes.items():
        expected = expectation.shapes.get(key)
        if expected is not None and tuple(shape) != expected:
            raise ValueError(
                f"{source}: tensor {key!r} has shape {tuple(shape)}, but this base model and configuration need "
                f"{expected}. The adapter belongs to another base model, or its files do not belong together. "
                f"Remedy: load the base model that {CONFIG_FILE} names, and both files from one save."
            )
    for key, index in indices.items():
        if index.dtype not in (torch.int16, torch.int32, torch.int64):
            raise ValueError(f"{source}: tensor {key!r} has type {index.dtype}, but indices are integers. {_RESTORE}")
        size = expectation.pool_sizes.get(key)
        if size is None or not index.numel():
            continue
        least, largest = int(index.min()), int(index.max())
        if least < 0 or largest >= size:
            raise ValueError(
                f"{source}: tensor {key!r} has indices from {least} to {largest}, but its pools have {size} shards, "
                f"so they must lie in [0, {size}). {_RESTORE}"
            )


def check_folder(
    folder: str | Path, layout: Mapping[str, Slot] | None = None, *, base_model: str = "", prefix: str = ""
) -> None:
    """Check the files of a saved MoS adapter, with a layout also that they fit the base model.

    Args:
        folder: Folder with `adapter_config.json` and `adapter_model.safetensors`.
        layout: Slots by target name in the base model; None checks the files alone.
        base_model: Name of the base model for the message.
        prefix: First part of the names of modules that may be in the file alone, or in the layout alone.

    Raises:
        ValueError: The adapter is not MoS, or its weights are truncated, not a safetensors file, inconsistent, or for
            another base model.
    """
    folder = Path(folder)
    config = read_config(folder)
    if not isinstance(config, MosConfig):
        raise ValueError(
            f"{folder / CONFIG_FILE}: peft_type={_type_of(config)!r} must be 'MOS' here. Remedy: name the "
            "folder of a MoS adapter; others are loaded with load_adapter."
        )
    path = folder / WEIGHTS_FILE
    shapes, indices = _read(path)
    if layout is None:
        _check_pools(config, shapes, source=str(path))
        largest = max((shape[0] for key, shape in shapes.items() if key.startswith(f"{BANK_NAME}.")), default=0)
        check_tensors(shapes, indices, Expectation({}, dict.fromkeys(indices, largest)), source=str(path))
        return
    if prefix:
        shapes, indices, layout = _without(prefix, shapes), _without(prefix, indices), _without(prefix, layout)
    expectation = expect_from_layout(config, layout)
    check_tensors(shapes, indices, expectation, source=str(path))
    missing = sorted(set(expectation.shapes) - set(shapes))
    surplus = sorted(key for key in shapes if key.startswith(f"{BANK_NAME}.") and key not in expectation.shapes)
    if missing or surplus:
        what = f"has no tensor {missing[0]!r}" if missing else f"has a tensor {surplus[0]!r} without a place"
        raise ValueError(
            f"{path}: the file {what} in the base model {base_model}; the adapter was made for another base model or "
            f"configuration. Remedy: load the base model that {CONFIG_FILE} names, and both files from one save."
        )


def read_config(folder: Path) -> Any:
    """Read the configuration of a saved adapter.

    Args:
        folder: Its folder.

    Returns:
        The configuration, of whatever type the adapter is.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON, of no known type, or breaks a rule of the type.
    """
    # PEFT would take the file apart before it looks at it.
    read_object(folder / CONFIG_FILE)
    with naming(folder / CONFIG_FILE):
        return PeftConfig.from_pretrained(str(folder))


def _type_of(config: PeftConfig) -> str | None:
    return getattr(config.peft_type, "value", None)


def check_before_loading(folder: Any, model: nn.Module | None, config: Any = None, prefix: str = "") -> None:
    """Check a saved adapter before it is loaded; other folders and Hub names pass.

    Args:
        folder: What the user names.
        model: The base model that the adapter will be put into; None where it is in the model already.
        config: The configuration to use in place of the saved one.
        prefix: As for `check_folder`.

    Raises:
        ValueError: The adapter cannot be loaded; nothing was changed.
    """
    if not _is_mos_folder(folder, with_config=config is None):
        return
    if model is None:
        check_folder(folder)
        return
    check_base(model)
    config = copy.deepcopy(config) if isinstance(config, MosConfig) else read_config(Path(folder))
    if config.target_modules is None and not config.target_parameters:
        check_folder(folder)
        return
    with naming(Path(folder, CONFIG_FILE)):
        layout = plan_layout(config, find_targets(config, model))
    check_folder(folder, layout, base_model=type(model).__name__, prefix=prefix)


def check_loaded(model: nn.Module, adapter_name: str) -> None:
    """Check the indices of an adapter that was loaded; a model without such an adapter passes.

    Args:
        model: The model.
        adapter_name: Name of the adapter.

    Raises:
        ValueError: An index lies outside of its pool.
    """
    indices = {
        f"{key_in_file(name)}.mos_index": module.mos_index[adapter_name]
        for name, module in model.named_modules()
        if isinstance(module, MosLayer) and adapter_name in module.slots
    }
    check_tensors({}, indices, expect_from_model(model, adapter_name), source=f"adapter {adapter_name!r}")


_RESTORE = "The file was changed after it was saved. Remedy: restore it from an intact copy."


def _read(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    with reading(path), safe_open(path, framework="pt") as file:
        keys = [key for key in file.keys() if is_adapter_key(key)]  # noqa: SIM118 - not a mapping
        shapes = {key_in_file(key): tuple(file.get_slice(key).get_shape()) for key in keys}
        indices = {key_in_file(key): file.get_tensor(key) for key in keys if key.endswith(".mos_index")}
    return shapes, indices


def _without(prefix: str, names: Mapping[str, _Value]) -> dict[str, _Value]:
    return {name.removeprefix(f"{prefix}."): value for name, value in names.items()}


def _check_pools(config: MosConfig, shapes: Mapping[str, tuple[int, ...]], *, source: str) -> None:
    pools = {key: shape for key, shape in shapes.items() if key.startswith(f"{BANK_NAME}.")}
    unit = config.equivalent_rank * config.num_shards
    for key, shape in pools.items():
        if len(shape) != 2 or shape[0] % unit:
            raise ValueError(
                f"{source}: pool {key!r} has shape {shape}; it must have two dimensions, the first a multiple of "
                f"equivalent_rank * num_shards = {unit}. {CONFIG_FILE} and the weights do not belong together. "
                "Remedy: take both files from one save."
            )
    if not pools:
        raise ValueError(f"{source}: the file has no pool {BANK_NAME}.*; it is not a MoS adapter. {_RESTORE}")


def _is_mos_folder(folder: Any, *, with_config: bool) -> bool:
    if not isinstance(folder, str | Path):
        return False
    config, weights = Path(folder, CONFIG_FILE), Path(folder, WEIGHTS_FILE)
    if not (config.is_file() and weights.is_file()):
        return False
    if _names_another_type(config):
        return False
    peft_type = read_object(config).get("peft_type")
    if peft_type == "MOS":
        return True
    if not with_config:
        return False
    if isinstance(peft_type, str):
        raise ValueError(
            f"{config}: peft_type={shorten(repr(peft_type), 100)} is no type of adapter that PEFT knows. Remedy: "
            "import the package that it comes from, or restore the file from an intact copy."
        )
    raise ValueError(f"{config} has no 'peft_type' that is a name, so no adapter can be loaded. {_RESTORE}")


def _names_another_type(config: Path) -> bool:
    """Whether the adapter is of another method, which reads its configuration by rules of its own."""
    try:
        settings = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        return False
    peft_type = settings.get("peft_type") if isinstance(settings, dict) else None
    return isinstance(peft_type, str) and peft_type != "MOS" and peft_type in PEFT_TYPE_TO_CONFIG_MAPPING


def is_adapter_key(key: str) -> bool:
    """Whether a key belongs to pools or indices, and not to a module that is saved in full."""
    return f"{BANK_NAME}." in key or key.endswith(".mos_index")


def key_in_file(key: str) -> str:
    """A key, or a module name, without the prefixes of the wrappers around the base model."""
    return key.removeprefix("_fsdp_wrapped_module.").removeprefix(FILE_PREFIX)


def tensors_to_check(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    """Shapes of the adapter's tensors and its indices, by key without the prefix."""
    ours = [(key_in_file(key), value) for key, value in state_dict.items() if is_adapter_key(key)]
    return (
        {key: tuple(value.shape) for key, value in ours},
        {key: value for key, value in ours if key.endswith(".mos_index")},
    )
