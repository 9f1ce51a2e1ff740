"""Writing expert edits into ordinary weights, where that is exact, for programs that do not know this package.

Letters: T tokens, C classes that the selection ranks, E experts, K chosen, L routers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from hf_mixture.moe.anatomy import MoeRouter, RouterOutput, UnsupportedRouterError, find_routers
from hf_mixture.moe.mote.bake_writes import KEEP_FILE, Write, bias_writes, expert_writes, once_each
from hf_mixture.moe.mote.checks import check_means, check_model, resolve
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.fingerprint import fingerprint_of
from hf_mixture.moe.mote.hooks import patches_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel

Method = Literal["auto", "bias", "zero_experts", "prune"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class BakeReport:
    """What `bake` wrote.

    Args:
        method: `"bias"`, `"zero_experts"`, `"bias, zero_experts"` or `"prune"`.
        exact: Whether the model now computes what `tune_experts` computes with these edits: in float32 bit for bit
            where a bias or a factor of 0 was written, and up to rounding for other factors and for pruned experts.
        note: What is different where it is not exact; else empty.
        keys: Names of the tensors that changed, as in the state dict.
        leak_rate: Share of the K choices of a token, in routers with experts off, that went to one of them in the
            calibration run; None without one, or where experts are off without being out of the selection.
        num_choices_seen: Number of choices that the rate is taken over.
    """

    method: str
    exact: bool
    note: str
    keys: tuple[str, ...]
    leak_rate: float | None = None
    num_choices_seen: int = 0


def bake(
    model: PreTrainedModel,
    edits: ExpertEdits,
    *,
    method: Method = "auto",
    value: float = -1e4,
    calibration: Iterable[Mapping[str, Any]] | None = None,
    check_fingerprint: bool = True,
) -> BakeReport:
    """Write expert edits into the weights of a model, which then needs neither the edits nor this package.

    | edits | written into | exact |
    | --- | --- | --- |
    | `off` under `reroute` | the selection bias of the family, as `value` | yes |
    | `on` with `force_weight="own"`, `bias` | the selection bias, where it takes no part in the weights | yes |
    | `off` under `zero`, `scale` | the last matrix of the expert, and its bias | yes |
    | `off` under `zero_renorm`; other forced weights | - | never: refused |
    | `off` under `reroute`, no selection bias | - | never: refused; `method="prune"` may do |

    The model is changed in place, and only after all checks have passed; save it with `save_pretrained`. Training it
    further with a bias that balances the load would overwrite a baked bias.

    Args:
        model: A model of transformers without adapters, patches and quantised experts, in memory as a whole.
        edits: The edits.
        method: `"auto"`: the exact means for each edit, or an error. `"bias"`: the selection bias only.
            `"zero_experts"`: experts that are off give 0, whatever the mode; they are still chosen, so this is exact
            for mode `"zero"` only. `"prune"`: experts that are off are deleted, equally many in every layer; exact
            where the formula of the family permits, which the report states. Default: `"auto"`.
        value: Selection bias of an expert that is off: finite and far below all scores, which is checked, or -inf,
            which may become NaN in programs that add it to another infinity. Default: -1e4.
        calibration: Keyword arguments of forward passes, with which the leak rate is measured after the change.
            Default: not measured.
        check_fingerprint: Whether edits that are signed for another model are refused. Default: True.

    Returns:
        What was written, and whether it is exact.

    Raises:
        ValueError: If the edits do not suit the model, or the value is too near to the scores.
        UnsupportedRouterError: If the edits cannot be written exactly, with the reason and the alternatives. Nothing
            has been changed.

    Example:
        >>> from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
        >>> from hf_mixture.moe.mote.bake import bake
        >>> from hf_mixture.moe.mote.edit import ExpertEdit
        >>> from hf_mixture.moe.mote.edits import ExpertEdits
        >>> config = DeepseekV3Config(
        ...     vocab_size=16, hidden_size=8, num_hidden_layers=1, first_k_dense_replace=0, num_attention_heads=2,
        ...     num_key_value_heads=2, q_lora_rank=4, kv_lora_rank=4, qk_rope_head_dim=4, qk_nope_head_dim=4,
        ...     v_head_dim=4, intermediate_size=8, moe_intermediate_size=8, n_routed_experts=8, num_experts_per_tok=2,
        ...     n_group=2, topk_group=1,
        ... )
        >>> model = DeepseekV3ForCausalLM(config)
        >>> report = bake(model, ExpertEdits([ExpertEdit("model.layers.0.mlp.gate", 3, "off")]))
        >>> report.exact, report.keys
        (True, ('model.layers.0.mlp.gate.e_score_correction_bias',))
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
    if not value < 0:
        raise ValueError(f"value={value!r} must be a negative number, far below all scores, or -inf")
    batches = checked_batches(calibration)
    _check_bare(model)
    routers = find_routers(model)
    if check_fingerprint and (edits.fingerprint or edits.model_type or edits.num_experts or edits.top_k):
        check_model(edits, fingerprint_of(model, routers))
    resolved = resolve(routers, edits)
    by_path = {router.path: router for router in routers}
    if method == "prune":
        from hf_mixture.moe.mote.prune import prune

        return prune(model, routers, resolved, edits)
    writes: list[Write] = []
    used = set()
    for path, own in resolved.items():
        router = by_path[path]
        by_bias, by_experts = _divide(own, edits.mode, method)
        if method != "zero_experts":
            check_means(router, own, edits.mode, edits.force_weight, intercept=False)
        writes += bias_writes(model, router, by_bias, edits, value)
        writes += expert_writes(router, by_experts)
        used |= {name for name, part in (("bias", by_bias), ("zero_experts", by_experts)) if part}
    writes = once_each(model, writes)
    for write in writes:
        if write.tensor.is_meta:
            raise ValueError(
                f"{write.key} is on the device 'meta', that is offloaded; load the whole model into memory"
            )
    for write in writes:
        write.apply()
    differs = method == "zero_experts" and edits.mode != "zero" and any(edit.op == "off" for edit in edits.edits)
    note = (
        f"experts that are off are still chosen and give 0: this is mode 'zero', not {edits.mode!r}" if differs else ""
    )
    rate, seen = None, 0
    if batches is not None and "bias" in used:
        rate, seen = leak_rate(model, routers, off_of(resolved), batches)
    keys = tuple(dict.fromkeys(write.key for write in writes))
    return BakeReport(", ".join(sorted(used)), not differs, note, keys, rate, seen)


