"""Batches whose rows use different adapters: `model(**inputs, adapter_names=["a", "b", "__base__"])`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from hf_mixture._compat.peft import AuxiliaryTrainingWrapper
from hf_mixture.adapters.mos.layer import MosLayer


BASE_MODEL = "__base__"


@contextmanager
def route_rows(model: nn.Module, adapter_names: Sequence[str] | None, num_beams: int | None = None) -> Iterator[None]:
    """Within the context, every adapted layer of the model applies one adapter per row of its input.

    Args:
        model: The base model with MoS layers.
        adapter_names: One adapter name for each row of the batch; `"__base__"` for the base model. None changes
            nothing.
        num_beams: Beams of a beam search, which repeats each row that often (not in an encoder).

    Raises:
        ValueError: The model is in training mode, or an adapter does not exist.
    """
    if adapter_names is None:
        yield
        return
    _check(model, adapter_names)
    repeats = num_beams if isinstance(num_beams, int) else 1
    repeated = [name for name in adapter_names for _ in range(repeats)]
    base: Any = model
    encoder = base.get_encoder() if hasattr(base, "get_encoder") else None
    encoder_modules = set() if encoder is None or encoder is model else set(encoder.modules())
    handles = [
        module.register_forward_pre_hook(
            _pass_names(list(adapter_names) if module in encoder_modules else repeated), with_kwargs=True
        )
        for module in model.modules()
        if isinstance(module, MosLayer | AuxiliaryTrainingWrapper)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(model: nn.Module, adapter_names: Sequence[str]) -> None:
    if model.training:
        raise ValueError("Cannot pass `adapter_names` when the model is in training mode. Remedy: call model.eval().")
    known = {name for layer in model.modules() if isinstance(layer, MosLayer) for name in layer.mos_dropout}
    unknown = sorted(set(adapter_names) - known - {BASE_MODEL})
    if unknown:
        raise ValueError(
            f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}. The model has {sorted(known)}; "
            f"{BASE_MODEL!r} selects the base model."
        )


def _pass_names(adapter_names: list[str]) -> Any:
    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "adapter_names": adapter_names}

    return hook
