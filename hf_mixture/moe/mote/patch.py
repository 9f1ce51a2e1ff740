"""Expert edits as a patch of a live model: reversible, on module instances only, without a change of its weights.

Letters: T tokens, C classes that the selection ranks, K chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from torch import nn

from hf_mixture.moe.anatomy import MoeRouter, check_not_compiled, find_routers
from hf_mixture.moe.mote.checks import check_means, check_model, needs_interception, resolve
from hf_mixture.moe.mote.edit import ExpertEdit
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

    def __init__(
        self, model: nn.Module, edits: ExpertEdits, *, cap_forced: bool, intercept: bool, all_routers: bool
    ) -> None:
        self.model, self.edits = model, edits
        self._cap_forced, self._intercept, self._all_routers = cap_forced, intercept, all_routers

    def set(self, edits: ExpertEdits) -> None:
        """Put other edits in the place of the present ones.

        Masks change in place, so that a compiled model is not compiled anew, unless a router gets an operation that
        it did not have (see `all_routers` of `tune_experts`) or the mode changes. Key-value caches filled under the
        old edits are refused.

        Args:
            edits: The new edits; an empty set leaves the model as it is without edits.

        Raises:
            ValueError: If they do not suit the model; the present edits then stay.
        """
        routers = find_routers(self.model)
        resolved = _check(routers, edits, self._cap_forced, self._intercept)
        _write(self.model, routers, resolved, edits, all_routers=self._all_routers)
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

    Routers get a forward hook, on these module instances only, which is idle where a router has no edits: weights,
    `state_dict`, other models and the returned router logits stay as they are, and shared experts are never touched.
    Patch before `torch.compile`; before or after PEFT. Start generation with an empty cache after a change of edits.

    Args:
        model: A mixture-of-experts model of transformers, bare or wrapped.
        edits: The edits; see `ExpertEdits`.
        check_fingerprint: Whether edits that are signed for another model are refused. Default: True.
        cap_forced: Whether forced experts of a router beyond the first K are left out instead of refused.
            Default: False.
        intercept: Whether to edit scores inside the family's own code even where the selection rule is known: slower,
            and forced experts need `force_weight="own"`. Default: False.
        all_routers: Whether routers without edits of their own compute the selection again too, with neutral masks, so
            that a later `set` with the same operations never compiles a compiled model anew. Default: False.

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
    resolved = _check(routers, edits, cap_forced, intercept)
    for router in routers:
        patch_router(router, intercept=intercept or needs_interception(router))
    _write(model, routers, resolved, edits, all_routers=all_routers)
    return TunedExperts(model, edits, cap_forced=cap_forced, intercept=intercept, all_routers=all_routers)


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
    check_not_compiled(
        model,
        "and compiled code does not see new edits: call tune_experts before torch.compile, and change edits by the "
        "`set` of its handle",
    )
    if next(iter(patches_of(model)), None) is not None:
        raise ValueError(
            "the experts of this model are tuned already; change the edits with the `set` of the handle, or undo them "
            "with untune_experts(model)"
        )


def _check(
    routers: Sequence[MoeRouter], edits: ExpertEdits, cap_forced: bool, intercept: bool
) -> dict[str, list[ExpertEdit]]:
    """Assign the edits to routers, or raise."""
    resolved = resolve(routers, edits, cap_forced=cap_forced)
    for router in routers:
        check_means(router, resolved.get(router.path, []), edits.mode, edits.force_weight, intercept=intercept)
    return resolved


def _write(
    model: nn.Module,
    routers: Sequence[MoeRouter],
    resolved: Mapping[str, list[ExpertEdit]],
    edits: ExpertEdits,
    *,
    all_routers: bool,
) -> None:
    """Write checked edits to the masks of all patches."""
    closed = {router.path for router in routers if needs_interception(router)}
    everywhere = {edit.op for edit in edits.edits} if all_routers else set()
    for path, masks in patches_of(model):
        masks.write(resolved.get(path, []), edits, set() if path in closed else everywhere)
    guard_caches(model)
