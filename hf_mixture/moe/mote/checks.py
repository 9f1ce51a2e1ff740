"""What is wrong with edits for a model, said before anything is patched.

Letters: E experts, C classes that the selection ranks (experts, and identity or skip classes), K chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from hf_mixture.moe.anatomy import MoeRouter, UnsupportedRouterError, base_path
from hf_mixture.moe.mote.capacity import fewest_enabled
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.fingerprint import Fingerprint


def check_model(edits: ExpertEdits, found: Fingerprint) -> None:
    """Raise ValueError if edits are signed for another model.

    Args:
        edits: The edits; what they do not state is not compared.
        found: Fingerprint of the model.
    """
    remedy = "load the model that the edits are for, or pass check_fingerprint=False to apply them knowingly"
    if edits.model_type is not None and edits.model_type != found.model_type:
        raise ValueError(
            f"the edits are for model_type={edits.model_type!r}, the model is {found.model_type!r}; {remedy}"
        )
    for name, stated, actual in (
        ("num_experts", edits.num_experts, found.num_experts),
        ("top_k", edits.top_k, found.top_k),
    ):
        if stated is not None and dict(stated) != dict(actual):
            path = next(path for path in [*stated, *actual] if stated.get(path) != actual.get(path))
            theirs, ours = (f"{name}={values[path]}" if path in values else "no router" for values in (stated, actual))
            raise ValueError(f"the edits are for a model with {theirs} at {path}, this one has {ours}; {remedy}")
    if edits.fingerprint is not None and edits.fingerprint != found.sha256:
        raise ValueError(
            f"the edits are for other router weights (fingerprint {edits.fingerprint[:19]}..., the model has "
            f"{found.sha256[:19]}...): trained further, quantised, or another checkpoint; {remedy}"
        )


def resolve(
    routers: Sequence[MoeRouter], edits: ExpertEdits, *, cap_forced: bool = False
) -> dict[str, list[ExpertEdit]]:
    """Assign edits to the routers of a model.

    Args:
        routers: The routers of the model.
        edits: The edits.
        cap_forced: Whether the forced experts of a router beyond the first K are left out instead of refused.

    Returns:
        The edits of each router, by its path.

    Raises:
        ValueError: If a router or an expert does not exist, or too few experts stay, or too many are forced.
        UnsupportedRouterError: If the model does not compute with the experts that an edited router chooses.
    """
    by_path = {router.path: router for router in routers}
    resolved: dict[str, list[ExpertEdit]] = {}
    for edit in edits.edits:
        path = base_path(edit.module)
        router = by_path.get(path)
        if router is None:
            near = get_close_matches(path, by_path, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"module={edit.module!r} is no router of this model; the nearest of its {len(by_path)} routers is "
                f"{near!r}: correct the path"
            )
        if edit.layer is not None and router.layer is not None and edit.layer != router.layer:
            raise ValueError(
                f"layer={edit.layer} of {edit.place}: that router lies in layer {router.layer}; correct one of them"
            )
        if edit.expert >= router.num_choices:
            raise ValueError(
                f"expert={edit.expert} of {path} is out of range: it has the experts 0 to {router.num_choices - 1}"
            )
        if router.defect:
            raise UnsupportedRouterError(
                f"{edit.place}: edits would not do what they say ({router.defect}); use another model, or a "
                "transformers that repairs this"
            )
        resolved.setdefault(path, []).append(replace(edit, module=path))
    for path, own in resolved.items():
        resolved[path] = _check_counts(by_path[path], own, edits.mode, cap_forced)
    return resolved


def _check_counts(router: MoeRouter, edits: list[ExpertEdit], mode: str, cap_forced: bool) -> list[ExpertEdit]:
    forced = [edit for edit in edits if edit.op == "on"]
    if len(forced) > router.top_k:
        if not cap_forced:
            raise ValueError(
                f"{len(forced)} experts of {router.path} are forced on, and a token goes to {router.top_k}; remove "
                f"{len(forced) - router.top_k}, or pass cap_forced=True to keep the first {router.top_k}"
            )
        extra = forced[router.top_k :]
        edits = [edit for edit in edits if edit not in extra]
    off = [edit.expert for edit in edits if edit.op == "off"] if mode in ("reroute", "logit_mask") else []
    left = router.num_choices - len(off)
    if off and left < router.top_k:
        raise ValueError(
            f"{len(off)} experts of {router.path} are off, which leaves {left} of {router.num_choices}, and a token "
            f"goes to {router.top_k}; leave at least {router.top_k} on, or use mode='zero' or 'zero_renorm'"
        )
    group = None if router.rule is None else router.rule.group
    if off and group is not None:
        on = [edit.expert for edit in edits if edit.op == "on"]
        worst = fewest_enabled(group, router.num_choices, off, on)
        if worst < router.top_k:
            raise ValueError(
                f"{len(off)} experts of {router.path} are off, which may leave {worst} enabled experts in the "
                f"{group.num_kept} best of its {group.num_groups} groups, and a token goes to {router.top_k}; leave "
                "more experts on in each group"
            )
    return edits


def needs_interception(router: MoeRouter) -> bool:
    """Whether the selection of a router can be edited only inside its own code.

    Args:
        router: The router.

    Returns:
        True where it has no explicit rule, or returns no weights and indices.
    """
    return router.rule is None or not (router.rewritable or router.layout == "logits_only")


def check_means(
    router: MoeRouter, edits: Sequence[ExpertEdit], mode: str, force_weight: str, *, intercept: bool
) -> None:
    """Raise if a router does not allow its edits.

    Args:
        router: The router.
        edits: Its edits.
        mode: As in `ExpertEdits`.
        force_weight: As in `ExpertEdits`.
        intercept: Whether selections are edited inside the router although its rule is known.

    Raises:
        UnsupportedRouterError: With the reason.
    """
    ops = {edit.op for edit in edits}
    reweighs = "scale" in ops or ("off" in ops and mode in ("zero", "zero_renorm"))
    if reweighs and not (router.rewritable or router.layout == "logits_only"):
        raise _refusal(router, "weights of single experts cannot be changed", "use mode='reroute'")
    if not (ops & {"on", "bias"} or ("off" in ops and mode in ("reroute", "logit_mask"))):
        return
    if hasattr(router.module, "tid2eid"):
        raise _refusal(router, "there is no score to edit", "use mode='zero', 'zero_renorm' or op='scale'")
    if "off" in ops and mode == "logit_mask":
        _check_logit_mask(router, intercept)
    if needs_interception(router) and ops & {"on", "bias"}:
        raise _refusal(router, f"op={min(ops & {'on', 'bias'})!r} needs an explicit rule", "use op='off'")
    if intercept and "on" in ops and force_weight != "own":
        raise _refusal(
            router,
            f"force_weight={force_weight!r} needs the explicit rule",
            "use force_weight='own' or intercept=False",
        )


def _check_logit_mask(router: MoeRouter, intercept: bool) -> None:
    rule = router.rule
    by_softmax = rule is not None and (rule.score == "softmax" or rule.gate == "softmax_selected")
    if rule is None or intercept or not by_softmax or rule.bias_on == "scores":
        raise _refusal(
            router,
            "mode='logit_mask' needs a softmax over the logits, without a bias after it: elsewhere an expert with a "
            "masked logit can still be chosen",
            "use mode='reroute'",
        )


def _refusal(router: MoeRouter, what: str, remedy: str) -> UnsupportedRouterError:
    because = f" ({router.reason})" if router.reason else ""
    return UnsupportedRouterError(f"{type(router.module).__name__} at {router.path}{because}: {what}; {remedy}")
