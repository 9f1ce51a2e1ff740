"""Which weights an edit is written into, and whether the model then computes what the patch computes.

Letters: C classes that the selection ranks, E experts, K chosen, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from hf_mixture.moe.anatomy import MoeRouter, UnsupportedRouterError
from hf_mixture.moe.anatomy.ties import tied_names
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.score_bounds import ScoreBounds, score_bounds


# Above every score, finite in float16, and still large beside an expert of the same group that is off.
FORCED_BIAS = 4e4

KEEP_FILE = "keep the edits as a file and apply them with tune_experts"


@dataclass(frozen=True)
class Write:
    """One change of one row of one tensor.

    Args:
        tensor: The live tensor; its first dimension counts experts.
        key: Its name in the model.
        row: The expert.
        op: Set to `value`, add `value` or multiply by it.
        value: The number.
    """

    tensor: Tensor = field(repr=False)
    key: str
    row: int
    op: Literal["set", "add", "multiply"]
    value: float

    def apply(self) -> None:
        """Change the row in place."""
        row = self.tensor.detach()[self.row]
        if self.op == "add":
            row += self.value
        elif self.op == "multiply" and self.value != 0:
            row *= self.value
        else:
            # Also for a factor of 0, where an infinite weight would become NaN.
            row.fill_(0.0 if self.op == "multiply" else self.value)


def once_each(model: nn.Module, writes: Sequence[Write]) -> list[Write]:
    """Leave one change of each row where routers share a tensor, and refuse what another router does not ask for.

    Args:
        model: The model without wrappers.
        writes: The changes of all routers.

    Returns:
        The changes without repetition.

    Raises:
        UnsupportedRouterError: If a change would reach a router through a shared tensor that has no such edit.
    """
    ties = tied_names(model)
    kept: dict[tuple[str, int], Write] = {}
    asked: dict[tuple[str, int], list[tuple[str, str, float]]] = {}
    for write in writes:
        tensor = ties.get(write.key, (write.key,))[0]
        asked.setdefault((tensor, write.row), []).append((write.key, write.op, write.value))
        # A row may get a bias and a factor, but in tensors of their own: one change of a row by each router.
        kept.setdefault((tensor, write.row), write)
    for (tensor, row), wanted in asked.items():
        names = ties.get(tensor, (tensor,))
        missing = set(names) - {key for key, _, _ in wanted}
        if missing or len({(op, value) for _, op, value in wanted}) > 1:
            other = min(missing) if missing else wanted[-1][0]
            raise UnsupportedRouterError(
                f"{wanted[0][0]} is the same tensor as {other}, so that an edit of expert {row} here changes that "
                f"expert there too; edit both in the same way, or {KEEP_FILE}"
            )
    return list(kept.values())


def bias_writes(
    model: nn.Module, router: MoeRouter, edits: Sequence[ExpertEdit], meaning: ExpertEdits, value: float
) -> list[Write]:
    """Plan edits of the selection as entries of the selection bias.

    Args:
        model: The model of the router.
        router: The router.
        edits: Its edits, `off`, `on` and `bias`.
        meaning: The set they belong to, with its mode.
        value: Bias of an expert that is off.

    Returns:
        The changes.

    Raises:
        UnsupportedRouterError: If that would not be exact, with the reason and what to do instead.
    """
    if not edits:
        return []
    bias = _bias_of(model, router)
    gate_has_bias = router.rule is None or router.rule.bias_on != "scores"
    for edit in edits:
        _check_meaning(router, edit, meaning, gate_has_bias)
        if router.layout == "skip_class" and edit.expert >= router.num_experts:
            raise UnsupportedRouterError(
                f"{edit.place} is the skip class, whose bias {type(router.module).__name__} resets when it is loaded; "
                f"{KEEP_FILE}"
            )
    off = [edit.expert for edit in edits if edit.op == "off"]
    on = [edit.expert for edit in edits if edit.op == "on"]
    after = bias.detach().double().cpu().clone()
    writes = []
    for edit in edits:
        if edit.op == "bias":
            assert edit.value is not None  # noqa: S101 - ExpertEdit demands it
            after[edit.expert] += edit.value
            writes.append(Write(bias, _key(router), edit.expert, "add", edit.value))
        else:
            after[edit.expert] = FORCED_BIAS if edit.op == "on" else value
            writes.append(Write(bias, _key(router), edit.expert, "set", float(after[edit.expert])))
    _check_precision(router, bias, after, edits)
    if off or on:
        _check_range(router, score_bounds(model, router), after, off, on)
        _check_groups(router, off, on, after, score_bounds(model, router))
    return writes


def expert_writes(router: MoeRouter, edits: Sequence[ExpertEdit]) -> list[Write]:
    """Plan a factor of the output of experts as a factor of their last matrix, and of its bias.

    Args:
        router: The router.
        edits: Its edits: `off`, for the factor 0, and `scale`.

    Returns:
        The changes.

    Raises:
        UnsupportedRouterError: If the experts are not laid out so, or weights act before them.
    """
    writes = []
    for edit in edits:
        factor = 0.0 if edit.op == "off" else float(edit.value or 0.0)
        if factor != 0 and router.layout == "dense_scores":
            raise UnsupportedRouterError(
                f"{edit.place}: scale={factor:g} cannot be written into weights: {type(router.module).__name__} "
                f"multiplies what goes into an expert, which is not linear; {KEEP_FILE}"
            )
        rows = list(_last_matrix(router, edit.expert))
        if not rows:
            raise UnsupportedRouterError(
                f"{edit.place}: its last matrix was not found: {type(router.experts).__name__} has no down_proj with "
                f"a slice for that expert; {KEEP_FILE}"
            )
        for tensor, key, row in rows:
            if not tensor.is_floating_point() or tensor.element_size() < 2:
                raise UnsupportedRouterError(
                    f"{key} is stored as {tensor.dtype}, quantised; bake into the model in full precision, and "
                    "quantise that"
                )
            writes.append(Write(tensor, key, row, "multiply", factor))
    return writes


def _last_matrix(router: MoeRouter, expert: int) -> Iterator[tuple[Tensor, str, int]]:
    """The tensors that make the output of one expert linear in their factor: the last matrix and its bias."""
    if expert >= router.num_experts or router.experts is None:
        return
    for name in ("down_proj", "down_proj_bias"):
        tensor = getattr(router.experts, name, None)
        if isinstance(tensor, Tensor) and tensor.dim() >= 2 and tensor.shape[0] >= router.num_experts:
            yield tensor, f"{router.experts_path}.{name}", expert


def _bias_of(model: nn.Module, router: MoeRouter) -> Tensor:
    """The selection bias as a view [C]."""
    if hasattr(router.module, "tid2eid"):
        raise UnsupportedRouterError(
            f"{type(router.module).__name__} at {router.path} chooses experts from a table of token ids, not by "
            f"scores; edit other layers, or use mode='zero', which is baked into the experts"
        )
    if router.bias is None or (router.rule is not None and router.rule.bias_on is None):
        raise UnsupportedRouterError(
            f"{type(router.module).__name__} at {router.path} has no selection bias, and no row of its weight makes "
            f"an expert lose for every token: {KEEP_FILE}, or choose method='prune', which deletes experts (exact if "
            "every layer loses equally many and the formula permits), or method='zero_experts', which lets them be "
            "chosen and give 0"
        )
    tensor = router.bias.tensor
    if tensor.numel() != router.num_choices:
        raise UnsupportedRouterError(
            f"{router.bias.path} has {tensor.numel()} entries for {router.num_choices} classes; {KEEP_FILE}"
        )
    return tensor.detach().view(-1)


def _key(router: MoeRouter) -> str:
    assert router.bias is not None  # noqa: S101 - _bias_of demands it
    return router.bias.path


def _check_meaning(router: MoeRouter, edit: ExpertEdit, meaning: ExpertEdits, gate_has_bias: bool) -> None:
    name = type(router.module).__name__
    if edit.op == "off" and meaning.mode == "logit_mask" and gate_has_bias is False:
        raise UnsupportedRouterError(
            f"{edit.place}: mode='logit_mask' changes the softmax of {name}, which its selection bias does not; use "
            f"mode='reroute', or {KEEP_FILE}"
        )
    if edit.op == "on" and meaning.force_weight != "own":
        raise UnsupportedRouterError(
            f"{edit.place}: a forced expert gets the weight force_weight={meaning.force_weight!r}, which no bias "
            f"gives; use force_weight='own', or {KEEP_FILE}"
        )
    if edit.op in ("on", "bias") and gate_has_bias:
        reason = router.reason if router.rule is None else "the bias takes part in the weights"
        raise UnsupportedRouterError(
            f"{edit.place}: op={edit.op!r} changes the selection alone, and the bias of {name} would change more "
            f"({reason}); {KEEP_FILE}"
        )


def _check_precision(router: MoeRouter, bias: Tensor, after: Tensor, edits: Sequence[ExpertEdit]) -> None:
    if not bias.is_floating_point():
        raise UnsupportedRouterError(f"{_key(router)} is stored as {bias.dtype}; bake into a model in full precision")
    stored = after.to(bias.dtype).double()
    for edit in edits:
        wanted, got = float(after[edit.expert]), float(stored[edit.expert])
        # An expert that is off or on needs no exact number.
        rounding = 1e-6 if edit.op == "bias" else 0.01
        if got != wanted and not abs(got - wanted) <= rounding * max(1.0, abs(wanted)):
            raise ValueError(
                f"{edit.place}: the bias {wanted:g} would be stored in {bias.dtype} as {got:g}; load the model in "
                "float32, or give another value"
            )


def _check_range(
    router: MoeRouter, bounds: ScoreBounds | None, after: Tensor, off: Sequence[int], on: Sequence[int]
) -> None:
    """Every choice of an expert that is off must lie below, and of a forced one above, those of all others."""
    free = [expert for expert in range(router.num_choices) if expert not in (*off, *on)]
    if bounds is None:
        if any(math.isfinite(float(after[expert])) for expert in (*off, *on)):
            raise UnsupportedRouterError(
                f"the scores of {router.path} are raw logits, and no bound for them was found; pass value=-inf (some "
                f"servers may make NaN of it), or {KEEP_FILE}"
            )
        return
    low, high = bounds.low + after, bounds.high + after
    ladder = [("off", off), ("left alone", free), ("forced", on)]
    for (below, lower), (above, upper) in ((ladder[0], ladder[1]), (ladder[1], ladder[2]), (ladder[0], ladder[2])):
        if lower and upper and float(high[list(lower)].max()) >= float(low[list(upper)].min()):
            raise ValueError(
                f"{router.path}: with this value, an expert that is {below} may reach a choice of "
                f"{float(high[list(lower)].max()):.4g}, and one that is {above} may have only "
                f"{float(low[list(upper)].min()):.4g}; give a value further from 0, such as -1e4"
            )


def _check_groups(
    router: MoeRouter, off: Sequence[int], on: Sequence[int], after: Tensor, bounds: ScoreBounds | None
) -> None:
    """The best groups, and the experts in them, must be those that the patch takes."""
    group = None if router.rule is None else router.rule.group
    if group is None:
        return
    size = router.num_choices // group.num_groups
    forced = {expert // size for expert in on}
    if len(forced) > group.num_kept:
        raise UnsupportedRouterError(
            f"the forced experts of {router.path} lie in {len(forced)} groups, and a token may use {group.num_kept}; "
            f"force experts of fewer groups, or {KEEP_FILE}"
        )
    needed = 1 if group.score == "max" else 2
    live = forced | {g for g in range(group.num_groups) if _num_left(g, size, off) >= needed}
    if len(live) < group.num_kept:
        raise UnsupportedRouterError(
            f"only {len(live)} groups of {router.path} keep {needed} experts that are on, and a token uses "
            f"{group.num_kept}: which other group is taken would depend on experts that are off; leave more of them "
            f"on, or {KEEP_FILE}"
        )
    if forced and any(not math.isfinite(float(after[expert])) for expert in off):
        raise ValueError(f"value=-inf beside forced experts of {router.path} makes group scores NaN; pass value=-1e4")
    if math.isinf(group.fill):
        return
    # Experts of the other groups get `fill`, also those that are off.
    assert bounds is not None  # noqa: S101 - the groups of all families rank bounded scores
    above = (bounds.low + after > group.fill).reshape(group.num_groups, size).sum(dim=1)
    fewest = above[sorted(live)].sort().values[: group.num_kept].sum()
    if off and int(fewest) < router.top_k:
        raise UnsupportedRouterError(
            f"{type(router.module).__name__} at {router.path} gives the experts outside the best groups the choice "
            f"{group.fill:g}, those that are off too, and some that are on may have less than that, because their "
            f"bias is negative; {KEEP_FILE}"
        )


def _num_left(group: int, size: int, off: Sequence[int]) -> int:
    return size - sum(expert // size == group for expert in off)
