"""Quantising a model in memory, and the step that this shares with quantising one while it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_mixture.moe.mwq.calibration import collect_moments
from hf_mixture.moe.mwq.compensate import Compensation, fit_compensated
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.fit import fit_planes
from hf_mixture.moe.mwq.module import drop_weight, set_planes
from hf_mixture.moe.mwq.parts import PartsFolder
from hf_mixture.moe.mwq.planes import NestedPlanes
from hf_mixture.moe.mwq.targets import find_targets, make_nested, oriented, weights_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def quantise_matrix(
    name: str, weight: Tensor, config: MwqConfig, on_progress: Callable[[int], None] = lambda _: None
) -> NestedPlanes:
    """Quantise one weight without activations, or take it from the folder of finished parts.

    Args:
        name: Name of the weight.
        weight: [..., R, C].
        config: How to quantise.
        on_progress: Called with the number of weights done since the last call.

    Returns:
        The planes, on the device of the weight.
    """
    parts = None if config.parts is None else PartsFolder(config.parts, config)
    planes = None if parts is None else parts.read(name, weight)
    if planes is not None:
        on_progress(weight.numel())
        return planes.of([tensor.to(weight.device) for tensor in planes.tensors()])
    try:
        planes = fit_planes(
            weight, config.widths, config.group_size, level_weights=config.level_weights, on_progress=on_progress
        )
    except ValueError as error:
        raise ValueError(f"{name} cannot be quantised: {error}") from error
    if parts is not None:
        parts.write(name, weight, planes)
    return planes


@torch.no_grad()
def quantise_experts(
    model: PreTrainedModel,
    config: MwqConfig | None = None,
    *,
    batches: Iterable[Mapping[str, Any]] | None = None,
    compensation: Compensation | None = None,
    moment_bytes: int = 2**32,
) -> None:
    r"""Quantise the experts of a model in memory, in place.

    With `batches` the error that is made small is that of the outputs on them, \(\lVert (W - \hat W) X \rVert^2\), X
    the tokens that the full-precision model sends to each expert. The model then saves, loads and runs like one that
    was loaded with `quantization_config`.

    Args:
        model: A sparse model of transformers in full precision.
        config: How to quantise. Default: `MwqConfig()`.
        batches: Keyword arguments of forward calls, without labels; anything that can be iterated over repeatedly,
            such as a list or a DataLoader. Default: none, which minimises the error of the weights.
        compensation: Whether the error of a group of inputs is made up for in the groups after it: at
            `"every_level"`, or at the `"base"` only. It makes the first width better and the last worse, and needs
            `batches`. Default: not.
        moment_bytes: Memory for second moments; with compensation they have C x C numbers for each expert, and as many
            layers are calibrated in one pass over the batches as fit. Default: 4 GiB.

    Raises:
        ValueError: If the model cannot be quantised; nothing has been changed.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import MwqConfig, quantise_experts
        >>> model = MixtralForCausalLM(MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... ))
        >>> quantise_experts(model, MwqConfig(group_size=16), batches=[{"input_ids": torch.arange(32)[None]}])
        >>> model.model.layers[0].mlp.experts.gate_up_proj_sign_3.shape
        torch.Size([4, 32, 2])
    """
    from hf_mixture.moe.mwq.quantizer import attach_quantizer

    config = MwqConfig() if config is None else config
    targets = find_targets(model, config)
    if compensation is not None and batches is None:
        raise ValueError(f"compensation={compensation!r} needs the inputs of the experts; give batches")
    matrices = [(f"{path}.{name}", module, name) for path, module in targets.items() for name in weights_of(module)]
    for full_name, module, name in matrices:
        if getattr(module, name).is_meta:
            raise ValueError(
                f"{full_name} is on the device 'meta', that is offloaded; load the whole model into memory, or "
                "quantise it while it is loaded: from_pretrained(folder, quantization_config=MwqConfig(...))"
            )
    total = sum(getattr(module, name).numel() for _, module, name in matrices)
    fitted: dict[str, NestedPlanes] = {}
    with tqdm(total=total, unit="weight", unit_scale=True, desc="Quantising", delay=2) as bar:
        if batches is None:
            for full_name, module, name in matrices:
                weight = oriented(module, getattr(module, name))
                fitted[full_name] = quantise_matrix(full_name, weight, config, bar.update)
        else:
            whole = compensation is not None
            for moments in collect_moments(model, targets, batches, config, whole=whole, max_bytes=moment_bytes):
                for full_name, module, name in matrices:
                    if full_name in moments:
                        weight = oriented(module, getattr(module, name))
                        fitted[full_name] = _fit(weight, moments[full_name], config, compensation, bar.update)
    for module in targets.values():
        make_nested(module, config)
    for full_name, module, name in matrices:
        drop_weight(module, name)
        set_planes(module, name, fitted[full_name])
    attach_quantizer(model, config)


def _fit(
    weight: Tensor,
    moments: Tensor,
    config: MwqConfig,
    compensation: Compensation | None,
    on_progress: Callable[[int], None],
) -> NestedPlanes:
    if compensation is None:
        return fit_planes(
            weight,
            config.widths,
            config.group_size,
            level_weights=config.level_weights,
            moments=moments,
            on_progress=on_progress,
        )
    return fit_compensated(
        weight,
        config.widths,
        config.group_size,
        level_weights=config.level_weights,
        moments=moments,
        compensation=compensation,
        on_progress=on_progress,
    )