def off_of(resolved: Mapping[str, Sequence[ExpertEdit]]) -> dict[str, list[int]]:
    """The experts that are off, by path of their router."""
    off = {path: [edit.expert for edit in own if edit.op == "off"] for path, own in resolved.items()}
    return {path: experts for path, experts in off.items() if experts}


@torch.no_grad()
def leak_rate(
    model: PreTrainedModel,
    routers: Sequence[MoeRouter],
    off: Mapping[str, Sequence[int]],
    batches: Iterable[Mapping[str, Any]],
) -> tuple[float, int]:
    """Measure how often experts are chosen that should not be.

    Args:
        model: The model.
        routers: Its routers.
        off: The experts, by path of their router.
        batches: Keyword arguments of forward passes.

    Returns:
        The share of all choices in these routers that went to one of the experts, and the number of choices.
    """
    from tqdm.auto import tqdm

    counts = {"leaked": 0, "all": 0}

    def count(experts: torch.Tensor) -> Any:
        def add(output: RouterOutput) -> None:
            counts["leaked"] += int(torch.isin(output.indices, experts.to(output.indices.device)).sum())
            counts["all"] += output.indices.numel()

        return add

    handles = [
        handle
        for router in routers
        if router.path in off
        for handle in router.observe(count(torch.tensor(off[router.path])))
    ]
    was_training = model.training
    model.eval()
    try:
        for batch in tqdm(batches, desc="leak rate", unit="batch", disable=None, delay=2):
            model(**batch)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return counts["leaked"] / max(counts["all"], 1), counts["all"]


def checked_batches(batches: Iterable[Mapping[str, Any]] | None) -> Iterable[Mapping[str, Any]] | None:
    """Raise ValueError, before anything is changed, if there is no batch.

    Args:
        batches: Keyword arguments of forward passes.

    Returns:
        The same batches.
    """
    if batches is None:
        return None
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise ValueError("calibration has no batch; give at least one, or None")
    return itertools.chain([first], rest)


def _check_bare(model: PreTrainedModel) -> None:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model is a {type(model).__name__}; bake changes a model of transformers itself: merge adapters with "
            "merge_and_unload() and unwrap it first"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "the model has adapters, and save_pretrained would write only these; merge or delete them first, or keep "
            "the edits as a file"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "the model has weights on the device 'meta', that is offloaded; load it into memory as a whole"
        )
    if next(iter(patches_of(model)), None) is not None:
        raise ValueError("the experts of this model are tuned by a patch; undo it with untune_experts(model) first")


def _divide(edits: Sequence[ExpertEdit], mode: str, method: str) -> tuple[list[ExpertEdit], list[ExpertEdit]]:
    """Which edits go into the selection bias, and which into the experts."""
    by_bias: list[ExpertEdit] = []
    by_experts: list[ExpertEdit] = []
    for edit in edits:
        if edit.op == "off" and mode == "zero_renorm" and method != "zero_experts":
            raise UnsupportedRouterError(
                f"{edit.place}: mode='zero_renorm' gives the weight of an expert to those chosen with it, token by "
                f"token, which no fixed weights do; {KEEP_FILE}, or use mode='reroute' or 'zero'"
            )
        is_factor = edit.op == "scale" or (edit.op == "off" and (mode == "zero" or method == "zero_experts"))
        if (is_factor and method == "bias") or (not is_factor and method == "zero_experts"):
            other = "zero_experts" if is_factor else "bias"
            raise ValueError(
                f"method={method!r} cannot write {edit.place}, op={edit.op!r} under mode={mode!r}; use method='auto' "
                f"or {other!r}"
            )
        (by_experts if is_factor else by_bias).append(edit)
    return by_bias, by_experts
