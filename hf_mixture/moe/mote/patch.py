"""Expert edits as a patch of a live model: reversible, on module instances only, without a change of its weights.

Letters: T tokens, C classes that the selection ranks, K chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from torch import nn

from hf_mixture.moe.anatomy import MoeRouter, find_routers
from hf_mixture.moe.mote.checks import check_means, check_model, needs_interception, resolve
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.fingerprint import fingerprint_of
from hf_mixture.moe.mote.hooks import guard_caches, patch_router, patches_of, remove_patches


class TunedExperts:
    """The handle of a patched model: a context manager that undoes the patch at its end.

    A copy of the model (`copy.deepcopy`, pickle) is patched too, by masks of its own; `untune_experts` undoes that.

    Args:
        model: The patched model.
        edits: The edits in force.
    """

    def __init__(self, model: nn.Module, edits: ExpertEdits, *, cap_forced: bool, intercept: bool) -> None:
        self.model, self.edits = model, edits
        self._cap_forced, self._intercept = cap_forced, intercept

    def set(self, edits: ExpertEdits) -> None:
        """Put other edits in the place of the present ones, without compiling a compiled model anew.

        Masks change in place. What compiles once more: a router that was not edited before (see `all_routers` of
        `tune_experts`), another mode, and an operation that a router did not have. Key-value caches filled under the
        old edits are refused.

        Args:
            edits: The new edits; an empty set leaves the model as it is without edits.

        Raises:
            ValueError: If they do not suit the model; the present edits then stay.
        """
        _apply(self.model, find_routers(self.model), edits, self._cap_forced, self._intercept, all_routers=False)
        self.edits = edits

    def remove(self) -> None:
        """Undo the patch; a second call changes nothing."""
        untune_experts(self.model)

    def __enter__(self) -> TunedExperts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def tune_experts(
    model: nn.Module,
    edits: ExpertEdits,
    *,
    check_fingerprint: bool = True,
    cap_forced: bool = False,
    intercept: bool = False,
    all_routers: bool = False,
) -> TunedExperts:
    """Switch experts of a sparse model off, force, bias or scale them, until further notice.

    Only routers with edits are touched, through forward hooks on these module instances: weights, `state_dict`, other
    models and the returned router logits stay as they are. Shared experts are never touched. Patch before
    `torch.compile`; before or after PEFT. Start generation with an empty cache after a change of edits.

    Args:
        model: A mixture-of-experts model of transformers, bare or wrapped.
        edits: The edits; see `ExpertEdits`.
        check_fingerprint: Whether edits that are signed for another model are refused. Default: True.
        cap_forced: Whether forced experts of a router beyond the first K are left out instead of refused.
            Default: False.
        intercept: Whether to edit scores inside the family's own code even where the selection rule is known: slower,
            and forced experts need `force_weight="own"`. Default: False.
        all_routers: Whether routers without edits are hooked too, so that a later `set` never compiles a compiled
            model anew. Default: False.

    Returns:
        The handle: `with tune_experts(...):`, or `.remove()`, `.set(edits)`.

    Raises:
        ValueError: If the edits do not suit the model. Nothing is patched then.
        UnsupportedRouterError: If the model, or one of the edited routers, does not allow them, with the reason.

    Example:
        >>> import torch
        >>> from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
        >>> from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits
        >>> from hf_mixture.moe.mote.patch import tune_experts
        >>> config = Qwen3MoeConfig(
        ...     vocab_size=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        ...     head_dim=4, intermediate_size=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        ... )
        >>> model, tokens = Qwen3MoeForCausalLM(config).eval(), torch.arange(8)[None]
        >>> before = model(tokens).logits
        >>> with tune_experts(model, ExpertEdits([ExpertEdit("model.layers.1.mlp.gate", 0, "off")])):
        ...     edited = model(tokens).logits
        >>> torch.equal(model(tokens).logits, before)
        True
    """
    if not isinstance(edits, ExpertEdits):
        raise TypeError(f"edits is a {type(edits).__name__}; it must be ExpertEdits")
    _check_untouched(model)
    routers = find_routers(model)
    if check_fingerprint and (edits.fingerprint or edits.model_type or edits.num_experts or edits.top_k):
        check_model(edits, fingerprint_of(model, routers))
    _apply(model, routers, edits, cap_forced, intercept, all_routers=all_routers)
    return TunedExperts(model, edits, cap_forced=cap_forced, intercept=intercept)


def untune_experts(model: nn.Module) -> None:
    """Undo `tune_experts` on a model, or on a copy of a patched model, without its handle.

    Args:
        model: The model; without a patch nothing happens.
    """
    remove_patches(model)


def _check_untouched(model: nn.Module) -> None:
    for module in model.modules():
        if getattr(module, "use_kernels", False):
            raise ValueError(
                f"{type(module).__name__} has use_kernels=True: kernels replace the modules that would be patched; "
                "load it with use_kernels=False"
            )
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(
                f"{type(module).__name__} is compiled, and compiled code does not see new edits: call tune_experts "
                "before torch.compile, and change edits by the `set` of its handle"
            )
    if next(iter(patches_of(model)), None) is not None:
        raise ValueError(
            "the experts of this model are tuned already; change the edits with the `set` of the handle, or undo them "
            "with untune_experts(model)"
        )


def _apply(
    model: nn.Module,
    routers: Sequence[MoeRouter],
    edits: ExpertEdits,
    cap_forced: bool,
    intercept: bool,
    *,
    all_routers: bool,
) -> None:
    """Check everything, then patch."""
    resolved = resolve(routers, edits, cap_forced=cap_forced)
    for router in routers:
        check_means(router, resolved.get(router.path, []), edits.mode, edits.force_weight, intercept=intercept)
    patched = {path for path, _ in patches_of(model)}
    for router in routers:
        if router.path not in patched and (all_routers or router.path in resolved):
            patch_router(router, intercept=intercept or needs_interception(router))
    for path, masks in patches_of(model):
        masks.write(resolved.get(path, []), edits.mode, edits.force_weight)
    guard_caches(model)
