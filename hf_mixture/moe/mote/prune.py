"""Experts that are off, deleted: a smaller model of the same class.

Letters: C classes that the selection ranks, E experts, K chosen, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_mixture.moe.anatomy import MoeRouter, SelectionRule, UnsupportedRouterError
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_mixture.moe.mote.bake import BakeReport


def prune(
    model: PreTrainedModel,
    routers: Sequence[MoeRouter],
    resolved: Mapping[str, Sequence[ExpertEdit]],
    edits: ExpertEdits,
) -> BakeReport:
    """Delete the experts that are off; see `hf_mixture.moe.mote.bake.bake`.

    Args:
        model: The model, changed in place.
        routers: Its routers.
        resolved: The edits of each router, checked.
        edits: The set they belong to.

    Returns:
        What was deleted, and whether the model routes as with the edits.

    Raises:
        ValueError: If other operations than `off` are among the edits, or layers would lose different numbers.
    """
    from hf_mixture.moe.anatomy.surgery import keep_experts
    from hf_mixture.moe.mote.bake import BakeReport

    other = next((edit for edit in edits.edits if edit.op != "off"), None)
    if other is not None:
        raise ValueError(
            f"method='prune' deletes experts that are off, and {other.place} has op={other.op!r}; bake those edits "
            "first, with method='auto'"
        )
    if not edits.edits:
        return BakeReport("prune", True, "", ())
    keep = experts_left(routers, resolved)
    reasons = {pruning_differs(router.rule, edits.mode) for router in routers if router.path in keep} - {""}
    before = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    keep_experts(model, keep)
    keys = tuple(name for name, tensor in model.state_dict().items() if tuple(tensor.shape) != before[name])
    return BakeReport("prune", not reasons, "; ".join(sorted(reasons)), keys)


def experts_left(routers: Sequence[MoeRouter], resolved: Mapping[str, Sequence[ExpertEdit]]) -> dict[str, list[int]]:
    """List the experts that stay in each router.

    Args:
        routers: The routers of the model.
        resolved: The edits of each router, all `off`.

    Returns:
        Experts by path, for `keep_experts`.

    Raises:
        ValueError: If routers would lose different numbers, or one loses identity or skip classes.
    """
    off = {router.path: {edit.expert for edit in resolved.get(router.path, ())} for router in routers}
    for router in routers:
        beyond = [expert for expert in off[router.path] if expert >= router.num_experts]
        if beyond:
            raise UnsupportedRouterError(
                f"expert {beyond[0]} of {router.path} is an identity or skip class, which has no weights to delete; "
                "use method='auto'"
            )
    counts = {path: len(experts) for path, experts in off.items()}
    few, many = min(counts, key=lambda path: counts[path]), max(counts, key=lambda path: counts[path])
    if counts[few] != counts[many]:
        raise ValueError(
            f"method='prune' would delete {counts[many]} experts of {many} and {counts[few]} of {few}, and the "
            "configuration has one number for all layers; switch off equally many in every layer, or keep the edits "
            "as a file and apply them with tune_experts"
        )
    return {
        router.path: [expert for expert in range(router.num_experts) if expert not in off[router.path]]
        for router in routers
    }


def pruning_differs(rule: SelectionRule | None, mode: str) -> str:
    """Say why a router without the deleted experts computes something else than the edits.

    Deleting equals a logit of -inf. Experts that are scored one by one do not notice; a softmax over all experts
    shares out the probability of the deleted ones, which is undone by renormalising over the chosen, and which shifts
    the scores against a selection bias.

    Args:
        rule: The selection rule.
        mode: Meaning of `off`.

    Returns:
        The reason, or "" where both are equal up to rounding.

    Example:
        >>> from hf_mixture.moe.anatomy import SelectionRule
        >>> from hf_mixture.moe.mote.prune import pruning_differs
        >>> pruning_differs(SelectionRule(score="softmax", normalise=True), "reroute")
        ''
        >>> pruning_differs(SelectionRule(score="softmax"), "reroute")
        "the weights of the other experts grow, as in mode 'logit_mask'"
    """
    if mode in ("zero", "zero_renorm"):
        return f"other experts take the places of the deleted ones, unlike in mode {mode!r}"
    if rule is None:
        return "the selection of this family has no explicit formula to judge by"
    softmax_over_all = rule.score == "softmax" or rule.probabilities
    if not softmax_over_all:
        return ""
    if rule.bias_on == "scores":
        return "the probabilities grow against the selection bias"
    if mode == "logit_mask" or (rule.normalise and rule.eps <= 1e-12 and not rule.min_sum):
        return ""
    return "the weights of the other experts grow, as in mode 'logit_mask'"
