"""One forward pass with every choice of every router, and random expert edits, for tests of MoTE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_mixture.moe.anatomy import MoeRouter, RouterOutput, find_routers
from hf_mixture.moe.mote.checks import resolve
from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits


def observe_run(
    model: Any, inputs: dict[str, Tensor], routers: Sequence[MoeRouter] | None = None
) -> tuple[Any, dict[str, RouterOutput]]:
    """Run a model and return its output and, for each router that ran, in their order, all that it decided."""
    seen: dict[str, list[RouterOutput]] = {}
    handles = []
    for router in find_routers(model) if routers is None else routers:
        handles += router.observe(lambda output, path=router.path: seen.setdefault(path, []).append(output))
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            output = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return output, {path: RouterOutput(*map(torch.cat, zip(*calls, strict=True))) for path, calls in seen.items()}


def first_tensor(output: Any) -> Tensor:
    """The logits, or whatever tensor a model returns first."""
    return output.logits if "logits" in output else output[0]


def most_used(routers: Sequence[MoeRouter], seen: dict[str, RouterOutput]) -> dict[str, int]:
    """The expert of each router that ran to which most tokens went."""
    counts = {r.path: torch.bincount(seen[r.path].indices.flatten(), minlength=r.num_experts) for r in routers}
    return {path: int(count[: count.numel()].argmax()) for path, count in counts.items()}


def draw_edits(
    routers: Sequence[MoeRouter], rng: np.random.Generator, *, ops: Sequence[str], **fields: Any
) -> ExpertEdits:
    """Random edits of all routers, with as many experts off as their selection allows."""
    edits: list[ExpertEdit] = []
    for router in routers:
        while True:
            own = _draw(router, rng, ops)
            try:
                resolve([router], ExpertEdits(own, **fields))
            except ValueError:
                continue
            break
        edits += own
    return ExpertEdits(edits, **fields)


def _draw(router: MoeRouter, rng: np.random.Generator, ops: Sequence[str]) -> list[ExpertEdit]:
    experts = rng.permutation(router.num_choices).tolist()
    num_off = int(rng.integers(router.num_choices - router.top_k + 1)) if "off" in ops else 0
    num_on = int(rng.integers(router.top_k + 1)) if "on" in ops else 0
    off, on, rest = experts[:num_off], experts[num_off : num_off + num_on], experts[num_off + num_on :]
    edits = [ExpertEdit(router.path, expert, "off") for expert in off]
    edits += [ExpertEdit(router.path, expert, "on") for expert in on]
    if "bias" in ops:
        edits += [ExpertEdit(router.path, expert, "bias", float(rng.uniform(-0.5, 0.5))) for expert in rest]
    return edits


def assert_same_choice(ours: dict[str, RouterOutput], theirs: dict[str, RouterOutput], tolerance: float) -> None:
    """Assert that the chosen sets are equal, and the weights of their members up to a tolerance."""
    assert ours.keys() == theirs.keys()
    for path, own in ours.items():
        (left, at_left), (right, at_right) = own.indices.sort(-1), theirs[path].indices.sort(-1)
        assert torch.equal(left, right), path
        difference = own.weights.gather(-1, at_left) - theirs[path].weights.gather(-1, at_right)
        assert difference.abs().max() <= tolerance, (path, float(difference.abs().max()))
